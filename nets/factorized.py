"""Systems whose latent y has a prior and no other model: it is their only side information."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from .density import Prior
from .entropy_model import Features
from .system import ExactFeatures, Part, Side, System


class Factorized(System):
    """`g_a`, `g_s` and a prior of y, which a subclass makes."""

    g_a: nn.Module
    g_s: nn.Module
    entropy_bottleneck: Prior

    def sides(self) -> Mapping[str, Side]:
        return {"y": Side(self.entropy_bottleneck, 1)}

    def parts(self) -> Mapping[str, Part]:
        return {}

    def analysis(self, x: Tensor) -> Tensor:
        return self.g_a(x)

    def synthesis(self, y_hat: Tensor) -> Tensor:
        return self.g_s(y_hat)

    def hyper_analysis(self, y: Tensor) -> dict[str, Tensor]:
        return {"y": y}

    def features(self, sides: Mapping[str, Tensor]) -> Features:
        return {}

    def lower_features(self) -> dict[str, ExactFeatures]:
        return {}
