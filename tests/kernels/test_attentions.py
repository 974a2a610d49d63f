"""Attention of checkerboard models: what it is in real numbers, which positions it reads, what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cuda_latents import check, emulated
from latent_cases import THRESHOLDS, latent, table
from numpy.typing import NDArray

from quadrans import entropy, kernels
from quadrans.kernels import attentions, blocks, layers, network, parity, reference_network
from quadrans.kernels.layers import Layer
from quadrans.kernels.program import Column, Op

FloatArray = NDArray[np.float32]
Normal = Callable[..., FloatArray]
Same = Callable[[FloatArray, FloatArray], None]

SIZES = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 4), (5, 5), (7, 6)]


@pytest.fixture
def cp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    yield from emulated(monkeypatch)


def odd(height: int, width: int) -> NDArray[np.bool_]:
    rows, cols = np.indices((height, width))
    return (rows + cols) % 2 == 1


def softmax(x: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def linear(normal: Normal, which: str | None, heads: int = 3) -> attentions.LinearAttention:
    width = 4 * heads
    query, keys, values = (layers.Linear(normal(width, 5), normal(width)) for _ in range(3))
    return attentions.LinearAttention(query, keys, values, layers.Linear(normal(7, width)), heads, which)


@pytest.mark.parametrize("which", [None, "even", "odd"])
@pytest.mark.parametrize("size", SIZES)
def test_linear_attention(size: tuple[int, int], which: str | None, normal: Normal) -> None:
    """The formula of Shen et al. 2021 ("Efficient attention"), in binary64."""
    layer = linear(normal, which)
    x = normal(*size, 5)
    q, k, v = (part(x).astype(np.float64) for part in (layer.query, layer.keys, layer.values))
    asked = np.ones(size, bool) if which is None else odd(*size) == (which == "odd")
    known = asked if which is None else ~asked
    out = np.zeros_like(q)
    for head in range(3) if known.any() else ():
        at = slice(4 * head, 4 * head + 4)
        mixed = softmax(k[known][:, at], 0).T @ v[known][:, at]
        out[asked, at] = softmax(q[asked][:, at], 1) @ mixed
    np.testing.assert_allclose(layer(x), layer.proj(out.astype(np.float32)), rtol=1e-4, atol=1e-5)


def test_linear_attention_to_many(normal: Normal, assert_same_bits: Same) -> None:
    """Blocks of 64 keys, of which the last is not whole, in any number of threads."""
    layer, x = linear(normal, "even"), normal(15, 21, 5)
    expected = reference_network.run(layer, x)
    for threads in (1, 2, 5):
        assert_same_bits(layer(x, threads=threads), expected)


def local(normal: Normal, window: int, which: str = "even", bias: bool = True) -> attentions.LocalAttention:
    """Two heads of three channels, of five."""
    qkv, fusion = layers.Linear(normal(18, 5), normal(18)), layers.Conv2d(normal(7, 6, window, window))
    table = normal(2, window**2, window**2) if bias else None
    return attentions.LocalAttention(qkv, fusion, 2, which, layers.Linear(normal(4, 7), normal(4)), table)


@pytest.mark.parametrize("which", ["even", "odd"])
@pytest.mark.parametrize("window", [1, 3, 5])
@pytest.mark.parametrize("size", SIZES[1:])
def test_local_attention(size: tuple[int, int], window: int, which: str, normal: Normal) -> None:
    """MLIC++'s, whose masks are -100 between any two places that aren't both coded positions, in binary64."""
    layer = local(normal, window, which)
    assert layer.bias is not None
    x, reach = normal(*size, 5), window // 2
    around = (reach, reach), (reach, reach)
    qkv = np.pad(layer.qkv(x).astype(np.float64), (*around, (0, 0)))
    own = odd(*size) == (which == "odd")
    coded = np.pad(~own, around)
    windows = np.zeros((*size, window, window, 6))
    for r, c in np.ndindex(*size):
        at = slice(r, r + window), slice(c, c + window)
        q, k, v = (one.reshape(-1, 2, 3) for one in np.split(qkv[at].reshape(window**2, 18), 3, axis=1))
        here = coded[at].reshape(-1)
        mask = np.where(here[:, None] & here, 0.0, -100.0)
        scores = np.einsum("ihc,jhc->hij", q, k) * 3**-0.5 + layer.bias + mask
        heard = np.einsum("hij,jhc->ihc", softmax(scores, 2), v)
        windows[r, c] = heard.reshape(window, window, 6)
    fused = np.einsum("rcijk,dkij->rcd", windows, layer.fusion.weight.astype(np.float64))
    expected = np.where(own[..., None], layer.proj(fused.astype(np.float32)), 0)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_local_attention_in_small_planes(
    size: tuple[int, int], normal: Normal, assert_same_bits: Same
) -> None:
    """Borders cut a window on all sides; with and without what follows the fusion."""
    x = normal(2, *size, 5)
    for layer in (local(normal, 5), local(normal, 7, bias=False)):
        assert_same_bits(layer(x, threads=2), reference_network.run(layer, x))


@pytest.mark.parametrize("which", ["even", "odd"])
def test_checkerboard(which: str, normal: Normal, assert_same_bits: Same) -> None:
    inner = blocks.Sequential([layers.Linear(normal(6, 5), normal(6)), layers.Exp()])
    for size in SIZES:
        x = normal(*size, 5)
        own = (odd(*size) == (which == "odd"))[..., None]
        assert_same_bits(parity.Checkerboard(which)(x), np.where(own, x, np.float32(0)))
        expected = np.where(own, inner(x), np.float32(0))
        assert_same_bits(parity.Checkerboard(which, inner)(x), expected)
    assert not np.signbit(parity.Checkerboard(which)(np.full((2, 2, 1), -0.0, np.float32)).sum())


def shapes_of(layer: Layer, op: Op, *shape: int) -> list[tuple[int, ...]]:
    """Sizes of what a layer's instructions of a kind give."""
    table = network.Network(layer).program((("x", (1, *shape)),)).table
    sizes = slice(Column.TARGET_HEIGHT, Column.TARGET_CHANNELS + 1)
    return [tuple(row[sizes].tolist()) for row in table if row[Column.OP] == op]


