"""Writes the golden weights and files beside it. Run once; run again only to add cases, never to fix a test.

python tests/nets/golden/make.py
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from quadrans.nets.codec import ImageCodec, Latents
from quadrans.nets.container import ORDERS
from quadrans.nets.export import export_weights
from quadrans.nets.minnen2018 import Minnen2018
from quadrans.nets.weights import write_weights

FOLDER = Path(__file__).resolve().parent
WIDTH, HEIGHT = 70, 130


def main() -> None:
    torch.manual_seed(2018)
    net = Minnen2018(4, 6)
    with torch.no_grad():
        net.entropy_parameters[4].weight.mul_(20.0)
        net.entropy_bottleneck.quantiles[:, 0, 1] = torch.tensor([-0.7, 0.0, 0.3, 12.25])
    weights = export_weights(net, "golden", {})
    write_weights(FOLDER / "golden.safetensors", weights)
    codec = ImageCodec(weights)
    rng = np.random.default_rng(2018)
    # Heavy tails: most symbols near zero, some far outside every row of the tables.
    y_hat = np.rint(rng.standard_cauchy((12, 8, 6)) * 2).clip(-(2**24), 2**24).astype(np.float32) + 0.0
    z = np.rint(rng.standard_cauchy((3, 2, 4)) * 3).astype(np.int32)
    latents = Latents(y_hat, z)
    digests = {
        "z": hashlib.sha256(z.tobytes()).hexdigest(),
        "y_hat": hashlib.sha256(y_hat.tobytes()).hexdigest(),
    }
    (FOLDER / "latents.json").write_text(json.dumps(digests, indent=1) + "\n")
    for order in ORDERS:
        (FOLDER / f"{order}.qdr").write_bytes(codec.encode(latents, WIDTH, HEIGHT, order).to_bytes())


if __name__ == "__main__":
    main()
