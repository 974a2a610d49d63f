"""Vectors of fused multiply-adds inside Numba functions: the micro-kernels of sums of products, by machine.

A `Machine` is what a CPU's vectors are like: a type without values, which compiled functions take as their
first argument, so that each machine has its own code. All machines compute the same bits: vectors run
across output channels and rows across positions, so each output keeps its own sum and the order of its terms.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, register_model
from numpy.typing import NDArray

from ..entropy import _simd
from ..entropy._compiled import simd_level
from ._floats import emit_fma, splat

FloatArray = NDArray[np.float32]

BLOCK = 64
"""Input channels of a block: a sum of products adds its blocks' sums in order."""


class Shape(NamedTuple):
    """A register block: rows x vectors running sums of `lanes` floats each; they and a row of weights fit in
    the registers. fused: there is an instruction for the multiply-add, otherwise it is put together.
    """

    lanes: int
    vectors: int
    rows: int
    fused: bool

    @property
    def panel(self) -> int:
        """Outputs of a panel: those that one register block works on."""
        return self.lanes * self.vectors


SHAPES = {
    "avx512": Shape(16, 4, 6, True),
    "avx2": Shape(8, 2, 6, True),
    "neon": Shape(4, 4, 6, True),
    "unfused": Shape(4, 1, 6, False),
}
MACHINES = tuple(SHAPES)


