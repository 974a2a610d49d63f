"""Writes the golden files beside it that are not there yet. To add cases, never to make a test pass.

python tests/nets/golden/make.py
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from quadrans.nets.codec import ImageCodec
from quadrans.nets.demo import demo_photo
from quadrans.nets.export import export_weights
from quadrans.nets.latents import Latents
from quadrans.nets.systems.minnen2018 import Minnen2018
from quadrans.nets.weights import bundled_models, find_weights, read_weights, write_weights

FOLDER = Path(__file__).resolve().parent
WIDTH, HEIGHT = 70, 130
ORDERS = ("wavefront", "raster", "checkerboard", "parallel")


def make_weights() -> None:
    """Weights of a tiny model."""
    torch.manual_seed(2018)
    net = Minnen2018(4, 6, orders=ORDERS)
    with torch.no_grad():
        net.entropy_parameters[4].weight.mul_(20.0)
        net.entropy_bottleneck.quantiles[:, 0, 1] = torch.tensor([-0.7, 0.0, 0.3, 12.25])
    write_weights(FOLDER / "golden.safetensors", export_weights(net, "golden", {}))


def tiny_latents() -> Latents:
    """Heavy tails: most symbols near zero, some far outside every row of the tables."""
    rng = np.random.default_rng(2018)
    y_hat = np.rint(rng.standard_cauchy((12, 8, 6)) * 2).clip(-(2**24), 2**24).astype(np.float32) + 0.0
    z = np.rint(rng.standard_cauchy((3, 2, 4)) * 3).astype(np.int32)
    return Latents(y_hat, {"z": z})


def make_tiny(order: str) -> None:
    """A file of the tiny model in a coding order."""
    codec = ImageCodec(read_weights(FOLDER / "golden.safetensors"))
    container = codec.encode(tiny_latents(), WIDTH, HEIGHT, order)
    (FOLDER / f"{order}.qdr").write_bytes(container.to_bytes())


def make_bundled(name: str) -> None:
    """A photo's file under a bundled model, and the SHA-256 of its latents."""
    codec = ImageCodec(find_weights(name))
    pixels = demo_photo()
    latents = codec.analyse(pixels)
    (FOLDER / f"{name}.qdr").write_bytes(codec.encode(latents, *pixels.shape[1::-1]).to_bytes())
    digest = hashlib.sha256(latents.sides["z"].tobytes() + latents.y.tobytes()).hexdigest()
    (FOLDER / f"{name}.sha256").write_text(f"{digest}\n")


if __name__ == "__main__":
    if not (FOLDER / "golden.safetensors").exists():
        make_weights()
    for order in ORDERS:
        if not (FOLDER / f"{order}.qdr").exists():
            make_tiny(order)
    if not (FOLDER / "latents.json").exists():
        latents = tiny_latents()
        digests = {
            name: hashlib.sha256(values.tobytes()).hexdigest()
            for name, values in (("z", latents.sides["z"]), ("y_hat", latents.y))
        }
        (FOLDER / "latents.json").write_text(json.dumps(digests, indent=1) + "\n")
    for bundled in bundled_models():
        if not (FOLDER / f"{bundled}.qdr").exists():
            make_bundled(bundled)
