"""Training of any system: deterministic, resumable, with a log of every step; on one device or several."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

try:
    import torch
    from torch import Tensor
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
except ImportError as error:
    raise ImportError("quadrans.nets.training needs PyTorch: pip install 'quadrans[codec]'") from error

from .device import usable_device
from .photos import Photos
from .quantizer import SURROGATES, Quantizer
from .registry import SYSTEMS, architecture_of, make
from .schedules import SCHEDULES, factor
from .system import Prediction, System
from .weights import Weights

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
DISTORTIONS = ("mse", "ms-ssim")
PRECISIONS = ("float32", "bfloat16")
AUXILIARY_RATE = 1e-3
"""Learning rate of what the priors' auxiliary losses train."""
MS_SSIM_SIDE = 161
"""Pixels on a side that five scales of MS-SSIM need, at least."""
MS_SSIM_LAMBDAS = (2.40, 4.58, 8.73, 16.64, 31.73, 60.50)
"""Weights of 1 - MS-SSIM of CompressAI's qualities 1 to 6."""


@dataclass(frozen=True)
class TrainConfig:
    """What a run depends on besides its photos and the weights that it starts from.

    The loss is bits per pixel + lmbda * distortion, unless the system has its own (`System.loss`).
    """

    system: str = "minnen2018"
    """Of `registry.SYSTEMS`."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Its arguments that are changed."""
    lmbda: float = 0.013
    """Weight of the distortion, or whatever the system's loss has it weight: `default_lmbda` suits each."""
    distortion: str = "mse"
    """"mse" of pixels in 0..255, or "ms-ssim": 1 - MS-SSIM."""
    surrogate: str = "mixed"
    """Of rounding: one of `quantizer.SURROGATES`."""
    orders: tuple[str, ...] = ()
    """Coding orders of which each step draws one; none: the system's own."""
    steps: int = 200_000
    batch: int = 8
    """Crops of a step, of each process."""
    crop: int = 256
    learning_rate: float = 1e-4
    schedule: str = "cosine"
    """One of `schedules.SCHEDULES`."""
    auxiliary: bool = False
    """Whether the priors' quantiles are trained, too, with the medians that rounding goes by."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is what is exported; 0: none."""
    seed: int = 0
    precision: str = "float32"
    """"float32", or "bfloat16" for autocast of the layers; densities stay in float32."""

    def __post_init__(self) -> None:
        for name in ("lmbda", "steps", "batch", "learning_rate", "crop"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name, known in (
            ("distortion", DISTORTIONS),
            ("surrogate", SURROGATES),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        if not 0 <= self.seed < 1 << 63:
            raise ValueError(f"seed must be at least 0 and have 63 bits, not {self.seed}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be at least 0 and less than 1, not {self.ema}")
        if self.distortion == "ms-ssim" and self.crop < MS_SSIM_SIDE:
            raise ValueError(f"crop must be at least {MS_SSIM_SIDE} for MS-SSIM, not {self.crop}")


@dataclass(frozen=True)
class Metrics:
    """One step's figures, over its batch."""

    step: int
    loss: float
    bpp: Mapping[str, float]
    """Bits per pixel of each latent, by name."""
    distortion: float
    """As in the loss."""
    order: str
    learning_rate: float

    @property
    def total_bpp(self) -> float:
        return sum(self.bpp.values())


class Trainer:
    """The state of a run in a folder: system, optimizers, step. Made anew, or from the folder's checkpoint.

    accelerator: an `accelerate.Accelerator` where several processes train together (see `distributed`).
    init: weights to start from instead of random ones, of the system's architecture and shapes. They are
    part of what the run is: with others it isn't resumed. Optimizers, averages and steps start anew.

    Raises ValueError for what the system can't be trained with, for weights that don't fit it, and for a
    folder that holds another run.
    """

    def __init__(
        self,
        config: TrainConfig,
        photos: Photos,
        folder: Path,
        device: str | None = None,
        accelerator: Any = None,
        init: Weights | None = None,
    ) -> None:
        self.config, self.photos, self.folder, self._accelerator = config, photos, folder, accelerator
        self.device = (
            usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            if accelerator is None
            else accelerator.device
        )
        torch.backends.cudnn.deterministic = True
        torch.manual_seed(config.seed)
        self.system = make(config.system, **config.config)
        self._check()
        if init is not None:
            self._start_from(init)
        self._identity = {**_plain(config), "init": None if init is None else init.digest.hex()}
        self.system.channels_last().to(self.device)
        priors = [side.prior for side in self.system.sides().values()] if config.auxiliary else []
        auxiliary = [parameter for prior in priors for parameter in prior.auxiliary_parameters()]
        for parameter in auxiliary:
            parameter.requires_grad_(True)
        apart = {id(parameter) for parameter in auxiliary}
        trained = [p for p in self.system.parameters() if p.requires_grad and id(p) not in apart]
        self.optimizer = torch.optim.Adam(trained, config.learning_rate)
        self.auxiliary = torch.optim.Adam(auxiliary, AUXILIARY_RATE) if auxiliary else None
        self.average = (
            AveragedModel(self.system, multi_avg_fn=get_ema_multi_avg_fn(config.ema)) if config.ema else None
        )
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CHECKPOINT).exists():
            self._resume()
        self._model: torch.nn.Module = self.system
        if accelerator is None:
            self._trim_log()
        else:
            # What the auxiliary losses train has the same gradients everywhere: nothing to exchange.
            names = [name for name, p in self.system.named_parameters() if id(p) in apart]
            ignore = torch.nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
            ignore(self.system, names)
            self._model, self.optimizer = accelerator.prepare(self.system, self.optimizer)
            if self.leads:
                self._trim_log()

    def _check(self) -> None:
        config, system = self.config, self.system
        if config.crop % system.multiple:
            raise ValueError(
                f"crop must be a multiple of {system.multiple} for {config.system}, not {config.crop}"
            )
        unknown = set(config.orders) - set(system.orders)
        if unknown:
            known = ", ".join(system.orders)
            raise ValueError(f"orders {', '.join(sorted(unknown))}: {config.system} has {known} alone")
        if config.auxiliary and not any(
            side.prior.auxiliary_parameters() for side in system.sides().values()
        ):
            raise ValueError(f"auxiliary: the priors of {config.system} have no quantiles to train")
        # The loss of nothing: a weight or a distortion that the system's loss refuses, it refuses here.
        nothing = torch.zeros(1, 1, 1, 1)
        empty = Prediction(nothing, nothing, {"y": torch.zeros(1)}, {})
        system.loss(empty, nothing, config.lmbda, torch.zeros(()), config.distortion)

    def _start_from(self, weights: Weights) -> None:
        here, there = architecture_of(self.system), weights.architecture
        if here != there:
            raise ValueError(f"weights {weights.name} are of {there}, but {self.config.system} is of {here}")
        own = {name: tuple(tensor.shape) for name, tensor in self.system.state_dict().items()}
        given = {name: tuple(tensor.shape) for name, tensor in weights.tensors.items()}
        misfits = sorted(name for name in own | given if own.get(name) != given.get(name))
        if misfits:
            name = misfits[0]
            raise ValueError(
                f"weights {weights.name} don't fit {self.config.system} as it is set: {len(misfits)} tensors "
                f"differ, such as {name}: {given.get(name, 'none')}, here {own.get(name, 'none')}"
            )
        self.system.load_state_dict(
            {name: torch.from_numpy(tensor.astype(np.float32)) for name, tensor in weights.tensors.items()}
        )

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self._accelerator is None or bool(self._accelerator.is_main_process)

    @property
    def exported(self) -> System:
        """What the run gives: the system, or the average of it."""
        if self.average is None:
            return self.system
        averaged = self.average.module
        assert isinstance(averaged, System)
        return averaged

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            old_config, step, photos = dict(state["config"]), int(state["step"]), str(state["photos"])
            model, optimizer = state["model"], state["optimizer"]
            auxiliary, average = state["auxiliary"], state["average"]
        except Exception as error:
            # torch's unpickler answers damage with whatever its parsing ran into.
            raise ValueError(f"{path} is no checkpoint of a training, or a damaged one ({error})") from error
        differing = {
            key: (old, new)
            for key, new in self._identity.items()
            if key != "steps" and (old := old_config.get(key)) != new
        }
        if differing:
            changes = ", ".join(f"{key} was {old}, now {new}" for key, (old, new) in differing.items())
            raise ValueError(f"{self.folder} holds a run with other settings: {changes}")
        if photos != self.photos.digest:
            raise ValueError(
                f"{self.folder} holds a run on other photos than the {len(self.photos.paths)} here"
            )
        if step > self.config.steps:
            raise ValueError(
                f"{self.folder} holds a run of {step} steps already, more than {self.config.steps}"
            )
        try:
            self.system.load_state_dict(model)
            self.optimizer.load_state_dict(optimizer)
            if self.auxiliary is not None:
                self.auxiliary.load_state_dict(auxiliary)
            if self.average is not None:
                self.average.load_state_dict(average)
        except Exception as error:
            raise ValueError(f"{path} doesn't fit {self.config.system}, or is damaged ({error})") from error
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
        """Write the checkpoint under a temporary name and rename it; one process of several does."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()
        if not self.leads:
            return
        state: dict[str, Any] = {
            "config": self._identity,
            "photos": self.photos.digest,
            "step": self.step,
            "model": self.system.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "auxiliary": None if self.auxiliary is None else self.auxiliary.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
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
        log_path = self.folder / LOG if self.leads else Path(os.devnull)
        self._model.train()
        with ThreadPoolExecutor(1) as pool, log_path.open("a", buffering=1) as log:
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

    def _key(self, step: int) -> tuple[int, ...]:
        """What all that is random in a step of this process is drawn from."""
        rank = 0 if self._accelerator is None else self._accelerator.process_index
        return (self.config.seed, step, rank) if rank else (self.config.seed, step)

    def _crops(self, step: int) -> np.ndarray:
        return self.photos.batch(self._key(step), self.config.batch)

    def _order(self) -> str:
        """The step's coding order, the same for all processes."""
        orders = self.config.orders or self.system.orders[:1]
        return orders[int(np.random.default_rng((self.config.seed, self.step)).integers(len(orders)))]

    def _train_step(self, crops: np.ndarray) -> Metrics:
        config, order = self.config, self._order()
        torch.manual_seed(int(np.random.SeedSequence(self._key(self.step)).generate_state(1)[0]))
        x = (torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).float() / 255).contiguous(
            memory_format=torch.channels_last
        )
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bfloat16")
        with autocast:
            prediction = self._model(x, Quantizer(config.surrogate), order)
        distortion = distance(prediction.x_hat.float(), x, config.distortion)
        loss = self.system.loss(prediction, x, config.lmbda, distortion, config.distortion)
        rate = config.learning_rate * factor(config.schedule, self.step, config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        self._backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], 1.0)
        pixels = x[:, 0].numel()
        figures = {name: bits.sum() / pixels for name, bits in prediction.bits.items()}
        values = self._means({"loss": loss, "distortion": distortion, **figures})
        if not (math.isfinite(values["loss"]) and math.isfinite(norm)):
            # Before the optimizer's step, so that no checkpoint can hold weights that are not finite.
            raise FloatingPointError(
                f"step {self.step}: loss {values['loss']}, gradient norm {float(norm)}; "
                "lower the learning rate"
            )
        self.optimizer.step()
        self._train_auxiliary()
        if self.average is not None:
            self.average.update_parameters(self.system)
        bpp = {name: values[name] for name in figures}
        return Metrics(self.step, values["loss"], bpp, values["distortion"], order, rate)

    def _backward(self, loss: Tensor) -> None:
        if self._accelerator is None:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self._accelerator.backward(loss)

    def _train_auxiliary(self) -> None:
        if self.auxiliary is None:
            return
        loss = self.system.auxiliary_loss()
        assert loss is not None
        self.auxiliary.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.auxiliary.step()

    def _means(self, figures: dict[str, Tensor]) -> dict[str, float]:
        """Figures of all processes' batches."""
        values = torch.stack([value.detach().float() for value in figures.values()])
        if self._accelerator is not None:
            values = self._accelerator.reduce(values, "mean")
        return dict(zip(figures, values.tolist(), strict=True))


