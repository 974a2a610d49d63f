"""Blocks of LIC-TCM, convolutions and Swin transformers side by side, on (B, C, H, W), and their lowering.

Source: Liu, Sun and Katto, "Learned image compression with mixed transformer-CNN architectures", CVPR 2023.
Module names are those of its code, so that its weights load.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..kernels import layers
from ..kernels.blocks import Concat, Multiply, Residual, Sequential, Slice
from ..kernels.blocks import WindowAttention as ExactWindowAttention
from ..kernels.layers import Layer
from .lowering import array, lower_part, lowers
from .residual import ResidualBlock, ResidualUnit
from .swin import attend_masked, attend_windows


class WindowSelfAttention(nn.Module):
    """`swin.WindowAttention`, of which the bias of each relative position is (heads, down, right)."""

    def __init__(self, channels: int, head_dim: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = channels // head_dim, window
        self.embedding_layer = nn.Linear(channels, 3 * channels)
        self.relative_position_params = nn.Parameter(torch.zeros(self.heads, 2 * window - 1, 2 * window - 1))
        nn.init.trunc_normal_(self.relative_position_params, std=0.02)
        self.linear = nn.Linear(channels, channels)

    def bias(self) -> Tensor:
        """(heads, window^2, window^2), for each query and key."""
        n = self.window
        down, right = (at[:, None] - at + n - 1 for at in (torch.arange(n**2) // n, torch.arange(n**2) % n))
        return self.relative_position_params[:, down, right]

    def forward(self, x: Tensor, masks: Tensor | None = None) -> Tensor:
        """See `swin.WindowAttention`."""
        return self.linear(attend_masked(self.embedding_layer(x), self.heads, self.bias(), masks))


class TransformerBlock(nn.Module):
    """`swin.SwinBlock`; shifted: whether its windows are moved by half of one."""

    def __init__(self, channels: int, head_dim: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.window, self.shift = window, window // 2 if shifted else 0
        self.ln1 = nn.LayerNorm(channels)
        self.msa = WindowSelfAttention(channels, head_dim, window)
        self.ln2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(0, 2, 3, 1)
        y = y + attend_windows(self.msa, self.ln1(y), self.window, self.shift)
        y = y + self.mlp(self.ln2(y))
        return y.permute(0, 3, 1, 2)


@lowers(TransformerBlock, 1)
def _(module: TransformerBlock, path: str) -> Layer:
    names = ("ln1", "msa.embedding_layer", "msa.linear", "ln2", "mlp")
    norm1, qkv, proj, norm2, mlp = (lower_part(module, path, name) for name in names)
    bias = array(module.msa.bias())
    attention = ExactWindowAttention(qkv, proj, module.msa.heads, module.window, module.shift, bias)
    return Sequential([Residual(Sequential([norm1, attention])), Residual(Sequential([norm2, mlp]))])


class ConvTransBlock(nn.Module):
    """x + 1x1 of both halves of a 1x1 of x, the first through a residual block, the second a transformer."""

    def __init__(self, channels: int, head_dim: int, window: int, shifted: bool) -> None:
        super().__init__()
        half = channels // 2
        self.trans_block = TransformerBlock(half, head_dim, window, shifted)
        self.conv1_1 = nn.Conv2d(channels, channels, 1)
        self.conv1_2 = nn.Conv2d(channels, channels, 1)
        self.conv_block = ResidualBlock(half, half)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.conv1_1(x).chunk(2, 1)
        both = first + self.conv_block(first), self.trans_block(second)
        return x + self.conv1_2(torch.cat(both, 1))


@lowers(ConvTransBlock, 1)
def _(module: ConvTransBlock, path: str) -> Layer:
    names = ("conv1_1", "conv_block", "trans_block", "conv1_2")
    before, block, trans, after = (lower_part(module, path, name) for name in names)
    half = module.conv1_1.out_channels // 2
    first = Sequential([Slice(0, half), Residual(block)])
    second = Sequential([Slice(half, 2 * half), trans])
    return Residual(Sequential([before, Concat([first, second]), after]))


def conv_trans_blocks(channels: int, count: int, head_dim: int, window: int) -> list[nn.Module]:
    """Blocks of which every other one has shifted windows."""
    return [ConvTransBlock(channels, head_dim, window, bool(i % 2)) for i in range(count)]


class WindowPair(nn.Module):
    """Two transformer blocks, of which the second has shifted windows."""

    def __init__(self, channels: int, head_dim: int, window: int) -> None:
        super().__init__()
        self.block_1 = TransformerBlock(channels, head_dim, window, False)
        self.block_2 = TransformerBlock(channels, head_dim, window, True)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.block_1(x))


@lowers(WindowPair, 1)
def _(module: WindowPair, path: str) -> Layer:
    return Sequential([lower_part(module, path, name) for name in ("block_1", "block_2")])


class SwinAttention(nn.Module):
    """SWAtten: `residual.AttentionBlock` between 1x1 convolutions, with a `WindowPair` before its branch."""

    def __init__(self, channels: int, head_dim: int, window: int, squeeze: int) -> None:
        super().__init__()
        self.conv_a = nn.Sequential(*(ResidualUnit(squeeze) for _ in range(3)))
        self.conv_b = nn.Sequential(
            *(ResidualUnit(squeeze) for _ in range(3)), nn.Conv2d(squeeze, squeeze, 1)
        )
        self.non_local_block = WindowPair(squeeze, head_dim, window)
        self.in_conv = nn.Conv2d(channels, squeeze, 1)
        self.out_conv = nn.Conv2d(squeeze, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.in_conv(x)
        return self.out_conv(y + self.conv_a(y) * self.conv_b(self.non_local_block(y)).sigmoid())


@lowers(SwinAttention, 1)
def _(module: SwinAttention, path: str) -> Layer:
    names = ("in_conv", "conv_a", "non_local_block", "conv_b", "out_conv")
    first, trunk, swin, branch, last = (lower_part(module, path, name) for name in names)
    gate = Multiply(trunk, Sequential([swin, branch, layers.Sigmoid()]))
    return Sequential([first, Residual(gate), last])
