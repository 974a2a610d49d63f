"""Minnen 2018: the joint model of hyperprior and 5x5 context, and the mean-scale hyperprior.

Minnen, Ballé and Toderici, "Joint autoregressive and hierarchical priors for learned image
compression", NeurIPS 2018. Module names and layouts are CompressAI's `mbt2018` and `mbt2018-mean`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..context import SERIAL, ContextConv, ContextEntropy, check_choices
from ..density import FactorizedPrior
from ..entropy_model import ParallelEntropy
from ..hyper import hyper_analysis, hyper_synthesis, parameter_head
from ..hyperprior import Hyperprior
from ..system import Part
from ..transforms import analysis_transform, synthesis_transform


class MeanScaleHyperprior(Hyperprior):
    """The hyperprior alone, which gives scales and means: `n` channels in the transforms, `m` in y."""

    def __init__(self, n: int = 192, m: int = 320, **config: Any) -> None:
        super().__init__(m, n=n, m=m, **config)
        self.n = n
        self.g_a = analysis_transform(n, m)
        self.g_s = synthesis_transform(n, m)
        self.h_a = hyper_analysis(n, m)
        self.h_s = hyper_synthesis(n, m)
        self.entropy_bottleneck = FactorizedPrior(n)

    def parts(self) -> Mapping[str, Part]:
        return {"y": Part(ParallelEntropy(self.m), 0, self.m)}


class Minnen2018(MeanScaleHyperprior):
    """The joint model.

    rounding: "integer", of which the latent does not depend on the coding order and an encoder knows all
    distributions after one pass, or "residual", as CompressAI codes. orders: the coding orders that the
    context's weights are meant for, the first by default.
    """

    def __init__(
        self,
        n: int = 192,
        m: int = 192,
        rounding: str = "integer",
        orders: tuple[str, ...] = SERIAL,
        parity: str = "odd",
    ) -> None:
        check_choices(rounding, orders, parity)
        super().__init__(n, m, rounding=rounding, orders=tuple(orders), parity=parity)
        self.context_prediction = ContextConv(m)
        self.entropy_parameters = parameter_head(m)

    def parts(self) -> Mapping[str, Part]:
        model = ContextEntropy(
            self.context_prediction,
            self.entropy_parameters,
            self.config["orders"],
            residual=self.config["rounding"] == "residual",
            parity=self.config["parity"],
        )
        return {"y": Part(model, 0, self.m)}