def default_lmbda(system: str, distortion: str) -> float:
    """A weight to train a system of the registry with: the middle one of those that are usual for it.

    Raises ValueError for unknown systems, and for "ms-ssim", for which the registry lists none.
    """
    if system not in SYSTEMS:
        raise ValueError(f"unknown system {system!r}; known: {', '.join(SYSTEMS)}")
    if distortion == "ms-ssim":
        tried = ", ".join(f"{lmbda:.2f}" for lmbda in MS_SSIM_LAMBDAS)
        raise ValueError(
            f"ms-ssim needs a lambda of its own, such as CompressAI's of qualities 1 to 6: {tried}"
        )
    usual = sorted(SYSTEMS[system].usual_lambdas)
    return usual[len(usual) // 2]


def distance(x_hat: Tensor, x: Tensor, distortion: str) -> Tensor:
    """The distortion of images (B, 3, H, W) in 0..1: mean squared error in 0..255, or 1 - MS-SSIM.

    Raises ImportError, naming the extra, where MS-SSIM needs pytorch-msssim.
    """
    if distortion == "mse":
        return (x_hat - x).square().mean() * 255**2
    try:
        from pytorch_msssim import ms_ssim
    except ImportError as error:
        raise ImportError("MS-SSIM needs pytorch-msssim: pip install 'quadrans[train]'") from error
    return 1 - ms_ssim(x_hat, x, data_range=1.0)


def distributed() -> Any:
    """The accelerator of a process that a launcher started among others; None if it is alone.

    Raises ImportError, naming the extra, if there are others but no Accelerate.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError as error:
        raise ImportError("several processes need Accelerate: pip install 'quadrans[train]'") from error
    # A coding order may leave the context's weights without a part in the loss.
    return Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])


def _plain(config: TrainConfig) -> dict[str, Any]:
    """As a checkpoint holds it: what JSON has."""
    return json.loads(json.dumps(asdict(config)))
