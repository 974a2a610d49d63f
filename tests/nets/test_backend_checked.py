"""Backends under float parameters: plain tensors, functions, modules; what differs is found at its step."""

from __future__ import annotations

import copy
import hashlib
import math
import pickle
import zlib
from collections.abc import Callable
from typing import Any

import backend_cases as cases
import numpy as np
import pytest
import torch
from backend_cases import M, N, exact_twin, images, modules, order_argument, order_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from quadrans import entropy
from quadrans.entropy import CdfTable, CorruptStream, TableMismatch
from quadrans.entropy import reference as reference_coder
from quadrans.kernels import reference
from quadrans.nets import EntropyBackend, IndexMismatch
from quadrans.nets.backend.checked import checked_table
from quadrans.nets.backend.tables import table_and_thresholds

KINDS = (*cases.POSITION_ORDERS, *cases.STEP_ORDERS)
HEAD = 5
ROWS = {"residual": 64, "integer": 1024}


def backend(kind: str, rounding: str = "residual", **others: Any) -> EntropyBackend:
    order = order_argument(kind)
    return EntropyBackend(order=order, rounding=rounding, exact=False, **modules(kind), **others)


def reference_symbols(
    y: Tensor, order: Any, parameters: Callable[[int, Tensor], tuple[Tensor, Tensor]], rounding: str
) -> tuple[list[int], list[int], list[int], Tensor]:
    """(symbols, indexes, checksum sizes, y_hat) of one image (M, H, W), one element after the other."""
    thresholds = entropy.scale_thresholds()
    y_hat, symbols, indexes, crc = torch.zeros_like(y), [], [], 0
    sizes = []
    for number, step in enumerate(order):
        mean, scale = parameters(number, y_hat.clone())
        width = y.shape[0] if step.width is None else step.width
        places, own_symbols, own_indexes, offsets = [], [], [], []
        for c in range(width):
            for row, col, first in zip(
                step.rows.tolist(), step.cols.tolist(), step.first.tolist(), strict=True
            ):
                at = (first + c, row, col)
                local = at if mean.shape[0] == y.shape[0] else (c, row, col)
                value = np.float32(y[at].item())
                index = int(reference.scale_index(np.float32(scale[local].item()), thresholds))
                offset = reference.clamped_mean(np.float32(mean[local].item()))
                if rounding == "integer":
                    whole, fraction = reference.fixed_point_mean(np.float32(mean[local].item()))
                    index = 16 * index + int(fraction) + 8
                    symbol, offset = int(np.rint(value)) - int(whole), whole
                    new = float(symbol + int(whole))
                else:
                    symbol = int(reference.quantize(value, offset))
                    new = float(reference.dequantize(np.int32(symbol), offset))
                places.append((at, new))
                own_symbols.append(symbol)
                own_indexes.append(index)
                offsets.append(int(offset) if rounding == "integer" else 0)
        crc = zlib.crc32(np.array(own_indexes, "<i4").tobytes(), crc)
        if rounding == "integer":
            crc = zlib.crc32(np.array(offsets, "<i4").tobytes(), crc)
        check = list(crc.to_bytes(4, "little"))[: 4 if number == len(order) - 1 else 2]
        symbols += check + own_symbols
        indexes += [ROWS[rounding]] * len(check) + own_indexes
        sizes.append(len(check))
        for at, new in places:
            y_hat[at] = new
    return symbols, indexes, sizes, y_hat


