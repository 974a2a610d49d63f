"""Systems with random weights that code as trained ones do: latents of a plausible rate, out of the model.

Under random weights all scales are about zero, and a coder has nothing to do. So biases and priors, a small
part of a system, are first fitted to noise for a moment. Latents to code are then drawn from the model's own
distributions, step by step, by a decoder that rolls dice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import torch
except ImportError as error:
    raise ImportError("the systems to measure need PyTorch: pip install 'quadrans[bench]'") from error

from ..entropy import default_scales
from ..entropy.mixture import Mixtures
from ..nets.codec import ImageCodec
from ..nets.latents import Latents
from ..nets.quantizer import ROUND
from ..nets.registry import make
from ..nets.system import System
from .workloads import log_mean

RATE = 0.5
"""Bits of a symbol, about."""

FITS, LEARNING_RATE = 40, 0.05

SCALE_LIMITS = (0.11, 20.0)


def plausible(name: str, **config: Any) -> System:
    """A system of the registry, with some arguments changed and random weights: the same ones every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        system = make(name, **config).eval()
        fit(system)
    return system


def fit(system: System, steps: int = FITS) -> float:
    """Lower what noise costs by training biases and priors alone; the bits of a symbol that it ends with.

    The noise has another scale in each channel, of y and of side information, such that symbols would cost
    RATE bits under a model that knew it.
    """
    sides = system.sides()
    priors = [p for side in sides.values() for p in side.prior.parameters()]
    biases = [p for name, p in system.named_parameters() if p.ndim == 1 and name.endswith("bias")]
    for parameter in system.parameters():
        parameter.requires_grad_(False)
    trained = list({id(p): p for p in (*priors, *biases)}.values())
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(trained, LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    h, w = system.positions(1, 1)
    scales = {name: channel_scales(len(side.prior.medians)) for name, side in sides.items()}
    own = channel_scales(system.m)
    for _ in range(steps):
        noise = {
            name: scales[name] * torch.randn(1, len(scales[name]), *side.size(h, w))
            for name, side in sides.items()
        }
        rounded, bits = system.code_sides(noise, ROUND)
        count = sum(z.numel() for z in noise.values())
        loss = torch.stack(list(bits.values())).sum() / count
        rate = loss
        if system.parts():
            coded = system.code_parts(own * torch.randn(1, system.m, h, w), rounded, ROUND)
            all_bits = torch.cat([part.bits.flatten() for part in coded.values()])
            loss, rate = loss + all_bits.mean(), all_bits.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    for parameter in system.parameters():
        parameter.requires_grad_(False)
    return float(rate.detach())


def channel_scales(channels: int) -> torch.Tensor:
    """(channels, 1, 1), log-normal."""
    drawn = np.random.default_rng(channels).standard_normal(channels)
    clipped = np.clip(np.exp(log_mean(RATE) + drawn), *SCALE_LIMITS)
    return torch.from_numpy(clipped.astype(np.float32))[:, None, None]


class Dice:
    """A decoder of no stream: its symbols are drawn from the distributions that it is asked for."""

    def __init__(self, quantization: Any, rng: np.random.Generator) -> None:
        self._rng = rng
        bits = getattr(quantization, "fraction_bits", None)
        self._fractions = 1 if bits is None else 1 << bits

    def get(self, asked: Any) -> NDArray[np.int32]:
        """Symbols of the shape of `asked`: rows of `codec.latent_table`, or a `Mixtures`."""
        if isinstance(asked, Mixtures):
            mean, scale = self._component(asked)
        else:
            index, fraction = np.divmod(asked, self._fractions)
            scale = default_scales()[index]
            mean = fraction / self._fractions - (0.5 if self._fractions > 1 else 0)
        return np.rint(mean + scale * self._rng.standard_normal(asked.shape)).astype(np.int32)

    def _component(self, mixtures: Mixtures) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Means and scales, a component's of each mixture."""
        weights, means, scales = mixtures.as_floats()
        chosen = (self._rng.random(mixtures.shape) > np.cumsum(weights, 0)[:-1]).sum(0, keepdims=True)
        first, second = (np.take_along_axis(values, chosen, 0)[0] for values in (means, scales))
        return first, second


def draw(codec: ImageCodec, width: int, height: int, order: str | None = None) -> Latents:
    """Latents of a width x height photo out of the codec's own model, in one of its orders; the same always.

    Side information is noise. Where decoded latents are refined, y is what they are after that, and not the
    encoder's y that would lead there.
    """
    rng = np.random.default_rng((width, height))
    h, w = codec.system.positions(width, height)
    order = order or codec.orders[0]
    sides = {}
    for name, side in codec.system.sides().items():
        channels = len(side.prior.medians)
        noise = channel_scales(channels).numpy().reshape(-1) * rng.standard_normal(
            (*side.size(h, w), channels)
        )
        sides[name] = np.rint(noise).astype(np.int32)
    rounded = {name: z.astype(np.float32) + codec.medians[name] for name, z in sides.items()}
    parts = codec.cpu.parts
    if not parts:
        return Latents(rounded["y"], sides)
    features = codec.cpu.features(rounded, ValueError)
    found = [
        codec.cpu.decode_from(
            Dice(part.model.quantization, rng), name, features, codec.order(name, order, width, height)
        )
        for name, part in parts.items()
    ]
    return Latents(np.concatenate(found, axis=2), sides)
