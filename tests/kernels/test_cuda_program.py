"""Programs on a GPU, emulated, equal the plain interpreter of their tables to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_programs import CUDA, both, programs, run
from emulator import build
from hypothesis import given, settings
from hypothesis import strategies as st

from quadrans.kernels.builder import Builder
from quadrans.kernels.cuda.serial import JOB_BYTES
from quadrans.kernels.cuda.table import (
    MEETS,
    PHASES,
    PIECE_KEYS,
    ROW_COLUMNS,
    SHARED_BASE,
    SHARED_PER_WARP,
    device_table,
    pack,
)
from quadrans.kernels.placement import Value
from quadrans.kernels.program import Column, ConvWeights, Function, Op, WeightStore

FUNCTIONS = [*Function]


def conv_weights(rng, slots, inputs, outputs) -> ConvWeights:
    shape = slots, inputs, outputs
    weight = rng.standard_normal(shape) * 2.0 ** rng.integers(-20, 5, (1, 1, outputs))
    return ConvWeights(weight.astype(np.float32), rng.standard_normal(outputs).astype(np.float32))


def tap_list(rng, size, shift) -> np.ndarray:
    """Some taps of a kernel, in their order; the last slot always, so that kernels aren't empty."""
    slots = np.flatnonzero(rng.random(size[0] * size[1]) < 0.8)
    return np.stack([slots, slots // size[1] - shift, slots % size[1] - shift], axis=1)


@settings(max_examples=60)
@given(data=st.data())
def test_convolutions(data, assert_same_bits):
    draw = lambda *values: data.draw(st.sampled_from(values))  # noqa: E731
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n, height, width = draw(1, 2, 3), draw(1, 2, 5, 8), draw(1, 3, 6, 9)
    inputs, outputs = draw(1, 3, 4, 31, 64, 66, 130), draw(1, 7, 8, 15, 33, 70)
    kernel, (up, down) = draw((1, 1), (3, 3), (2, 3)), draw((1, 1), (2, 1), (1, 2), (1, 3), (3, 2))
    size = draw(1, 4, 7), draw(1, 5, 10)
    column, function = draw(0, 1, 4), draw(*FUNCTIONS)
    weights = conv_weights(rng, kernel[0] * kernel[1], inputs, outputs)
    taps = tap_list(rng, kernel, draw(0, 1))

    def emit(b: Builder) -> Value:
        x = b.input("x", height, width, inputs + column)
        y = b.conv(x.part(column, column + inputs), weights, taps, size, up, down)
        return y if function == Function.IDENTITY else b.unary(y, function, 0.1)

    # What one block with one warp takes whole is cut to many.
    shapes = [(1, 32), (data.draw(st.integers(1, 9)), 32 * data.draw(st.integers(1, 5)))]
    expected, got = both(emit, n, rng, capacity=n + draw(0, 2), shapes=shapes)
    for one in got:
        assert_same_bits(expected, one)


@pytest.mark.parametrize("size", [(7, 5), (13, 15), (29, 31), (70, 66)], ids=str)
@pytest.mark.parametrize("inputs", [24, 200])
def test_every_tile(size, inputs, rng, assert_same_bits):
    """One block takes the small, the middle, and for the last two sizes the large tile."""
    positions, outputs = size
    weights, taps = conv_weights(rng, 2, inputs, outputs), np.array([[0, 0, 0], [1, 0, 1]])
    emit = lambda b: b.conv(b.input("x", 1, positions, inputs), weights, taps, (1, positions))  # noqa: E731
    expected, got = both(emit, 1, rng, shapes=[(1, 64), (1, 160), (40, 64)])
    for one in got:
        assert_same_bits(expected, one)


def test_a_kernel_without_taps_gives_the_bias(rng, assert_same_bits):
    weights, taps = conv_weights(rng, 9, 5, 11), np.zeros((0, 3), np.int64)
    expected, (got,) = both(lambda b: b.conv(b.input("x", 2, 3, 5), weights, taps, (2, 3)), 2, rng)
    assert_same_bits(expected, got)
    assert_same_bits(got, np.broadcast_to(weights.bias, (2, 2, 3, 11)).copy())


def test_sums_keep_the_sign_of_zero(rng, assert_same_bits):
    """Neither padding nor absent taps are terms: -0 stays, and so does what underflows to -0."""
    weight = np.full((3, 5, 9), -1e-30, np.float32)
    weights = ConvWeights(weight, np.full(9, -0.0, np.float32))
    taps = np.array([[0, 0, -1], [1, 0, 0], [2, 0, 1]])

    def emit(b: Builder) -> Value:
        x = b.constant(np.array([0.0, -0.0, 1e-30, -1e-30], np.float32).repeat(5).reshape(1, 4, 5))
        return b.conv(x, weights, taps, (1, 7))

    expected, (got,) = both(emit, 1, rng)
    assert_same_bits(expected, got)
    assert (np.signbit(got) & (got == 0)).any()
    assert not np.signbit(got[got == 0]).all()


@pytest.mark.parametrize("context", [True, False])
@pytest.mark.parametrize("n", [1, 2, 19])
def test_steps(n, context, rng, assert_same_bits):
    """The plane's corners are among the positions; capacity exceeds them."""
    weights = conv_weights(rng, 12, 67, 34)
    taps = np.stack([np.arange(12), np.arange(12) // 5 - 2, np.arange(12) % 5 - 2], axis=1)
    around = np.stack([np.arange(12), np.arange(12) // 4 - 1, np.arange(12) % 4 - 1], axis=1)
    head = conv_weights(rng, 12, 67 + 34 + 6, 10)

    def emit(b: Builder) -> Value:
        y_hat, features = b.plane("y_hat", 5, 7, 67), b.plane("features", 5, 7, 6)
        contexts = b.gather(b.context(y_hat, weights, taps), np.zeros(12, np.int64), (3, 4))
        parts = [
            b.window(features, around[[1, 2, 5]], (3, 4), context=False),
            b.window(y_hat, around[:7], (3, 4), context=True),
            contexts,
        ]
        return b.conv(b.concatenate(parts), head, around, (1, 1))

    rows, cols = rng.integers(0, 5, n), rng.integers(0, 7, n)
    rows[0], cols[0], rows[-1], cols[-1] = 0, 0, 4, 6
    expected, got = both(
        emit, n, rng, capacity=23, positions=(rows, cols, context), planes=("y_hat", "features"),
        shapes=[(1, 32), (5, 64), (24, 96)],
    )  # fmt: skip
    for one in got:
        assert_same_bits(expected, one)


def everything(rng) -> dict[str, object]:
    """An emitter for each operation but those above."""
    taps = np.array([[0, -1, -1], [1, -1, 0], [3, 0, 0], [4, 1, 2]])
    deep = rng.standard_normal((5, 37)).astype(np.float32)
    vector = rng.standard_normal((2, 37)).astype(np.float32)
    attention = rng.standard_normal((4, 1, 16, 16)).astype(np.float32)
    bias, masks = np.ascontiguousarray(attention[:2, 0]), np.ascontiguousarray(attention[1:, 0])

    def windows(b: Builder, heads: int, extras: bool) -> Value:
        q, k, v = (b.input(name, 8, 8, 74).part(3, 3 + 70) for name in "qkv")
        some = (bias, (masks, np.array([2, 0, 1, 1]))) if extras else (None, None)
        return b.attention(q, k, v, heads, 0.3, (16, 16), *some)

    def tokens(b: Builder) -> Value:
        keys = b.plane("pairs", 1, 130, 80)
        return b.attention(b.input("q", 3, 3, 40), keys.part(0, 40), keys.part(40, 80), 5, 0.2, (9, 130))

    return {
        "depthwise": lambda b: b.depthwise(b.input("x", 5, 4, 37), deep, vector[0], taps, (5, 6)),
        "depthwise_strided": lambda b: b.depthwise(b.input("x", 5, 4, 37), deep, vector[0], taps, (3, 2), 2),
        "depthwise_relu": lambda b: b.unary(
            b.depthwise(b.input("x", 5, 4, 37), deep, vector[0], taps, (5, 4)), Function.RELU
        ),
        "layer_norm": lambda b: b.layer_norm(b.input("x", 3, 4, 37), vector[0], vector[1], 1e-6),
        "layer_norm_of_one": lambda b: b.layer_norm(
            b.input("x", 3, 4, 1), vector[0, :1], vector[1, :1], 1e-6
        ),
        "windows": lambda b: windows(b, 2, True),
        "windows_plain": lambda b: windows(b, 1, False),
        "tokens": tokens,
        "add": lambda b: b.add(b.input("x", 3, 4, 35), b.input("z", 3, 4, 40).part(5, 40)),
        "multiply": lambda b: b.multiply(b.input("x", 3, 4, 35), b.input("z", 3, 4, 40).part(5, 40)),
        "shuffle": lambda b: b.shuffle(b.input("x", 3, 2, 36), 3),
        "unshuffle": lambda b: b.unshuffle(b.input("x", 6, 4, 35), 2),
        "gather": lambda b: b.gather(b.input("x", 3, 4, 35), np.array([5, 0, 11, 5, -1, 2]), (2, 3)),
        "concatenate": lambda b: b.concatenate([b.input("x", 3, 4, 35), b.input("z", 3, 4, 3)]),
        "constant": lambda b: b.add(b.input("x", 2, 1, 37), b.constant(vector[:, None])),
    }


@pytest.mark.parametrize("name", everything(np.random.default_rng(0)))
def test_operations(name, rng, assert_same_bits):
    planes = ("pairs",) if name == "tokens" else ()
    expected, got = both(everything(rng)[name], 2, rng, planes=planes, shapes=[(1, 32), (5, 96)])
    for one in got:
        assert_same_bits(expected, one)


@pytest.mark.parametrize("keys", [PIECE_KEYS, PIECE_KEYS + 1, 2 * PIECE_KEYS + 100])
def test_more_keys_than_a_piece(keys, rng, assert_same_bits):
    """Their scores are computed again for each piece; bias and masks are added each time."""
    extras = rng.standard_normal((3, 1, keys)).astype(np.float32)
    bias, masks = extras[:2], (extras[2:], np.zeros(1, np.int64))

    def emit(b: Builder) -> Value:
        q, k, v = b.input("q", 1, 1, 6), b.plane("k", 1, keys, 6), b.plane("v", 1, keys, 6)
        return b.attention(q, k, v, 2, 0.7, (1, keys), bias, masks)

    expected, got = both(emit, 1, rng, planes=("k", "v"), shapes=[(1, 32), (3, 64)])
    assert np.isfinite(expected).all()
    for one in got:
        assert_same_bits(expected, one)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions(function, rng, assert_same_bits):
    values = rng.integers(0, 2**32, (1, 9, 40), np.uint32).view(np.float32)
    emit = lambda b: b.unary(b.add(b.constant(values), b.input("x", 1, 9, 40)), function, 0.2)  # noqa: E731
    expected, (got,) = both(emit, 1, rng)
    assert_same_bits(expected, got)


def network(rng):
    convs = [conv_weights(rng, 9, *pair) for pair in ((5, 40), (40, 20), (60, 9))]
    taps = np.stack([np.arange(9), np.arange(9) // 3 - 1, np.arange(9) % 3 - 1], axis=1)

    def emit(b: Builder) -> Value:
        x = b.input("x", 4, 5, 5)
        a = b.unary(b.conv(x, convs[0], taps, (4, 5)), Function.LEAKY_RELU, 0.01)
        c = b.unary(b.conv(a, convs[1], taps, (4, 5)), Function.GELU)
        return b.conv(b.concatenate([c, a]), convs[2], taps, (4, 5))

    return emit


def test_results_depend_neither_on_blocks_nor_on_turns(rng, assert_same_bits):
    shapes = [(1, 32), (2, 64), (13, 32), (4, 224), (3, 64), (3, 64), (3, 64)]
    expected, got = both(network(rng), 2, rng, shapes=shapes)
    for one in got:
        assert_same_bits(expected, one)


def test_an_instruction_a_launch(rng, assert_same_bits):
    expected, (got,) = both(network(rng), 2, rng, one_launch=False)
    assert_same_bits(expected, got)


def test_a_barrier_too_few_shows(rng):
    """What the emulator would say if an instruction weren't waited for: blocks take turns at random."""
    _, program = programs(network(rng), 1)
    outcomes = set()
    for seed in range(12):
        memory = np.full(program.size, np.nan, np.float32)
        memory[: 4 * 5 * 5] = 1
        run(program, memory, 1, None, (5, 32), seed, meets=False)
        outcomes.add(memory.tobytes())
    assert len(outcomes) > 1


def meets(emit, capacity=2) -> list[int]:
    builder = Builder(WeightStore(pack), capacity)
    builder.output("y", emit(builder))
    return device_table(builder.build())[0][:, MEETS].tolist()


def test_blocks_meet_where_they_must(rng):
    weights = [conv_weights(rng, 1, *pair) for pair in ((8, 6), (8, 7), (13, 4))]
    tap = np.zeros((1, 3), np.int64)

    def side_by_side(b: Builder) -> Value:
        x = b.input("x", 2, 2, 8)
        parts = [b.conv(x, one, tap, (2, 2)) for one in weights[:2]]
        return b.conv(b.concatenate(parts), weights[2], tap, (2, 2))

    def chain(b: Builder) -> Value:
        x = b.input("x", 2, 2, 8)
        for _ in range(3):
            x = b.unary(x, Function.TANH)
        return x

    assert meets(side_by_side) == [0, 0, 1]
    assert meets(chain) == [0, 1, 1]


def test_a_place_used_again_is_waited_for():
    """The third value takes the first one's place, which the second was read from."""

    def chain(b: Builder) -> Value:
        x = b.input("x", 1, 1, 16)
        for function in (Function.ABS, Function.TANH, Function.EXP, Function.ABS):
            x = b.unary(x, function)
        return x

    assert meets(chain) == [0, 1, 1, 1]


def test_packing(rng):
    weights = conv_weights(rng, 2, 5, 3)
    flat, bias = pack(weights)
    quads = flat.reshape(2, 2, 3, 4)
    assert quads[1, 0, 2].tolist() == weights.weight[1, :4, 2].tolist()
    assert quads[1, 1, 2, 0] == weights.weight[1, 4, 2]
    padding = quads[:, 1, :, 1:]
    assert (padding == 0).all()
    assert np.signbit(padding).all()
    assert bias is weights.bias


def test_constants_are_the_kernels():
    """What Python and C++ both say."""
    names = [*(f"program::{op.name}" for op in Op), *(f"program::{column.name}" for column in Column)]
    sizes = ["__builtin_offsetof(program::Shared, warps)", "program::WARP_BYTES", "serial::JOB_BYTES"]
    values = [
        *names,
        "program::PHASES",
        "program::MEETS",
        "program::ROW_COLUMNS",
        "program::PIECE_KEYS",
        *sizes,
    ]
    body = "".join(f"out[{i}] = {value};" for i, value in enumerate(values))
    code = f'#include "serial.cuh"\nextern "C" __global__ void constants(long long* out) {{ {body} }}'
    found = np.zeros(len(values), np.int64)
    build(code, include=(CUDA,)).launch("constants", (1,), (1,), (found,))
    constants = [PHASES, MEETS, ROW_COLUMNS, PIECE_KEYS, SHARED_BASE, SHARED_PER_WARP, JOB_BYTES]
    assert found.tolist() == [*Op, *Column, *constants]


def test_refused():
    """Sizes that the kernels could not count, or have no room for."""

    def of(row_of, capacity=1):
        builder = Builder(WeightStore(pack), capacity)
        builder.output("y", row_of(builder))
        return device_table(builder.build())

    with pytest.raises(ValueError, match="70000 images of 200x200 positions"):
        of(lambda b: b.unary(b.input("x", 200, 200, 1), Function.ABS), 70000)