def plain_images(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(shape, generator=generator) * 6
    mean, scale = torch.randn(shape, generator=generator) * 3, torch.rand(shape, generator=generator) * 5
    return y, mean, scale


@pytest.mark.parametrize("rounding", ["residual", "integer"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 1, 1, 1), (3, 7, 1, 9)])
def test_plain_equals_the_reference(shape: tuple[int, ...], rounding: str) -> None:
    one = EntropyBackend(rounding=rounding)
    assert one.mode == "checked"
    y, mean, scale = plain_images(shape)
    streams = one.compress(y, mean, scale)
    y_hat = one.decompress(streams, mean, scale)
    again, found = one.encode(y, mean, scale)
    assert again == streams
    assert torch.equal(found, y_hat)
    table = checked_table(table_and_thresholds(rounding, None, None, None)[0])
    for i in range(shape[0]):
        order = order_of("parallel", *shape[2:])
        symbols, indexes, sizes, expected = reference_symbols(
            y[i], order, lambda *_, i=i: (mean[i], scale[i]), rounding
        )
        assert streams[i][HEAD:] == entropy.encode(symbols, indexes, table)
        assert reference_coder.decode_lanes(streams[i][HEAD:], indexes, table) == symbols
        assert torch.equal(y_hat[i], expected)
        assert one.compress(y[i : i + 1], mean[i : i + 1], scale[i : i + 1]) == [streams[i]]
        bits = table.bits(symbols[sizes[0] :], indexes[sizes[0] :])
        assert one.bits(y, mean, scale)[i] == pytest.approx(bits, rel=1e-12)
    if rounding == "integer":
        assert torch.equal(y_hat, y.round() + 0)
    else:
        assert torch.equal(y_hat, (y - mean).round() + mean)


@settings(max_examples=25)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 13), st.integers(1, 13)),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
    st.sampled_from(["residual", "integer"]),
    st.integers(0, 999),
)
def test_any_shape_and_dtype(shape: tuple[int, ...], dtype: torch.dtype, rounding: str, seed: int) -> None:
    one = EntropyBackend(rounding=rounding)
    y, mean, scale = (tensor.to(dtype) for tensor in plain_images(shape, seed))
    streams = one.compress(y, mean, scale)
    y_hat = one.decompress(streams, mean, scale)
    y, mean = y.float(), mean.float()
    assert torch.equal(y_hat, (y - mean).round() + mean if rounding == "residual" else y.round() + 0)
    alone = [one.compress(y[i : i + 1], mean[i : i + 1], scale[i : i + 1])[0] for i in range(shape[0])]
    assert alone == streams


EXTREMES = [0.0, -0.0, 0.5, -1.5, 1e-42, -3e38, 2.0**24, 77.5]


@settings(max_examples=40)
@given(st.lists(st.tuples(*[st.sampled_from(EXTREMES)] * 3), min_size=1, max_size=10))
def test_extremes(values: list[tuple[float, float, float]]) -> None:
    """Any finite means and scales code any y within the limit, and no y_hat is -0."""
    one = EntropyBackend()
    y, mean, scale = torch.tensor(values).T.reshape(3, 1, 1, 1, -1)
    offset = mean.clamp(-(2.0**20), 2.0**20)
    symbols = (y - offset).round()
    beyond = (symbols.abs() > 2**24) | ((symbols + offset).abs() > 2**24)
    if beyond.any():
        at = int(beyond.flatten().long().argmax())
        with pytest.raises(ValueError, match=rf"y is .* at \(0, 0, {at}\): it or its symbol lies beyond"):
            one.compress(y, mean, scale)
        return
    y_hat = one.decompress(one.compress(y, mean, scale), mean, scale)
    assert torch.equal(y_hat, symbols + offset)
    assert not (torch.signbit(y_hat) & (y_hat == 0)).any()


