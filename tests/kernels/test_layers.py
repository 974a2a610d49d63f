"""Layers, trees of layers and networks against the reference, to the bit."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import random_layers
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from random_layers import Grower

from quadrans.kernels import blocks, cpu, layers, network, reference_network
from quadrans.kernels.builder import Builder
from quadrans.kernels.layers import Layer
from quadrans.kernels.program import WeightStore
from quadrans.kernels.taps import causal_mask, checkerboard_mask, empty_mask

FloatArray = NDArray[np.float32]
Normal = Callable[..., FloatArray]
Same = Callable[[FloatArray, FloatArray], None]
Inputs = dict[str, FloatArray]


def poisoned(layer: Layer, x: FloatArray, inputs: Inputs | None = None, threads: int = 1) -> FloatArray:
    """layer(x, inputs) for x (N, H, W, C) in a memory that is NaN wherever nothing has been written."""

    class Device:
        pack, execute = staticmethod(cpu.pack), staticmethod(cpu.execute)

        @staticmethod
        def new_memory(size: int) -> FloatArray:
            return np.full(size, np.nan, np.float32)

    return network.Network(layer, Device)(x, inputs, threads=threads, check=False)


def inputs_of(layer: Layer, grower: Grower, bits: float) -> Inputs:
    """The other inputs that a layer of a `Grower` reads, for two images."""
    tokens = grower.values(2, *random_layers.TOKENS, bits=bits)
    return {"tokens": tokens} if random_layers.reads_tokens(layer) else {}


def compare(layer: Layer, x: FloatArray, same: Same, inputs: Inputs | None = None) -> None:
    """Network and reference agree on a batch, whatever the threads, and on its images one by one."""
    expected = reference_network.run(layer, x, inputs)
    same(poisoned(layer, x, inputs), expected)
    same(layer(x, inputs, threads=3, check=False), expected)
    for n, image in enumerate(x):
        one = {name: array[n] for name, array in (inputs or {}).items()}
        same(layer(image, one, check=False), expected[n])


@pytest.mark.parametrize("kind", sorted({leaf.__name__ for leaf in Grower(0).leaves()}))
def test_layer(kind: str, assert_same_bits: Same) -> None:
    """Every kind of layer, several shapes, weights and inputs of all sizes."""
    for seed, size in enumerate([(1, 1), (2, 4), (5, 3), (6, 6)]):
        grower = Grower(seed, extreme=0.05 * (seed % 2))
        for channels in (1, 4, 9, 66):
            layer = getattr(grower, kind)((*size, channels))
            if min(random_layers.shape_of(layer, (*size, channels))) < 1:
                continue
            bits = 0.1 * (seed % 2)
            x = grower.values(2, *size, channels, bits=bits)
            compare(layer, x, assert_same_bits, inputs_of(layer, grower, bits))


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    channels=st.sampled_from(random_layers.WIDTHS),
    extreme=st.sampled_from([0, 0.02, 0.3]),
    bits=st.sampled_from([0, 0.02, 1]),
)
@settings(max_examples=600)
def test_trees(
    seed: int, size: tuple[int, int], channels: int, extreme: float, bits: float, assert_same_bits: Same
) -> None:
    """Whatever is built of layers, thousands in all: infinities and NaN inside included."""
    grower = Grower(seed, extreme)
    layer = grower.tree((*size, channels), 3)
    x = grower.values(2, *size, channels, bits=bits)
    inputs = inputs_of(layer, grower, bits)
    expected = reference_network.run(layer, x, inputs)
    assert_same_bits(poisoned(layer, x, inputs, threads=1 + seed % 2), expected)


def tricky(normal: Normal) -> dict[str, Layer]:
    """Trees where a function must not join the convolution before it, or a value can't be part of another."""
    conv, relu, same = layers.Linear(normal(6, 6)), layers.ReLU(), blocks.Sequential()
    back = blocks.Sequential([conv, relu])
    return {
        "read before": blocks.Sequential([conv, blocks.Residual(relu)]),
        "read after": blocks.Sequential([conv, blocks.Residual(same, relu)]),
        "a part": blocks.Sequential([conv, blocks.Slice(1, 4), relu]),
        "the first part": blocks.Sequential([conv, blocks.Slice(0, 4), relu]),
        "twice": blocks.Sequential([conv, relu, layers.LeakyReLU(), layers.Abs()]),
        "joined": blocks.Sequential([blocks.Concat([conv, back]), relu]),
        "joined part": blocks.Sequential([blocks.Concat([conv, same]), blocks.Slice(0, 6), relu]),
        "joined and read": blocks.Sequential([conv, blocks.Concat([same, relu])]),
        "joined twice": blocks.Sequential([conv, blocks.Concat([same, same, relu])]),
        "nested": blocks.Concat(
            [blocks.Concat([conv, back]), blocks.Sequential([conv, blocks.Concat([relu])])]
        ),
        "inputs": blocks.Concat([same, blocks.Slice(2, 3), same]),
        "nothing": same,
        "part of the input": blocks.Slice(2, 5),
        "sum of one": blocks.Sequential([conv, blocks.Residual(same)]),
    }


