"""Informer: the joint model of Minnen 2018 with local and global hyper latents in place of its own.

Kim, Heo and Lee, "Joint global and local hierarchical priors for learned image compression", CVPR 2022.
Module names and layouts are those of the published code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels import Concat, Input, Layer, Sequential, Slice
from ...kernels.layers import set_fields
from ..blocks import CABlock, lower_attention
from ..context import SERIAL, ContextConv, ContextEntropy
from ..density import FactorizedPrior
from ..entropy_model import Features
from ..global_tokens import PAIRS, as_position, as_tokens, ask, exact_pairs
from ..hyper import parameter_head
from ..lowering import lower
from ..quantizer import ROUNDINGS
from ..system import ExactFeatures, Part, Side, System
from ..transforms import analysis_transform, synthesis_transform


class InformerEntropy(ContextEntropy):
    """The context model whose context features attend to global tokens before the head reads them.

    There are only a few tokens, so each position is still by itself: their keys and values are an input.
    """

    inputs = (PAIRS,)

    def __init__(self, context: ContextConv, attention: CABlock, head: nn.Module, **options: Any) -> None:
        """options: of `ContextEntropy`."""
        super().__init__(context, head, **options)
        self.attention = attention

    def refine(self, context: Tensor, features: Features) -> Tensor:
        """See `ContextEntropy`."""
        return self.attention.attend(context, features[PAIRS])

    def lower_head(self) -> Layer:
        """See `ContextEntropy`."""
        depth = self.context.out_channels
        heard = Sequential([Slice(depth, 2 * depth), lower_attention(self.attention, Input(PAIRS), "ca_s")])
        layer = Sequential([Concat([Slice(0, depth), heard]), super().lower_head()])
        # Slices don't say of how many channels they are.
        set_fields(layer, inputs=2 * depth)
        return layer

    def lower_inputs(self) -> dict[str, Any]:
        """See `ContextEntropy`."""
        return {"inputs": {PAIRS: 2 * self.context.out_channels}}


class Informer2022(System):
    """Informer: `n` channels in the transforms, `m` in y, `num_global` tokens, heads of `head_dim` channels.

    The local hyper latent has a position for each of y's and m / 16 channels; the global one consists of
    `num_global` tokens of m / num_global values, coded as one position of m channels. rounding: "residual",
    as the published code codes, or "integer". Raises ValueError if m isn't a multiple of what divides it.
    """

    def __init__(
        self,
        n: int = 192,
        m: int = 192,
        num_global: int = 8,
        head_dim: int = 64,
        rounding: str = "residual",
        orders: tuple[str, ...] = SERIAL,
    ) -> None:
        if min(num_global, head_dim) < 1 or m % 16 or m % num_global or m % head_dim:
            raise ValueError(
                f"m = {m} must be a multiple of 16, of {num_global} tokens and of {head_dim} channels"
            )
        if rounding not in ROUNDINGS:
            raise ValueError(f"rounding must be of {', '.join(ROUNDINGS)}, not {rounding}")
        if not orders or set(orders) - set(SERIAL):
            raise ValueError(f"orders must be of {', '.join(SERIAL)}, not {', '.join(orders) or 'none'}")
        sizes = {"n": n, "m": m, "num_global": num_global, "head_dim": head_dim}
        super().__init__(**sizes, rounding=rounding, orders=tuple(orders))
        self.m, self.num_global = m, num_global
        self.g_a = analysis_transform(n, m)
        self.g_s = synthesis_transform(n, m)
        self.local_h_a = nn.Sequential(nn.Conv2d(m, m // 4, 1), nn.LeakyReLU(), nn.Conv2d(m // 4, m // 16, 1))
        self.local_h_s = nn.Sequential(
            nn.Conv2d(m // 16, m // 2, 1), nn.LeakyReLU(), nn.Conv2d(m // 2, 2 * m, 1)
        )
        self.local_entropy_bottleneck = FactorizedPrior(m // 16)
        self.global_tokens = nn.Parameter(torch.randn(num_global, m))
        self.ca_a = CABlock(m, m // head_dim)
        self.global_h_a = nn.Linear(m, m // num_global)
        self.global_h_s = nn.Linear(m // num_global, 2 * m)
        self.global_entropy_bottleneck = FactorizedPrior(m)
        self.context_prediction = ContextConv(m)
        self.ca_s = CABlock(2 * m, 2 * m // head_dim)
        self.entropy_parameters = parameter_head(m)

    def sides(self) -> Mapping[str, Side]:
        return {
            "z_l": Side(self.local_entropy_bottleneck, stride=1),
            "z_g": Side(self.global_entropy_bottleneck, stride=None),
        }

    def parts(self) -> Mapping[str, Part]:
        model = InformerEntropy(
            self.context_prediction,
            self.ca_s,
            self.entropy_parameters,
            orders=self.config["orders"],
            residual=self.config["rounding"] == "residual",
        )
        return {"y": Part(model, 0, self.m)}

    def analysis(self, x: Tensor) -> Tensor:
        return self.g_a(x)

    def synthesis(self, y_hat: Tensor) -> Tensor:
        return self.g_s(y_hat)

    def hyper_analysis(self, y: Tensor) -> dict[str, Tensor]:
        tokens = self.global_h_a(ask(self.global_tokens, self.ca_a, y))
        return {"z_l": self.local_h_a(y), "z_g": as_position(tokens)}

    def features(self, sides: Mapping[str, Tensor]) -> Features:
        tokens = self.global_h_s(as_tokens(sides["z_g"], self.num_global))
        return {"features": self.local_h_s(sides["z_l"]), PAIRS: self.ca_s.pairs(tokens)}

    def lower_features(self) -> dict[str, ExactFeatures]:
        return {
            "features": ExactFeatures(lower(self.local_h_s, "local_h_s"), ("z_l",)),
            PAIRS: exact_pairs(self.global_h_s, self.ca_s, "z_g", self.num_global),
        }
