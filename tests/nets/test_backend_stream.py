"""Heads of backend streams: CONTAINER.md's example, fingerprints written out, and what changes them."""

from __future__ import annotations

import re
import zlib
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import backend_cases as cases
import numpy as np
import pytest
import torch
from backend_cases import M, modules, order_argument, order_of
from torch import nn

from quadrans import entropy, kernels, nets
from quadrans.nets import EntropyBackend
from quadrans.nets.backend.orders import Orders
from quadrans.nets.backend.stream import CHECKED, own_fingerprint, with_order
from quadrans.nets.lowering import array, bias_array
from quadrans.nets.system import ExactFeatures

PAGE = (Path(nets.__file__).parent / "CONTAINER.md").read_text().split("## Backend streams")[1]


def written(array: Any, kind: str) -> bytes:
    """An array as the page says."""
    array = np.asarray(array).astype(kind)
    return f"{array.dtype.str} {array.shape}\n".encode() + array.tobytes()


def written_order(order: kernels.Order) -> bytes:
    steps, taps = order.flat, order.taps
    arrays = [steps.starts, steps.rows, steps.cols, steps.first, steps.context, steps.width, steps.known]
    arrays += [taps.index, taps.dr, taps.dc]
    size = f"{order.height}\n{order.width}\n{order.channels}\n{order.partial}\n".encode()
    return size + b"".join(written(one, "<i8") for one in arrays) + b"10\n5\n"


def test_the_pages_example() -> None:
    y, mean, scale = torch.tensor([[1.5, -0.25], [0.25, -0.5], [1, 2]]).reshape(3, 1, 1, 1, 2)
    block = re.search(r"```\n(10 .*?)```", PAGE, re.S)
    assert block is not None
    stream = bytes.fromhex("".join(re.findall(r"^((?:[0-9a-f]{2} )+)", block[1], re.M)))
    one = EntropyBackend()
    assert one.compress(y, mean, scale) == [stream]
    assert one.decompress([stream], mean, scale).tolist() == [[[[1.25, -0.5]]]]
    table, thresholds = entropy.gaussian_table(), entropy.scale_thresholds()
    text = b"quadrans backend 1 checked residual 2\n" + table.to_bytes() + written(thresholds, "<f4")
    crc = zlib.crc32(text + written_order(kernels.parallel(1, 2)))
    assert stream[1:5] == crc.to_bytes(4, "little")
    crc = zlib.crc32(np.array([18, 24], "<i4").tobytes())
    assert f"`{crc:X}`" in PAGE
    assert ", ".join(map(str, crc.to_bytes(4, "little"))) in PAGE


def test_an_exact_fingerprint_written_out() -> None:
    """Every layer of a small model, by the page's rules."""
    context, head = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(5, 2, 1)
    one = EntropyBackend(nn.Sequential(head, nn.LeakyReLU(0.25)), "checkerboard", context=context)
    features = [[[-0.0, 0, 4], [7, 0, 3]], [[0.25, 1, 5], [8, 1, 4]], [[-3, 2, 6], [9, 2, 5]]]
    stream = one.compress(torch.zeros(1, 1, 2, 3), torch.tensor([features]))[0]

    def made(name: str, **values: bytes) -> bytes:
        pairs = (f"'{key}'\n".encode() + value + b"2\n" for key, value in values.items())
        return f"{name}\n".encode() + b"".join(pairs) + f"{len(values)}\n".encode()

    def listed(*values: bytes) -> bytes:
        return b"".join(values) + f"{len(values)}\n".encode()

    def weights(module: nn.Conv2d) -> dict[str, bytes]:
        given = {"weight": array(module.weight), "bias": bias_array(module)}
        return {name: written(one, "<f4") for name, one in given.items()}

    pairs = {"stride": listed(b"1\n", b"1\n"), "padding": listed(b"0\n", b"0\n")}
    slices = [made("Slice", start=b"%d\n" % i, stop=b"%d\n" % (i + 1)) for i in (1, 0)]
    layers = [made("Conv2d", **weights(head), **pairs), made("LeakyReLU", slope=b"0.25\n")]
    layers.append(made("Concat", branches=listed(*slices)))
    rule = made(
        "Quantization", thresholds=written(entropy.scale_thresholds(), "<f4"), fraction_bits=b"None\n"
    )
    joined = made("Sequential", layers=listed(*layers))
    model = made("ContextModel", **weights(context), head=joined, quantization=rule)
    layer = made("ExactFeatures", layer=made("Sequential", layers=listed()), reads=listed(b"'features'\n"))
    layers = [listed(b"'features'\n", layer)]
    text = b"quadrans backend 1 exact residual 2\n" + entropy.gaussian_table().to_bytes()
    text += model + b"'features'\nNone\n" + listed(*layers) + b"4\n"
    order = written_order(order_of("checkerboard", 2, 3))
    given = np.float32([[[0, 0.25, -3], [0, 1, 2], [4, 5, 6]], [[7, 8, 9], [0, 1, 2], [3, 4, 5]]])
    assert stream[1:5] == zlib.crc32(text + order + listed(written(given, "<f4"))).to_bytes(4, "little")