@pytest.mark.parametrize("name", tricky(lambda *shape: np.ones(shape, np.float32)))
def test_fusion_and_parts(name: str, normal: Normal, assert_same_bits: Same) -> None:
    compare(tricky(normal)[name], normal(2, 3, 4, 6), assert_same_bits)


def test_instructions(normal: Normal) -> None:
    """What needs no instruction of its own has none."""
    conv = layers.Conv2d(normal(6, 6, 3, 3), None, 2, 1)
    body = blocks.Sequential([conv, layers.GELU()])
    gate = blocks.Multiply(blocks.Slice(0, 3), blocks.Slice(3, 6))
    for layer, count in ((body, 1), (blocks.Concat([body, body]), 2), (blocks.Sequential([conv, gate]), 2)):
        program = network.Network(layer).program((("x", (1, 8, 8, 6)),))
        assert len(program.table) == count


@pytest.mark.parametrize("mask", [causal_mask(5), checkerboard_mask(5), empty_mask(5)])
def test_masked_conv2d(mask: NDArray[np.bool_], normal: Normal, assert_same_bits: Same) -> None:
    layer = layers.Conv2d(normal(6, 3, 5, 5), normal(6), padding=2, mask=mask)
    compare(layer, normal(2, 4, 5, 3), assert_same_bits)


def test_absent_taps_are_not_zeros() -> None:
    """-0 stays -0 at a border, where adding a product of zero would give +0."""
    weight, bias = np.ones((1, 1, 3, 3), np.float32), np.full(1, -0.0, np.float32)
    x = np.full((1, 1, 1), -0.0, np.float32)
    # The block of the one tap is fma(-0, 1, +0) = +0; without any tap the bias stays.
    assert not np.signbit(layers.Conv2d(weight, bias, padding=1)(x)).any()
    assert np.signbit(layers.Conv2d(weight, bias, padding=1, mask=empty_mask(3))(x)).all()
    assert np.signbit(layers.DepthwiseConv2d(weight, bias, padding=1)(x)).all()
    assert np.signbit(layers.Conv2d(weight, bias, padding=4)(x)[0, 0])


def test_sums_are_joined_in_blocks(assert_same_bits: Same) -> None:
    """1 + 64 * 2^-24 + 2^-24: the 64 are a block, whose sum reaches the total; the last one alone doesn't."""
    weight = np.ones((1, 129), np.float32)
    x = np.zeros((1, 1, 129), np.float32)
    x[0, 0, 0], x[0, 0, 64:] = 1, 2**-24
    assert_same_bits(layers.Linear(weight)(x), np.full((1, 1, 1), 1 + 2**-18, np.float32))


def test_no_bias_is_zero(normal: Normal, assert_same_bits: Same) -> None:
    weight, x = normal(4, 3, 3, 3), normal(5, 6, 3)
    assert_same_bits(layers.Conv2d(weight)(x), layers.Conv2d(weight, np.zeros(4, np.float32))(x))


