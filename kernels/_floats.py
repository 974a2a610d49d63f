"""Binary32 operations that Numba lacks: a true fused multiply-add, and tiles of vectors for reductions.

`machine`, the first argument of compiled functions, is a value of `_fma.Machine`: its type says
whether there is an instruction for fma.

A `Tile` is `rows` vectors of `lanes` floats, a local variable of compiled code that can't cross into
Python. LLVM splits or widens its vectors to what the CPU has.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

_i32, _i64 = ir.IntType(32), ir.IntType(64)
_f32, _f64 = ir.FloatType(), ir.DoubleType()


class Tile(types.Type):
    """`rows` vectors of `lanes` floats."""

    def __init__(self, rows: int, lanes: int) -> None:
        self.rows, self.lanes = rows, lanes
        self.vector = ir.VectorType(_f32, lanes)
        super().__init__(f"Tile({rows}, {lanes})")


@register_model(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Tile) -> None:
        super().__init__(manager, kind, ir.ArrayType(kind.vector, kind.rows))


def _split(builder: Any, kind: Tile, value: Any) -> list[Any]:
    return [builder.extract_value(value, r) for r in range(kind.rows)]


def _join(builder: Any, kind: Tile, vectors: list[Any]) -> Any:
    value = ir.Constant(ir.ArrayType(kind.vector, kind.rows), ir.Undefined)
    for r, vector in enumerate(vectors):
        value = builder.insert_value(value, vector, r)
    return value


def splat(builder: Any, scalar: Any, lanes: int) -> Any:
    kind = ir.VectorType(scalar.type, lanes)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, _i32(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_i32, lanes), None))


def _operand(builder: Any, like: Tile, kind: Any, value: Any) -> list[Any]:
    """The vectors of a tile, or of `like` with a float in every lane."""
    if isinstance(kind, Tile):
        return _split(builder, kind, value)
    return [splat(builder, value, like.lanes)] * like.rows


def _call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _suffix(kind: Any) -> str:
    return f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else "f32"


def _like(kind: Any, scalar: Any, value: Any) -> Any:
    """A constant of the scalar type, or of as many lanes as `kind` has."""
    if isinstance(kind, ir.VectorType):
        return ir.Constant(ir.VectorType(scalar, kind.count), [value] * kind.count)
    return ir.Constant(scalar, value)


def _wider(kind: Any, scalar: Any) -> Any:
    return ir.VectorType(scalar, kind.count) if isinstance(kind, ir.VectorType) else scalar


def emit_fma(builder: Any, fused: bool, a: Any, b: Any, c: Any) -> Any:
    """a * b + c rounded once. Without the instruction: `reference.fma`, where it is derived."""
    kind = a.type
    if fused:
        return _call(builder, f"llvm.fma.{_suffix(kind)}", kind, [a, b, c])
    double, word = _wider(kind, _f64), _wider(kind, _i64)
    wide = [builder.fpext(value, double) for value in (a, b, c)]
    product, addend = builder.fmul(wide[0], wide[1]), wide[2]
    total = builder.fadd(product, addend)
    back = builder.fsub(total, product)
    error = builder.fadd(
        builder.fsub(product, builder.fsub(total, back)),
        builder.fsub(addend, back),
    )
    # The error of an infinite or NaN sum is NaN, which no ordered comparison holds for.
    zero = _like(kind, _f64, 0.0)
    bits = builder.bitcast(total, word)
    even = builder.icmp_signed("==", builder.and_(bits, _like(kind, _i64, 1)), _like(kind, _i64, 0))
    outward = builder.icmp_signed(
        "==",
        builder.fcmp_ordered(">", error, zero),
        builder.fcmp_ordered(">", total, zero),
    )
    step = builder.select(outward, _like(kind, _i64, 1), _like(kind, _i64, -1))
    inexact = builder.and_(builder.fcmp_ordered("!=", error, zero), even)
    odd = builder.select(inexact, builder.add(bits, step), bits)
    return builder.fptrunc(builder.bitcast(odd, double), kind)


@intrinsic
def fma(typing_context, machine, a, b, c):
    """a * b + c rounded once; float32 scalars, or tiles among them, of which scalars fill every lane."""
    tiles = [kind for kind in (a, b, c) if isinstance(kind, Tile)]
    operands = [kind if isinstance(kind, Tile) else types.float32 for kind in (a, b, c)]

    def generate(context, builder, signature, arguments):
        if not tiles:
            return emit_fma(builder, machine.shape.fused, *arguments[1:])
        columns = [_operand(builder, tiles[0], *pair) for pair in zip(operands, arguments[1:], strict=True)]
        return _join(
            builder,
            tiles[0],
            [emit_fma(builder, machine.shape.fused, *triple) for triple in zip(*columns, strict=True)],
        )

    return (tiles[0] if tiles else types.float32)(machine, *operands), generate


@intrinsic
def magnitude(typing_context, x):
    """x with its sign bit cleared."""

    def generate(context, builder, signature, arguments):
        return _call(builder, "llvm.fabs.f32", _f32, arguments)

    return types.float32(types.float32), generate


@intrinsic
def with_sign(typing_context, x, sign):
    """x with the sign bit of `sign`."""

    def generate(context, builder, signature, arguments):
        return _call(builder, "llvm.copysign.f32", _f32, arguments)

    return types.float32(types.float32, types.float32), generate


@intrinsic
def times_power(typing_context, x, shifted):
    """x * 2^k rounded once, where shifted is 1.5 * 2^23 + k.

    In two factors, 2^h and 2^(k - h) with h = floor(k / 2): each is a normal number, and the first
    product is exact. REQUIRES: -252 <= k <= 254, x * 2^h normal; with a NaN in `shifted`, x is NaN.
    """

    def generate(context, builder, signature, arguments):
        x, shifted = arguments
        k = builder.sub(builder.bitcast(shifted, _i32), _i32(0x4B400000))
        half = builder.ashr(k, _i32(1))
        for exponent in (half, builder.sub(k, half)):
            bits = builder.shl(builder.add(exponent, _i32(127)), _i32(23))
            x = builder.fmul(x, builder.bitcast(bits, _f32))
        return x

    return types.float32(types.float32, types.float32), generate


@intrinsic(prefer_literal=True)
def zeros(typing_context, rows, lanes):
    """The tile of that many rows and lanes, all +0. Both arguments are compile-time constants."""
    kind = Tile(rows.literal_value, lanes.literal_value)

    def generate(context, builder, signature, arguments):
        return ir.Constant(ir.ArrayType(kind.vector, kind.rows), None)

    return kind(rows, lanes), generate


def _binary(operation: Any, name: str) -> None:
    """Defines `operation` on two tiles, and on a tile and a float."""

    @intrinsic
    def apply(typing_context, a, b):
        def generate(context, builder, signature, arguments):
            left, right = (_operand(builder, a, *pair) for pair in zip((a, b), arguments, strict=True))
            emit = getattr(builder, name)
            return _join(builder, a, [emit(x, y) for x, y in zip(left, right, strict=True)])

        return a(a, b), generate

    @overload(operation)
    def implement(a, b):
        if isinstance(a, Tile) and b in (a, types.float32):
            return lambda a, b: apply(a, b)
        return None


for _operation, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _binary(_operation, _name)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


def _first_lanes(builder: Any, lanes: int, count: Any) -> Any:
    numbers = ir.Constant(ir.VectorType(_i32, lanes), list(range(lanes)))
    limit = splat(builder, builder.trunc(count, _i32), lanes)
    return builder.icmp_signed("<", numbers, limit)


@intrinsic
def load(typing_context, like, array, start):
    """The tile of `like`'s lanes and one row with array[start:]."""
    kind = Tile(1, like.lanes)

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, array, arguments[1], arguments[2])
        vector = builder.load(builder.bitcast(pointer, kind.vector.as_pointer()), align=4)
        return _join(builder, kind, [vector])

    return kind(like, array, types.int64), generate