def test_half_of_the_positions_is_computed(normal: Normal) -> None:
    inner = layers.Linear(normal(6, 5))
    assert shapes_of(parity.Checkerboard("odd", inner), Op.CONV, 3, 5, 5) == [(1, 7, 6)]
    attended = shapes_of(local(normal, 3, "odd"), Op.ATTENTION, 3, 5, 5)
    assert attended == [(7, 9, 6)]
    assert shapes_of(local(normal, 3, "odd"), Op.CONV, 3, 5, 5) == [(3, 5, 18), (7, 1, 7), (7, 1, 4)]


def test_weights_are_held_once(normal: Normal) -> None:
    """However many sizes of images have been seen."""
    for layer in (linear(normal, "odd"), linear(normal, None), local(normal, 5)):
        net = network.Network(layer)
        net(normal(4, 4, 5))
        held = len(net._store.floats)
        for size in SIZES[1:]:
            net(normal(*size, 5))
        assert len(net._store.floats) == held


def test_linear_attention_reads_the_other_parity(normal: Normal) -> None:
    """A changed position changes its own value alone if row + column is even, all even ones otherwise."""
    layer, x = linear(normal, "even"), normal(4, 6, 5)
    alone = np.zeros((4, 6), bool)
    alone[2, 2] = True
    for place, expected in (((2, 2), alone), ((1, 2), ~odd(4, 6))):
        y = x.copy()
        y[place] += 1
        np.testing.assert_array_equal((layer(y) != layer(x)).any(2), expected)


def test_refusals(normal: Normal) -> None:
    qkv, proj = layers.Linear(normal(18, 5)), layers.Linear(normal(4, 7))
    fusion = layers.Conv2d(normal(7, 6, 3, 3))
    four, five = layers.Linear(normal(4, 5)), layers.Linear(normal(5, 5))
    wide = layers.Conv2d(normal(5, 5, 3, 3))

    def fused(*arguments: object) -> Callable[[], object]:
        return lambda: attentions.LocalAttention(qkv, layers.Conv2d(*arguments), 2, "odd")  # type: ignore[arg-type]

    cases: list[tuple[str, Callable[[], object]]] = [
        ("not 'left'", lambda: parity.Checkerboard("left")),
        ("isn't pointwise", lambda: parity.Checkerboard("odd", wide)),
        ("not 0", lambda: attentions.LinearAttention(four, four, four, four, 2, 0)),  # type: ignore[arg-type]
        ("of 4, 5 and 4 channels", lambda: attentions.LinearAttention(four, five, four, five, 2)),
        ("of None, None and None", lambda: attentions.LinearAttention(*[blocks.Sequential()] * 4, 2)),
        ("3 heads can't share 4", lambda: attentions.LinearAttention(four, four, four, five, 3)),
        ("0 heads can't share 4", lambda: attentions.LinearAttention(four, four, four, five, 0)),
        ("takes 5 channels, not 4", lambda: attentions.LinearAttention(four, four, four, five, 2)),
        ("not 3x2", fused(normal(7, 6, 3, 2))),
        ("not 2x2", fused(normal(7, 6, 2, 2))),
        ("not 9x9", fused(normal(7, 6, 9, 9))),
        (r"not 3x3, \(2, 2\)", fused(normal(7, 6, 3, 3), None, 2)),
        (r"not 3x3, \(1, 1\), \(1, 1\)", fused(normal(7, 6, 3, 3), None, 1, 1)),
        ("mask", fused(normal(7, 6, 3, 3), None, 1, 0, np.ones((3, 3), bool))),
        ("18 channels of queries, keys and values; fused are 5", fused(normal(7, 5, 3, 3))),
        ("4 heads can't share 6", lambda: attentions.LocalAttention(qkv, fusion, 4, "odd")),
        ("not 'both'", lambda: attentions.LocalAttention(qkv, fusion, 2, "both")),
        ("isn't pointwise", lambda: attentions.LocalAttention(qkv, fusion, 2, "odd", wide)),
        (
            r"bias of shape \(2, 9, 8\), not \(2, 9, 9\)",
            lambda: attentions.LocalAttention(qkv, fusion, 2, "odd", proj, normal(2, 9, 8)),
        ),
        (
            "multiplied by nan",
            lambda: attentions.LocalAttention(qkv, fusion, 2, "odd", proj, None, float("nan")),
        ),
        ("no position of 1x1 has an odd", lambda: local(normal, 3, "odd")(normal(1, 1, 5))),
        (
            r"of sizes \[\(3, 3\), \(1, 1\), \(3, 3\)\]",
            lambda: attentions.LinearAttention(five, wide, five, five, 1)(normal(3, 3, 5)),
        ),
    ]
    for message, make in cases:
        with pytest.raises(ValueError, match=message):
            make()


