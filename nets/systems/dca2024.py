"""DCA: a quadtree under local, regional and global hyper latents, each used at every step.

Kim, Kim, Lee and Oh, "Diversify, contextualize, and adapt: Efficient entropy modeling for neural image
codec", NeurIPS 2024. No code of it is known. Modules are named as the paper's functions; where it is silent
about widths, they are those with which all parts add up to its 37.89 million parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import lcm
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ...kernels import Concat, CrossAttention, Input, Layer, Linear, Sequential, Slice
from ..blocks import CABlock
from ..contextualize import GLOBAL, LOCAL, REGIONAL, ContextualEntropy, Contextualizer, TokenStage
from ..density import FactorizedPrior, Prior
from ..elic_transforms import elic_sm_analysis, elic_sm_synthesis
from ..entropy_model import Features
from ..global_tokens import PAIRS, as_position, as_tokens, ask, exact_pairs
from ..hyper import hyper_analysis, hyper_synthesis
from ..lowering import lower
from ..swin import PatchMerge, PatchSplit, SwinBlock
from ..swin_hyper import swin_hyper_analysis, swin_hyper_synthesis
from ..system import ExactFeatures, Part, Side, System

LARGE_REGIONAL = 192 + 16 * 10
"""Channels of z_r that alone are as many values as z_r and z_l of DCA's are together: for the "large R"."""


