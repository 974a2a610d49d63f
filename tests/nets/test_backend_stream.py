"""Heads of backend streams: CONTAINER.md's example, fingerprints written out, and what changes them."""

from __future__ import annotations

import re
import zlib
from dataclasses import replace
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
    stream = one.compress(torch.zeros(1, 1, 2, 3), torch.zeros(1, 3, 2, 3))[0]

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
    features = listed(listed(b"'features'\n", layer))
    text = b"quadrans backend 1 exact residual 2\n" + entropy.gaussian_table().to_bytes()
    text += model + b"'features'\nNone\n" + features + b"4\n"
    order = written_order(order_of("checkerboard", 2, 3))
    assert stream[1:5] == zlib.crc32(text + order).to_bytes(4, "little")


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
    layers = [kernels.LeakyReLU(0.5), kernels.LeakyReLU(float(np.float64(0.5)))]
    assert len({own_fingerprint(CHECKED, "residual", table, layer) for layer in layers}) == 1
    with pytest.raises(TypeError, match="a set has no fingerprint"):
        own_fingerprint(CHECKED, "residual", table, {1, 2})


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
