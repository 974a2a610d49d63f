"""Backends in exact kernels: streams and latents are the reference's to the bit, in every order."""

from __future__ import annotations

import copy
import hashlib
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import backend_cases as cases
import numpy as np
import pytest
import torch
from backend_cases import F, M, N, exact_twin, images, modules, order_argument, order_of
from torch import nn
from torch.nn.utils import prune

from quadrans import entropy, kernels
from quadrans.entropy import CorruptStream, TableMismatch
from quadrans.entropy import reference as reference_coder
from quadrans.kernels import reference_latent, reference_network
from quadrans.nets import EntropyBackend
from quadrans.nets.backend.floats import FloatParameters
from quadrans.nets.backend.tables import table_and_thresholds
from quadrans.nets.context import ContextConv, ContextEntropy
from quadrans.nets.entropy_model import ParallelEntropy
from quadrans.nets.exact import OnCpu
from quadrans.nets.lowering import lower
from quadrans.nets.stale import StaleWeights, Stamp
from quadrans.nets.system import ExactFeatures

KINDS = (*cases.POSITION_ORDERS, *cases.STEP_ORDERS)
HEAD = 5


def backend(kind: str, rounding: str = "residual", **others: Any) -> EntropyBackend:
    return EntropyBackend(order=order_argument(kind), rounding=rounding, **modules(kind), **others)


