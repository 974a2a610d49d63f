"""Residual blocks and attention of Cheng 2020, as CompressAI lays them out and names their modules.

Cheng et al., "Learned image compression with discretized Gaussian mixture likelihoods and attention modules",
CVPR 2020. CompressAI has 3x3 sub-pixel skips where the authors' code has 1x1, and a ReLU after each unit of
the attention. All are (B, C, H, W); their activation is LeakyReLU, but MLIC++ has them with GELU.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import layers
from ..kernels.blocks import Multiply, Residual, Sequential
from ..kernels.layers import Layer
from .blocks import subpixel_conv
from .lowering import lower_part, lowers
from .transforms import GDN, conv


class ResidualBlock(nn.Module):
    """x + 3x3, activation, 3x3, activation; a 1x1 of x where the channels change."""

    def __init__(self, inputs: int, outputs: int, activation: type[nn.Module] = nn.LeakyReLU) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, 1)
        self.activation = activation()
        self.conv2 = conv(outputs, outputs, 3, 1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.activation(self.conv1(x)))
        return self.skip(x) + self.activation(y)


@lowers(ResidualBlock, 1)
def _(module: ResidualBlock, path: str) -> Layer:
    names = ("conv1", "activation", "conv2", "activation")
    body = Sequential([lower_part(module, path, name) for name in names])
    return Residual(body, lower_part(module, path, "skip"))


class ResidualBlockWithStride(nn.Module):
    """A 1x1 of x + 3x3, activation, 3x3, GDN; the first of each side with a stride."""

    def __init__(
        self, inputs: int, outputs: int, stride: int = 2, activation: type[nn.Module] = nn.LeakyReLU
    ) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.activation = activation()
        self.conv2 = conv(outputs, outputs, 3, 1)
        self.gdn = GDN(outputs)
        same = stride == 1 and inputs == outputs
        self.skip = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.gdn(self.conv2(self.activation(self.conv1(x))))


class ResidualBlockUpsample(nn.Module):
    """Sub-pixel convolutions of x: one, and one with activation, 3x3, IGDN after it.

    skip_kernel: of the former, 3 as CompressAI has it, 1 as Cheng 2020's own code.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        skip_kernel: int = 3,
        activation: type[nn.Module] = nn.LeakyReLU,
    ) -> None:
        super().__init__()
        self.subpel_conv = subpixel_conv(inputs, outputs)
        self.activation = activation()
        self.conv = conv(outputs, outputs, 3, 1)
        self.igdn = GDN(outputs, inverse=True)
        self.upsample = subpixel_conv(inputs, outputs, kernel=skip_kernel)

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample(x) + self.igdn(self.conv(self.activation(self.subpel_conv(x))))


@lowers(ResidualBlockUpsample, 1)
def _(module: ResidualBlockUpsample, path: str) -> Layer:
    names = ("subpel_conv", "activation", "conv", "igdn")
    body = Sequential([lower_part(module, path, name) for name in names])
    return Residual(body, lower_part(module, path, "upsample"))


class ResidualUnit(nn.Module):
    """ReLU of x + 1x1, ReLU, 3x3, ReLU, 1x1 at half the channels: a unit of `AttentionBlock`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv = nn.Sequential(
            conv(channels, half, 1, 1),
            nn.ReLU(),
            conv(half, half, 3, 1),
            nn.ReLU(),
            conv(half, channels, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + x)


@lowers(ResidualUnit, 1)
def _(module: ResidualUnit, path: str) -> Layer:
    return Sequential([Residual(lower_part(module, path, "conv")), layers.ReLU()])


class AttentionBlock(nn.Module):
    """x + trunk * sigmoid(branch): three units, and three units with a 1x1 (Cheng 2020, figure 5)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_a = nn.Sequential(*(ResidualUnit(channels) for _ in range(3)))
        self.conv_b = nn.Sequential(
            *(ResidualUnit(channels) for _ in range(3)), conv(channels, channels, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_a(x) * self.conv_b(x).sigmoid()


@lowers(AttentionBlock, 1)
def _(module: AttentionBlock, path: str) -> Layer:
    gate = Sequential([lower_part(module, path, "conv_b"), layers.Sigmoid()])
    return Residual(Multiply(lower_part(module, path, "conv_a"), gate))
