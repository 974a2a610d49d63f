"""Calls of compiled functions by their address.

Numba compiles a function together with all that it calls. What is called by address isn't compiled again
with each of its callers: it is compiled once, and its code is shared.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.core.typing.templates import Signature
from numba.extending import intrinsic


def address_of(function: Any, signature: Signature) -> int:
    """Where the code of a Numba function for these types is, compiled or loaded now if need be.

    It stays there as long as the function lives. TypeError if the function gives another type.
    """
    function.compile(signature.args)
    compiled = function.overloads[signature.args]
    given = compiled.signature.return_type
    if given != signature.return_type:
        raise TypeError(f"{function.__name__} gives {given}, not {signature.return_type}")
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


def caller(signature: Signature) -> Any:
    """call(address, arguments), inside compiled code: the function of these types at an address.

    arguments: a tuple. An exception of the function goes on to the caller's caller.
    """

    @intrinsic
    def call(typing_context: Any, address: Any, arguments: Any) -> Any:
        def generate(context: Any, builder: Any, own: Any, values: Any) -> Any:
            convention = context.call_conv
            kind = convention.get_function_type(signature.return_type, signature.args)
            pointer = builder.inttoptr(values[0], kind.as_pointer())
            given = cgutils.unpack_tuple(builder, values[1], len(signature.args))
            cast = [
                context.cast(builder, value, source, target)
                for value, source, target in zip(given, arguments.types, signature.args, strict=True)
            ]
            result = signature.return_type
            status, value = convention.call_function(builder, pointer, result, signature.args, cast)
            with cgutils.if_unlikely(builder, status.is_error):
                convention.return_status_propagate(builder, status)
            return value

        return signature.return_type(types.int64, arguments), generate

    return call