@intrinsic
def load_first(typing_context, like, array, start, count, fill):
    """`load`, of which only the first `count` lanes are read and the others are `fill`."""
    kind = Tile(1, like.lanes)

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, array, arguments[1], arguments[2])
        pointer = builder.bitcast(pointer, kind.vector.as_pointer())
        mask = _first_lanes(builder, kind.lanes, arguments[3])
        others = splat(builder, arguments[4], kind.lanes)
        name = f"llvm.masked.load.v{kind.lanes}f32.p0"
        return _join(builder, kind, [_call(builder, name, kind.vector, [pointer, _i32(4), mask, others])])

    return kind(like, array, types.int64, types.int64, types.float32), generate


@intrinsic
def store_first(typing_context, array, start, pitch, tile, rows, count):
    """array[start + r * pitch:] = the first `count` lanes of row r, for each of the first `rows` rows."""

    def generate(context, builder, signature, arguments):
        mask = _first_lanes(builder, tile.lanes, arguments[5])
        for r, vector in enumerate(_split(builder, tile, arguments[3])):
            place = builder.add(arguments[1], builder.mul(arguments[2], _i64(r)))
            pointer = _pointer(context, builder, array, arguments[0], place)
            pointer = builder.bitcast(pointer, tile.vector.as_pointer())
            wanted = builder.icmp_signed(">", arguments[4], _i64(r))
            written = builder.and_(mask, splat(builder, wanted, tile.lanes))
            name = f"llvm.masked.store.v{tile.lanes}f32.p0"
            _call(builder, name, ir.VoidType(), [vector, pointer, _i32(4), written])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, tile, types.int64, types.int64), generate


