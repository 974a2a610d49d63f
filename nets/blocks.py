"""Blocks of the literature's entropy models, as torch modules on (B, C, H, W), with their lowering.

Module names are those of the published codes, so that their weights load; each class names its source.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import layers
from ..kernels.blocks import Concat, CrossAttention, Input, Multiply, Residual, Sequential, Slice
from ..kernels.layers import Layer
from .lowering import lower_part, lowers

TOKENS = "tokens"
"""Name of a lowered `CABlock`'s other input: (N, 1, K, C) tokens."""


def subpixel_conv(inputs: int, outputs: int, factor: int = 2, kernel: int = 3) -> nn.Sequential:
    """(B, inputs, H, W) to (B, outputs, factor * H, factor * W): a convolution, then a pixel shuffle."""
    conv = nn.Conv2d(inputs, outputs * factor**2, kernel, padding=kernel // 2)
    return nn.Sequential(conv, nn.PixelShuffle(factor))


class ResidualBottleneck(nn.Module):
    """x + 1x1, ReLU, 3x3, ReLU, 1x1 at half the channels (He et al., ELIC, CVPR 2022)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(channels, half, 1)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1)
        self.conv3 = nn.Conv2d(half, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))


@lowers(ResidualBottleneck, 1)
def _(module: ResidualBottleneck, path: str) -> Layer:
    convs = [lower_part(module, path, name) for name in ("conv1", "conv2", "conv3")]
    return Residual(Sequential([convs[0], layers.ReLU(), convs[1], layers.ReLU(), convs[2]]))


class DepthConv(nn.Module):
    """1x1, LeakyReLU, depthwise 3x3, 1x1, + x or a 1x1 of it (Li et al., DCVC-DC, CVPR 2023)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(inputs, inputs, 1), nn.LeakyReLU())
        self.depth_conv = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs)
        self.conv2 = nn.Conv2d(inputs, outputs, 1)
        self.adaptor = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.depth_conv(self.conv1(x))) + self.adaptor(x)


@lowers(DepthConv, 1)
def _(module: DepthConv, path: str) -> Layer:
    names = ("conv1", "depth_conv", "conv2")
    body = Sequential([lower_part(module, path, name) for name in names])
    return Residual(body, lower_part(module, path, "adaptor"))


class ConvFFN(nn.Module):
    """x + 1x1, LeakyReLU(0.1), 1x1, LeakyReLU(0.1) (DCVC-DC)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(min(4 * channels, 1024), 2 * channels)
        self.conv = nn.Sequential(
            nn.Conv2d(channels, inner, 1), nn.LeakyReLU(0.1), nn.Conv2d(inner, channels, 1), nn.LeakyReLU(0.1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


@lowers(ConvFFN, 1)
def _(module: ConvFFN, path: str) -> Layer:
    return Residual(lower_part(module, path, "conv"))


class ConvFFN2(nn.Module):
    """x + 1x1 of a * LeakyReLU(0.1)(b), with (a, b) a 1x1 of x to 4 times the channels (DCVC-DC)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 1)
        self.conv_out = nn.Conv2d(2 * channels, channels, 1)
        self.relu = nn.LeakyReLU(0.1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.conv(x).chunk(2, 1)
        return x + self.conv_out(a * self.relu(b))


@lowers(ConvFFN2, 1)
def _(module: ConvFFN2, path: str) -> Layer:
    conv, out, relu = (lower_part(module, path, name) for name in ("conv", "conv_out", "relu"))
    wide = 2 * module.conv_out.out_channels
    gate = Multiply(Slice(0, wide), Sequential([Slice(wide, 2 * wide), relu]))
    return Residual(Sequential([conv, gate, out]))


class _Pair(nn.Module):
    """Two blocks in a row, under the names of the published code."""

    block: nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class DepthConvBlock(_Pair):
    """DepthConv and ConvFFN (DCVC-DC)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.block = nn.Sequential(DepthConv(inputs, outputs), ConvFFN(outputs))


class DepthConvBlock2(_Pair):
    """DepthConv and ConvFFN2 (DCVC-DC)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.block = nn.Sequential(DepthConv(inputs, outputs), ConvFFN2(outputs))


@lowers(DepthConvBlock, 1)
@lowers(DepthConvBlock2, 1)
def _(module: DepthConvBlock | DepthConvBlock2, path: str) -> Layer:
    return lower_part(module, path, "block")


class Mlp(nn.Module):
    """Linear to `ratio` times the channels, GELU, and back, on (B, ..., C)."""

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, ratio * channels)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(ratio * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


@lowers(Mlp, -1)
def _(module: Mlp, path: str) -> Layer:
    return Sequential([lower_part(module, path, name) for name in ("fc1", "act", "fc2")])


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, added: Tensor | None = None) -> Tensor:
    """Attention of (B, n, C) queries to (B, m, C) keys; `added` (B, heads, n, m) joins the scores."""
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
    if added is not None:
        scores = scores + added
    return (scores.softmax(3) @ v).transpose(1, 2).flatten(2)


