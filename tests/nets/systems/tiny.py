"""Small versions of every system of the registry, with latents that are busy."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
import torch

from quadrans.nets.codec import ImageCodec
from quadrans.nets.export import export_weights
from quadrans.nets.quantizer import Quantizer
from quadrans.nets.registry import SYSTEMS, make
from quadrans.nets.system import System
from quadrans.nets.weights import Weights

DCA = {
    "n": 8,
    "m": 16,
    "c_r": 8,
    "c_l": 2,
    "count": 4,
    "hyper": 8,
    "local": (4, 8),
    "head_dim": 8,
    "swin_head_dim": 4,
    "local_head_dim": 4,
}
TCM = {
    "n": 4,
    "m": 12,
    "slices": 3,
    "transform_width": 4,
    "depths": (2, 1, 1, 2, 1, 1),
    "head_dims": (2, 4, 2, 4, 2, 2),
    "z": 6,
    "widths": (8, 6),
    "squeeze": 8,
    "head_dim": 4,
    "window": 4,
    "hyper_head_dim": 2,
    "hyper_window": 2,
}
MLICPP = {
    "n": 4,
    "m": 12,
    "slices": 3,
    "transform_width": 4,
    "lrp_widths": (8, 6),
    "channel_widths": (8, 6),
    "head_widths": (16, 12, 8),
    "head_dim": 2,
}

SMALL: dict[str, dict[str, Any]] = {
    "minnen2018-mean": {"n": 8, "m": 16},
    "balle2017": {"n": 16},
    "theis2017": {"n": 8, "m": 12},
    "balle2018-factorized": {"n": 8, "m": 16},
    "balle2018": {"n": 8, "m": 16},
    "minnen2018": {"n": 8, "m": 16},
    "lee2019": {"n": 8, "m1": 16},
    "lee2019-hybrid": {"n": 8, "m1": 8, "m2": 8},
    "cheng2020": {"n": 12, "hidden": 24},
    "cheng2020-anchor": {"n": 12},
    "checkerboard-minnen2018": {"n": 8, "m": 16},
    "checkerboard-cheng2020": {"n": 12, "hidden": 24},
    "charm2020": {"n": 8, "m": 20, "slices": 5, "max_support": 2, "hyper": (12, 10, 6), "widths": (8, 6)},
    "elic2022": {"n": 8, "groups": (2, 2, 4, 8), "widths": (16, 12)},
    "tcm2023": TCM,
    "mlicpp2023": MLICPP,
    "informer2022": {"n": 8, "m": 16, "num_global": 4, "head_dim": 8},
    "dcvc-dc2023": {"n": 8, "widths": (6, 8), "refine": (4, 4, 6, 8)},
    "quadtree-baseline": {"n": 8, "m": 16},
    "dca2024": DCA,
}
"""Arguments that make a system of each architecture small."""

STEPS = 120
SIDE = 256


def small(name: str, **config: Any) -> System:
    """A small system by its name in the registry, with random weights that depend on nothing else."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return make(name, **{**SMALL[SYSTEMS[name].architecture], **config})


def crops(count: int, seed: int) -> torch.Tensor:
    """(count, 3, SIDE, SIDE) in 0..1: waves and noise."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = rng.uniform(1, 60, (count, 3, 3, 1, 1))
    x = 0.5 + 0.3 * np.sin(waves[:, :, 0] * rows + waves[:, :, 1] * cols + waves[:, :, 2])
    return torch.tensor(np.clip(x + 0.1 * rng.standard_normal(x.shape), 0, 1), dtype=torch.float32)


def loss(system: System, x: torch.Tensor, order: str | None = None) -> torch.Tensor:
    """Bits for each pixel and much of the squared error, so that latents get busy."""
    prediction = system(x, Quantizer("mixed"), order)
    rate = prediction.total_bits.sum() / x[:, 0].numel()
    return rate + 1000 * (prediction.x_hat - x).square().mean()


@cache
def trained(name: str) -> tuple[System, float, float]:
    """A small system after STEPS steps, with its first and its last loss."""
    system = small(name).train()
    optimizer = torch.optim.Adam([p for p in system.parameters() if p.requires_grad], 1e-3)
    # Quarters cost a quarter; windows of DCA need the whole, as MLIC++ does to estimate well.
    side = SIDE if name in ("dca2024", "mlicpp2023") else SIDE // 2
    batches = [
        crop[:, :, row : row + side, col : col + side]
        for row in range(0, SIDE, side)
        for col in range(0, SIDE, side)
        for crop in map(partial(crops, 1), range(4))
    ]
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(6)
        losses = []
        for step in range(STEPS):
            one = loss(system, batches[step % len(batches)])
            optimizer.zero_grad()
            one.backward()
            torch.nn.utils.clip_grad_norm_(system.parameters(), 1.0)
            optimizer.step()
            losses.append(float(one.detach()))
    return system.eval(), losses[0], losses[-1]


@cache
def weights(name: str) -> Weights:
    """What `trained` gives, exported."""
    return export_weights(trained(name)[0], name, {}, "float32")


@cache
def codec(name: str) -> ImageCodec:
    """The codec of those weights."""
    return ImageCodec(weights(name))


def photo(width: int, height: int, seed: int = 1) -> np.ndarray:
    """(height, width, 3) uint8, of the same kind as the crops."""
    x = crops(1, seed)[0].permute(1, 2, 0).numpy()
    repeats = (-(-height // SIDE), -(-width // SIDE), 1)
    return (np.tile(x, repeats)[:height, :width] * 255).round().astype(np.uint8)