def multi_reference_model(normal: Normal) -> kernels.StepModel:
    """Two slices of four channels as MLIC++ codes them, with narrow nets; eight features."""

    def conv(given: int, outputs: int, kernel: int = 3) -> Layer:
        weight = normal(outputs, given, kernel, kernel) / np.float32(kernel * given**0.5)
        return layers.Conv2d(weight, normal(outputs), padding=kernel // 2)

    def sequence(*parts: Layer) -> Layer:
        return blocks.Sequential(parts)

    def pair() -> tuple[Layer, ...]:
        return layers.Linear(normal(4, 4), normal(4)), layers.DepthwiseConv2d(
            normal(4, 1, 3, 3), normal(4), 1, 1
        )

    previous, features, memory = blocks.Slice(0, 4), blocks.Slice(8, 16), blocks.Slice(16, 23)
    asked = [sequence(previous, *pair()) for _ in range(3)]
    inter = attentions.LinearAttention(*asked, conv(4, 3, 5), 1)
    intra = attentions.LinearAttention(
        sequence(previous, parity.Checkerboard("even"), *pair()),
        sequence(previous, parity.Checkerboard("odd"), *pair()),
        sequence(blocks.Slice(4, 8), *pair()),
        conv(4, 3, 5),
        2,
        "even",
    )

    def local(start: int) -> Layer:
        norm = layers.LayerNorm(normal(4), normal(4))
        qkv = sequence(blocks.Slice(start, start + 4), norm, layers.Linear(normal(12, 4)))
        return attentions.LocalAttention(
            qkv, layers.Conv2d(normal(3, 4, 5, 5)), 2, "even", bias=normal(2, 25, 25)
        )

    def head(which: str, given: int) -> Layer:
        return parity.Checkerboard(which, sequence(conv(given, 9, 1), layers.GELU(), conv(9, 8, 1)))

    def refinement(known: int) -> Layer:
        seen = blocks.Concat([blocks.Slice(12, 16), blocks.Slice(0, known)])
        half = layers.DepthwiseConv2d(np.full((4, 1, 1, 1), 0.5, np.float32))
        return sequence(seen, conv(4 + known, 4), layers.Tanh(), half)

    nets = [
        sequence(features, head("odd", 8)),
        sequence(blocks.Concat([local(0), features]), head("even", 11)),
        sequence(blocks.Concat([memory, features]), head("odd", 15)),
        sequence(blocks.Concat([local(4), intra, memory, features]), head("even", 21)),
    ]
    before = [None, None, blocks.Concat([inter, sequence(previous, conv(4, 4))]), None]
    after = [refinement(4), refinement(4), refinement(8), refinement(8)]
    residual = kernels.Quantization(THRESHOLDS, None)
    return kernels.StepModel(nets, 8, 8, residual, memory=7, before=before, after=after)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 5), (6, 4)])
def test_multi_reference_model(
    size: tuple[int, int], cp: Any, normal: Normal, rng: np.random.Generator, assert_same_bits: Same
) -> None:
    """A latent comes back, in any number of threads, and on the emulated GPU."""
    model = multi_reference_model(normal)
    order = kernels.slices_checkerboard(*size, (4, 4), kernels.checkerboard_mask(5), "odd")
    y, features = latent(rng, None, *size, 8, 8)
    encoder = entropy.Encoder(table(None), 8, 1)
    y_hat = kernels.encode_latent(encoder, y, features, model, order)
    stream = encoder.finish()
    for threads in (1, 3):
        decoder = entropy.Decoder(stream, table(None))
        assert_same_bits(kernels.decode_latent(decoder, features, model, order, threads=threads), y_hat)
        decoder.close()
    check(cp, assert_same_bits, y, features, model, order)
