"""DCVC-DC's quadtree: entropy models of four steps, each of which codes a quarter of the channels everywhere.

Source: Li, Li and Lu, "Neural video compression with diverse contexts", CVPR 2023. `kernels.quadtree` is the
order: which of four groups of channels a step codes differs among the positions of a 2x2 block.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .. import kernels
from ..kernels import Layer, Order, Slice
from .blocks import DepthConvBlock, DepthConvBlock2
from .bounds import lower_bound
from .entropy_model import Coded, Features, StepEntropy, quantization
from .lowering import lower
from .quantizer import Quantizer

STEPS = 4
LEAST_STEP = 0.5

READINGS = ("B", "A")
"""How DCA and its baseline use DCVC-DC's trunk, of which their paper can be read in two ways.

"B": all layers but the 1x1 convolutions are shared among the steps, as it says. "A": the first step has
neither 1x1 nor trunk, as in DCVC-DC's code. Both have equally many parameters.
"""


class QuadtreeEntropy(StepEntropy):
    """A latent of `channels` M in four steps, residuals rounded, under features of `given` channels.

    The exact networks run over planes (y_hat, features), M + `given` channels, and what `lower_options` adds.
    """

    orders = ("quadtree",)
    residual = True

    def __init__(self, channels: int, given: int) -> None:
        self.channels, self.given = channels, given

    def order(self, name: str, height: int, width: int) -> Order:
        """See `EntropyModel`."""
        self.check_order(name)
        return kernels.quadtree(height, width, self.channels)

    def parameters(
        self, step: int, y_hat: Tensor, features: Features, memory: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `StepEntropy`."""
        scales, means = self.net(step, y_hat, features, memory).chunk(2, 1)
        return scales, means

    @abstractmethod
    def net(self, step: int, y_hat: Tensor, features: Features, memory: Tensor | None) -> Tensor:
        """(scales, means) of all channels, (B, 2M, H, W), in one of the steps 0 .. 3.

        The first must not depend on y_hat.
        """

    @abstractmethod
    def lower_net(self, step: int) -> Layer:
        """The exact twin of `net`, of the planes."""

    def lower_options(self) -> dict[str, Any]:
        """What else the exact model is made with: inputs, memory, layers before steps."""
        return {}

    def lower(self) -> kernels.StepModel:
        """See `EntropyModel`."""
        nets = [self.lower_net(step) for step in range(STEPS)]
        rule = quantization(self.residual)
        return kernels.StepModel(nets, self.channels, self.given, rule, **self.lower_options())


def trunk(m: int, reading: str = "B") -> nn.Sequential:
    """Three blocks from 3m channels to 2m: `DepthConvBlock2`, or in reading A `DepthConvBlock`."""
    if reading not in READINGS:
        raise ValueError(f"reading must be one of {', '.join(READINGS)}, not {reading!r}")
    block, second = (DepthConvBlock2, 2 * m) if reading == "B" else (DepthConvBlock, 3 * m)
    return nn.Sequential(*(block(i, o) for i, o in pairwise((3 * m, second, 2 * m, 2 * m))))


def step_adaptors(m: int, given: int, width: int, reading: str = "B") -> nn.ModuleList:
    """The 1x1 convolutions of the steps, from (y_hat, features) to `width` channels.

    The first takes the `given` features alone; reading A has none for it.
    """
    inputs = [given, *[m + given] * (STEPS - 1)]
    return nn.ModuleList(nn.Conv2d(i, width, 1) for i in inputs[reading == "A" :])


class TrunkEntropy(QuadtreeEntropy):
    """DCVC-DC's own networks: a 1x1 convolution of each step's own, then a trunk that the steps share.

    adaptors: one for each step, of (y_hat, features); the first of the features alone. Without a first one,
    the last 2M features are the first step's (scales, means) themselves. trunk: to (scales, means).
    """

    def __init__(self, channels: int, given: int, adaptors: Iterable[nn.Module], trunk: nn.Module) -> None:
        super().__init__(channels, given)
        own = list(adaptors)
        self.adaptors: list[nn.Module | None] = [*[None] * (STEPS - len(own)), *own]
        self.trunk = trunk

    def net(self, step: int, y_hat: Tensor, features: Features, memory: Tensor | None) -> Tensor:
        """See `QuadtreeEntropy`."""
        given, adaptor = features[self.plane], self.adaptors[step]
        if adaptor is None:
            return given[:, -2 * self.channels :]
        return self.trunk(adaptor(torch.cat([y_hat, given], 1) if step else given))

    def lower_net(self, step: int) -> Layer:
        """See `QuadtreeEntropy`."""
        m, adaptor = self.channels, self.adaptors[step]
        end = m + self.given
        if adaptor is None:
            return Slice(end - 2 * m, end)
        seen = Slice(0 if step else m, end)
        return kernels.Sequential([seen, lower(adaptor, f"adaptor {step}"), lower(self.trunk, "trunk")])


class SteppedTrunkEntropy(TrunkEntropy):
    """DCVC-DC's trunk over features that begin with quantization steps: (steps, scales, means).

    y is divided by its steps, LEAST_STEP or more, before it is coded, and y_hat multiplied with them.
    """

    least_step = LEAST_STEP

    def __init__(self, channels: int, adaptors: Iterable[nn.Module], trunk: nn.Module) -> None:
        super().__init__(channels, 3 * channels, adaptors, trunk)

    def forward(self, y: Tensor, features: Features, quantizer: Quantizer, order: str) -> Coded:
        """See `EntropyModel`."""
        steps = lower_bound(features[self.plane][:, : self.channels].float(), LEAST_STEP)
        coded = super().forward(y / steps, features, quantizer, order)
        means, scales = coded.means * steps, coded.scales * steps
        return Coded(coded.y_hat * steps, coded.bits, means, scales)