def test_channels(normal: Normal) -> None:
    """What layers know of their channels before any value is there."""
    conv, linear = layers.Conv2d(normal(5, 3, 1, 1)), layers.Linear(normal(8, 5))
    both = blocks.Sequential([layers.ReLU(), conv, layers.Tanh(), linear, layers.PixelShuffle(2)])
    assert (both.inputs, both.channels(3), both.channels(None)) == (3, 2, 2)
    assert (conv.inputs, conv.outputs, conv.pointwise) == (3, 5, True)
    assert blocks.Concat([both, blocks.Slice(0, 2), blocks.Sequential()]).channels(3) == 2 + 2 + 3
    assert blocks.Concat([both, blocks.Input("other")]).channels(3) is None
    assert blocks.Residual(blocks.Input("other")).channels(7) == 7
    assert layers.PixelUnshuffle(3).channels(2) == 18
    assert layers.DepthwiseConv2d(normal(3, 1, 3, 3)).channels(None) is None
    pointwise = [
        conv,
        layers.Linear(normal(8, 3)),
        layers.GELU(),
        layers.LayerNorm(normal(3), normal(3)),
        blocks.Slice(0, 3),
    ]
    assert blocks.Concat([*pointwise, blocks.Input("other")]).pointwise
    wide = layers.Conv2d(normal(3, 3, 3, 3), padding=1)
    assert not any(
        layer.pointwise
        for layer in (wide, blocks.Residual(wide), blocks.Sequential([conv, layers.PixelShuffle(1)]))
    )
    heard = [layers.Linear(normal(4, 4)), layers.Linear(normal(8, 4)), layers.Linear(normal(6, 4))]
    tokens = blocks.Sequential([blocks.Input("tokens"), heard[1]])
    assert blocks.CrossAttention(heard[0], tokens, heard[2], 2).pointwise
    assert not blocks.CrossAttention(*heard, 2).pointwise


def test_network(normal: Normal, assert_same_bits: Same) -> None:
    """Single images and batches, frozen and strided inputs, threads of the caller: the same bits."""
    layer = blocks.Sequential(
        [
            layers.ConvTranspose2d(normal(4, 20, 5, 5), normal(20), 2, 2, 1),
            layers.LeakyReLU(),
            layers.Conv2d(normal(8, 20, 3, 3), normal(8), 1, 1),
        ]
    )
    batch = normal(5, 9, 10, 4)
    expected = layer(batch)
    frozen = batch.copy()
    frozen.setflags(write=False)
    for same in (
        frozen,
        batch.transpose(0, 3, 1, 2).copy().transpose(0, 2, 3, 1),
        np.repeat(batch, 2, 2)[:, :, ::2],
    ):
        assert_same_bits(layer(same), expected)
    with ThreadPoolExecutor(4) as pool:
        for one, image in zip(pool.map(layer, [*batch, *batch]), [*expected, *expected], strict=True):
            assert_same_bits(one, image)
    assert layer(batch[0]).shape == (18, 20, 8)
    assert layer(batch).base is None