@pytest.mark.parametrize("rounding", ["residual", "integer"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_reference(kind: str, rounding: str) -> None:
    """The streams are those of the plain coder of the symbols that the plain loop finds."""
    one, (model, hyper) = backend(kind, rounding), exact_twin(kind, modules(kind), rounding)
    assert one.mode == "exact"
    y, z_hat = images((4, 6))
    streams = one.compress(y, z_hat)
    y_hat = one.decompress(streams, z_hat)
    again, found = one.encode(y, z_hat)
    assert again == streams
    assert torch.equal(found, y_hat)
    assert y_hat.dtype == torch.float32
    table = table_and_thresholds(rounding, None, None, None)[0]
    bits = one.bits(y, z_hat)
    for i in range(len(y)):
        last = [tensor[i].permute(1, 2, 0).numpy() for tensor in (y, z_hat)]
        features = reference_network.run(hyper, last[1])
        values = np.rint(last[0]) if rounding == "integer" else last[0]
        order = order_of(order_argument(kind), 4, 6)
        symbols, indexes, expected = reference_latent.encode(values, features, model, order)
        assert streams[i][HEAD:] == entropy.encode(symbols, indexes, table)
        assert reference_coder.decode_lanes(streams[i][HEAD:], indexes, table) == symbols
        assert y_hat[i].permute(1, 2, 0).numpy().tobytes() == expected.tobytes()
        assert bits[i] == pytest.approx(table.bits(symbols, indexes), rel=1e-12)
        assert 0 <= 8 * (len(streams[i]) - HEAD) - bits[i] < 100
        # Alone, it is the same.
        assert one.compress(y[i : i + 1], z_hat[i : i + 1]) == streams[i : i + 1]


@pytest.mark.parametrize("kind", KINDS)
def test_smallest_latents(kind: str) -> None:
    one = backend(kind)
    y, z_hat = images((2, 2), 3)
    y_hat = one.decompress(one.compress(y, z_hat), z_hat)
    assert (y_hat - y).abs().max() <= 0.5


@pytest.mark.parametrize("kind", ["parallel", "checkerboard", "slices"])
def test_features_given(kind: str) -> None:
    """Without a hyper network, odd sizes, a single position too; streams are of a head's own."""
    given = modules(kind)
    del given["hyper"]
    one = EntropyBackend(order=order_argument(kind), **given)
    for size in ((1, 1), (3, 7), (5, 1)):
        y, features = torch.randn(2, M, *size) * 5, torch.randn(2, F, *size)
        y_hat = one.decompress(one.compress(y, features), features)
        assert (y_hat - y).abs().max() <= 0.5


def test_hyper_alone() -> None:
    torch.manual_seed(3)
    hyper = nn.ConvTranspose2d(N, 2 * M, 4, 2, 1)
    one = EntropyBackend(hyper=hyper)
    y, z_hat = images((4, 6))
    assert one.mode == "exact"
    y_hat = one.decompress(one.compress(y, z_hat), z_hat)
    with torch.no_grad():
        mean = hyper(z_hat)[:, :M]
    torch.testing.assert_close(y_hat, (y - mean).round() + mean, atol=1e-4, rtol=0)


def test_float16_and_layouts_and_gradients() -> None:
    one = backend("checkerboard")
    y, z_hat = (tensor.half().float() for tensor in images((4, 6)))
    expected = one.compress(y, z_hat)
    y_hat = one.decompress(expected, z_hat)
    wide = torch.empty(2, M, 4, 12)
    wide[..., ::2] = y
    for other in (
        y.half(),
        y.double(),
        y.contiguous(memory_format=torch.channels_last),
        wide[..., ::2],
        y.clone().requires_grad_(),
    ):
        assert one.compress(other, z_hat) == expected
    for other in (z_hat.half(), z_hat.bfloat16(), z_hat.clone().requires_grad_(), z_hat.double()):
        assert one.compress(y, other) == expected
        found = one.decompress(expected, other)
        assert found.dtype == torch.float32
        assert not found.requires_grad
        assert torch.equal(found, y_hat)
    with torch.inference_mode():
        assert one.compress(y, z_hat) == expected
        one.decompress(expected, z_hat)
    # What comes back can take part in training.
    (y_hat * torch.ones(1, requires_grad=True)).sum().backward()


def test_threads_change_nothing() -> None:
    y, z_hat = images((6, 8))
    streams = backend("wavefront").compress(y, z_hat)
    assert backend("wavefront", threads=3).compress(y, z_hat) == streams
    assert backend("wavefront", threads=2).decompress(streams, z_hat).isfinite().all()


@pytest.mark.parametrize("exact", [True, False])
def test_threads_share_a_backend(exact: bool) -> None:
    one = pickle.loads(pickle.dumps(backend("slices", exact=exact)))
    many = [images((4, 6), 1, seed) for seed in range(8)]
    expected = [backend("slices", exact=exact).compress(y, z_hat) for y, z_hat in many]
    with ThreadPoolExecutor(4) as pool:
        streams = list(pool.map(one.compress, *zip(*many, strict=True)))
        found = list(pool.map(one.decompress, streams, [z_hat for _, z_hat in many]))
    assert streams == expected
    for y_hat, stream, (_, z_hat) in zip(found, streams, many, strict=True):
        assert torch.equal(y_hat, one.decompress(stream, z_hat))


def test_own_scales_and_table() -> None:
    y, z_hat = images((4, 6))
    scales = np.array([0.5, 1.0, 2.0, 8.0])
    one = backend("parallel", scales=scales)
    given = entropy.gaussian_table(scales, precision=12)
    other = backend("parallel", scales=scales, table=given)
    limits = backend("parallel", thresholds=np.float32([0.5, 1, 4]), table=given)
    streams = [each.compress(y, z_hat) for each in (one, other, limits)]
    for each, own in zip((one, other, limits), streams, strict=True):
        assert (each.decompress(own, z_hat) - y).abs().max() <= 0.5
        for foreign in streams:
            if foreign is not own:
                with pytest.raises(TableMismatch, match="fingerprint"):
                    each.decompress(foreign, z_hat)
    with pytest.raises(ValueError, match=r"a table of 4 rows; 63 thresholds index 64"):
        backend("parallel", table=given)
    with pytest.raises(ValueError, match=r"a table of 4 rows; 3 thresholds and means of 4 bits index 64"):
        backend("parallel", "integer", scales=scales, table=given)


def test_copies_and_pickles() -> None:
    one = backend("odd")
    y, z_hat = images((4, 6))
    streams = one.compress(y, z_hat)
    y_hat = one.decompress(streams, z_hat)
    for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert other.compress(y, z_hat) == streams
        assert torch.equal(other.decompress(streams, z_hat), y_hat)


def test_changed_weights() -> None:
    given = modules("wavefront")
    one = EntropyBackend(order="wavefront", **given)
    y, z_hat = images((4, 6))
    streams = one.compress(y, z_hat)
    other = copy.deepcopy(one)
    old = given["context"].bias.data[2].item()
    given["context"].bias.data[2] += 1
    for call in (lambda: one.compress(y, z_hat), lambda: one.decompress(streams, z_hat)):
        with pytest.raises(StaleWeights, match=r"context\.bias has other values; make the backend again"):
            call()
    assert other.compress(y, z_hat) == streams
    with pytest.raises(TableMismatch, match="fingerprint"):
        EntropyBackend(order="wavefront", **given).decompress(streams, z_hat)
    given["context"].bias.data[2] = old
    assert one.compress(y, z_hat) == streams


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda hyper: hyper.__setitem__(1, nn.Tanh()), r"hyper\.1 is Tanh\(\), not LeakyReLU\("),
        (
            lambda hyper: setattr(hyper[1], "negative_slope", 0.5),
            r"hyper\.1 is LeakyReLU\(negative_slope=0\.5",
        ),
        (lambda hyper: hyper.append(hyper[1]), r"hyper\.3 is new"),
        (lambda hyper: hyper.register_forward_hook(lambda *_: None), r"hyper is Sequential\(\) with hooks"),
    ],
)
def test_changed_modules(change: Any, message: str) -> None:
    """What has no weights, or the same, makes another network as well."""
    given = modules("wavefront")
    one = EntropyBackend(order="wavefront", **given)
    change(given["hyper"])
    with pytest.raises(StaleWeights, match=f"{message}.*; make the backend again"):
        one.compress(*images((4, 6)))


