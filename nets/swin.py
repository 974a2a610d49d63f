"""Swin transformer blocks on (B, C, H, W), patch merging and splitting, and their lowering.

Sources: Liu et al., "Swin Transformer", ICCV 2021; Zhu et al., "Transformer-based transform coding", ICLR
2022. Module names are those of Swin's code, so that its weights load.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..kernels import layers
from ..kernels.blocks import MASKED, Residual, Sequential
from ..kernels.blocks import WindowAttention as ExactWindowAttention
from ..kernels.layers import Layer
from .blocks import Mlp, attend
from .lowering import array, lower_part, lowers


class PatchMerge(nn.Module):
    """(B, inputs, 2H, 2W) to (B, outputs, H, W): space to depth, LayerNorm, linear without bias.

    The four positions' channels follow each other as in Swin's PatchMerging: down first, then right.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * inputs)
        self.reduction = nn.Linear(4 * inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(0, 2, 3, 1)
        parts = [y[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, 3))).permute(0, 3, 1, 2)


class PatchSplit(nn.Module):
    """(B, inputs, H, W) to (B, outputs, 2H, 2W): linear without bias, LayerNorm, depth to space.

    The inverse of PatchMerge, in the same order of channels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.expansion = nn.Linear(inputs, 4 * outputs, bias=False)
        self.norm = nn.LayerNorm(4 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.expansion(x.permute(0, 2, 3, 1)))
        b, h, w, _ = y.shape
        return y.view(b, h, w, 2, 2, -1).permute(0, 5, 1, 4, 2, 3).reshape(b, -1, 2 * h, 2 * w)


def _reordered(norm: Layer, order: NDArray[np.int64]) -> Layer:
    assert isinstance(norm, layers.LayerNorm)
    return layers.LayerNorm(norm.gamma[order], norm.beta[order], norm.epsilon)


def _pixel_order(channels: int) -> NDArray[np.int64]:
    """Of the 4 * channels of a pixel unshuffle, in its order: where each stands in Swin's order.

    Lowered, the sums over these channels run in the pixel unshuffle's order.
    """
    k, i, j = np.unravel_index(np.arange(4 * channels), (channels, 2, 2))
    return (2 * j + i) * channels + k


@lowers(PatchMerge, 1)
def _(module: PatchMerge, path: str) -> Layer:
    norm, linear = lower_part(module, path, "norm"), lower_part(module, path, "reduction")
    order = _pixel_order(module.reduction.in_features // 4)
    assert isinstance(linear, layers.Linear)
    linear = layers.Linear(linear.weight[:, order])
    return Sequential([layers.PixelUnshuffle(2), _reordered(norm, order), linear])


@lowers(PatchSplit, 1)
def _(module: PatchSplit, path: str) -> Layer:
    linear, norm = lower_part(module, path, "expansion"), lower_part(module, path, "norm")
    order = _pixel_order(module.expansion.out_features // 4)
    assert isinstance(linear, layers.Linear)
    linear = layers.Linear(linear.weight[order])
    return Sequential([linear, _reordered(norm, order), layers.PixelShuffle(2)])


def relative_bias(table: Tensor, window: int) -> Tensor:
    """(heads, window^2, window^2) of a table of relative positions, ((2 * window - 1)^2, heads)."""
    rows, cols = torch.arange(window**2) // window, torch.arange(window**2) % window
    down, right = (at[:, None] - at + window - 1 for at in (rows, cols))
    return table[down * (2 * window - 1) + right].permute(2, 0, 1)


class WindowAttention(nn.Module):
    """Attention within windows (B, window^2, C), with a learned bias for each relative position."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def bias(self) -> Tensor:
        """(heads, window^2, window^2): the table's entry for each query and key."""
        return relative_bias(self.relative_position_bias_table, self.window)

    def forward(self, x: Tensor, masks: Tensor | None = None) -> Tensor:
        """x (B * windows, window^2, C), masks (windows, window^2, window^2) added to the scores."""
        return self.proj(attend_masked(self.qkv(x), self.heads, self.bias(), masks))


def attend_masked(qkv: Tensor, heads: int, bias: Tensor, masks: Tensor | None) -> Tensor:
    """Attention of (B * windows, n, 3C), within each, with bias (heads, n, n) and masks (windows, n, n)."""
    added = bias[None]
    if masks is not None:
        added = (added + masks[:, None]).repeat(len(qkv) // len(masks), 1, 1, 1)
    q, k, v = qkv.chunk(3, 2)
    return attend(q, k, v, heads, added)


def attend_windows(attention: nn.Module, x: Tensor, window: int, shift: int) -> Tensor:
    """Attention within windows of x (B, H, W, C), whose sides are multiples of the window.

    Windows are moved by `shift` positions down and right, and around the borders; positions that meet only
    there don't attend to each other. attention: as `WindowAttention`.
    """
    h, w = x.shape[1:3]
    masks = _border_masks(h, w, window, shift, x) if shift else None
    heard = attention(_windows(x.roll((-shift, -shift), (1, 2)), window), masks)
    return _joined(heard, window, h, w).roll((shift, shift), (1, 2))


def _windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) to (B * windows, window^2, C)."""
    b, h, w, c = x.shape
    n = window
    return x.reshape(b, h // n, n, w // n, n, c).transpose(2, 3).reshape(-1, n * n, c)


def _joined(windows: Tensor, window: int, h: int, w: int) -> Tensor:
    """The inverse of `_windows`."""
    n, c = window, windows.shape[2]
    return windows.reshape(-1, h // n, w // n, n, n, c).transpose(2, 3).reshape(-1, h, w, c)


def _border_masks(h: int, w: int, window: int, shift: int, like: Tensor) -> Tensor:
    """(windows, window^2, window^2): MASKED between positions that meet only around a border."""
    rows, cols = ((torch.arange(size) >= size - shift).long() for size in (h, w))
    regions = _windows((2 * rows[:, None] + cols)[None, :, :, None], window)[..., 0]
    same = regions[:, :, None] == regions[:, None, :]
    return torch.where(same, 0.0, MASKED).to(like)


class SwinBlock(nn.Module):
    """Window attention (`attend_windows`), then an MLP, both residual and with LayerNorm first."""

    def __init__(self, channels: int, heads: int, window: int, shift: int = 0) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(0, 2, 3, 1)
        y = y + attend_windows(self.attn, self.norm1(y), self.window, self.shift)
        y = y + self.mlp(self.norm2(y))
        return y.permute(0, 3, 1, 2)


@lowers(SwinBlock, 1)
def _(module: SwinBlock, path: str) -> Layer:
    names = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp")
    norm1, qkv, proj, norm2, mlp = (lower_part(module, path, name) for name in names)
    bias = array(module.attn.bias())
    attention = ExactWindowAttention(qkv, proj, module.attn.heads, module.window, module.shift, bias)
    return Sequential([Residual(Sequential([norm1, attention])), Residual(Sequential([norm2, mlp]))])