def test_copies(normal: Normal, assert_same_bits: Same) -> None:
    """A layer survives pickle and copy, used or not, and keeps its own weights."""
    weight, x = normal(3, 2, 3, 3), normal(4, 5, 2)
    layer = blocks.Residual(layers.Conv2d(weight, None, 1, 1), layers.Linear(normal(3, 2)))
    expected = layer(x)
    weight[...] = 0
    for same in (layer, pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert_same_bits(same(x), expected)


def test_programs_are_few(normal: Normal, assert_same_bits: Same) -> None:
    """One for each shape, and not more than a bound: the oldest goes. All have the same weights."""
    qkv, proj = layers.Linear(normal(6, 2)), layers.Linear(normal(2, 2))
    layer = blocks.WindowAttention(qkv, proj, 1, 2, 1)
    net = network.Network(layer)
    net(np.ones((2, 2, 2), np.float32))
    store, held = net._store, len(net._store.floats)
    sizes = [(2 * h, 2 * w, 2) for h in range(1, 9) for w in range(1, 9)]
    first = [net(np.ones(size, np.float32)) for size in sizes]
    latest = [(("x", (1, *size)),) for size in sizes[-network.MAX_PROGRAMS :]]
    assert list(net._programs) == latest
    kept = [net.program(shapes) for shapes in latest]
    for size, expected in zip(sizes[:1] + sizes[-2:], first[:1] + first[-2:], strict=True):
        assert_same_bits(net(np.ones(size, np.float32)), expected)
    assert [net.program(shapes) for shapes in latest[1:]] == kept[1:]
    assert net._store is store
    assert len(store.floats) == held


@pytest.mark.parametrize("size", [(4, 4), (4, 8), (12, 4), (8, 12)])
@pytest.mark.parametrize("shift", [1, 2, 3])
def test_masks_of_windows(size: tuple[int, int], shift: int, normal: Normal, assert_same_bits: Same) -> None:
    """A single row or column of windows holds that border in each of them."""
    qkv, proj = layers.Linear(normal(12, 4)), layers.Linear(normal(4, 4))
    layer = blocks.WindowAttention(qkv, proj, 2, 4, shift, normal(2, 16, 16))
    compare(layer, normal(2, *size, 4), assert_same_bits)
    assert blocks._masks(4, shift) is blocks._masks(4, shift)


def test_masks_refused(normal: Normal) -> None:
    masks, good = normal(3, 4, 4), np.array([0, 2])

    def attend(masks: FloatArray, numbers: NDArray[np.int64]) -> None:
        builder = Builder(WeightStore(cpu.pack), 2)
        x = builder.input("x", 2, 4, 6)
        builder.attention(x, x, x, 2, 1.0, (4, 4), None, (masks, numbers))

    attend(masks, good)
    for numbers, message in (
        (good[:1], r"\(3, 4, 4\) and \(1,\) numbers of them for 2 sequences"),
        (good + 1, r"masks 1\.\.3 of 3"),
        (good - 1, r"masks -1\.\.1 of 3"),
    ):
        with pytest.raises(ValueError, match=message):
            attend(masks, numbers)
    with pytest.raises(ValueError, match=r"masks of shape \(3, 4, 3\)"):
        attend(masks[:, :, :3], good)


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_window_attention_stays_inside(shift: int, normal: Normal) -> None:
    """A changed position changes its window, and there only what isn't across a border."""
    window, size = 4, (8, 12)
    layer = blocks.WindowAttention(
        layers.Linear(normal(12, 4)), layers.Linear(normal(4, 4)), 2, window, shift
    )
    x = normal(*size, 4)
    for place in ((0, 0), (5, 7), (7, 11)):
        y = x.copy()
        y[place] += 1
        rows, cols = np.nonzero((layer(x) != layer(y)).any(2))
        # A moved window that a border cuts holds the other side too, which e^-100 makes inaudible.
        for at, changed, length in zip(place, (rows, cols), size, strict=True):
            first = (at - shift) // window * window + shift
            assert set(changed) == {i for i in range(first, first + window) if 0 <= i < length}


def test_masked_scores_are_lowered_by_100(normal: Normal, assert_same_bits: Same) -> None:
    """e^-100 is a number: a huge value across a border is heard where all others are silent."""
    qkv, proj = np.zeros((3, 1), np.float32), np.ones((1, 1), np.float32)
    qkv[2] = 3e38
    layer = blocks.WindowAttention(layers.Linear(qkv), layers.Linear(proj), 1, 2, 1)
    x = np.zeros((2, 2, 1), np.float32)
    x[0, 0] = 1
    heard = layer(x)
    assert 1e-7 < heard[1, 1] < 1e-4 < heard[0, 0]
    assert_same_bits(heard, reference_network.run(layer, x))


def test_refusals(normal: Normal) -> None:
    weight, bias = normal(4, 3, 3, 3), normal(4)
    value: list[tuple[str, Callable[[], object]]] = [
        (r"\(4, 3, 3, 3\) has 4 outputs, bias has 3", lambda: layers.Conv2d(weight, bias[:3])),
        (r"\(4, 3, 3, 3\) has 3 outputs, bias has 4", lambda: layers.ConvTranspose2d(weight, bias)),
        (
            "1 values that are not finite",
            lambda: layers.Conv2d(weight, np.array([1, np.nan, 0, 0], np.float32)),
        ),
        ("108 values that are not finite", lambda: layers.Conv2d(weight * np.float32(np.inf), bias)),
        ("4 dimensions", lambda: layers.Conv2d(weight[0], bias)),
        ("2 dimensions", lambda: layers.Linear(weight)),
        ("empty axis", lambda: layers.Conv2d(weight[:, :0], bias)),
        ("stride", lambda: layers.Conv2d(weight, bias, stride=0)),
        ("stride", lambda: layers.Conv2d(weight, bias, stride=(1, 2, 3))),  # type: ignore[arg-type]
        ("padding", lambda: layers.Conv2d(weight, bias, padding=(0, -1))),
        ("padding", lambda: layers.Conv2d(weight, bias, padding=0.5)),  # type: ignore[arg-type]
        ("one stride for both axes", lambda: layers.ConvTranspose2d(weight, bias[:3], (1, 2))),
        ("doesn't fit the 3x3 kernel", lambda: layers.Conv2d(weight, bias, mask=causal_mask(5))),
        (r"not \(C, 1, kh, kw\)", lambda: layers.DepthwiseConv2d(weight, bias)),
        ("slope", lambda: layers.LeakyReLU(1.5)),
        ("slope", lambda: layers.LeakyReLU(float("nan"))),
        ("approximate", lambda: layers.GELU("erf")),
        ("gamma of 4 channels, beta of 3", lambda: layers.LayerNorm(bias, bias[:3])),
        ("epsilon", lambda: layers.LayerNorm(bias, bias, -1e-5)),
        ("epsilon", lambda: layers.LayerNorm(bias, bias, 1e39)),
        ("factor", lambda: layers.PixelShuffle(0)),
        (r"factor must be an integer >= 1, not \(2, 2\)", lambda: layers.PixelShuffle((2, 2))),  # type: ignore[arg-type]
        (r"factor must be an integer >= 1, not 2\.0", lambda: layers.PixelUnshuffle(2.0)),  # type: ignore[arg-type]
        ("channels 3..2 are none", lambda: blocks.Slice(3, 3)),
        ("layer 1: Linear takes 5 channels, not 4", lambda: _linears(normal, (3, 4), (5, 6))),
        (
            "Multiply of 4 and 5 channels",
            lambda: blocks.Multiply(*_linears(normal, (3, 4)).layers, _five(normal)),
        ),
        ("no branches", lambda: blocks.Concat([])),
        (
            "0 heads can't share 4",
            lambda: blocks.CrossAttention(proj := _linears(normal, (4, 4)), proj, proj, 0),
        ),
        ("multiplied by inf", lambda: blocks.CrossAttention(*_heard(normal), 2, float("inf"))),
        ("7 channels of keys and values for 4", lambda: blocks.CrossAttention(*_heard(normal, 7), 2)),
        ("heads can't share 4 channels", lambda: blocks.WindowAttention(_qkv(normal), _five(normal), 3, 2)),
        ("can't be moved by 2", lambda: blocks.WindowAttention(_qkv(normal), _five(normal), 2, 2, 2)),
        (r"bias of shape \(2, 4, 3\)", lambda: _windowed(normal, normal(2, 4, 3))),
    ]
    for message, make in value:
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(TypeError, match="float64"):
        layers.Conv2d(weight.astype(np.float64), bias)  # type: ignore[arg-type]
    for numbers in ((2.0, 2, 1), (2, 2.0, 1), (2, 2, 1.0)):
        with pytest.raises(TypeError, match="integer"):
            blocks.WindowAttention(_qkv(normal), layers.Linear(normal(4, 4)), *numbers)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="integer"):
        blocks.CrossAttention(*_heard(normal), 2.0)  # type: ignore[arg-type]


