"""Training of the codecs on any folder of photos: resumable after a kill, deterministic given a seed.

Crops, noise and context modes are functions of (seed, step), so a resumed run needs nothing but the
last checkpoint's weights and optimizer to continue exactly as if it had not been interrupted.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

try:
    import torch
    from torch import Tensor
except ImportError as error:
    raise ImportError("quadrans.nets.training needs PyTorch: pip install 'quadrans[codec]'") from error

from .context import MODES
from .device import usable_device
from .minnen2018 import Minnen2018
from .photos import Photos

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"


@dataclass(frozen=True)
class TrainConfig:
    """What a run depends on besides its photos.

    The loss is bits per pixel + lmbda * 255^2 * mean squared error (of pixels in 0..1).
    """

    n: int = 64
    m: int = 80
    lmbda: float = 0.013
    steps: int = 200_000
    batch: int = 8
    crop: int = 192
    learning_rate: float = 1e-3
    seed: int = 0
    precision: str = "float32"
    """"float32", or "bfloat16" for autocast"""

    def __post_init__(self) -> None:
        if self.crop % Minnen2018.downsampling or self.crop <= 0:
            raise ValueError(f"crop must be a multiple of {Minnen2018.downsampling}, not {self.crop}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be float32 or bfloat16, not {self.precision}")
        for name in ("n", "m", "lmbda", "steps", "batch", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")


@dataclass(frozen=True)
class Metrics:
    """One step's figures, over its batch."""

    step: int
    loss: float
    bpp_y: float
    bpp_z: float
    mse: float
    """Of pixels in 0..255."""
    learning_rate: float

    @property
    def psnr(self) -> float:
        return 10 * math.log10(255**2 / max(self.mse, 1e-9))


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up over 500 steps (a tenth of short runs), then a cosine to 1 % of the peak."""
    warm_up = min(500, max(1, config.steps // 10))
    progress = min(1.0, step / config.steps)
    cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * min(1.0, (step + 1) / warm_up) * cosine


class Trainer:
    """The state of a run in a folder: model, optimizer, step. Made anew, or from the folder's checkpoint."""

    def __init__(self, config: TrainConfig, photos: Photos, folder: Path, device: str | None = None) -> None:
        self.config, self.photos, self.folder = config, photos, folder
        self.device = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.backends.cudnn.deterministic = True
        torch.manual_seed(config.seed)
        self.model = Minnen2018(config.n, config.m).channels_last().to(self.device)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, config.learning_rate)
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CHECKPOINT).exists():
            self._resume()
        self._trim_log()

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            old_config, step = dict(state["config"]), int(state["step"])
        except Exception as error:
            # torch's unpickler answers damage with whatever its parsing ran into.
            raise ValueError(f"{path} is no checkpoint of a training, or a damaged one ({error})") from error
        differing = {
            key: (old, new)
            for key, new in asdict(self.config).items()
            if key != "steps" and (old := old_config.get(key)) != new
        }
        if differing:
            changes = ", ".join(f"{key} was {old}, now {new}" for key, (old, new) in differing.items())
            raise ValueError(f"{self.folder} holds a run with other settings: {changes}")
        if step > self.config.steps:
            raise ValueError(
                f"{self.folder} holds a run of {step} steps already, more than {self.config.steps}"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = step

    def _trim_log(self) -> None:
        """Keep of the log what came before the checkpoint: later steps will run again, if a kill left any."""
        log = self.folder / LOG
        if not log.exists():
            return
        kept = []
        for line in log.read_text(errors="replace").splitlines():
            try:
                step = json.loads(line)["step"]
            except (ValueError, KeyError, TypeError):
                continue
            if step < self.step:
                kept.append(f"{line}\n")
        temporary = self.folder / f"{LOG}.tmp"
        temporary.write_text("".join(kept))
        os.replace(temporary, log)

    def save(self) -> None:
        """Write the checkpoint under a temporary name and rename it."""
        state: dict[str, Any] = {
            "config": asdict(self.config),
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        temporary = self.folder / f"{CHECKPOINT}.tmp"
        torch.save(state, temporary)
        os.replace(temporary, self.folder / CHECKPOINT)

    def run(self, checkpoint_every: int = 500) -> Iterator[Metrics]:
        """Train to `config.steps`, giving each step's metrics; checkpoints on the way and at the end.

        Raises FloatingPointError, with the last checkpoint intact, when loss or gradient are not finite.
        """
        if checkpoint_every < 1:
            raise ValueError(f"checkpoint_every must be at least 1, not {checkpoint_every}")
        with ThreadPoolExecutor(1) as pool, (self.folder / LOG).open("a", buffering=1) as log:
            ahead = pool.submit(self._crops, self.step)
            while self.step < self.config.steps:
                crops = ahead.result()
                ahead = pool.submit(self._crops, self.step + 1)
                metrics = self._train_step(crops)
                log.write(json.dumps(asdict(metrics)) + "\n")
                self.step += 1
                if self.step % checkpoint_every == 0 or self.step == self.config.steps:
                    self.save()
                yield metrics

    def _crops(self, step: int) -> np.ndarray:
        return self.photos.batch((self.config.seed, step), self.config.batch)

    def _train_step(self, crops: np.ndarray) -> Metrics:
        config = self.config
        torch.manual_seed(int(np.random.SeedSequence((config.seed, self.step)).generate_state(1)[0]))
        x = (torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).float() / 255).contiguous(
            memory_format=torch.channels_last
        )
        modes = torch.randint(len(MODES), (config.batch,))
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bfloat16")
        with autocast:
            prediction = self.model(x, modes)
        pixels = x[:, 0].numel()
        bpp_y, bpp_z = (bits.sum() / pixels for bits in (prediction.y_bits, prediction.z_bits))
        mse = (prediction.x_hat.float() - x).square().mean() * 255**2
        loss: Tensor = bpp_y + bpp_z + config.lmbda * mse
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        figures = {"loss": loss, "bpp_y": bpp_y, "bpp_z": bpp_z, "mse": mse}
        values = {key: float(value.detach()) for key, value in figures.items()}
        if not (math.isfinite(values["loss"]) and math.isfinite(norm)):
            # Before the optimizer's step, so that no checkpoint can hold weights that are not finite.
            raise FloatingPointError(
                f"step {self.step}: loss {values['loss']}, gradient norm {float(norm)}; "
                "lower the learning rate"
            )
        self.optimizer.step()
        return Metrics(self.step, learning_rate=learning_rate(config, self.step), **values)
