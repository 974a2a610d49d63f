"""Ballé 2018: the scale hyperprior, of whose latent side information gives the scales and zero is the mean.

Ballé, Minnen, Singh, Hwang and Johnston, "Variational image compression with a scale hyperprior", ICLR 2018.
Module names and layout are CompressAI's `bmshj2018-hyperprior`.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ..density import FactorizedPrior
from ..entropy_model import ParallelEntropy
from ..hyper import scale_hyper_analysis, scale_hyper_synthesis
from ..hyperprior import Hyperprior
from ..system import Part
from ..transforms import analysis_transform, synthesis_transform


class ScaleHyperprior(Hyperprior):
    """`n` channels in the transforms, `m` in y; h_a reads |y|, and a ReLU ends h_s."""

    def __init__(self, n: int = 128, m: int = 192) -> None:
        super().__init__(m, n=n, m=m)
        self.g_a, self.g_s = analysis_transform(n, m), synthesis_transform(n, m)
        self.h_a, self.h_s = scale_hyper_analysis(n, m), scale_hyper_synthesis(n, m, nn.ReLU())
        self.entropy_bottleneck = FactorizedPrior(n)

    def parts(self) -> Mapping[str, Part]:
        # About means of zero, residuals are the integers themselves, and need a row for each scale only.
        return {"y": Part(ParallelEntropy(self.m, residual=True, zero_mean=True), 0, self.m)}

    def hyper_analysis(self, y: Tensor) -> dict[str, Tensor]:
        return {"z": self.h_a(y.abs())}