def test_streams_of_others_are_refused() -> None:
    """Another order, parity, size, rounding or model; another mode; no stream at all."""
    one = backend("checkerboard")
    y, z_hat = images((4, 6), 1)
    stream = one.compress(y, z_hat)[0]
    own = re.escape(stream[4:0:-1].hex())
    for other in (backend("odd"), backend("wavefront"), backend("checkerboard", "integer")):
        with pytest.raises(TableMismatch, match=f"a stream with the fingerprint {own}, this backend has"):
            other.decompress([stream], z_hat)
    with pytest.raises(TableMismatch, match="size of the latent"):
        one.decompress([stream], torch.zeros(1, N, 3, 2))
    with pytest.raises(TableMismatch, match="of the checked mode, this backend is exact"):
        one.decompress(backend("checkerboard", exact=False).compress(y, z_hat), z_hat)
    with pytest.raises(TableMismatch, match="of the exact mode, this backend is checked"):
        backend("checkerboard", exact=False).decompress([stream], z_hat)
    with pytest.raises(CorruptStream, match="starts with 0x23, not 0x10 or 0x11"):
        one.decompress([b"\x23" + stream[1:]], z_hat)
    for length in range(len(stream)):
        with pytest.raises(CorruptStream):
            one.decompress([stream[:length]], z_hat)
    with pytest.raises(CorruptStream):
        one.decompress([stream + b"\0\0"], z_hat)
    with pytest.raises(TypeError, match="not str"):
        one.decompress(["a stream"], z_hat)
    with pytest.raises(TypeError, match="one for each image"):
        one.decompress(stream, z_hat)
    expected = one.decompress([stream], z_hat)
    apart = memoryview(np.frombuffer(stream, np.uint8).repeat(2))[::2]
    wide = memoryview(np.frombuffer(stream, np.uint8).reshape(1, -1))
    for wrapped in (bytearray(stream), memoryview(stream), apart, wide):
        assert torch.equal(one.decompress([wrapped], z_hat), expected)