@cache
def machine_number() -> int:
    """The number in MACHINES of the one to use: the best that the CPU and QUADRANS_SIMD allow."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    level = _simd.LEVELS[simd_level()]
    if triple.startswith(("aarch64", "arm64")):
        name = "neon"
    elif level == "scalar" or "+fma" not in features.split(","):
        name = "unfused"
    else:
        name = "avx2" if level == "avx2" else "avx512"
    return MACHINES.index(name)


def pack(weight: FloatArray, bias: FloatArray, shape: Shape) -> tuple[FloatArray, FloatArray]:
    """(slots, inputs, outputs) weights and (outputs,) bias in the layout that the kernels stream, 1-D each.

    Outputs are padded with zeros to whole vectors. For each slot and each panel of outputs (the last may
    have fewer vectors) follow the weights (inputs, panel): a block's weights of a slot and a panel are one
    stretch.
    """
    spare = -len(bias) % shape.lanes
    padded = np.pad(weight.astype(np.float32), ((0, 0), (0, 0), (0, spare)))
    panels = [
        padded[:, :, start : start + shape.panel].reshape(len(padded), -1)
        for start in range(0, padded.shape[2], shape.panel)
    ]
    return np.ascontiguousarray(np.hstack(panels)).ravel(), np.pad(bias.astype(np.float32), (0, spare))


class Machine(types.Dummy):
    """The type of a machine of SHAPES."""

    def __init__(self, name: str) -> None:
        self.shape = SHAPES[name]
        super().__init__(f"Machine({name})")


register_model(Machine)(models.OpaqueModel)

# Floats of a cache line.
_LINE = 16

_i32, _i64 = ir.IntType(32), ir.IntType(64)
_f32 = ir.FloatType()


@intrinsic(prefer_literal=True)
def machine(typing_context, number):
    """The machine of that number in MACHINES, a compile-time constant."""
    kind = Machine(MACHINES[number.literal_value])
    return kind(number), lambda context, *_: context.get_dummy_value()


def _constant(field: Callable[[Shape], int], name: str) -> Any:
    def typed(typing_context, machine):
        value = field(machine.shape)
        return types.int64(machine), lambda *_: _i64(value)

    typed.__name__ = name
    return intrinsic(typed)


lanes_of = _constant(lambda shape: shape.lanes, "lanes_of")
panel_of = _constant(lambda shape: shape.panel, "panel_of")
rows_of = _constant(lambda shape: shape.rows, "rows_of")


def _at(builder: Any, base: Any, index: Any) -> Any:
    return builder.gep(base, [index])


def _vector_at(builder: Any, base: Any, vector: Any, index: int) -> Any:
    return builder.bitcast(_at(builder, base, _i64(index * vector.count)), vector.as_pointer())


def _prefetch(builder: Any, pointer: Any, write: int = 0) -> None:
    """Fetch a cache line; there is no fault, whatever the address."""
    pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, _i32, _i32, _i32])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    builder.call(prefetch, [pointer, _i32(write), _i32(3), _i32(1)])


def _emit_block(
    builder: Any,
    shape: Shape,
    rows: int,
    vectors: int,
    x: Any,
    starts: Any,
    weights: Any,
    terms: Any,
    sums: Any,
    places: Any,
    ahead: Any,
    step: Any,
) -> None:
    """Emit sums[places[r] + v] += the block's sum of x[starts[r] + k] * weights[k, v], its terms in order.

    REQUIRES: terms >= 1.
    """
    vector = ir.VectorType(_f32, shape.lanes)
    inputs = [_at(builder, x, builder.load(_at(builder, starts, _i64(r)))) for r in range(rows)]
    outs = [_at(builder, sums, builder.load(_at(builder, places, _i64(r)))) for r in range(rows)]
    for r in range(rows):
        for v in range(0, vectors * shape.lanes, _LINE):
            _prefetch(builder, _at(builder, outs[r], _i64(v)))
        following = _at(builder, x, builder.load(_at(builder, starts, _i64(rows + r))))
        for k in range(0, BLOCK, _LINE):
            _prefetch(builder, _at(builder, following, _i64(k)))
    before = builder.block
    loop = builder.append_basic_block("terms")
    after = builder.append_basic_block("summed")
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(_i64)
    k.add_incoming(_i64(0), before)
    running = [[builder.phi(vector) for _ in range(vectors)] for _ in range(rows)]
    row = _at(builder, weights, builder.mul(k, _i64(vectors * shape.lanes)))
    factors = [builder.load(_vector_at(builder, row, vector, v), align=4) for v in range(vectors)]
    soon = _at(builder, ahead, builder.mul(k, step))
    for v in range(0, vectors * shape.lanes, _LINE):
        _prefetch(builder, _at(builder, soon, _i64(v)))
    totals: list[list[Any]] = []
    for r in range(rows):
        spread = splat(builder, builder.load(_at(builder, inputs[r], k)), vector.count)
        totals.append([])
        for v in range(vectors):
            total = emit_fma(builder, shape.fused, spread, factors[v], running[r][v])
            running[r][v].add_incoming(ir.Constant(vector, None), before)
            running[r][v].add_incoming(total, loop)
            totals[r].append(total)
    following = builder.add(k, _i64(1))
    k.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, terms), loop, after)
    builder.position_at_end(after)
    for r in range(rows):
        for v, total in enumerate(totals[r]):
            place = _vector_at(builder, outs[r], vector, v)
            builder.store(builder.fadd(builder.load(place, align=4), total), place, align=4)


@intrinsic
def fetch_row(typing_context, machine, array, at):
    """Fetch a panel's outputs of one position into the cache, to be written; nothing need be there."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row = _at(builder, _simd.data_of(context, builder, array, args[1]), args[2])
        for v in range(0, machine.shape.panel, _LINE):
            _prefetch(builder, _at(builder, row, _i64(v)), write=1)
        return context.get_dummy_value()

    return types.void(machine, array, types.int64), generate


