"""What every codec of the literature is made of: transforms, side information, and models of the latent.

A subclass holds torch modules under their published names and says how they are joined. Training and
estimates run in torch; `lower` methods give the exact twins of all that decides a distribution, with which
`codec` codes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise ImportError("quadrans.nets.system needs PyTorch: pip install 'quadrans[codec]'") from error

from .. import kernels
from .density import Prior
from .entropy_model import Coded, EntropyModel, Features
from .quantizer import Quantizer


@dataclass(frozen=True)
class Side:
    """One kind of side information: a latent without context, of as many channels as its prior."""

    prior: Prior
    stride: int | None = 4
    """Positions of y on a side for each of its own; None: it has a single position, whatever the image."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(rows, cols), for a y of height x width positions."""
        return (1, 1) if self.stride is None else (height // self.stride, width // self.stride)


@dataclass(frozen=True)
class Part:
    """Channels start .. stop - 1 of y, which are one latent, with their model."""

    model: EntropyModel
    start: int
    stop: int


@dataclass(frozen=True)
class ExactFeatures:
    """An exact layer from side information; the first that it reads is its x, the others are `Input`s."""

    layer: kernels.Layer
    reads: tuple[str, ...] = ("z",)
    shape: tuple[int, int, int] | None = None
    """What the first is reshaped to, from (rows, cols, channels): tokens are one position in the file."""


@dataclass(frozen=True)
class Prediction:
    """What a pass over images gives."""

    x_hat: Tensor
    """(B, 3, H, W)"""
    y_hat: Tensor
    """(B, M, H / stride, W / stride)"""
    bits: Mapping[str, Tensor]
    """(B,) bits of each latent of each image, by name: first side information, then the parts of y."""
    coded: Mapping[str, Coded] = field(repr=False)
    """The parts of y, by name."""

    @property
    def total_bits(self) -> Tensor:
        """(B,)"""
        return torch.stack(list(self.bits.values())).sum(0)


class System(nn.Module, ABC):
    """A learned image codec: images (B, 3, H, W) in 0..1, sides multiples of `multiple`.

    config: the arguments that it was made with, by name.
    """

    stride: ClassVar[int] = 16
    """Pixels on a side for each position of y."""
    reach: int = 4
    """Positions of y around one beyond which its transforms don't look, or hardly."""
    multiple: int = 64
    """Images are padded to multiples of so many pixels."""
    m: int
    """Channels of y."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def sides(self) -> Mapping[str, Side]:
        """Side information by name, in the order in which it is coded."""

    @abstractmethod
    def parts(self) -> Mapping[str, Part]:
        """The latents that y consists of, by name, as they are coded one after the other; often "y" alone."""

    @abstractmethod
    def analysis(self, x: Tensor) -> Tensor:
        """y (B, M, H / stride, W / stride) of images."""

    @abstractmethod
    def synthesis(self, y_hat: Tensor) -> Tensor:
        """Images, about 0..1 and not yet clipped, of y_hat."""

    @abstractmethod
    def hyper_analysis(self, y: Tensor) -> dict[str, Tensor]:
        """Side information (B, C, h, w) of y, not yet rounded."""

    @abstractmethod
    def features(self, sides: Mapping[str, Tensor]) -> Features:
        """What rounded side information says: float features by name, as the parts' models read them."""

    @abstractmethod
    def lower_features(self) -> dict[str, ExactFeatures]:
        """The exact twin of `features`, on channels-last arrays."""

    @property
    def orders(self) -> tuple[str, ...]:
        """Coding orders that y may have, its own first."""
        return next((part.model.orders for part in self.parts().values()), ("parallel",))

    def part_order(self, part: Part, order: str) -> str:
        """A part's own coding order in a file of that order: parts that can't have it have their first."""
        return order if order in part.model.orders else part.model.orders[0]

    def positions(self, width: int, height: int) -> tuple[int, int]:
        """(h, w) of y for a photo, padded to the system's multiple."""
        h, w = (-(-side // self.multiple) * self.multiple for side in (height, width))
        return h // self.stride, w // self.stride

    def steps(self, order: str, width: int, height: int) -> int:
        """How many steps one after the other y takes in a coding order, for a photo of that size."""
        size = self.positions(width, height)
        parts = self.parts().values()
        return sum(len(part.model.order(self.part_order(part, order), *size)) for part in parts) or 1

    def forward(self, x: Tensor, quantizer: Quantizer, order: str | None = None) -> Prediction:
        """One pass: x (B, 3, H, W) in 0..1 to reconstruction and bits, under one of `orders`.

        Everything but the layers is in float32, whatever the layers' precision.
        """
        y = self.analysis(x).float()
        rounded, bits = self.code_sides(self.hyper_analysis(y), quantizer)
        coded = self.code_parts(y, rounded, quantizer, order)
        y_hat = torch.cat([part.y_hat for part in coded.values()], 1) if coded else rounded["y"]
        bits |= {name: part.bits.sum((1, 2, 3)) for name, part in coded.items()}
        return Prediction(self.synthesis(y_hat), y_hat, bits, coded)

    def code_sides(
        self, sides: Mapping[str, Tensor], quantizer: Quantizer
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Side information rounded about its medians, and the (B,) bits of each."""
        rounded, bits = {}, {}
        for name, side in self.sides().items():
            z = sides[name].float()
            rounded[name], seen = quantizer(z, side.prior.medians[:, None, None])
            with torch.autocast(z.device.type, enabled=False):
                bits[name] = side.prior(seen).sum((1, 2, 3))
        return rounded, bits

    def code_parts(
        self, y: Tensor, rounded: Mapping[str, Tensor], quantizer: Quantizer, order: str | None = None
    ) -> dict[str, Coded]:
        """The parts of y (B, M, H, W) under rounded side information."""
        parts = self.parts()
        order = order or self.orders[0]
        if order not in self.orders:
            raise ValueError(f"order must be one of {', '.join(self.orders)}, not {order!r}")
        features = self.features(rounded) if parts else {}
        return {
            name: part.model.forward(
                y[:, part.start : part.stop], features, quantizer, self.part_order(part, order)
            )
            for name, part in parts.items()
        }

    def loss(
        self, prediction: Prediction, x: Tensor, lmbda: float, distortion: Tensor, kind: str = "mse"
    ) -> Tensor:
        """What training minimizes: bits per pixel + lmbda * distortion, of images x (B, 3, H, W).

        kind: what the distortion is, "mse" or "ms-ssim": see `training.distance`. A system with a loss of
        its own raises ValueError for a weight or a kind that it can't use.
        """
        return prediction.total_bits.sum() / x[:, 0].numel() + lmbda * distortion

    def auxiliary_loss(self) -> Tensor | None:
        """The sum of the priors' auxiliary losses, None if they have none."""
        losses = [side.prior.auxiliary_loss() for side in self.sides().values()]
        given = [loss for loss in losses if loss is not None]
        return torch.stack(given).sum() if given else None

    @cached_property
    def refines(self) -> bool:
        """Whether what is decoded is refined by a network, so that y_hat is not what was coded."""
        return any(part.model.refines for part in self.parts().values())

    def channels_last(self) -> System:
        """The system itself, its weights laid out channels-last: what the CPU's convolutions like best."""
        for parameter in self.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return self