MADE_WITH = {
    "Abs": "",
    "Checkerboard": "parity layer=Sequential(layers=())",
    "Concat": "branches",
    "Constant": "array",
    "ContextModel": "weight bias head quantization inputs={}",
    "Conv2d": "weight bias=None stride=1 padding=0 mask=None",
    "ConvTranspose2d": "weight bias=None stride=1 padding=0 output_padding=0",
    "CrossAttention": "query keys proj heads scale=None",
    "DepthwiseConv2d": "weight bias=None stride=1 padding=0",
    "ExactFeatures": "layer reads=('z',) shape=None",
    "Exp": "",
    "GELU": "approximate='none'",
    "Input": "name",
    "LayerNorm": "gamma beta epsilon=1e-05",
    "LeakyReLU": "slope=0.01",
    "Linear": "weight bias=None",
    "LinearAttention": "query keys values proj heads parity=None",
    "LocalAttention": "qkv fusion heads parity proj=Sequential(layers=()) bias=None scale=None",
    "MixtureQuantization": "components scale_min=0.11",
    "Multiply": "first second",
    "PixelShuffle": "factor",
    "PixelUnshuffle": "factor",
    "Quantization": "thresholds fraction_bits=4",
    "ReLU": "",
    "Residual": "body skip=Sequential(layers=())",
    "Sequential": "layers",
    "Sigmoid": "",
    "Slice": "start stop",
    "Softplus": "",
    "Sqrt": "",
    "StepModel": "nets channels features quantization inputs={} memory=0 before=() after=()",
    "Tanh": "",
    "WindowAttention": "qkv proj heads window shift=0 bias=None scale=None",
    "WindowModel": "estimator size center channels features quantization inputs={}",
}
"""Part of the format, as the page says: fields with defaults may be added, and nothing else changed."""


def test_what_layers_and_models_are_made_with() -> None:
    public = (getattr(kernels, name) for name in kernels.__all__)
    kinds = [one for one in public if isinstance(one, type) and is_dataclass(one)]
    # Of these the fingerprint has arrays.
    orders = {kernels.Order, kernels.Step, kernels.Steps, kernels.Taps}
    found = {}
    for kind in {*kinds, ExactFeatures} - orders:
        made = [one for one in fields(kind) if one.init]
        defaults = [one.default if one.default_factory is MISSING else one.default_factory() for one in made]
        said = (
            one.name if default is MISSING else f"{one.name}={default!r}"
            for one, default in zip(made, defaults, strict=True)
        )
        found[kind.__name__] = " ".join(said)
    assert found == MADE_WITH


def test_what_changes_a_fingerprint() -> None:
    """Each of these has its own: order, parity, size, table, rounding, weights of each module."""
    found = {}

    def add(name: str, *, size: tuple[int, int] = (4, 6), kind: str = "odd", **others: Any) -> None:
        one = EntropyBackend(order=order_argument(kind), **{**modules(kind), **others})
        y, z_hat = cases.images(size, 1)
        found[name] = one.compress(y, z_hat)[0][:5]

    add("as it is")
    add("higher", size=(6, 4))
    for kind in ("checkerboard", "raster", "wavefront", "columns", "parallel", "slices"):
        add(kind, kind=kind)
    add("rounding", rounding="integer")
    add("scales", scales=[0.5, 1, 2])
    add("precision", table=entropy.gaussian_table(precision=15))
    add("thresholds", thresholds=np.nextafter(entropy.scale_thresholds(), np.float32(0)))
    add("mode", exact=False)
    for name in ("context", "parameters", "hyper"):
        changed = modules("odd")[name]
        list(changed.parameters())[-1].data[-1] += 2.0**-20
        add(name, **{name: changed})
    assert len(set(found.values())) == len(found)


def test_fingerprints_have_no_machine_in_them() -> None:
    """Sequences, layouts and number types that stand for the same."""
    thresholds = entropy.scale_thresholds()
    table = entropy.gaussian_table()
    expected = own_fingerprint(CHECKED, "residual", table, thresholds)
    assert own_fingerprint(CHECKED, "residual", table, thresholds.astype(">f4")) == expected
    assert own_fingerprint(CHECKED, "residual", table, np.repeat(thresholds, 2)[::2]) == expected
    layers = [kernels.LeakyReLU(slope) for slope in (0.5, np.float64(0.5), np.float32(0.5))]
    assert len({own_fingerprint(CHECKED, "residual", table, layer) for layer in layers}) == 1
    layers = [kernels.LeakyReLU(slope) for slope in (0.01, np.float64(0.01))]
    assert len({own_fingerprint(CHECKED, "residual", table, layer) for layer in layers}) == 1
    with pytest.raises(TypeError, match="a set has no fingerprint"):
        own_fingerprint(CHECKED, "residual", table, {1, 2})


def test_orders_of_numpys_numbers() -> None:
    """Sizes may come of a shape's array, flags of a comparison."""
    order = kernels.slices(3, 4, (2, np.int64(3)))
    own = replace(order, height=np.int64(3), width=np.uint8(4), partial=np.bool_(order.partial))
    assert with_order(5, own) == with_order(5, order)
    y, mean = torch.randn(1, 5, 3, 4), torch.zeros(1, 5, 3, 4)
    one = EntropyBackend(lambda x, **_: (x, x + 1), lambda *_: own)
    assert (one.decompress(one.compress(y, mean), mean) - y).abs().max() <= 0.5


def test_orders_are_kept() -> None:
    sizes = []

    def function(height: int, width: int) -> kernels.Order:
        sizes.append((height, width))
        return kernels.parallel(height, width)

    orders = Orders(function, 5)
    for _ in range(2):
        order, fingerprint = orders(3, 4)
        assert fingerprint == with_order(5, order)
    assert sizes == [(3, 4)]
    for width in range(1, 40):
        orders(1, width)
    orders(3, 4)
    assert sizes[-1] == (3, 4)
    assert len(orders._kept) == 32


def test_a_models_derived_fields_dont_count() -> None:
    model, _ = cases.exact_twin("odd", modules("odd"), "residual")
    again = replace(model, head=model.head)
    _ = model.store
    assert own_fingerprint(CHECKED, "residual", None, model) == own_fingerprint(
        CHECKED, "residual", None, again
    )
    assert model.channels == M