class TokenAttention(nn.Module):
    """Attention of x (B, n, C) to keys and values (B, K, 2C) of tokens, with projections (Informer)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, pairs: Tensor) -> Tensor:
        keys, values = pairs.chunk(2, 2)
        return self.proj(attend(self.q(x), keys, values, self.heads))


class CABlock(nn.Module):
    """Cross-attention of all positions to a few tokens, then an MLP, both residual and with LayerNorm first.

    Source: Kim et al., "Joint global and local hierarchical priors for learned image compression" (Informer),
    CVPR 2022. Lowered, the tokens are the input `TOKENS`; `lower_attention` reads keys and values instead,
    which are the same at all positions and in all steps, so that they need be computed only once.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm_q = nn.LayerNorm(channels)
        self.norm_kv = nn.LayerNorm(channels)
        self.cross_attn = TokenAttention(channels, heads)
        self.norm_mlp = nn.LayerNorm(channels)
        self.mlp = Mlp(channels)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """x (B, C, H, W), tokens (B, K, C) to (B, C, H, W)."""
        return self.attend(x, self.pairs(tokens))

    def pairs(self, tokens: Tensor) -> Tensor:
        """(B, K, 2C): keys, then values, of tokens (B, K, C)."""
        return self.cross_attn.kv(self.norm_kv(tokens))

    def attend(self, x: Tensor, pairs: Tensor) -> Tensor:
        """`forward`, with the tokens' keys and values (B, K, 2C)."""
        y = x.flatten(2).transpose(1, 2)
        y = y + self.cross_attn(self.norm_q(y), pairs)
        y = y + self.mlp(self.norm_mlp(y))
        return y.transpose(1, 2).unflatten(2, x.shape[2:])


def lower_pairs(module: CABlock, path: str = "") -> Layer:
    """`CABlock.pairs`, from tokens (1, K, C) to (1, K, 2C)."""
    return Sequential([lower_part(module, path, name) for name in ("norm_kv", "cross_attn.kv")])


def lower_attention(module: CABlock, pairs: Layer, path: str = "", asking: Layer | None = None) -> Layer:
    """`CABlock.attend`, to the keys and values that `pairs` gives: an `Input`, most often.

    asking: gives what attends, of what the layer and `pairs` are given; None: that itself.
    """
    names = ("norm_q", "cross_attn.q", "cross_attn.proj", "norm_mlp", "mlp")
    norm_q, query, proj, norm_mlp, mlp = (lower_part(module, path, name) for name in names)
    asking = Sequential() if asking is None else asking
    heard = CrossAttention(Sequential([asking, norm_q, query]), pairs, proj, module.cross_attn.heads)
    return Sequential([Residual(heard, asking), Residual(Sequential([norm_mlp, mlp]))])


@lowers(CABlock, 1)
def _(module: CABlock, path: str) -> Layer:
    return lower_attention(module, Sequential([Input(TOKENS), lower_pairs(module, path)]), path)


class WindowEstimator(nn.Module):
    """Lee 2019's f: both contexts' windows (B, 2m, 4, 4) to (mean, scale) of one position, (B, 2m, 1, 1).

    Three 3x3 convolutions with LeakyReLU, the last two with stride 2, a 1x1 convolution, exp of the scales.
    Source: Lee et al., "Context-adaptive entropy model for end-to-end optimized image compression", ICLR
    2019. The paper's text doesn't give the layers: this is a reading of its figure.
    """

    def __init__(self, m: int) -> None:
        super().__init__()
        self.m = m
        self.layers = nn.Sequential(
            nn.Conv2d(2 * m, m, 3, padding=1),
            nn.LeakyReLU(),
            nn.Conv2d(m, m, 3, 2, 1),
            nn.LeakyReLU(),
            nn.Conv2d(m, m, 3, 2, 1),
            nn.LeakyReLU(),
            nn.Conv2d(m, 2 * m, 1),
        )

    def forward(self, windows: Tensor) -> Tensor:
        mean, log_scale = self.layers(windows).chunk(2, 1)
        return torch.cat([mean, log_scale.exp()], 1)


@lowers(WindowEstimator, 1)
def _(module: WindowEstimator, path: str) -> Layer:
    m = module.m
    ends = Concat([Slice(0, m), Sequential([Slice(m, 2 * m), layers.Exp()])])
    return Sequential([lower_part(module, path, "layers"), ends])
