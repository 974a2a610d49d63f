"""The exact part of a codec: a GPU's streams and latents are the CPU's, here with CUDA emulated."""

from __future__ import annotations

import fake_cupy
import numpy as np
import pytest

from quadrans import kernels
from quadrans.entropy import CorruptStream
from quadrans.nets.codec import ImageCodec, coding_order
from quadrans.nets.container import ORDERS
from quadrans.nets.exact import Exact, OnCpu, OnCuda


@pytest.fixture
def both(small_codec: ImageCodec, monkeypatch: pytest.MonkeyPatch) -> tuple[Exact, Exact]:
    fake_cupy.install(monkeypatch)
    parts = small_codec.h_s, small_codec.context_model, small_codec.y_table
    return OnCpu(*parts, threads=2), OnCuda(*parts)


@pytest.mark.parametrize("order", ORDERS)
def test_same_streams_and_latents(small_codec: ImageCodec, both: tuple[Exact, Exact], order: str) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (64, 100, 3), np.uint8)
    latents = small_codec.analyse(pixels)
    z_hat = latents.z.astype(np.float32) + small_codec.medians
    coding = coding_order(order, *latents.y_hat.shape[:2])
    streams = [one.encode(latents.y_hat, z_hat, coding) for one in both]
    assert streams[0] == streams[1] == small_codec.encode(latents, 100, 64, order).y
    for one in both:
        y_hat = one.decode(streams[0], z_hat, coding)
        assert isinstance(y_hat, np.ndarray)
        assert y_hat.tobytes() == latents.y_hat.tobytes()


def test_forged_hyper_latents(both: tuple[Exact, Exact]) -> None:
    """Weights that make infinity of a hyper-latent: refused by name before y's stream is looked at."""
    huge = kernels.Conv2d(np.full((2, 3, 1, 1), 1e30, np.float32))
    z_hat = np.full((1, 1, 3), 2**31, np.float32)
    for one in both:
        codec = type(one)(huge, one.model, one.table)
        with pytest.raises(CorruptStream, match=r"hyper-latent up to 2147483648"):
            codec.decode(b"", z_hat, coding_order("raster", 1, 1))