class GlobalAnalysis(nn.Module):
    """g_a: y (B, m, H, W) to z_g (B, m, 1, 1), by `count` tokens that attend to y (Informer's)."""

    def __init__(self, m: int, count: int, head_dim: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(count, m))
        self.block = CABlock(m, m // head_dim)
        self.linear = nn.Linear(m, m // count)

    def forward(self, y: Tensor) -> Tensor:
        return as_position(self.linear(ask(self.tokens, self.block, y)))


class PooledAnalysis(nn.Module):
    """g_a without attention: y (B, m, H, W) to z_g (B, m, 1, 1), the mean of a 1x1 convolution."""

    def __init__(self, m: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(m, m, 1)

    def forward(self, y: Tensor) -> Tensor:
        return self.conv(y).mean((2, 3), keepdim=True)


def local_transform(inputs: int, inner: int, outputs: int, head_dim: int) -> nn.Sequential:
    """l_a and l_s: each position's channels as 2x2 positions, one Swin block of that window, and back."""
    swin = SwinBlock(inner, inner // head_dim, 2)
    return nn.Sequential(PatchSplit(inputs, inner), swin, PatchMerge(inner, outputs))


def pointwise_transform(inputs: int, inner: int, outputs: int) -> nn.Sequential:
    """Informer's local hyper-transforms, which stand for `local_transform` without attention."""
    return nn.Sequential(nn.Conv2d(inputs, inner, 1), nn.LeakyReLU(), nn.Conv2d(inner, outputs, 1))


class DCA2024(System):
    """DCA: `n` channels in ELIC-sm's transforms, `m` in y, `c_r` in z_r, `c_l` in z_l, `count` tokens.

    The regional hyper-transforms are Zhu 2022's, of `hyper` channels inside; the global ones are Informer's.
    The local ones split first and merge last by Zhu's blocks, of widths `local` inside: in the paper's own
    order of their layers there can't be 10 channels, which isn't a multiple of 4. How contexts are used, and
    what the options mean, says `Contextualizer`.

    For the ablations of section 4.2: `contexts` are the letters of those that there are, in the order in
    which they are used; "large R" is contexts "R" with c_r = LARGE_REGIONAL; `step_adaptive`; `backward` and
    `forward_net`, each "cnn" or "attention"; `backward_tokens`. With forward_net "cnn" the regional
    hyper-transforms are Minnen 2018's, the local ones Informer's, and z_g is a mean over the image, of which
    all positions get the same features: the paper doesn't say what its own are. Heads have `head_dim`
    channels in cross-attention, `swin_head_dim` in regional and backward Swin blocks, and `local_head_dim` in
    local ones.
    """

    def __init__(
        self,
        n: int = 192,
        m: int = 320,
        c_r: int = 192,
        c_l: int = 10,
        count: int = 8,
        contexts: str = "RGL",
        step_adaptive: bool = True,
        backward: str = "cnn",
        forward_net: str = "attention",
        backward_tokens: int = 0,
        reading: str = "B",
        hyper: int = 192,
        local: tuple[int, int] = (40, 80),
        head_dim: int = 64,
        swin_head_dim: int = 32,
        local_head_dim: int = 40,
    ) -> None:
        if forward_net not in ("cnn", "attention"):
            raise ValueError(f'forward_net must be "cnn" or "attention", not {forward_net!r}')
        attention = forward_net == "attention"
        tokens = attention and GLOBAL in contexts
        shared: list[tuple[str, int, tuple[int, ...]]] = [("m", m, (4,))]
        if tokens:
            shared.append(("m", m, (count,)))
        if tokens or backward_tokens:
            shared.append(("m", m, (head_dim,)))
        if backward == "attention":
            shared.append(("2m", 2 * m, (swin_head_dim,)))
        if attention and REGIONAL in contexts:
            shared += [("c_r", c_r, (swin_head_dim,)), ("hyper", hyper, (swin_head_dim,))]
        if attention and LOCAL in contexts:
            shared += [("local", width, (local_head_dim,)) for width in local]
        for name, size, divisors in shared:
            if min(size, *divisors) < 1 or size % lcm(*divisors):
                raise ValueError(f"{name} = {size} must be a multiple of {', '.join(map(str, divisors))}")
        sizes: dict[str, Any] = {"n": n, "m": m, "c_r": c_r, "c_l": c_l, "count": count}
        dims = {"head_dim": head_dim, "swin_head_dim": swin_head_dim, "local_head_dim": local_head_dim}
        nets = {"backward": backward, "forward_net": forward_net, "backward_tokens": backward_tokens}
        use = {"contexts": contexts, "step_adaptive": step_adaptive, "reading": reading}
        super().__init__(**sizes, **use, **nets, hyper=hyper, local=tuple(local), **dims)
        self.m, self.count, self.contexts, self.attention = m, count, contexts, attention
        self.f_a, self.f_s = elic_sm_analysis(n, m), elic_sm_synthesis(n, m)
        self.priors = nn.ModuleDict()
        if REGIONAL in contexts:
            self.priors["z_r"] = FactorizedPrior(c_r)
            if attention:
                self.multiple = 256
                self.r_a = swin_hyper_analysis(m, hyper, c_r, head_dim=swin_head_dim)
                self.r_s = swin_hyper_synthesis(m, hyper, c_r, head_dim=swin_head_dim)
            else:
                self.r_a, self.r_s = hyper_analysis(c_r, m), hyper_synthesis(c_r, m)
        if LOCAL in contexts:
            self.priors["z_l"] = FactorizedPrior(c_l)
            if attention:
                self.l_a = local_transform(m, local[0], c_l, local_head_dim)
                self.l_s = local_transform(c_l, local[1], 2 * m, local_head_dim)
            else:
                self.l_a = pointwise_transform(m, m // 4, c_l)
                self.l_s = pointwise_transform(c_l, m // 2, 2 * m)
        if GLOBAL in contexts:
            self.priors["z_g"] = FactorizedPrior(m)
            self.g_a = GlobalAnalysis(m, count, head_dim) if attention else PooledAnalysis(m)
            self.g_s = nn.Linear(m // count if attention else m, 2 * m)
        self.c = Contextualizer(
            m,
            contexts,
            step_adaptive=step_adaptive,
            backward=backward,
            global_plane=not attention,
            backward_tokens=backward_tokens,
            reading=reading,
            head_dim=head_dim,
            swin_head_dim=swin_head_dim,
        )

    def sides(self) -> Mapping[str, Side]:
        strides = {"z_r": 4, "z_l": 1, "z_g": None}
        return {name: Side(cast(Prior, prior), strides[name]) for name, prior in self.priors.items()}

    def parts(self) -> Mapping[str, Part]:
        return {"y": Part(ContextualEntropy(self.c), 0, self.m)}

    def analysis(self, x: Tensor) -> Tensor:
        return self.f_a(x)

    def synthesis(self, y_hat: Tensor) -> Tensor:
        return self.f_s(y_hat)

    def hyper_analysis(self, y: Tensor) -> dict[str, Tensor]:
        analyses = {"z_r": "r_a", "z_l": "l_a", "z_g": "g_a"}
        return {name: getattr(self, analyses[name])(y) for name in self.priors}

    def features(self, sides: Mapping[str, Tensor]) -> Features:
        planes = [self.r_s(sides["z_r"])] if REGIONAL in self.contexts else []
        planes += [self.l_s(sides["z_l"])] if LOCAL in self.contexts else []
        features = {}
        if self.c.tokens:
            tokens = self.g_s(as_tokens(sides["z_g"], self.count))
            features[PAIRS] = self._token_block.pairs(tokens)
        elif GLOBAL in self.contexts:
            everywhere = self.g_s(sides["z_g"].flatten(1))[:, :, None, None]
            planes.append(everywhere.expand(-1, -1, *planes[0].shape[2:]))
        return {"features": torch.cat(planes, 1), **features}

    def lower_features(self) -> dict[str, ExactFeatures]:
        named = [("z_r", "r_s", REGIONAL), ("z_l", "l_s", LOCAL)]
        sides = [
            (side, lower(getattr(self, name), name))
            for side, name, letter in named
            if letter in self.contexts
        ]
        (_, layer), *others = sides
        reads = [side for side, _ in sides]
        layer = Concat([layer, *(Sequential([Input(side), other]) for side, other in others)])
        features = {}
        if self.c.tokens:
            features[PAIRS] = exact_pairs(self.g_s, self._token_block, "z_g", self.count)
        elif GLOBAL in self.contexts:
            layer = Sequential([layer, Concat([Sequential(), _everywhere("z_g", lower(self.g_s, "g_s"))])])
            reads.append("z_g")
        return {"features": ExactFeatures(layer, tuple(reads)), **features}

    @property
    def _token_block(self) -> CABlock:
        stage = self.c.stages[GLOBAL]
        assert isinstance(stage, TokenStage)
        return stage.block


def _everywhere(side: str, layer: Layer) -> Layer:
    """What a linear layer gives for the single position of `side`, at all positions of x.

    It is attention to a single key, whose weight is exactly 1.
    """
    assert isinstance(layer, Linear)
    nothing, weight = np.zeros_like(layer.weight), layer.weight
    assert layer.bias is not None
    values = Linear(
        np.concatenate([nothing, weight]), np.concatenate([np.zeros_like(layer.bias), layer.bias])
    )
    query = Sequential([Slice(0, 1), Linear(np.zeros((len(weight), 1), np.float32))])
    return CrossAttention(query, Sequential([Input(side), values]), Sequential(), 1)
