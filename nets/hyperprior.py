"""Systems with one kind of side information, z: transforms and hyper-transforms under CompressAI's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .density import Prior
from .entropy_model import Features
from .lowering import lower
from .system import ExactFeatures, Side, System


class Hyperprior(System):
    """`g_a`, `g_s`, `h_a`, `h_s` and a prior of z: all that such a system consists of but the model of y.

    A subclass makes the modules, and says what `parts` are.
    """

    g_a: nn.Module
    g_s: nn.Module
    h_a: nn.Module
    h_s: nn.Module
    entropy_bottleneck: Prior

    def __init__(self, m: int, /, **config: Any) -> None:
        """m: channels of y; config: the constructor's arguments."""
        super().__init__(**config)
        self.m = m

    def sides(self) -> Mapping[str, Side]:
        return {"z": Side(self.entropy_bottleneck)}

    def analysis(self, x: Tensor) -> Tensor:
        return self.g_a(x)

    def synthesis(self, y_hat: Tensor) -> Tensor:
        return self.g_s(y_hat)

    def hyper_analysis(self, y: Tensor) -> dict[str, Tensor]:
        return {"z": self.h_a(y)}

    def features(self, sides: Mapping[str, Tensor]) -> Features:
        return {"features": self.h_s(sides["z"])}

    def lower_features(self) -> dict[str, ExactFeatures]:
        return {"features": ExactFeatures(lower(self.h_s, "h_s"))}
