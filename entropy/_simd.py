"""Vectors of 32-bit unsigned integers inside Numba functions, with the instructions that Numba lacks.

A `Block` is as many unsigned 32-bit values as the coder has lanes, held in whole vector registers; a
`Mask` has a bit for each. Both are plain local variables of compiled code and can't cross into Python.
Every operation is emitted register by register, so independent registers' work interleaves.

Arithmetic wraps modulo 2^32. Which instructions are legal depends on the block's level: one of LEVELS,
ascending. `_simd_words.py` has what packs and unpacks words.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, overload, register_model

SCALAR, AVX2, AVX512, AVX512_VBMI2 = range(4)
LEVELS = ("scalar", "avx2", "avx512", "avx512vbmi2")
_NEEDED = (
    set(),
    {"+avx2"},
    {"+avx512f", "+avx512bw", "+avx512vl", "+avx512dq"},
    {"+avx512f", "+avx512bw", "+avx512vl", "+avx512dq", "+avx512vbmi2"},
)

_i1, _i8, _i16, _i32, _i64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))


def levels() -> list[str]:
    """The levels that the CPU which Numba compiles for has, ascending."""
    features = set(cpu_target.target_context.codegen().magic_tuple()[2].split(","))
    return [name for name, needed in zip(LEVELS, _NEEDED, strict=True) if needed <= features]


class _Vectors(types.Type):
    """`lanes` values in registers of the level's width."""

    element: ir.IntType

    def __init__(self, level: int, lanes: int) -> None:
        self.level, self.lanes = level, lanes
        self.width = 8 if level == AVX2 else 16
        self.registers = lanes // self.width
        super().__init__(f"{type(self).__name__}({LEVELS[level]}, {lanes})")

    @property
    def register(self) -> ir.VectorType:
        """The LLVM type of one register."""
        return ir.VectorType(self.element, self.width)


class Block(_Vectors):
    """The type of a block."""

    element = _i32


class Mask(_Vectors):
    """The type of a block's mask."""

    element = _i1


@register_model(Block)
@register_model(Mask)
class _VectorsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: _Vectors) -> None:
        super().__init__(manager, kind, ir.ArrayType(kind.register, kind.registers))


def split(builder: Any, kind: _Vectors, value: Any) -> list[Any]:
    """The registers of a block or a mask."""
    return [builder.extract_value(value, r) for r in range(kind.registers)]


def join(builder: Any, kind: _Vectors, registers: list[Any]) -> Any:
    """The block or mask of these registers."""
    value = ir.Constant(ir.ArrayType(kind.register, kind.registers), ir.Undefined)
    for r, register in enumerate(registers):
        value = builder.insert_value(value, register, r)
    return value


def _splat(builder: Any, kind: _Vectors, scalar: Any) -> Any:
    narrow = builder.trunc(scalar, _i32) if scalar.type.width > 32 else scalar
    if scalar.type.width < 32:
        narrow = builder.zext(scalar, _i32)
    first = builder.insert_element(ir.Constant(kind.register, ir.Undefined), narrow, _i32(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_i32, kind.width), None))


def _operand(builder: Any, like: _Vectors, kind: Any, value: Any) -> list[Any]:
    """The registers of a block or mask, or those of `like` with an integer in every lane."""
    if isinstance(kind, _Vectors):
        return split(builder, kind, value)
    return [_splat(builder, like, value)] * like.registers


def call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """A call of the LLVM intrinsic of that name."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def data_of(context: Any, builder: Any, kind: types.Array, array: Any) -> Any:
    """Pointer to an array's first element."""
    return context.make_array(kind)(context, builder, array).data


def _pick(builder: Any, register: Any, lanes: list[int]) -> Any:
    indexes = ir.Constant(ir.VectorType(_i32, len(lanes)), lanes)
    return builder.shuffle_vector(register, register, indexes)


def _binary(operation: Callable, emit: Callable[[Any, Any, Any], Any], result: type = Block) -> None:
    """Defines `operation` on two blocks, and on a block and an integer."""

    @intrinsic
    def apply(typing_context, a, b):
        def generate(context, builder, signature, arguments):
            left, right = (_operand(builder, a, *pair) for pair in zip((a, b), arguments, strict=True))
            kind = signature.return_type
            return join(builder, kind, [emit(builder, x, y) for x, y in zip(left, right, strict=True)])

        kind = a if isinstance(a, Mask) else result(a.level, a.lanes)
        return kind(a, b), generate

    @overload(operation)
    def implement(a, b):
        if isinstance(a, _Vectors) and (b == a or (isinstance(a, Block) and isinstance(b, types.Integer))):
            return lambda a, b: apply(a, b)
        return None


