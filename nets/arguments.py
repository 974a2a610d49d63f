"""Arguments of systems: what may stand in a weight file, and whether a constructor takes it.

They come from strangers. So that nothing of a size that they name is ever made, numbers and lists are
bounded, and types are compared with the constructor's annotations before it is called.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

MAX_NUMBER = 1 << 14
"""No argument is larger, whichever its sign."""
MAX_LENGTH = 64
"""Values of a list, characters of a text or name, arguments: there are no more."""
MAX_REPEATS = 64
"""Slices, blocks and the like of which a system may have so many, one after the other."""


def check_plain(config: Mapping[str, Any]) -> None:
    """Raise ValueError unless arguments are a few numbers, short texts, and short lists of these, by name."""
    if len(config) > MAX_LENGTH:
        raise ValueError(f"{len(config)} arguments, more than {MAX_LENGTH}")
    for name, value in config.items():
        if not isinstance(name, str) or len(name) > MAX_LENGTH:
            raise ValueError(f"an argument named {_shown(name)}, of more than {MAX_LENGTH} characters")
        values = value if isinstance(value, (list, tuple)) else (value,)
        if len(values) > MAX_LENGTH or not all(map(_is_plain, values)):
            raise ValueError(
                f"argument {name} = {_shown(value)}: a number may be up to +-{MAX_NUMBER}, a text have "
                f"{MAX_LENGTH} characters, a list {MAX_LENGTH} such values"
            )


def check_arguments(made: Callable[..., Any], config: Mapping[str, Any]) -> None:
    """Raise ValueError unless a class or function takes these arguments: by name, number, and type.

    Also as `check_plain`. Lists stand for tuples, as in JSON.
    """
    check_plain(config)
    function = made.__init__ if isinstance(made, type) else made  # type: ignore[misc]
    hints = get_type_hints(function)
    parameters = list(inspect.signature(made).parameters.values())
    known = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    for name, value in config.items():
        if name not in known:
            raise ValueError(f"no argument {name!r}, only {', '.join(known) or 'none'}")
        if not _fits(value, hints[name]):
            hint = hints[name]
            wanted = hint.__name__ if isinstance(hint, type) else str(hint)
            raise ValueError(f"argument {name} = {_shown(value)} is no {wanted}")


def check_repeats(name: str, *counts: int) -> None:
    """Raise ValueError unless all are in 0 .. MAX_REPEATS."""
    for count in counts:
        if not 0 <= count <= MAX_REPEATS:
            raise ValueError(f"{name} must be in 0..{MAX_REPEATS}, not {count}")


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_LENGTH
    # Not a number fails, too: no comparison with it holds.
    return value is None or (isinstance(value, (int, float)) and -MAX_NUMBER <= value <= MAX_NUMBER)


def _fits(value: Any, hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in args)
    if origin in (tuple, Sequence):
        if not isinstance(value, (list, tuple)):
            return False
        if origin is tuple and args[-1] is not Ellipsis:
            return len(value) == len(args) and all(map(_fits, value, args))
        return all(_fits(one, args[0]) for one in value)
    if hint is float:
        return type(value) in (int, float)
    # True is an int to Python, but no size.
    return hint in (int, bool, str, NoneType) and type(value) is hint


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # An integer of so many digits that Python doesn't print it.
        text = f"a number of {value.bit_length()} bits" if isinstance(value, int) else "a long value"
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}..."