@pytest.mark.parametrize("rounding", ["residual", "integer"])
@pytest.mark.parametrize("kind", KINDS)
def test_modules_in_torch_equal_the_reference(kind: str, rounding: str) -> None:
    """Every order, under modules as torch runs them; exact kernels give the same but for the last bits."""
    one, given = backend(kind, rounding), modules(kind)
    y, z_hat = images((4, 6))
    streams = one.compress(y, z_hat)
    y_hat = one.decompress(streams, z_hat)
    features = given["hyper"](z_hat).detach()
    order = order_of(order_argument(kind), 4, 6)
    model, _ = exact_twin(kind, given, rounding)
    table = checked_table(table_and_thresholds(rounding, None, None, None)[0])
    for i in range(len(y)):

        def parameters(number: int, decoded: Tensor, i: int = i) -> tuple[Tensor, Tensor]:
            """As the exact model's planes have it, but in torch."""
            with torch.no_grad():
                if kind == "parallel":
                    out = given["parameters"](features[i : i + 1])
                elif kind in cases.POSITION_ORDERS:
                    context = torch.zeros(1, given["context"].out_channels, 4, 6)
                    if order.steps[number].context:
                        conv, mask = given["context"], torch.zeros(9)
                        mask[order.taps.index] = 1
                        kept = conv.weight * mask.reshape(3, 3)
                        context = nn.functional.conv2d(decoded[None], kept, conv.bias, padding=1)
                    out = given["parameters"](torch.cat([features[i : i + 1], context], 1))
                else:
                    out = given["parameters"][number](torch.cat([decoded[None], features[i : i + 1]], 1))
            mean, scale = out[0].chunk(2)
            return mean, scale

        symbols, indexes, _, expected = reference_symbols(y[i], order, parameters, rounding)
        assert streams[i][HEAD:] == entropy.encode(symbols, indexes, table)
        # Few positions are convolved by themselves, which may round in another way.
        atol = 1e-4 if kind in ("raster", "wavefront") else 0
        torch.testing.assert_close(y_hat[i], expected, atol=atol, rtol=0)
        assert one.compress(y[i : i + 1], z_hat[i : i + 1]) == [streams[i]]
    exact = EntropyBackend(order=order_argument(kind), rounding=rounding, **given)
    same = exact.decompress(exact.compress(y, z_hat), z_hat)
    torch.testing.assert_close(same, y_hat, atol=1e-3, rtol=0)
    assert model.channels == M


class Stepped:
    """A function of what is given, y_hat and step, that may stand on another device from one step on.

    There scales near a threshold differ by an ulp: enough for another index.
    """

    def __init__(self, wrong: int | None = None, mean: bool = False) -> None:
        self.wrong, self.mean, self.calls = wrong, mean, 0
        self.threshold = float(entropy.scale_thresholds()[40])

    def __call__(self, features: Tensor, *, y_hat: Tensor, step: int) -> tuple[Tensor, Tensor]:
        assert y_hat.shape == (1, M, *features.shape[2:])
        self.calls += 1
        scale = features.abs().expand_as(y_hat).clone() + y_hat.abs().mean() / 8
        scale[:] = self.threshold
        mean = y_hat.mean().expand_as(y_hat) + 0.25
        if step == self.wrong:
            if self.mean:
                mean = mean + 3
            else:
                scale = torch.nextafter(scale, scale + 1)
        return mean, scale


@pytest.mark.parametrize("kind", [*(k for k in KINDS if k != "parallel"), "raster"])
def test_a_difference_is_named_at_its_step(kind: str) -> None:
    order = order_argument(kind)
    y, features = torch.randn(1, M, 4, 6) * 4, torch.rand(1, 1, 4, 6)
    here = EntropyBackend(Stepped(), order, channels=M)
    assert here.mode == "checked"
    streams = here.compress(y, features)
    assert (here.decompress(streams, features) - y).abs().max() <= 0.5
    steps = order_of(order, 4, 6, 5).steps
    for wrong in {0, len(steps) // 2, len(steps) - 1}:
        function = Stepped(wrong)
        there = EntropyBackend(function, order, channels=M)
        with pytest.raises(IndexMismatch) as caught:
            there.decompress(streams, features)
        error = caught.value
        elements = len(steps[wrong]) * (steps[wrong].width or M)
        assert (error.step, error.steps, error.elements) == (wrong, len(steps), elements)
        assert f"step {wrong} of {len(steps)} (" in str(error)
        assert f", {elements} elements)" in str(error)
        assert error.order in str(error)
        assert error.found != error.expected
        # Nothing is decoded, or asked for, behind it.
        assert function.calls == wrong + 1
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.step) == (str(error), wrong)


