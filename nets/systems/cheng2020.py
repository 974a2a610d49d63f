"""Cheng 2020: residual blocks, attention, a serial 5x5 context, and mixtures of three Gaussians.

Cheng, Sun, Takeuchi and Katto, "Learned image compression with discretized Gaussian mixture likelihoods and
attention modules", CVPR 2020. Transforms have the layout and names of CompressAI's `cheng2020-anchor` and
`cheng2020-attn`, which differ from the authors' (`residual`; and theirs of h_s upsample by transposed
convolutions). Those two code single Gaussians; the mixtures and their head are the authors'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..blocks import subpixel_conv
from ..context import SERIAL, ContextConv, ContextEntropy, check_choices
from ..density import FactorizedPrior
from ..hyper import parameter_head
from ..hyperprior import Hyperprior
from ..residual import AttentionBlock, ResidualBlock, ResidualBlockUpsample, ResidualBlockWithStride
from ..system import Part
from ..transforms import conv

PUBLISHED_COMPONENTS, PUBLISHED_HIDDEN = 3, 640


def hyper_analysis(n: int) -> nn.Sequential:
    """h_a: y (B, n, H, W) to z (B, n, H/4, W/4)."""
    layers: list[nn.Module] = [conv(n, n, 3, 1)]
    for stride in (1, 2, 1, 2):
        layers += [nn.LeakyReLU(), conv(n, n, 3, stride)]
    return nn.Sequential(*layers)


def hyper_synthesis(n: int) -> nn.Sequential:
    """h_s: z_hat (B, n, H/4, W/4) to features (B, 2n, H, W)."""
    wide = n * 3 // 2
    return nn.Sequential(
        conv(n, n, 3, 1),
        nn.LeakyReLU(),
        subpixel_conv(n, n),
        nn.LeakyReLU(),
        conv(n, wide, 3, 1),
        nn.LeakyReLU(),
        subpixel_conv(wide, wide),
        nn.LeakyReLU(),
        conv(wide, 2 * n, 3, 1),
    )


def mixture_head(n: int, hidden: int, components: int) -> nn.Sequential:
    """The head of a position: (B, 4n, H, W), context and features, to (logits, means, scales) K times."""
    return nn.Sequential(
        nn.Conv2d(4 * n, hidden, 1),
        nn.LeakyReLU(),
        nn.Conv2d(hidden, hidden, 1),
        nn.LeakyReLU(),
        nn.Conv2d(hidden, 3 * n * components, 1, bias=False),
    )


class Cheng2020Anchor(Hyperprior):
    """Without attention: `n` channels everywhere, y included.

    components: None for single Gaussians, whose head takes (features, context) and has CompressAI's widths; K
    for mixtures, whose head takes (context, features), has `hidden` channels inside and no bias at its end.
    rounding: "integer" or, of single Gaussians alone, "residual". orders, parity: as `Minnen2018`. Raises
    ValueError for what isn't known, and for `hidden` without mixtures.
    """

    reach = 7

    def __init__(
        self,
        n: int = 128,
        components: int | None = None,
        rounding: str = "residual",
        orders: tuple[str, ...] = SERIAL,
        parity: str = "odd",
        hidden: int = PUBLISHED_HIDDEN,
    ) -> None:
        check_choices(rounding, orders, parity)
        if components is not None and (components < 1 or rounding == "residual"):
            raise ValueError(
                f"{components} components with {rounding!r} rounding: a mixture has at least one, and "
                "no mean to round about"
            )
        if components is None and hidden != PUBLISHED_HIDDEN:
            raise ValueError(f"hidden = {hidden}: of a mixture's head alone, and components is None")
        config: dict[str, Any] = {"n": n, "components": components, "rounding": rounding}
        super().__init__(n, **config, orders=tuple(orders), parity=parity, hidden=hidden)
        self.g_a = nn.Sequential(*self.analysis_layers(n))
        self.g_s = nn.Sequential(*self.synthesis_layers(n))
        self.h_a, self.h_s = hyper_analysis(n), hyper_synthesis(n)
        self.entropy_bottleneck = FactorizedPrior(n)
        self.context_prediction = ContextConv(n)
        if components is None:
            self.entropy_parameters = parameter_head(n)
        else:
            self.entropy_parameters = mixture_head(n, hidden, components)

    def analysis_layers(self, n: int) -> list[nn.Module]:
        """Those of g_a."""
        return [
            ResidualBlockWithStride(3, n),
            ResidualBlock(n, n),
            ResidualBlockWithStride(n, n),
            ResidualBlock(n, n),
            ResidualBlockWithStride(n, n),
            ResidualBlock(n, n),
            conv(n, n, 3, 2),
        ]

    def synthesis_layers(self, n: int) -> list[nn.Module]:
        """Those of g_s."""
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [ResidualBlock(n, n), ResidualBlockUpsample(n, n)]
        return [*layers, ResidualBlock(n, n), subpixel_conv(n, 3)]

    def parts(self) -> Mapping[str, Part]:
        components = self.config["components"]
        model = ContextEntropy(
            self.context_prediction,
            self.entropy_parameters,
            self.config["orders"],
            residual=self.config["rounding"] == "residual",
            parity=self.config["parity"],
            context_first=components is not None,
            components=components,
        )
        return {"y": Part(model, 0, self.m)}


class Cheng2020(Cheng2020Anchor):
    """The whole system: attention at 1/4 and 1/16 of the resolution, and, by default, mixtures of three."""

    reach = 11

    def __init__(
        self,
        n: int = 128,
        components: int | None = PUBLISHED_COMPONENTS,
        rounding: str = "integer",
        orders: tuple[str, ...] = SERIAL,
        parity: str = "odd",
        hidden: int = PUBLISHED_HIDDEN,
    ) -> None:
        super().__init__(n, components, rounding, orders, parity, hidden)

    def analysis_layers(self, n: int) -> list[nn.Module]:
        """See `Cheng2020Anchor`."""
        layers = super().analysis_layers(n)
        return [*layers[:3], AttentionBlock(n), *layers[3:], AttentionBlock(n)]

    def synthesis_layers(self, n: int) -> list[nn.Module]:
        """See `Cheng2020Anchor`."""
        layers = super().synthesis_layers(n)
        return [AttentionBlock(n), *layers[:4], AttentionBlock(n), *layers[4:]]