def _linears(normal: Normal, *widths: tuple[int, int]) -> blocks.Sequential:
    return blocks.Sequential([layers.Linear(normal(d, c)) for c, d in widths])


def _heard(normal: Normal, keys: int = 8) -> list[Layer]:
    return [layers.Linear(normal(count, 4)) for count in (4, keys, 4)]


def _five(normal: Normal) -> Layer:
    return layers.Linear(normal(5, 3))


def _qkv(normal: Normal) -> Layer:
    return layers.Linear(normal(12, 4))


def _windowed(normal: Normal, bias: FloatArray | None = None) -> Layer:
    return blocks.WindowAttention(_qkv(normal), layers.Linear(normal(4, 4)), 2, 2, 1, bias)


def test_inputs_that_do_not_fit(normal: Normal) -> None:
    conv = layers.Conv2d(normal(4, 3, 3, 3))
    other = blocks.Concat([conv, blocks.Input("other")])
    x, good = normal(5, 6, 3), normal(3, 4, 2)
    huge = np.broadcast_to(np.float32(0), (1 << 20, 1 << 20, 3))
    cases: list[tuple[str, Callable[[], object]]] = [
        ("of 3 channels on a value that has 2", lambda: conv(x[:, :, :2])),
        ("2x6 positions.* 3x3 kernel", lambda: conv(x[:2])),
        ("must be .H, W, C. or .N, H, W, C.", lambda: conv(x[0])),
        ("0x6x3 floats", lambda: conv(x[:0])),
        ("at least one image, not 0", lambda: conv(x[None][:0])),
        ("1048576x1048576x3 floats", lambda: conv(huge)),
        ("no input is named 'other'", lambda: other(x)),
        (
            r"inputs \['odd'\] are not the layer's, which reads \['other'\]",
            lambda: other(x, {"other": good, "odd": x}),
        ),
        ("other of shape", lambda: other(x, {"other": good[None]})),
        ("images", lambda: other(x[None], {"other": np.stack([good, good])})),
        ("of sizes", lambda: other(x, {"other": x})),
        ("can't be named x", lambda: other(x, {"x": x})),
        ("3x6 positions aren't whole windows of 2x2", lambda: _windowed(normal)(normal(3, 6, 4))),
        ("can't be shuffled by 2", lambda: layers.PixelShuffle(2)(x)),
        ("can't be unshuffled by 2", lambda: layers.PixelUnshuffle(2)(x)),
        (r"x of shape \(1, 5, 6, 3\) has 1 values that are not finite", lambda: conv(_with(x, np.nan))),
        ("has 1 values that are not finite", lambda: conv(_with(x, np.inf))),
    ]
    for message, call in cases:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="x must be float32, not float64"):
        conv(x.astype(np.float64))  # type: ignore[arg-type]
    assert np.isnan(conv(_with(x, np.nan), check=False)).any()
    assert other(x, {"other": good}).shape == (3, 4, 6)