@intrinsic
def add_block(
    typing_context, machine, rows, vectors, x, k, starts, first, weights, at, terms, sums, places, ahead, step
):
    """Add a block's sums of products to rows x vectors totals.

    Row r reads x[starts[first + r] + k ...], its totals are sums[places[first + r] ...], and the weights of
    the block's term i are weights[at + i * vectors * lanes ...]. Meanwhile what is needed next is fetched
    into the cache: weights[ahead + i * step ...], and x of the rows that follow in `starts`. Nothing need be
    there, but `starts` itself has that many elements.
    REQUIRES: 1 <= rows, vectors <= those of the machine's shape, terms >= 1, everything within bounds.
    """
    shape = machine.shape
    i = types.int64
    sig = types.void(machine, i, i, x, i, starts, i, weights, i, i, sums, places, i, i)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def data(n: int, index: Any) -> Any:
            return _at(builder, _simd.data_of(context, builder, signature.args[n], args[n]), index)

        base, begins, weight = data(3, args[4]), data(5, args[6]), data(7, args[8])
        totals, targets, soon = data(10, _i64(0)), data(11, args[6]), data(7, args[12])
        done = builder.append_basic_block("done")
        which = builder.add(builder.mul(args[1], _i64(shape.vectors + 1)), args[2])
        choice = builder.switch(which, done)
        for r in range(1, shape.rows + 1):
            for v in range(1, shape.vectors + 1):
                case = builder.append_basic_block(f"block{r}x{v}")
                choice.add_case(_i64(r * (shape.vectors + 1) + v), case)
                builder.position_at_end(case)
                _emit_block(
                    builder, shape, r, v, base, begins, weight, args[9], totals, targets, soon, args[13]
                )
                builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return sig, generate


def _emit_chain(
    builder: Any,
    lanes: int,
    vectors: int,
    fused: bool,
    x: Any,
    starts: Any,
    weights: Any,
    places: Any,
    count: Any,
    bias: Any,
    out: Any,
) -> None:
    """Emit out[v] = bias[v], then fma(x[starts[t] + v], weights[places[t] + v], that) for each t < count."""
    vector = ir.VectorType(_f32, lanes)

    def vector_load(base: Any, v: int) -> Any:
        return builder.load(_vector_at(builder, base, vector, v), align=4)

    initial = [vector_load(bias, v) for v in range(vectors)]
    before = builder.block
    head, body, after = (builder.append_basic_block(name) for name in ("taps", "tap", "chained"))
    builder.branch(head)
    builder.position_at_end(head)
    t = builder.phi(_i64)
    running = [builder.phi(vector) for _ in range(vectors)]
    builder.cbranch(builder.icmp_signed("<", t, count), body, after)
    builder.position_at_end(body)
    source = _at(builder, x, builder.load(_at(builder, starts, t)))
    row = _at(builder, weights, builder.load(_at(builder, places, t)))
    for v in range(vectors):
        total = emit_fma(builder, fused, vector_load(source, v), vector_load(row, v), running[v])
        running[v].add_incoming(initial[v], before)
        running[v].add_incoming(total, body)
    t.add_incoming(_i64(0), before)
    t.add_incoming(builder.add(t, _i64(1)), body)
    builder.branch(head)
    builder.position_at_end(after)
    for v, total in enumerate(running):
        builder.store(total, _vector_at(builder, out, vector, v), align=4)


@intrinsic
def add_chain(typing_context, machine, width, x, starts, weights, places, count, column, bias, out, at):
    """Write out[at ...], `width` channels: the chains of `count` products on weights[bias + column ...].

    Product t is that of x[starts[t] + column ...] and weights[places[t] + column ...].
    REQUIRES: width is the machine's panel, its lanes, or 1; everything within bounds.
    """
    shape = machine.shape
    i = types.int64
    sig = types.void(machine, i, x, starts, weights, places, i, i, i, out, i)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def data(n: int, index: Any) -> Any:
            return _at(builder, _simd.data_of(context, builder, signature.args[n], args[n]), index)

        base, begins, weight = data(2, args[7]), data(3, _i64(0)), data(4, args[7])
        slots, bias, target = data(5, _i64(0)), data(4, builder.add(args[7], args[8])), data(9, args[10])
        done = builder.append_basic_block("done")
        choice = builder.switch(args[1], done)
        for lanes, vectors in {(shape.lanes, shape.vectors), (shape.lanes, 1), (1, 1)}:
            case = builder.append_basic_block(f"chain{lanes}x{vectors}")
            choice.add_case(_i64(lanes * vectors), case)
            builder.position_at_end(case)
            _emit_chain(
                builder, lanes, vectors, shape.fused, base, begins, weight, slots, args[6], bias, target
            )
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return sig, generate
