"""The exact part of a codec: a GPU's streams and latents are the CPU's, here with CUDA emulated."""

from __future__ import annotations

import fake_cupy
import numpy as np
import pytest

from quadrans import kernels
from quadrans.entropy import CorruptStream
from quadrans.nets.codec import ImageCodec
from quadrans.nets.exact import Exact, OnCpu, OnCuda
from quadrans.nets.system import ExactFeatures

ORDERS = ("wavefront", "raster", "checkerboard", "parallel")


@pytest.fixture
def both(small_codec: ImageCodec, monkeypatch: pytest.MonkeyPatch) -> tuple[Exact, Exact]:
    fake_cupy.install(monkeypatch)
    parts = small_codec.cpu.layers, small_codec.cpu.parts
    return OnCpu(*parts, threads=2), OnCuda(*parts)


@pytest.mark.parametrize("order", ORDERS)
def test_same_streams_and_latents(small_codec: ImageCodec, both: tuple[Exact, Exact], order: str) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (64, 100, 3), np.uint8)
    latents = small_codec.analyse(pixels)
    sides = {"z": latents.sides["z"].astype(np.float32) + small_codec.medians["z"]}
    coding = small_codec.order("y", order, 100, 64)
    found = [one.encode("y", latents.y, one.features(sides), coding) for one in both]
    streams = [stream for stream, _ in found]
    assert streams[0] == streams[1] == small_codec.encode(latents, 100, 64, order).sections["y"]
    for one, (_, encoded) in zip(both, found, strict=True):
        y_hat = one.decode("y", streams[0], one.features(sides), coding)
        assert isinstance(y_hat, np.ndarray)
        assert y_hat.tobytes() == encoded.tobytes() == latents.y.tobytes()


def test_forged_hyper_latents(both: tuple[Exact, Exact]) -> None:
    """Weights that make infinity of a hyper-latent: refused by name before y's stream is looked at."""
    huge = kernels.Conv2d(np.full((2, 3, 1, 1), 1e30, np.float32))
    z_hat = np.full((1, 1, 3), 2**31, np.float32)
    for one in both:
        codec = type(one)({"features": ExactFeatures(huge)}, one.parts)
        with pytest.raises(CorruptStream, match=r"side information up to 2147483648"):
            codec.features({"z": z_hat})
        with pytest.raises(TypeError, match="side information"):
            codec.features({"z": z_hat}, TypeError)