@pytest.mark.parametrize("kind", ["parallel", "checkerboard", "wavefront", "slices"])
def test_other_features_are_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A float of another device's making: the smallest difference would decode to another y_hat."""
    given = modules(kind)
    del given["hyper"]
    one = EntropyBackend(order=order_argument(kind), **given)
    y, features = torch.randn(1, M, 3, 5) * 4, torch.randn(1, F, 3, 5)
    features[0, 0, 0, 0] = 0
    streams = one.compress(y, features)
    y_hat = one.decompress(streams, features)
    same = features.clone()
    same[0, 0, 0, 0] = -0.0
    assert one.compress(y, same) == streams
    assert torch.equal(one.decompress(streams, same), y_hat)
    monkeypatch.setattr(kernels, "decode_latent", None)
    for place in ((0, 0, 0, 0), (0, F - 1, 2, 4), (0, 3, 1, 2)):
        other = features.clone()
        other[place] += 1e-5
        with pytest.raises(TableMismatch, match="or in exact mode what is given to the backend differs"):
            one.decompress(streams, other)


def test_swapped_images_are_refused() -> None:
    one = backend("checkerboard")
    y, z_hat = images((4, 6))
    streams = one.compress(y, z_hat)
    with pytest.raises(TableMismatch, match=r"image 0: .*what is given"):
        one.decompress(streams, z_hat.flip(0))
    with pytest.raises(TableMismatch, match=r"image 0: .*what is given"):
        one.decompress(streams[::-1], z_hat)
    assert torch.equal(one.decompress(streams[::-1], z_hat.flip(0)), one.decompress(streams, z_hat).flip(0))