def test_integer_parts_of_means_are_checked() -> None:
    """In integer mode symbols are counted from them; a mean of another integer has the same index."""
    y, features = torch.randn(1, M, 4, 6) * 4, torch.rand(1, 1, 4, 6)
    here = EntropyBackend(Stepped(), "checkerboard", channels=M, rounding="integer")
    streams = here.compress(y, features)
    there = EntropyBackend(Stepped(1, mean=True), "checkerboard", channels=M, rounding="integer")
    with pytest.raises(IndexMismatch, match="step 1 of 2"):
        there.decompress(streams, features)
    assert torch.equal(here.decompress(streams, features), y.round() + 0)


def test_plain_parameters_of_another_device() -> None:
    one = EntropyBackend()
    y, mean, scale = plain_images((2, 3, 4, 5))
    scale[1, 2, 3, 4] = float(entropy.scale_thresholds()[9])
    streams = one.compress(y, mean, scale)
    other = scale.clone()
    other[1, 2, 3, 4] = torch.nextafter(other[1, 2, 3, 4], torch.tensor(9.0))
    with pytest.raises(IndexMismatch, match=r"image 1, step 0 of 1 \(parallel, 60 elements\)") as caught:
        one.decompress(streams, mean, other)
    assert caught.value.image == pickle.loads(pickle.dumps(caught.value)).image == 1
    # What changes no index changes no symbol.
    nudged = torch.nextafter(mean, mean + 1)
    y_hat = one.decompress(streams, nudged, scale)
    torch.testing.assert_close(y_hat, one.decompress(streams, mean, scale), atol=1e-5, rtol=0)


