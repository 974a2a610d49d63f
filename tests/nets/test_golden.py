"""Golden files: weights and .qdr files made once must decode for ever, and be made again to the byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from quadrans.nets.codec import ImageCodec
from quadrans.nets.container import Container
from quadrans.nets.weights import bundled_models, find_weights, read_weights

GOLDEN = Path(__file__).resolve().parent / "golden"
ORDERS = ("wavefront", "raster", "checkerboard", "parallel")
LATENTS = json.loads((GOLDEN / "latents.json").read_text())


@pytest.mark.parametrize("order", ORDERS)
def test_golden_files(order: str) -> None:
    codec = ImageCodec(read_weights(GOLDEN / "golden.safetensors"))
    data = (GOLDEN / f"{order}.qdr").read_bytes()
    latents = codec.decode(Container.from_bytes(data))
    assert {
        "z": hashlib.sha256(latents.sides["z"].tobytes()).hexdigest(),
        "y_hat": hashlib.sha256(latents.y.tobytes()).hexdigest(),
    } == LATENTS
    assert codec.encode(latents, 70, 130, order).to_bytes() == data


@pytest.mark.parametrize("name", bundled_models())
def test_bundled_models_decode_their_golden_file(name: str) -> None:
    """A 512x512 photo for each bundled model: lose this and users' files are lost."""
    data = (GOLDEN / f"{name}.qdr").read_bytes()
    latents = ImageCodec(find_weights(name)).decode(Container.from_bytes(data))
    digest = hashlib.sha256(latents.sides["z"].tobytes() + latents.y.tobytes()).hexdigest()
    assert digest == (GOLDEN / f"{name}.sha256").read_text().strip()
