"""Blocks of DCVC-DC's image codec, as torch modules on (B, C, H, W) under the names of the published code.

Source: Li, Li and Lu, "Neural video compression with diverse contexts", CVPR 2023.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import Layer, Residual, Sequential
from .blocks import DepthConvBlock2
from .density import Prior
from .lowering import lower_part, lowers


def shuffled(inputs: int, outputs: int) -> nn.Sequential:
    """(B, inputs, H, W) to (B, outputs, 2H, 2W): a 1x1 convolution, then a pixel shuffle."""
    return nn.Sequential(nn.Conv2d(inputs, 4 * outputs, 1), nn.PixelShuffle(2))


class StridedBlock(nn.Module):
    """A strided 3x3, LeakyReLU, 3x3, LeakyReLU(0.1), + a strided 1x1 of x."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2, 1)
        self.leaky_relu = nn.LeakyReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.leaky_relu2 = nn.LeakyReLU(0.1)
        self.downsample = nn.Conv2d(inputs, outputs, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.leaky_relu2(self.conv2(self.leaky_relu(self.conv1(x)))) + self.downsample(x)


class UpsampleBlock(nn.Module):
    """A shuffled 1x1, LeakyReLU, 3x3, LeakyReLU(0.1), + a shuffled 1x1 of x: to twice H and W."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.subpel_conv = shuffled(inputs, outputs)
        self.leaky_relu = nn.LeakyReLU()
        self.conv = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.leaky_relu2 = nn.LeakyReLU(0.1)
        self.upsample = shuffled(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.leaky_relu2(self.conv(self.leaky_relu(self.subpel_conv(x)))) + self.upsample(x)


@lowers(UpsampleBlock, 1)
def _(module: UpsampleBlock, path: str) -> Layer:
    names = ("subpel_conv", "leaky_relu", "conv", "leaky_relu2")
    body = Sequential([lower_part(module, path, name) for name in names])
    return Residual(body, lower_part(module, path, "upsample"))


class UNet(nn.Module):
    """Three scales, of so many channels each, from and to `channels` channels; H and W are multiples of 4."""

    def __init__(self, channels: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        full, half, quarter = widths
        self.max_pool = nn.MaxPool2d(2)
        self.conv1 = DepthConvBlock2(channels, full)
        self.conv2 = DepthConvBlock2(full, half)
        self.conv3 = DepthConvBlock2(half, quarter)
        self.context_refine = nn.Sequential(*(DepthConvBlock2(quarter, quarter) for _ in range(4)))
        self.up3 = shuffled(quarter, half)
        self.up_conv3 = DepthConvBlock2(2 * half, half)
        self.up2 = shuffled(half, full)
        self.up_conv2 = DepthConvBlock2(2 * full, channels)

    def forward(self, x: Tensor) -> Tensor:
        full = self.conv1(x)
        half = self.conv2(self.max_pool(full))
        quarter = self.context_refine(self.conv3(self.max_pool(half)))
        half = self.up_conv3(torch.cat([half, self.up3(quarter)], 1))
        return self.up_conv2(torch.cat([full, self.up2(half)], 1))


class _Stage(nn.Module):
    """A stage of `BitEstimator`: x * softplus(h) + b, and unless it is the last tanh of that, gated."""

    def __init__(self, channels: int, last: bool = False) -> None:
        super().__init__()
        h, b, a = (nn.Parameter(0.01 * torch.randn(1, channels, 1, 1)) for _ in range(3))
        self.h, self.b, self.a = h, b, None if last else a

    def forward(self, x: Tensor) -> Tensor:
        x = x * F.softplus(self.h[0]) + self.b[0]
        return x if self.a is None else x + x.tanh() * self.a[0].tanh()


class BitEstimator(Prior):
    """A learned univariate density for each channel, by its cumulative: values are rounded about zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.f1, self.f2, self.f3 = (_Stage(channels) for _ in range(3))
        self.f4 = _Stage(channels, last=True)

    @property
    def medians(self) -> Tensor:
        """See `Prior`."""
        return torch.zeros_like(self.f4.b.detach().flatten())

    def logits_cdf(self, z: Tensor) -> Tensor:
        """Logit of the cumulative distribution at z (channels, 1, count)."""
        return self.f4(self.f3(self.f2(self.f1(z))))

    def likelihood(self, z: Tensor) -> Tensor:
        """See `Prior`."""
        lower, upper = self.logits_cdf(z - 0.5), self.logits_cdf(z + 0.5)
        # In the upper tail both sigmoids are close to one: mirror, so that the difference keeps its digits.
        sign = torch.where(lower + upper > 0, -1.0, 1.0)
        return ((sign * upper).sigmoid() - (sign * lower).sigmoid()).abs()