def _with(x: FloatArray, value: float) -> FloatArray:
    changed = x.copy()
    changed[2, 3, 1] = value
    return changed


def test_planes_are_not_images(normal: Normal) -> None:
    """A plane is one image, which n positions must not read as n."""
    plane, linear = (4, 4, 3), layers.Linear(normal(2, 3))
    with pytest.raises(ValueError, match="CONV of 2 images or positions can't read a plane"):
        linear.emit(builder := Builder(WeightStore(cpu.pack), 2), builder.plane("y_hat", *plane))
    with pytest.raises(ValueError, match="COPY of 2 images or positions can't read a plane"):
        (builder := Builder(WeightStore(cpu.pack), 2)).concatenate([builder.plane("y_hat", *plane)])
    linear.emit(builder := Builder(WeightStore(cpu.pack), 1), builder.plane("y_hat", *plane))


def test_outputs_are_kept(normal: Normal, assert_same_bits: Same) -> None:
    """A named value is there after the run, though a function that follows could join what makes it."""
    linear, x = layers.Linear(normal(2, 3)), normal(4, 5, 3)
    builder = Builder(WeightStore(cpu.pack), 1)
    before = linear.emit(builder, builder.input("x", *x.shape))
    builder.output("before", before)
    builder.output("after", layers.ReLU().emit(builder, before))
    program = builder.build()
    memory = np.full(program.size, np.nan, np.float32)
    start = program.places["x"][0]
    memory[start : start + x.size] = x.reshape(-1)
    cpu.execute(program, memory, 1)
    for name, expected in (("before", linear(x)), ("after", layers.ReLU()(linear(x)))):
        start = program.places[name][0]
        assert_same_bits(memory[start : start + 40], expected.reshape(-1))