def test_functions() -> None:
    """One tensor or two, several given; a batch is its images alone."""
    y, z_hat = images((4, 6))
    other = torch.randn(2, 1, 4, 6)

    def both(z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        assert len(z) == len(x) == 1
        scale = nn.functional.interpolate(z[:, :1], scale_factor=2).abs().expand(1, M, 4, 6) + 0.3
        return x.expand_as(scale), scale

    pair = EntropyBackend(both)
    joined = EntropyBackend(lambda *tensors: torch.cat(both(*tensors), 1))
    streams = pair.compress(y, z_hat, other)
    assert joined.compress(y, z_hat, other) == streams
    assert torch.equal(joined.decompress(streams, z_hat, other), pair.decompress(streams, z_hat, other))
    # Of whatever kind: here which of two sets of parameters an image has.
    chosen = EntropyBackend(lambda z, x, kind: (both(z, x)[0], both(z, x)[1] * (1 + kind.view(-1, 1, 1, 1))))
    kinds = torch.tensor([0, 3])
    y_hat = chosen.decompress(chosen.compress(y, z_hat, other, kinds), z_hat, other, kinds)
    assert (y_hat - y).abs().max() <= 0.5
    assert chosen.compress(y[:1], z_hat[:1], other[:1], kinds[:1]) == streams[:1]
    with pytest.raises(ValueError, match=r"given 2 of shape \(3,\) holds no 2 images"):
        chosen.compress(y, z_hat, other, torch.zeros(3))
    hyper = EntropyBackend(lambda scale: (scale * 0, scale), hyper=lambda z, x: both(z, x)[1])
    y_hat = hyper.decompress(hyper.compress(y, z_hat, other), z_hat, other)
    assert torch.equal(y_hat, y.round() + 0)


def test_dtypes_and_layouts() -> None:
    one = EntropyBackend()
    y, mean, scale = (tensor.half().float() for tensor in plain_images((2, 4, 3, 5)))
    streams = one.compress(y, mean, scale)
    y_hat = one.decompress(streams, mean, scale)
    for change in (
        Tensor.half,
        Tensor.double,
        lambda t: t.contiguous(memory_format=torch.channels_last),
        lambda t: t.clone().requires_grad_(),
        lambda t: t.flip(3).contiguous().flip(3),
        lambda t: t.expand(2, *t.shape[1:]),
    ):
        changed = [change(tensor) for tensor in (y, mean, scale)]
        assert one.compress(*changed) == streams
        found = one.decompress(streams, *changed[1:])
        assert found.dtype == torch.float32
        assert torch.equal(found, y_hat)
    with torch.inference_mode():
        assert torch.equal(one.decompress(one.compress(y, mean, scale), mean, scale), y_hat)
    # Parameters are read, not written.
    before = [tensor.clone() for tensor in (y, mean, scale)]
    one.compress(y, mean, scale)
    assert all(torch.equal(a, b) for a, b in zip(before, (y, mean, scale), strict=True))


@pytest.mark.parametrize("kind", ["raster", "slices"])
def test_copies_and_pickles(kind: str) -> None:
    one = backend(kind)
    y, z_hat = images((2, 4))
    streams = one.compress(y, z_hat)
    y_hat = one.decompress(streams, z_hat)
    for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert other.compress(y, z_hat) == streams
        assert torch.equal(other.decompress(streams, z_hat), y_hat)


def test_what_a_stream_must_be() -> None:
    one = EntropyBackend()
    y, mean, scale = plain_images((1, 3, 4, 5))
    stream = one.compress(y, mean, scale)[0]
    for length in range(len(stream)):
        with pytest.raises(CorruptStream):
            one.decompress([stream[:length]], mean, scale)
    for damaged in (stream + b"\0\0", b"\x30" + stream[1:], b"\x12" + stream[1:]):
        with pytest.raises(CorruptStream):
            one.decompress([damaged], mean, scale)
    for i in range(1, HEAD):
        damaged = bytearray(stream)
        damaged[i] ^= 1
        with pytest.raises(TableMismatch, match=r"fingerprint [0-9a-f]{8}, this backend has [0-9a-f]{8}"):
            one.decompress([damaged], mean, scale)
    for other in (EntropyBackend(rounding="integer"), EntropyBackend(scales=[1, 2, 3])):
        with pytest.raises(TableMismatch):
            other.decompress([stream], mean, scale)
    with pytest.raises(TableMismatch):
        one.decompress([stream], mean.reshape(1, 3, 5, 4), scale.reshape(1, 3, 5, 4))
    # Depth isn't part of a coding order of positions, but indexes are of another number.
    with pytest.raises(CorruptStream):
        one.decompress([stream], mean[:, :2], scale[:, :2])


@settings(max_examples=60)
@given(st.data())
def test_damage_is_found_or_harmless_to_memory(data: st.DataObject) -> None:
    """A flipped bit raises one of the typed errors, or gives a latent of the right shape."""
    one = backend("checkerboard")
    y, z_hat = images((2, 4), 1)
    stream = bytearray(one.compress(y, z_hat)[0])
    place = data.draw(st.integers(0, len(stream) - 1))
    stream[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        y_hat = one.decompress([bytes(stream)], z_hat)
    except (CorruptStream, TableMismatch):
        return
    assert y_hat.shape == y.shape


@pytest.mark.parametrize("order", ["raster", "checkerboard"])
def test_features_of_different_sizes(order: str) -> None:
    """Those that are larger, too, of which windows can be cut out."""
    head, context = nn.Conv2d(3 + 2 + 5, 8, 1), nn.Conv2d(4, 5, 3, padding=1)
    backend = EntropyBackend(head.eval(), order, context=context, exact=False)
    y, first = torch.zeros(1, 4, 6, 8), torch.zeros(1, 3, 6, 8)
    assert len(backend.compress(y, first, torch.zeros(1, 2, 6, 8))) == 1
    with pytest.raises(ValueError, match=r"features of shape \(1, 2, 7, 8\) for a latent of 6 x 8"):
        backend.compress(y, first, torch.zeros(1, 2, 7, 8))


def test_tensors_that_dont_fit() -> None:
    one = EntropyBackend()
    y, mean, scale = plain_images((2, 3, 4, 5))
    nan = mean.clone()
    nan[1, 2, 0, 3] = -np.inf
    wrong: list[tuple[Any, type[Exception], str]] = [
        ((y, mean), TypeError, "1 tensors are given, this backend takes 2"),
        ((y, mean, scale[:, :2]), ValueError, r"mean of shape \(3, 4, 5\), scale \(2, 4, 5\)"),
        ((y[:, :2], mean, scale), ValueError, r"y of shape \(1, 2, 4, 5\) must be \(1, 3, 4, 5\)"),
        ((y, nan, scale), ValueError, r"image 1: mean .*the first, -inf, at \(2, 0, 3\)"),
        ((y, mean, scale * np.nan), ValueError, "scale of shape"),
        ((y, mean, scale.numpy()), TypeError, "given 1 must be a torch.Tensor"),
        ((y, mean, scale.long()), TypeError, "given 1 must be of floats"),
        ((y * 1e8, mean, scale), ValueError, "lies beyond"),
    ]
    for arguments, error, message in wrong:
        with pytest.raises(error, match=message):
            one.compress(*arguments)
    with pytest.raises(ValueError, match="lies beyond"):
        EntropyBackend(rounding="integer").compress(y * 1e8, mean, scale)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parameters": lambda z: z}, r"parameters of shape \(1, 3, 2, 3\)"),
        ({"parameters": lambda z: (z, z, z)}, "must give \\(mean, scale\\) or one tensor, not tuple"),
        ({"parameters": lambda z: None}, "not NoneType"),
        ({"parameters": lambda z: (z, z.expand(1, 3, 2, 3).repeat(2, 1, 1, 1))}, "holds 2 images, not 1"),
        ({"parameters": lambda z, **_: (z, z), "order": "raster"}, "needs channels="),
        ({"parameters": lambda z, **_: (z, z), "order": "raster", "channels": M}, "parameters of step 0"),
        ({"parameters": lambda z, **_: (z, z), "order": cases.QUADTREE, "channels": 4}, "quadtree codes 8"),
        (
            {"parameters": lambda z, **_: (z, z), "order": lambda h, w: 3},
            "must give a kernels.Order, not int",
        ),
        (
            {"parameters": lambda z, **_: (z, z), "order": lambda h, w: cases.SLICES(w, h), "channels": M},
            "an order of 3x2 positions for 2x3",
        ),
        ({"parameters": Stepped()}, "parameters wants y_hat and step, which the parallel order"),
        ({"parameters": lambda z, step: z}, "parameters wants step, which"),
        ({"parameters": lambda z, x: z}, "missing 1 required positional argument: 'x'"),
        ({"parameters": nn.Bilinear(1, 1, 1).eval()}, "missing 1 required positional argument: 'input2'"),
        (
            {"parameters": [nn.Conv2d(M + 3, 16, 1).eval()], "order": cases.SLICES},
            "slices has 2 steps, parameters 1",
        ),
    ],
)
def test_functions_that_dont_fit(arguments: dict[str, Any], message: str) -> None:
    one = EntropyBackend(exact=False, **arguments)
    channels = 8 if arguments.get("channels") != 4 else 4
    with pytest.raises((TypeError, ValueError), match=message):
        one.compress(torch.zeros(1, channels, 2, 3), torch.zeros(1, N, 2, 3))