_binary(operator.add, lambda builder, a, b: builder.add(a, b))
_binary(operator.sub, lambda builder, a, b: builder.sub(a, b))
_binary(operator.mul, lambda builder, a, b: builder.mul(a, b))
_binary(operator.and_, lambda builder, a, b: builder.and_(a, b))
_binary(operator.or_, lambda builder, a, b: builder.or_(a, b))
_binary(operator.lshift, lambda builder, a, b: builder.shl(a, b))
_binary(operator.rshift, lambda builder, a, b: builder.lshr(a, b))
_binary(operator.lt, lambda builder, a, b: builder.icmp_unsigned("<", a, b), Mask)
_binary(operator.ge, lambda builder, a, b: builder.icmp_unsigned(">=", a, b), Mask)
_binary(operator.ne, lambda builder, a, b: builder.icmp_unsigned("!=", a, b), Mask)


def signed_min(a, b):
    """The lesser of two blocks', or a block's and an integer's, values as signed ones."""


def signed_max(a, b):
    """The greater of two blocks', or a block's and an integer's, values as signed ones."""


def signed_shift(a, b):
    """a >> b, as of signed values."""


_binary(signed_min, lambda builder, a, b: builder.select(builder.icmp_signed("<", a, b), a, b))
_binary(signed_max, lambda builder, a, b: builder.select(builder.icmp_signed(">", a, b), a, b))
_binary(signed_shift, lambda builder, a, b: builder.ashr(a, b))


@intrinsic(prefer_literal=True)
def block(typing_context, level, lanes):
    """A block of that many lanes, all 0; None at level SCALAR. Both arguments are compile-time constants."""
    if level.literal_value == SCALAR:
        return types.none(level, lanes), lambda context, *_: context.get_dummy_value()
    kind = Block(level.literal_value, lanes.literal_value)

    def generate(context, builder, signature, arguments):
        return ir.Constant(ir.ArrayType(kind.register, kind.registers), None)

    return kind(level, lanes), generate


@intrinsic
def splat(typing_context, like, value):
    """The block of `like`'s type that has the integer in all lanes."""

    def generate(context, builder, signature, arguments):
        return join(builder, like, [_splat(builder, like, arguments[1])] * like.registers)

    return like(like, value), generate


