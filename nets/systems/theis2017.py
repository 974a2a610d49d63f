"""Theis 2017: residual transforms to 1/8 of the resolution, and a prior of Gaussian scale mixtures.

Theis, Shi, Cunningham and Huszár, "Lossy image compression with compressive autoencoders", ICLR 2017.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks import subpixel_conv
from ..bounds import lower_bound
from ..density import SCALE_MIN, Prior, gaussian_mass
from ..factorized import Factorized

PIXEL_MEAN, PIXEL_SCALE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue in 0..1: ImageNet's customary ones, as the paper doesn't give its own."""

BLOCKS = 3
"""Residual blocks of each transform."""

MIRRORED = (35, 34)
"""Pixels mirrored before and behind the image, so that valid convolutions leave an eighth of its sides: each
position sees 77 pixels on a side, the middle of which is the fourth of its own eight."""


class ScaleMixturePrior(Prior):
    """For each channel a mixture of Gaussians about zero.

    Parameters: `logits` and `log_scales`, (channels, components) each. The scales start as powers of two.
    """

    def __init__(self, channels: int, components: int = 6) -> None:
        super().__init__()
        spread = torch.arange(components, dtype=torch.float32) - 1
        self.logits = nn.Parameter(torch.zeros(channels, components))
        self.log_scales = nn.Parameter((spread * math.log(2)).repeat(channels, 1))

    @property
    def medians(self) -> Tensor:
        """See `Prior`: zeros."""
        return self.logits.detach().new_zeros(len(self.logits))

    def likelihood(self, z: Tensor) -> Tensor:
        """See `Prior`."""
        scales = lower_bound(self.log_scales.exp(), SCALE_MIN)[:, :, None]
        return (self.logits.softmax(1)[:, :, None] * gaussian_mass(z, scales, 0.0)).sum(1, keepdim=True)


class ResidualBlock(nn.Module):
    """x + 3x3, LeakyReLU, 3x3, with zeros around x or, `valid`, four rows and columns fewer."""

    def __init__(self, channels: int, valid: bool = False) -> None:
        super().__init__()
        self.cut = 2 if valid else 0
        padding = 0 if valid else 1
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=padding),
            nn.LeakyReLU(),
            nn.Conv2d(channels, channels, 3, padding=padding),
        )

    def forward(self, x: Tensor) -> Tensor:
        rows, cols = (slice(self.cut, size - self.cut) for size in x.shape[2:])
        return x[:, :, rows, cols] + self.body(x)


class Theis2017(Factorized):
    """`n` channels at half, 2n at a quarter and `m` at an eighth of the resolution.

    Training is the paper's under the "mixed" surrogate: noise where the rate is taken, rounding with the
    gradient of the identity where the decoder reads.
    """

    stride = 8
    reach = 5

    def __init__(self, n: int = 64, m: int = 96, components: int = 6) -> None:
        super().__init__(n=n, m=m, components=components)
        self.m = m
        wide = 2 * n
        self.g_a = nn.Sequential(
            nn.Conv2d(3, n, 5, 2),
            nn.LeakyReLU(),
            nn.Conv2d(n, wide, 5, 2),
            nn.LeakyReLU(),
            *(ResidualBlock(wide, valid=True) for _ in range(BLOCKS)),
            nn.Conv2d(wide, m, 5, 2),
        )
        self.g_s = nn.Sequential(
            subpixel_conv(m, wide),
            *(ResidualBlock(wide) for _ in range(BLOCKS)),
            subpixel_conv(wide, n),
            nn.LeakyReLU(),
            subpixel_conv(n, 3),
        )
        self.entropy_bottleneck = ScaleMixturePrior(m, components)

    def analysis(self, x: Tensor) -> Tensor:
        before, behind = MIRRORED
        mean, scale = _pixel_statistics(x)
        return self.g_a(F.pad((x - mean) / scale, (before, behind, before, behind), mode="reflect"))

    def synthesis(self, y_hat: Tensor) -> Tensor:
        x = self.g_s(y_hat)
        mean, scale = _pixel_statistics(x)
        return x * scale + mean


def _pixel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    mean, scale = (x.new_tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_SCALE))
    return mean, scale