@intrinsic
def keep_first(typing_context, tile, count):
    """The tile with +0 in all but the first `count` lanes."""

    def generate(context, builder, signature, arguments):
        mask = _first_lanes(builder, tile.lanes, arguments[1])
        blank = ir.Constant(tile.vector, None)
        vectors = [builder.select(mask, row, blank) for row in _split(builder, tile, arguments[0])]
        return _join(builder, tile, vectors)

    return tile(tile, types.int64), generate


@intrinsic
def add_products(typing_context, machine, tile, x, start, pitch, rows, weight):
    """Row r of the tile: fma(x[start + min(r, rows - 1) * pitch], weight, that row)."""

    def generate(context, builder, signature, arguments):
        last = builder.sub(arguments[5], _i64(1))
        (factor,) = _split(builder, weight, arguments[6])
        vectors = []
        for r, total in enumerate(_split(builder, tile, arguments[1])):
            row = builder.select(builder.icmp_signed("<", last, _i64(r)), last, _i64(r))
            place = builder.add(arguments[3], builder.mul(row, arguments[4]))
            value = builder.load(_pointer(context, builder, x, arguments[2], place))
            vectors.append(
                emit_fma(builder, machine.shape.fused, splat(builder, value, tile.lanes), factor, total)
            )
        return _join(builder, tile, vectors)

    integers = [types.int64] * 3
    return tile(machine, tile, x, *integers, weight), generate


def _emit_larger(builder: Any, x: Any, y: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)


@intrinsic
def larger(typing_context, x, y):
    """x > y ? x : y, in each lane of two tiles."""

    def generate(context, builder, signature, arguments):
        left, right = (_split(builder, x, value) for value in arguments)
        return _join(builder, x, [_emit_larger(builder, *pair) for pair in zip(left, right, strict=True)])

    return x(x, x), generate


def _joining(emit: Any, name: str, meaning: str) -> Any:
    """What joins the lanes of a one-row tile: s_j = emit(s_j, s_(j + h)) for j < h = lanes / 2, ... 2, 1."""

    def join(typing_context, tile):
        def generate(context, builder, signature, arguments):
            (vector,) = _split(builder, tile, arguments[0])
            half = tile.lanes
            while half > 1:
                half //= 2
                low, high = (
                    builder.shuffle_vector(
                        vector,
                        vector,
                        ir.Constant(ir.VectorType(_i32, half), list(range(first, first + half))),
                    )
                    for first in (0, half)
                )
                vector = emit(builder, low, high)
            return builder.extract_element(vector, _i32(0))

        return types.float32(tile), generate

    join.__name__, join.__doc__ = name, meaning
    return intrinsic(join)


total = _joining(lambda builder, x, y: builder.fadd(x, y), "total", "The partial sums' sum.")
greatest = _joining(_emit_larger, "greatest", "The greatest lane. REQUIRES: none is NaN.")
