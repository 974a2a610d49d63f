"""Ballé 2017: GDN transforms and a factorized prior, as published and as CompressAI lays them out.

Ballé, Laparra and Simoncelli, "End-to-end optimized image compression", ICLR 2017. In place of its piecewise
linear densities the prior is that of Ballé et al., "Variational image compression with a scale hyperprior",
ICLR 2018, appendix 6.1, as in TensorFlow Compression's `bls2017`, of whose widths `Balle2017` is.
"""

from __future__ import annotations

from torch import nn

from ..density import FactorizedPrior
from ..factorized import Factorized
from ..transforms import GDN, analysis_transform, conv, deconv, synthesis_transform


class Balle2017(Factorized):
    """The published transforms: three layers each, the outer ones 9x9 with stride 4, all of `n` channels."""

    def __init__(self, n: int = 128) -> None:
        super().__init__(n=n)
        self.m = n
        self.g_a = nn.Sequential(
            nn.Conv2d(3, n, 9, 4, 4),
            GDN(n),
            conv(n, n),
            GDN(n),
            nn.Conv2d(n, n, 5, 2, 2, bias=False),
        )
        self.g_s = nn.Sequential(
            deconv(n, n),
            GDN(n, inverse=True),
            deconv(n, n),
            GDN(n, inverse=True),
            nn.ConvTranspose2d(n, 3, 9, 4, 4, output_padding=3),
        )
        self.entropy_bottleneck = FactorizedPrior(n)


ACTIVATIONS = ("gdn", "relu")


class Balle2018Factorized(Factorized):
    """CompressAI's `bmshj2018-factorized`: four 5x5 layers of stride 2, `n` channels inside, `m` in y.

    activation: "gdn", or "relu" in its place, which is CompressAI's `bmshj2018-factorized-relu`.
    """

    def __init__(self, n: int = 128, m: int = 192, activation: str = "gdn") -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
        super().__init__(n=n, m=m, activation=activation)
        self.m = m
        g_a, g_s = analysis_transform(n, m), synthesis_transform(n, m)
        if activation == "relu":
            g_a, g_s = (
                nn.Sequential(*(nn.ReLU() if isinstance(layer, GDN) else layer for layer in layers))
                for layers in (g_a, g_s)
            )
        self.g_a, self.g_s = g_a, g_s
        self.entropy_bottleneck = FactorizedPrior(m)