@pytest.mark.parametrize("name", ["parameters", "hyper"])
def test_modules_in_training_are_refused(name: str) -> None:
    """Dropout, statistics of batches, or another's own: what they give is not what the decoder's will."""
    noisy = nn.Sequential(nn.Conv2d(N, 2 * M, 1), nn.Sequential(nn.BatchNorm2d(2 * M), nn.Dropout()))
    one = EntropyBackend(**{name: noisy}, exact=False)
    y, z_hat = torch.randn(2, M, 3, 5) * 4, torch.randn(2, N, 3, 5)
    noisy.eval()
    streams = one.compress(y, z_hat)
    assert (one.decompress(streams, z_hat) - y).abs().max() <= 0.5
    before = copy.deepcopy(noisy.state_dict())
    for change, where in (
        (noisy, rf"{name} \(Sequential\)"),
        (noisy[1], rf"{name}\.1 \(Sequential\)"),
        (noisy[1][1], rf"{name}\.1\.1 \(Dropout\(p=0\.5, inplace=False\)\)"),
    ):
        change.train()
        calls = ((one.compress, y), (one.encode, y), (one.bits, y), (one.decompress, streams))
        for call, first in calls:
            with pytest.raises(TypeError, match=rf"layer {where} is in training, .* call eval\(\) first"):
                call(first, z_hat)
        noisy.eval()
    assert all(torch.equal(value, before[key]) for key, value in noisy.state_dict().items())
    assert one.compress(y, z_hat) == streams


