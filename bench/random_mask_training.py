"""Training a random-mask model's context and head on latents that are computed once.

The frozen layers give each photo's y_hat and features; a step cuts crops from them and draws one mask. Its
loss is the rate of the rounded y_hat itself.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quadrans.nets.files import write_file
from quadrans.nets.images import IMAGE_SUFFIXES, read_image
from quadrans.nets.quantizer import ROUND
from quadrans.nets.schedules import factor
from quadrans.nets.systems.he2021 import TABLE_1, Mask, RandomMask, random_mask

RANDOM_MASKS = 8
"""Fixed random masks that the watched photos are measured under, besides Table 1's."""
SHOWN = ("step", "crops", "none", "serial 5x5", "checkerboard 5x5")
"""What a check prints of the curve's line."""


@dataclass(frozen=True)
class Settings:
    """What a run depends on besides its model and photos."""

    steps: int = 20_000
    batch: int = 6
    crop: int = 20
    """Positions on a side."""
    learning_rate: float = 5e-4
    seed: int = 0
    checks: int = 10
    """How often the watched photos are measured."""


@dataclass(frozen=True)
class Latent:
    """What the frozen layers say of a photo."""

    y_hat: Tensor
    """(M, h, w), integers."""
    features: Tensor
    """(2M, h, w)"""
    side_bits: float
    pixels: int


def read_photos(folder: Path, multiple: int) -> Iterator[Tensor]:
    """(1, 3, H, W) in 0..1 of each photo below a folder, the middle that has sides of whole multiples."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} holds no photos")
    for path in paths:
        pixels = read_image(path).pixels
        height, width = (side // multiple * multiple for side in pixels.shape[:2])
        if not height or not width:
            raise ValueError(f"{path}: {pixels.shape[1]}x{pixels.shape[0]} pixels, less than {multiple}")
        top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
        middle = pixels[top : top + height, left : left + width].copy()
        yield torch.from_numpy(middle).permute(2, 0, 1)[None].float() / 255


@torch.no_grad()
def analyse(model: RandomMask, x: Tensor) -> Latent:
    """The latent of one photo (1, 3, H, W)."""
    y = model.analysis(x.contiguous(memory_format=torch.channels_last)).float()
    rounded, bits = model.code_sides(model.hyper_analysis(y), ROUND)
    features = model.features(rounded)["features"]
    return Latent(y[0].round(), features[0], float(bits["z"]), x.shape[2] * x.shape[3])


@torch.no_grad()
def rates(model: RandomMask, latents: Sequence[Latent], masks: Mapping[str, Mask]) -> dict[str, float]:
    """Bits per pixel, side information's included, under each mask: the mean of all photos."""
    return {
        name: mean_rate(latents, lambda y, features, mask=mask: model.bits(y, features, mask))
        for name, mask in masks.items()
    }


def mean_rate(latents: Sequence[Latent], bits: Callable[..., Tensor]) -> float:
    """Mean bits per pixel of photos: of their side information, and bits(y_hat, features)."""
    found = [
        (float(bits(latent.y_hat[None], {"features": latent.features[None]})) + latent.side_bits)
        / latent.pixels
        for latent in latents
    ]
    return float(np.mean(found))


def crops(latents: Sequence[Latent], settings: Settings, step: int) -> tuple[Tensor, Tensor]:
    """A step's y_hat (B, M, crop, crop) and features: a pure function of seed and step."""
    rng = np.random.default_rng((settings.seed, step))
    cut = []
    for _ in range(settings.batch):
        latent = latents[int(rng.integers(len(latents)))]
        top, left = (int(rng.integers(side - settings.crop + 1)) for side in latent.y_hat.shape[1:])
        window = (..., slice(top, top + settings.crop), slice(left, left + settings.crop))
        cut.append((latent.y_hat[window], latent.features[window]))
    y_hat, features = (torch.stack(planes) for planes in zip(*cut, strict=True))
    return y_hat, features


def fixed_masks(seed: int) -> dict[str, Mask]:
    """Table 1's masks, and a few random ones, the same all the time."""
    torch.manual_seed(seed)
    return {**TABLE_1, **{f"random {i}": random_mask().numpy() for i in range(RANDOM_MASKS)}}


class Run:
    """Training of context and head, taken up from `checkpoint` if that file exists, which every check writes.

    ValueError for latents smaller than a crop, none to watch, and another run's checkpoint.
    """

    def __init__(
        self,
        model: RandomMask,
        latents: Sequence[Latent],
        watched: Sequence[Latent],
        settings: Settings,
        checkpoint: Path | None = None,
    ) -> None:
        smallest = min((min(latent.y_hat.shape[1:]) for latent in latents), default=0)
        if smallest < settings.crop:
            raise ValueError(f"a crop of {settings.crop} positions; the smallest latent has {smallest}")
        if not watched:
            raise ValueError(f"{len(latents)} latents to train on, but none to watch")
        self.model, self.latents, self.watched, self.settings = model, latents, watched, settings
        self.trained = [*model.context_prediction.parameters(), *model.entropy_parameters.parameters()]
        for parameter in self.trained:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.Adam(self.trained, settings.learning_rate)
        self.masks = fixed_masks(settings.seed)
        self.step, self.checkpoint = 0, checkpoint
        self.curve: list[dict[str, Any]] = []
        """Bits per pixel: y's of all crops since the line before, and watched photos' by mask."""
        side_bits = np.array([latent.side_bits for latent in latents])
        self.identity = {**asdict(settings), "latents": hashlib.sha256(side_bits.tobytes()).hexdigest()}
        if checkpoint is not None and checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            if state["identity"] != self.identity:
                raise ValueError(f"{checkpoint} is of {state['identity']}, not {self.identity}")
            model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.curve = state["step"], state["curve"]
        else:
            self.curve.append({"step": 0, **rates(model, watched, self.masks)})

    def train(self) -> None:
        """To the last step. FloatingPointError when the loss is not finite."""
        every = max(1, self.settings.steps // self.settings.checks)
        losses: list[float] = []
        while self.step < self.settings.steps:
            losses.append(self._train_step())
            self.step += 1
            if self.step % every == 0 or self.step == self.settings.steps:
                watched = rates(self.model, self.watched, self.masks)
                self.curve.append({"step": self.step, "crops": float(np.mean(losses)), **watched})
                losses.clear()
                self._save()
                print(", ".join(f"{name} {self.curve[-1][name]:.5g}" for name in SHOWN), flush=True)

    def _train_step(self) -> float:
        """One step's loss: y's bits per pixel under a random mask."""
        settings = self.settings
        torch.manual_seed(int(np.random.SeedSequence((settings.seed, self.step)).generate_state(1)[0]))
        y_hat, features = crops(self.latents, settings, self.step)
        bits = self.model.bits(y_hat, {"features": features}, random_mask())
        loss = bits.sum() / (len(y_hat) * (settings.crop * self.model.stride) ** 2)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"step {self.step}: loss {loss.item()}")
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * factor("cosine", self.step, settings.steps)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        return loss.item()

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        state = {"identity": self.identity, "step": self.step, "curve": self.curve}
        state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        write_file(self.checkpoint, lambda path: torch.save(state, path), force=True)