@pytest.mark.parametrize("exact", [True, False])
def test_heads_are_looked_at_first(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of another kind costs no hyper-synthesis."""
    one, other = backend("checkerboard", exact=exact), backend("checkerboard", exact=not exact)
    y, z_hat = images((4, 6), 1)
    stream, foreign = one.compress(y, z_hat)[0], other.compress(y, z_hat)[0]
    monkeypatch.setattr(OnCpu, "features", None)
    monkeypatch.setattr(FloatParameters, "of", None)
    for wrong in (b"", stream[:4], b"\x23" + stream[1:]):
        with pytest.raises(CorruptStream, match=r"the head alone has 5|starts with 0x23"):
            one.decompress([wrong], z_hat)
    with pytest.raises(TableMismatch, match="mode, this backend is"):
        one.decompress([foreign], z_hat)


def test_repr_makes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for exact, mode in ((None, "exact"), (False, "checked")):
        one = pickle.loads(pickle.dumps(backend("wavefront", exact=exact)))
        monkeypatch.setattr(type(one._recipe), "build", None)
        assert repr(one) == f"EntropyBackend(order=NamedOrder(name='wavefront', kernel=3), mode='{mode}')"
        assert one.mode == mode


def test_streams_are_listed() -> None:
    one = backend("parallel")
    y, z_hat = images((4, 6))
    streams = one.compress(y, z_hat)
    assert torch.equal(one.decompress(tuple(streams), z_hat), one.decompress(streams, z_hat))
    for wrong in (iter(streams), dict.fromkeys(streams), set(streams), None):
        with pytest.raises(TypeError, match=f"a list or tuple of bytes, .*not {type(wrong).__name__}"):
            one.decompress(wrong, z_hat)


def pruned() -> nn.Module:
    """Its weight is what the last call made it, so that nobody else may use it."""
    return prune.l1_unstructured(nn.Conv2d(2, 2, 3, padding=1), "weight", 0.5)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"parameters": nn.Linear(3, 4), "hyper": nn.Mish()}, TypeError, r"layer hyper .*exact=False"),
        ({"parameters": nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU())}, TypeError, r"layer parameters\.1 "),
        ({"parameters": lambda x: x, "exact": True}, TypeError, r"parameters, a plain function \(<f"),
        ({"exact": True}, TypeError, "parameters that are given can't be"),
        (
            {"parameters": nn.Conv2d(3, 4, 1), "hyper": cases.columns},
            TypeError,
            r"hyper, a plain function \(<function columns at .*with exact=False indexes are checked",
        ),
        (
            {"parameters": [nn.Conv2d(9, 4, 1), cases.columns], "order": cases.SLICES, "channels": M},
            TypeError,
            r"parameters\.1, a plain function",
        ),
        (
            {"context": nn.Conv2d(2, 2, 3, padding=1), "parameters": cases.columns, "order": "raster"},
            TypeError,
            "parameters, a plain function",
        ),
        ({"parameters": nn.Conv2d(3, 5, 1)}, ValueError, "parameters gives 5 channels"),
        ({"parameters": nn.ReLU()}, ValueError, "unknown channels"),
        ({"parameters": nn.Conv2d(3, 4, 1), "order": "raster"}, ValueError, "needs a context convolution"),
        ({"parameters": nn.Conv2d(3, 4, 1), "order": "spiral"}, ValueError, "not 'spiral'"),
        ({"parameters": nn.Conv2d(3, 4, 1), "order": 7}, TypeError, "not int"),
        ({"parameters": nn.Conv2d(3, 4, 1), "channels": 3}, ValueError, "of 2 channels, not 3"),
        ({"parameters": nn.Conv2d(3, 4, 1), "rounding": "up"}, ValueError, "not 'up'"),
        ({"parameters": nn.Conv2d(3, 4, 1), "threads": 0}, ValueError, "threads 0"),
        ({"parameters": nn.Conv2d(3, 4, 1), "device": "mps"}, ValueError, "device must be cpu or cuda"),
        ({"parameters": nn.Conv2d(3, 4, 1), "device": "gpu"}, ValueError, "device must be cpu or cuda"),
        ({"parameters": nn.Conv2d(3, 4, 1), "table": [1]}, TypeError, "not list"),
        ({"parameters": [], "order": cases.SLICES}, ValueError, "a module for each step"),
        ({"parameters": [nn.Conv2d(9, 4, 1)], "order": cases.SLICES}, ValueError, "channels="),
        (
            {"parameters": [nn.Conv2d(9, 4, 1)], "order": cases.SLICES, "channels": 9},
            ValueError,
            "from 9 channels",
        ),
        ({"parameters": [3], "order": cases.SLICES}, TypeError, "not int"),
        (
            {"context": nn.Conv2d(2, 2, 3), "parameters": nn.Conv2d(4, 4, 1), "order": "raster"},
            ValueError,
            "k // 2 zeros",
        ),
        (
            {"parameters": nn.Linear(3, 4)},
            TypeError,
            "parameters .* channels in axis -1, its inputs in axis 1",
        ),
        ({"hyper": nn.LayerNorm(4)}, TypeError, "hyper .* channels in axis -1"),
        # What holds others is named by its class alone, so that the error is one line.
        (
            {"hyper": nn.Sequential(nn.TransformerEncoderLayer(4, 1), nn.ReLU())},
            TypeError,
            r"^layer hyper\.0 \(TransformerEncoderLayer\) has no .*\. With exact=False .*checked$",
        ),
        ({"context": nn.Linear(2, 2), "parameters": nn.Conv2d(4, 4, 1)}, TypeError, "not Linear"),
        ({"context": pruned(), "parameters": nn.Conv2d(4, 4, 1), "order": "raster"}, TypeError, "has hooks"),
        ({"context": nn.Conv2d(2, 2, 3, padding=1), "order": "raster"}, ValueError, "one module"),
        (
            {
                "context": nn.Conv2d(2, 3, 3, padding=1),
                "parameters": nn.Conv2d(9, 4, 3, padding=1),
                "order": "raster",
            },
            ValueError,
            "isn't pointwise",
        ),
    ],
)
def test_arguments_that_dont_fit(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        EntropyBackend(**given)


def test_tensors_that_dont_fit() -> None:
    one = backend("checkerboard")
    y, z_hat = images((4, 6))
    streams = one.compress(y, z_hat)
    nan, huge = y.clone(), y.clone()
    nan[1, 2, 3, 4], huge[0, 1, 2, 3] = np.nan, 1e9
    wrong: list[tuple[Any, type[Exception], str]] = [
        ((y.numpy(), z_hat), TypeError, "y must be a torch.Tensor, not ndarray"),
        ((y.int(), z_hat), TypeError, "y must be of floats, not torch.int32"),
        ((y[0], z_hat), ValueError, r"y of shape \(8, 4, 6\) must be"),
        ((y[:0], z_hat[:0]), ValueError, r"y of shape \(0, 8, 4, 6\)"),
        ((y, z_hat[:1]), ValueError, "holds 1 images, not 2"),
        ((y,), TypeError, "0 tensors are given, this backend takes 1"),
        ((y, z_hat, z_hat), TypeError, "2 tensors are given, this backend takes 1"),
        ((y[:, :5], z_hat), ValueError, r"y of shape \(2, 5, 4, 6\), the backend's have 8 channels"),
        ((y[:, :, :3], z_hat), ValueError, r"image 0: y of shape \(1, 8, 3, 6\) must be \(1, 8, 4, 6\)"),
        ((nan, z_hat), ValueError, r"1 values aren't finite as float32, the first, nan, at \(2, 3, 4\)"),
        ((y.double() * 1e300, z_hat), ValueError, "inf"),
        ((huge, z_hat), ValueError, r"y is 1000000000\.0 at \(1, 2, 3\)"),
        ((y, z_hat * torch.inf), ValueError, "given 0 of shape"),
        ((y, z_hat[:, :2]), ValueError, "channels"),
    ]
    for arguments, error, message in wrong:
        with pytest.raises(error, match=message):
            one.compress(*arguments)
    with pytest.raises(ValueError, match="holds 2 images, not 1"):
        one.decompress(streams[:1], z_hat)
    with pytest.raises(ValueError, match="no streams"):
        one.decompress([], z_hat[:0])
    huge_weights = nn.Conv2d(N, 2 * M, 1)
    huge_weights.weight.data.fill_(1e30)
    forged = EntropyBackend(hyper=huge_weights)
    with pytest.raises(CorruptStream, match="side information up to 10000000000"):
        forged.decompress(streams, torch.full_like(z_hat, 1e10))


def test_of_an_entropy_model() -> None:
    """What `of` makes of the same modules codes the same symbols; all of its options."""
    torch.manual_seed(0)
    hyper, head = nn.Conv2d(N, F, 1), nn.Conv2d(F + 2 * M, 2 * M, 1)
    model = ContextEntropy(ContextConv(M, 3), head, ("raster", "checkerboard"), residual=True)
    stamp = Stamp({"hyper": hyper, "head": head, "context": model.context}, "run accelerate(model) again")
    one = EntropyBackend.of(model, "checkerboard", hyper=lower(hyper), stamp=stamp)
    y, z_hat = torch.randn(2, M, 5, 3) * 4, torch.randn(2, N, 5, 3).round()
    streams = one.compress(y, z_hat)
    y_hat = one.decompress(streams, z_hat)
    given = ExactFeatures(lower(hyper), ("z",))
    other = EntropyBackend.of(model, "checkerboard", hyper={"features": given}, threads=2)
    assert other.compress(y, z_hat) == streams
    features = torch.stack([torch.from_numpy(lower(hyper)(z.permute(1, 2, 0).numpy())) for z in z_hat])
    plain = EntropyBackend.of(model, "checkerboard")
    again = plain.compress(y, features.permute(0, 3, 1, 2))
    # The hyper network isn't its own, so the heads differ, but nothing else does.
    assert [stream[HEAD:] for stream in again] == [stream[HEAD:] for stream in streams]
    with pytest.raises(ValueError, match="order must be one of raster, checkerboard, not 'parallel'"):
        EntropyBackend.of(model, "parallel")
    with pytest.raises(ValueError, match=r"hyper layers for \['tokens'\], the model reads \['features'\]"):
        EntropyBackend.of(model, "raster", hyper={"tokens": given})
    with pytest.raises(ValueError, match="other thresholds need a table"):
        EntropyBackend.of(model, "raster", thresholds=np.float32([1, 2]))
    table = entropy.gaussian_table([1, 2, 4])
    coarse = EntropyBackend.of(
        model, "raster", hyper=lower(hyper), table=table, thresholds=np.float32([1, 3])
    )
    assert (coarse.decompress(coarse.compress(y, z_hat), z_hat) - y).abs().max() <= 0.5
    for each in copy.deepcopy((one, stamp)), pickle.loads(pickle.dumps((one, stamp))):
        assert torch.equal(each[0].decompress(streams, z_hat), y_hat)
    head.weight.data[0] += 1
    with pytest.raises(StaleWeights, match=r"head\.weight has other values; run accelerate"):
        one.decompress(streams, z_hat)


def test_of_mixtures() -> None:
    torch.manual_seed(0)
    model = ContextEntropy(ContextConv(2, 3), nn.Conv2d(6 + 4, 3 * 2 * 2, 1), ("wavefront",), components=2)
    one = EntropyBackend.of(model, "wavefront")
    y, features = torch.randn(2, 2, 3, 5) * 3, torch.randn(2, 6, 3, 5)
    streams = one.compress(y, features)
    assert torch.equal(one.decompress(streams, features), y.round() + 0)
    bits = one.bits(y, features)
    assert all(0 <= 8 * (len(s) - HEAD) - b < 100 for s, b in zip(streams, bits.tolist(), strict=True))
    with pytest.raises(ValueError, match="neither table nor thresholds"):
        EntropyBackend.of(model, "wavefront", table=entropy.gaussian_table())


def test_of_without_means() -> None:
    one = EntropyBackend.of(ParallelEntropy(M, residual=False, zero_mean=True), "parallel")
    y, scales = torch.randn(1, M, 3, 3) * 4, torch.rand(1, M, 3, 3) * 8
    assert torch.equal(one.decompress(one.compress(y, scales), scales), y.round() + 0)


@pytest.mark.parametrize("kind", ["parallel", "checkerboard", "wavefront", "slices"])
def test_cuda_makes_the_same_streams(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fake_cupy

    y, z_hat = images((4, 6))
    one = backend(kind)
    streams = one.compress(y, z_hat)
    fake_cupy.install(monkeypatch)
    other = backend(kind, device="cuda")
    assert other.compress(y, z_hat) == streams
    assert torch.equal(other.decompress(streams, z_hat), one.decompress(streams, z_hat))
    assert torch.equal(other.bits(y, z_hat), one.bits(y, z_hat))


def test_golden_streams() -> None:
    """Of weights and latents that no library's random numbers make: these bytes must be decoded for ever."""

    def ramp(*shape: int, step: float) -> torch.Tensor:
        return torch.arange(np.prod(shape)).mul(37).remainder(101).sub(50).mul(step).reshape(shape)

    given = modules("wavefront")
    for module in given.values():
        for parameter in module.parameters():
            parameter.data = ramp(*parameter.shape, step=2**-8)
    digest = hashlib.sha256()
    y, z_hat = ramp(1, M, 4, 6, step=0.25), ramp(1, N, 2, 3, step=1.0).round()
    for rounding in ("residual", "integer"):
        one = EntropyBackend(order="wavefront", rounding=rounding, **given)
        stream = one.compress(y, z_hat)[0]
        digest.update(stream + one.decompress([stream], z_hat).numpy().tobytes())
    assert digest.hexdigest() == "4abe699cfc96a4f22cc389f78dbcaf730f922a5dd4bd0ec7e75507a76801681b"