def test_only_the_weight_of_a_context_counts() -> None:
    given = modules("checkerboard")
    given["context"].train()
    one = EntropyBackend(order="checkerboard", exact=False, **given)
    assert one.compress(*images((4, 6))) == backend("checkerboard").compress(*images((4, 6)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"order": "raster"}, ValueError, "make something of y_hat"),
        ({"device": "cuda"}, ValueError, "for exact kernels, and this backend has none"),
        ({"hyper": 3}, TypeError, "not int"),
        (
            {"table": CdfTable([[100, 156]] * 64, [0] * 64, 8)},
            ValueError,
            "a table of precision 8 and 64 rows",
        ),
        ({"scales": [2, 1]}, ValueError, "increasing"),
        ({"thresholds": [0.1]}, ValueError, "float32 holds exactly"),
    ],
)
def test_arguments_that_dont_fit(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        EntropyBackend(**arguments)


@pytest.mark.parametrize("precision", [9, 12, 16])
def test_check_row(precision: int) -> None:
    table = entropy.gaussian_table([1, 2], precision=precision)
    checked = checked_table(table)
    assert checked.rows == 3
    assert checked.to_bytes() != table.to_bytes()
    cost = checked.symbol_bits(np.arange(256), np.full(256, 2))
    assert cost.max() <= 9
    assert not checked.is_escape(np.arange(256), np.full(256, 2)).any()
    assert checked.symbol_bits([0, 1], [0, 1]).tolist() == table.symbol_bits([0, 1], [0, 1]).tolist()


def test_cost_of_checksums() -> None:
    """2 bytes a step, 2 more at the last, and the head."""
    y, z_hat = images((4, 6), 1)
    for kind in ("raster", "checkerboard", "parallel"):
        one = backend(kind)
        steps = len(order_of(order_argument(kind), 4, 6))
        extra = len(one.compress(y, z_hat)[0]) - math.ceil(one.bits(y, z_hat).item() / 8)
        assert HEAD + 2 * steps + 2 <= extra <= HEAD + 2 * steps + 2 + 12


def test_golden_streams() -> None:
    """These bytes must be decoded for ever."""
    numbers = torch.arange(240).mul(37).remainder(101).sub(50)
    y, mean, scale = numbers.mul(0.5), numbers.flip(0).mul(0.03125), numbers.abs().mul(0.125)
    plain = [tensor.reshape(1, 8, 5, 6) for tensor in (y, mean, scale)]
    digest = hashlib.sha256()
    for rounding in ("residual", "integer"):
        one = EntropyBackend(rounding=rounding)
        streams = one.compress(*plain)
        digest.update(streams[0] + one.decompress(streams, *plain[1:]).numpy().tobytes())

        def stepped(x: Tensor, *, y_hat: Tensor, step: int) -> tuple[Tensor, Tensor]:
            return y_hat.flip(3) * 0.25, x + step

        several = EntropyBackend(stepped, cases.SLICED_CHECKERBOARD, rounding=rounding)
        streams = several.compress(plain[0], plain[2])
        digest.update(streams[0] + several.decompress(streams, plain[2]).numpy().tobytes())
    assert digest.hexdigest() == "cdbf5aad338d7f807fbbfd55f3d1f79c3a44fd904adb94ce1fef4c43f2092243"
