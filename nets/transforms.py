"""Analysis and synthesis transforms: strided 5x5 convolutions with GDN between them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import layers
from ..kernels.blocks import Multiply, Sequential
from ..kernels.layers import Layer
from .bounds import lower_bound
from .lowering import array, lowers, refused

# GDN's parameters are stored as sqrt(v + PEDESTAL), so that their gradient does not vanish at zero.
PEDESTAL = 2.0**-36


class GDN(nn.Module):
    """Generalized divisive normalization: x_i / sqrt(beta_i + sum_j gamma_ij x_j^2).

    `inverse=True` multiplies instead (IGDN). Input and output are (B, C, H, W). Source: Ballé et al.,
    "Density modeling of images using a generalized normalization transformation", ICLR 2016, eq. 1.
    Parameters keep CompressAI's names and stored form.
    """

    def __init__(self, channels: int, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter((torch.ones(channels) + PEDESTAL).sqrt())
        self.gamma = nn.Parameter((0.1 * torch.eye(channels) + PEDESTAL).sqrt())

    def coefficients(self) -> tuple[Tensor, Tensor]:
        """beta (C,) and gamma (C, C), from what is stored."""
        beta = lower_bound(self.beta, (1e-6 + PEDESTAL) ** 0.5).square() - PEDESTAL
        gamma = lower_bound(self.gamma, PEDESTAL**0.5).square() - PEDESTAL
        return beta, gamma

    def forward(self, x: Tensor) -> Tensor:
        beta, gamma = self.coefficients()
        norm = F.conv2d(x.square(), gamma[:, :, None, None], beta)
        return x * (norm.sqrt() if self.inverse else norm.rsqrt())


@lowers(GDN, 1)
def _(module: GDN, path: str) -> Layer:
    if not module.inverse:
        raise refused(module, path, "divides: no exact counterpart")
    beta, gamma = (array(values) for values in module.coefficients())
    squares = Multiply(Sequential(), Sequential())
    root = Sequential([squares, layers.Linear(gamma, beta), layers.Sqrt()])
    return Multiply(Sequential(), root)


def conv(in_channels: int, out_channels: int, kernel: int = 5, stride: int = 2) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2)


def deconv(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(in_channels, out_channels, 5, 2, 2, output_padding=1)


def analysis_transform(n: int, m: int) -> nn.Sequential:
    """g_a: (B, 3, H, W) in 0..1 to y (B, m, H/16, W/16)."""
    return nn.Sequential(conv(3, n), GDN(n), conv(n, n), GDN(n), conv(n, n), GDN(n), conv(n, m))


def synthesis_transform(n: int, m: int) -> nn.Sequential:
    """g_s: y_hat (B, m, H/16, W/16) to (B, 3, H, W), about 0..1 and not yet clipped."""
    inverse = [GDN(n, inverse=True) for _ in range(3)]
    return nn.Sequential(
        deconv(m, n), inverse[0], deconv(n, n), inverse[1], deconv(n, n), inverse[2], deconv(n, 3)
    )