@intrinsic
def load(typing_context, like, array, start):
    """The block of array[start:], of 16-bit unsigned or 32-bit elements, or the low halves of 64-bit ones."""

    def generate(context, builder, signature, arguments):
        pointer = builder.gep(data_of(context, builder, array, arguments[1]), [arguments[2]])
        wide = ir.VectorType(pointer.type.pointee, like.width)
        registers = []
        for r in range(like.registers):
            source = builder.gep(pointer, [_i64(r * like.width)])
            width = wide.element.width
            value = builder.load(builder.bitcast(source, wide.as_pointer()), align=min(width // 8, 4))
            if width != 32:
                value = (builder.zext if width < 32 else builder.trunc)(value, like.register)
            registers.append(value)
        return join(builder, like, registers)

    return like(like, array, types.int64), generate


@intrinsic
def store(typing_context, array, start, block):
    """array[start:] = block, for an array of 32-bit elements, or zero-extended of 64-bit ones."""

    def generate(context, builder, signature, arguments):
        pointer = builder.gep(data_of(context, builder, array, arguments[0]), [arguments[1]])
        wide = ir.VectorType(pointer.type.pointee, block.width)
        for r, register in enumerate(split(builder, block, arguments[2])):
            value = builder.zext(register, wide) if wide != block.register else register
            target = builder.gep(pointer, [_i64(r * block.width)])
            builder.store(value, builder.bitcast(target, wide.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, block), generate


@intrinsic
def select(typing_context, mask, a, b):
    """a where the mask is set, b elsewhere; each a block or an integer, not both integers."""
    kind = a if isinstance(a, Block) else b

    def generate(context, builder, signature, arguments):
        masks, left, right = (
            _operand(builder, kind, *pair) for pair in zip(signature.args, arguments, strict=True)
        )
        chosen = [builder.select(*triple) for triple in zip(masks, left, right, strict=True)]
        return join(builder, kind, chosen)

    return kind(mask, a, b), generate


@intrinsic
def some(typing_context, mask):
    """Whether any bit of the mask is set."""

    def generate(context, builder, signature, arguments):
        first, *others = split(builder, mask, arguments[0])
        for register in others:
            first = builder.or_(first, register)
        bits = builder.bitcast(first, ir.IntType(mask.width))
        return builder.icmp_unsigned("!=", bits, ir.IntType(mask.width)(0))

    return types.boolean(mask), generate


@intrinsic
def float_bits(typing_context, block):
    """The bits of the binary32 numbers nearest to the values."""

    def generate(context, builder, signature, arguments):
        floats = ir.VectorType(ir.FloatType(), block.width)
        registers = [
            builder.bitcast(builder.uitofp(register, floats), block.register)
            for register in split(builder, block, arguments[0])
        ]
        return join(builder, block, registers)

    return block(block), generate


@intrinsic
def total(typing_context, block):
    """The sum of a block's values, as int64."""

    def generate(context, builder, signature, arguments):
        result = _i64(0)
        for register in split(builder, block, arguments[0]):
            for lane in range(block.width):
                value = builder.extract_element(register, _i32(lane))
                result = builder.add(result, builder.zext(value, _i64))
        return result

    return types.int64(block), generate


def _gather(builder: Any, level: int, data: Any, indexes: Any, scale: int, wide: bool) -> Any:
    """One gather instruction's worth, as <n x i32> or <n x i64>. REQUIRES: signed 32-bit indexes."""
    base = builder.bitcast(data, _i8.as_pointer())
    element = _i64 if wide else _i32
    result = ir.VectorType(element, indexes.type.count)
    blank = ir.Constant(result, None)
    if level == AVX2:
        name = "llvm.x86.avx2.gather.d.q.256" if wide else "llvm.x86.avx2.gather.d.d.256"
        mask, factor = ir.Constant(result, [-1] * result.count), _i8(scale)
    else:
        name = "llvm.x86.avx512.mask.gather.dpq.512" if wide else "llvm.x86.avx512.mask.gather.dpi.512"
        mask, factor = ir.Constant(ir.VectorType(_i1, result.count), [1] * result.count), _i32(scale)
    return call(builder, name, result, [blank, base, indexes, mask, factor])


@intrinsic
def gather(typing_context, array, indexes):
    """array's 32-bit elements at the indexes (below 2**31), in its memory order."""

    def generate(context, builder, signature, arguments):
        data = data_of(context, builder, array, arguments[0])
        registers = [
            _gather(builder, indexes.level, data, register, 4, False)
            for register in split(builder, indexes, arguments[1])
        ]
        return join(builder, indexes, registers)

    return indexes(array, indexes), generate


@intrinsic
def gather_pair(typing_context, array, indexes):
    """(low, high) halves of array's 64-bit elements at the indexes (below 2**31)."""

    def generate(context, builder, signature, arguments):
        data = data_of(context, builder, array, arguments[0])
        half = indexes.width // 2
        low, high = [], []
        for register in split(builder, indexes, arguments[1]):
            words = []
            for first in (0, half):
                part = _pick(builder, register, list(range(first, first + half)))
                wide = _gather(builder, indexes.level, data, part, 8, True)
                words.append(builder.bitcast(wide, indexes.register))
            for result, parity in ((low, 0), (high, 1)):
                lanes = ir.Constant(indexes.register, list(range(parity, 2 * indexes.width, 2)))
                result.append(builder.shuffle_vector(*words, lanes))
        pair = [join(builder, indexes, low), join(builder, indexes, high)]
        return context.make_tuple(builder, signature.return_type, pair)

    return types.UniTuple(indexes, 2)(array, indexes), generate


@intrinsic
def quotient(typing_context, x, divisor):
    """x / divisor rounded down, or 1 less. REQUIRES: the quotient below 2**20, the divisor below 2**24.

    Each of three roundings (of x, of the float32 quotient, of its product with the factor) errs by 2^-24 at
    most. So what is rounded down here is never above the true quotient, and below it by 2^-21.1 of its value
    at most: less than 1.
    """

    def generate(context, builder, signature, arguments):
        floats = ir.VectorType(ir.FloatType(), x.width)
        factor = ir.Constant(floats, [1 - 2.0**-22] * x.width)
        registers = []
        pairs = zip(split(builder, x, arguments[0]), split(builder, divisor, arguments[1]), strict=True)
        for above, below in pairs:
            ratio = builder.fdiv(builder.uitofp(above, floats), builder.uitofp(below, floats))
            registers.append(builder.fptoui(builder.fmul(ratio, factor), x.register))
        return join(builder, x, registers)

    return x(x, divisor), generate
