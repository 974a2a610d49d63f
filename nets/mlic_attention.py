"""MLIC++'s contexts by attention, in windows and over all positions, on (B, C, H, W), and their lowering.

Source: Jiang et al., "MLIC++: Linear complexity multi-reference entropy modeling for learned image
compression", arXiv 2307.15421. Module names are those of its code, so that its weights load, but for the
buffer `relative_position_index`, which is a constant.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import Checkerboard, LinearAttention, LocalAttention, layers
from ..kernels.blocks import MASKED, Residual, Sequential, Slice
from ..kernels.layers import Layer
from .blocks import Mlp
from .context import anchors
from .lowering import array, lower_part, lowers
from .swin import attend_masked, relative_bias

ANCHORS, OTHERS = "odd", "even"
"""Row + column of the positions that are decoded first, and of those that are decoded next to them."""


def depthwise(channels: int) -> nn.Conv2d:
    """3x3, each channel on its own."""
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels)


def projection(channels: int) -> nn.Sequential:
    """1x1, depthwise 3x3."""
    return nn.Sequential(nn.Conv2d(channels, channels, 1), depthwise(channels))


def convolutional_mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """1x1, GELU, depthwise 3x3, GELU, 1x1."""
    first, last = nn.Conv2d(inputs, hidden, 1), nn.Conv2d(hidden, outputs, 1)
    return nn.Sequential(first, nn.GELU(), depthwise(hidden), nn.GELU(), last)


def linear_attention(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """(B, C, N) from queries (B, C, N), keys and values (B, C, M): softmax(q) (softmax(k)^T v) of each head.

    Queries have their softmax over a head's channels, keys over positions, so the cost is linear in both.
    """
    queries, keys, values = (x.unflatten(1, (heads, -1)) for x in (queries, keys, values))
    mixed = values @ keys.softmax(3).transpose(2, 3)
    return (mixed @ queries.softmax(2)).flatten(1, 2)


def windows_at(plane: Tensor, rows: Tensor, cols: Tensor, window: int) -> Tensor:
    """(B, P, C, window, window) around P positions of a plane (B, C, H, W), zero outside it."""
    padded = F.pad(plane, (window // 2,) * 4)
    every = padded.unfold(2, window, 1).unfold(3, window, 1)
    return every[:, :, rows, cols].transpose(1, 2)


class LocalContext(nn.Module):
    """Of a slice's anchors, zero elsewhere: 2C channels at each other position, zero at the anchors.

    Attention among all places of the window around a position, in which anchors hear each other alone, then
    one convolution of the window and an MLP of `ratio`. The code has what hears all of the window at -100
    throughout, which a softmax doesn't see.
    """

    def __init__(self, channels: int, heads: int = 2, window: int = 5, ratio: int = 2) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv_proj = nn.Linear(channels, 3 * channels)
        self.relative_position_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_table, std=0.02)
        self.proj = nn.Linear(2 * channels, 2 * channels)
        self.mlp = Mlp(2 * channels, ratio)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(2 * channels)
        self.fusion = nn.Conv2d(channels, 2 * channels, window)

    def by_head(self) -> Tensor:
        """Where `qkv_proj` has the channels of queries, keys and values: there a head has every heads-th."""
        wide = self.qkv_proj.out_features
        return torch.arange(wide).view(3, -1, self.heads).transpose(1, 2).flatten()

    def bias(self) -> Tensor:
        """(heads, window^2, window^2), of each query and key."""
        return relative_bias(self.relative_position_table, self.window)

    def forward(self, x: Tensor) -> Tensor:
        n, chosen = self.window, anchors(x, ANCHORS)
        rows, cols = (1 - chosen).nonzero().unbind(1)
        qkv = self.qkv_proj(self.norm1(x.permute(0, 2, 3, 1)))[..., self.by_head()]
        # Outside the plane queries, keys and values are zero: not what they are of a zero.
        windows = windows_at(qkv.permute(0, 3, 1, 2), rows, cols, n).flatten(0, 1).flatten(2)
        coded = windows_at(chosen[None, None], rows, cols, n).flatten(0, 2).flatten(1) > 0
        masks = (coded[:, :, None] & ~coded[:, None]).to(qkv.dtype) * MASKED
        heard = attend_masked(windows.transpose(1, 2), self.heads, self.bias(), masks)
        y = self.proj(self.fusion(heard.transpose(1, 2).unflatten(2, (n, n))).flatten(1))
        y = (y + self.mlp(self.norm2(y))).unflatten(0, (len(x), -1))
        plane = y.new_zeros(len(x), *chosen.shape, y.shape[2])
        plane[:, rows, cols] = y
        return plane.permute(0, 3, 1, 2)


@lowers(LocalContext, 1)
def _(module: LocalContext, path: str) -> Layer:
    names = ("norm1", "qkv_proj", "fusion", "proj", "norm2", "mlp")
    norm1, qkv, fusion, proj, norm2, mlp = (lower_part(module, path, name) for name in names)
    assert isinstance(qkv, layers.Linear)
    assert isinstance(fusion, layers.Conv2d)
    assert qkv.bias is not None
    order = module.by_head().numpy()
    projected = Sequential([norm1, layers.Linear(qkv.weight[order], qkv.bias[order])])
    last = Sequential([proj, Residual(Sequential([norm2, mlp]))])
    bias = array(module.bias().contiguous())
    return LocalAttention(projected, fusion, module.heads, OTHERS, last, bias)


class LinearGlobalInterContext(nn.Module):
    """Of earlier slices (B, channels, H, W), complete: (B, outputs, H, W), by linear attention to themselves.

    Its MLP has `ratio` times the outputs inside.
    """

    def __init__(self, channels: int, outputs: int, heads: int, ratio: int = 2) -> None:
        super().__init__()
        wide = outputs * 3 // 2
        self.heads = heads
        self.queries, self.keys, self.values = (projection(channels) for _ in range(3))
        self.reprojection = nn.Conv2d(channels, wide, 5, padding=2)
        self.mlp = convolutional_mlp(wide, outputs * ratio, outputs)
        self.skip = nn.Conv2d(wide, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = (part(x).flatten(2) for part in (self.queries, self.keys, self.values))
        y = self.reprojection(linear_attention(queries, keys, values, self.heads).view(x.shape))
        return self.skip(y) + self.mlp(y)


@lowers(LinearGlobalInterContext, 1)
def _(module: LinearGlobalInterContext, path: str) -> Layer:
    names = ("queries", "keys", "values", "reprojection", "mlp", "skip")
    queries, keys, values, reprojection, mlp, skip = (lower_part(module, path, name) for name in names)
    last = Sequential([reprojection, Residual(mlp, skip)])
    return LinearAttention(queries, keys, values, last, module.heads)


class LinearGlobalIntraContext(nn.Module):
    """Of the slice before, complete, and of a slice's anchors, zero elsewhere: (B, 2C, H, W) to the same.

    By linear attention: the positions that aren't anchors ask with the slice before, the anchors answer with
    theirs, and say what they are. This is the code since its correction, which parameters don't tell. Its
    MLP has `ratio` times the outputs inside.
    """

    def __init__(self, channels: int, heads: int = 2, ratio: int = 2) -> None:
        super().__init__()
        outputs = 2 * channels
        self.heads = heads
        self.queries, self.keys, self.values = (projection(channels) for _ in range(3))
        self.reprojection = nn.Conv2d(channels, outputs, 5, padding=2)
        self.mlp = convolutional_mlp(outputs, outputs * ratio, outputs)

    def forward(self, x: Tensor) -> Tensor:
        (previous, own), chosen = x.chunk(2, 1), anchors(x, ANCHORS)
        others, coded = (1 - chosen).flatten().nonzero()[:, 0], chosen.flatten().nonzero()[:, 0]
        queries = self.queries(previous * (1 - chosen)).flatten(2)[..., others]
        keys = self.keys(previous * chosen).flatten(2)[..., coded]
        values = self.values(own).flatten(2)[..., coded]
        heard = linear_attention(queries, keys, values, self.heads)
        plane = heard.new_zeros(*heard.shape[:2], chosen.numel())
        plane[..., others] = heard
        y = self.reprojection(plane.view(own.shape))
        return y + self.mlp(y)


@lowers(LinearGlobalIntraContext, 1)
def _(module: LinearGlobalIntraContext, path: str) -> Layer:
    names = ("queries", "keys", "values", "reprojection", "mlp")
    queries, keys, values, reprojection, mlp = (lower_part(module, path, name) for name in names)
    channels = module.reprojection.in_channels
    previous, own = Slice(0, channels), Slice(channels, 2 * channels)
    return LinearAttention(
        Sequential([previous, Checkerboard(OTHERS), queries]),
        Sequential([previous, Checkerboard(ANCHORS), keys]),
        Sequential([own, values]),
        Sequential([reprojection, Residual(mlp)]),
        module.heads,
        OTHERS,
    )
