"""Entropy models in torch: how the distributions of a latent follow from features and what is decoded.

Each runs over whole latents, for training and estimates, and lowers to its exact twin in `quadrans.kernels`,
with which streams are made. They hold the modules of a system, and own none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import entropy, kernels
from ..kernels import Order
from .density import Distribution, Gaussian
from .quantizer import Quantizer

Features = Mapping[str, Tensor]
"""What side information says, by name: "features" (B, F, H, W) of each position, and tokens (B, K, C)."""


@dataclass(frozen=True)
class Coded:
    """A latent as an entropy model sees it. All (B, M, H, W)."""

    y_hat: Tensor
    bits: Tensor
    means: Tensor
    scales: Tensor
    """The densities', so 0.11 or more. Where y is divided by steps, these and means are times the steps."""


def quantization(residual: bool) -> kernels.Quantization:
    """How Gaussians become rows of `codec.latent_table`."""
    thresholds = entropy.scale_thresholds(entropy.default_scales())
    return kernels.Quantization(thresholds, None if residual else kernels.FRACTION_BITS)


class EntropyModel(ABC):
    """p(y | features) over a coding order."""

    orders: tuple[str, ...]
    """Names of the coding orders it may use, its own first."""
    residual: bool
    """Whether y is rounded about its means: y_hat = round(y - mean) + mean."""
    refines: bool = False
    """Whether a network changes what is decoded, so that y_hat is not what was coded."""
    plane = "features"
    """The features of each position, among what side information says."""
    inputs: tuple[str, ...] = ()
    """What else it reads."""
    least_step: float | None = None
    """If given, y is divided by its first M features, or by this where they are less, before it is coded."""

    @abstractmethod
    def order(self, name: str, height: int, width: int) -> Order:
        """The coding order of that name for a latent of height x width positions."""

    @abstractmethod
    def forward(self, y: Tensor, features: Features, quantizer: Quantizer, order: str) -> Coded:
        """Round y (B, M, H, W), or what stands for it, and take the bits of each element."""

    @abstractmethod
    def lower(self) -> kernels.PositionModel | kernels.StepModel:
        """Its exact twin. Raises as `lowering.lower`."""

    def check_order(self, name: str) -> None:
        """Raise ValueError unless the order is one of `orders`."""
        if name not in self.orders:
            raise ValueError(f"order must be one of {', '.join(self.orders)}, not {name!r}")


class StepEntropy(EntropyModel):
    """Steps over whole planes. A subclass says what each step computes, and how it is lowered."""

    @abstractmethod
    def parameters(
        self, step: int, y_hat: Tensor, features: Features, memory: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(scales, means) of a step's channels, or of all M, (B, C, H, W) each.

        y_hat (B, M, H, W) is zero where nothing is decoded. memory: what `before` gave last.
        """

    def before(self, step: int, y_hat: Tensor, features: Features) -> Tensor | None:
        """What this step and later ones share, (B, S, H, W); None: what is there already."""
        return None

    def after(self, step: int, y_hat: Tensor, features: Features, memory: Tensor | None) -> Tensor | None:
        """What is added to the elements that the step has decoded: (B, C, H, W) as `parameters`'.

        None in all steps, unless the model `refines`.
        """
        return None

    def forward(self, y: Tensor, features: Features, quantizer: Quantizer, order: str) -> Coded:
        """See `EntropyModel`. Latents that are given are taken to be without refinement."""
        self.check_order(order)
        coding = self.order(order, *y.shape[2:])
        y_hat, total, all_means = (torch.zeros_like(y) for _ in range(3))
        all_scales = torch.ones_like(y)
        memory = None
        for number in range(len(coding)):
            given = self.before(number, y_hat, features)
            memory = memory if given is None else given
            part, mask = step_elements(coding, number, y)
            scales, means = (
                values.float() if values.shape[1] == part.stop - part.start else values[:, part].float()
                for values in self.parameters(number, y_hat, features, memory)
            )
            rounded, seen = quantizer(y[:, part], means if self.residual else None)
            p = Gaussian(scales, means)
            steps = (rounded, p.bits(seen), means, p.scales)
            planes = [
                _put(plane, part, mask, new)
                for plane, new in zip((y_hat, total, all_means, all_scales), steps, strict=True)
            ]
            y_hat, total, all_means, all_scales = planes
            added = self.after(number, y_hat, features, memory)
            if added is not None:
                added = added if added.shape[1] == part.stop - part.start else added[:, part]
                y_hat = _put(y_hat, part, mask, y_hat[:, part] + added)
        return Coded(y_hat, total, all_means, all_scales)


def step_elements(order: Order, number: int, y: Tensor) -> tuple[slice, Tensor]:
    """(channels, mask) of a step: the mask (channels, H, W), on y's device, says which are the step's."""
    channels, height, width = y.shape[1:]
    step = order.steps[number]
    rows, cols, at = (torch.from_numpy(axis) for axis in step.elements(channels))
    first, last = int(at.min()), int(at.max())
    mask = torch.zeros(last + 1 - first, height, width, dtype=torch.bool)
    mask[at - first, rows, cols] = True
    return slice(first, last + 1), mask.to(y.device)


def _put(plane: Tensor, part: slice, mask: Tensor, values: Tensor) -> Tensor:
    """The plane with the values of some channels at a mask, out of place, so that gradients pass."""
    changed = torch.where(mask, values, plane[:, part])
    return torch.cat([plane[:, : part.start], changed, plane[:, part.stop :]], 1)


class ParallelEntropy(EntropyModel):
    """No context: features that hold (scales, means) themselves, in one step.

    zero_mean: they hold scales alone. means_first: they hold (means, scales). first: the channel that these
    begin at, and with which the features end; those before it aren't read.
    """

    orders = ("parallel",)

    def __init__(
        self,
        channels: int,
        residual: bool = True,
        zero_mean: bool = False,
        means_first: bool = False,
        first: int = 0,
    ) -> None:
        self.channels, self.residual, self.zero_mean = channels, residual, zero_mean
        self.means_first, self.first = means_first, first

    def order(self, name: str, height: int, width: int) -> Order:
        """See `EntropyModel`."""
        self.check_order(name)
        return kernels.parallel(height, width)

    def distribution(self, features: Features) -> Distribution:
        """Of y, in one pass."""
        plane = features[self.plane][:, self.first :].float()
        if self.zero_mean:
            return Gaussian(plane, torch.zeros_like(plane))
        first, second = plane.chunk(2, 1)
        return Gaussian(second, first) if self.means_first else Gaussian(first, second)

    def forward(self, y: Tensor, features: Features, quantizer: Quantizer, order: str) -> Coded:
        """See `EntropyModel`."""
        self.check_order(order)
        p = self.distribution(features)
        y_hat, seen = quantizer(y, p.means if self.residual else None)
        return Coded(y_hat, p.bits(seen), p.means, p.scales)

    def lower(self) -> kernels.StepModel:
        """See `EntropyModel`."""
        m = self.channels
        # The planes are (y_hat, features).
        start = m + self.first
        first, second = (kernels.Slice(at, at + m) for at in (start, start + m))
        net: kernels.Layer
        if self.zero_mean:
            net = kernels.Sequential([first, with_zero_means(m)])
        else:
            net = kernels.Concat([second, first] if self.means_first else [first, second])
        given = self.first + (m if self.zero_mean else 2 * m)
        return kernels.StepModel([net], m, given, quantization(self.residual))


def with_zero_means(channels: int) -> kernels.Layer:
    """From scales to (scales, zeros)."""
    nothing = torch.zeros(channels, 1, 1, 1, dtype=torch.float32, device="cpu").numpy()
    return kernels.Concat([kernels.Sequential(), kernels.DepthwiseConv2d(nothing, nothing.reshape(-1))])
