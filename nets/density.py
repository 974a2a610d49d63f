"""Densities of the latents: the factorized prior on z and the conditional Gaussian on y, in bits."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bounds import lower_bound

SCALE_MIN = 0.11
LIKELIHOOD_MIN = 1e-9


def bits(likelihood: Tensor) -> Tensor:
    """-log2 of a likelihood that is floored at 1e-9."""
    return -lower_bound(likelihood, LIKELIHOOD_MIN).log2()


def gaussian_bits(y: Tensor, scales: Tensor, means: Tensor) -> Tensor:
    """Bits of each element of y under N(mean, max(scale, 0.11)^2) convolved with U(-1/2, 1/2).

    Source: Minnen, Ballé and Toderici, "Joint autoregressive and hierarchical priors for learned image
    compression", NeurIPS 2018, eq. 3.
    """
    scales = lower_bound(scales, SCALE_MIN) * math.sqrt(2)
    distance = (y - means).abs()
    likelihood = 0.5 * (torch.erfc((distance - 0.5) / scales) - torch.erfc((distance + 0.5) / scales))
    return bits(likelihood)


class FactorizedPrior(nn.Module):
    """A learned univariate density for each channel, convolved with U(-1/2, 1/2).

    Source: Ballé et al., "Variational image compression with a scale hyperprior", ICLR 2018, appendix
    6.1. Parameters keep CompressAI's names, `quantiles` (channels, 1, 3) included, of which the middle one
    is the median about which z is rounded. It stays at zero unless weights that set it are loaded.
    """

    filters = (1, 3, 3, 3, 3, 1)

    def __init__(self, channels: int, init_scale: float = 10.0) -> None:
        super().__init__()
        layers = len(self.filters) - 1
        scale = init_scale ** (1 / layers)
        self.matrices, self.biases, self.factors = (nn.ParameterList() for _ in range(3))
        for i, (fan_in, fan_out) in enumerate(zip(self.filters, self.filters[1:], strict=False)):
            init = math.log(math.expm1(1 / scale / fan_out))
            self.matrices.append(nn.Parameter(torch.full((channels, fan_out, fan_in), init)))
            self.biases.append(nn.Parameter(torch.empty(channels, fan_out, 1).uniform_(-0.5, 0.5)))
            if i < layers - 1:
                self.factors.append(nn.Parameter(torch.zeros(channels, fan_out, 1)))
        quantiles = torch.tensor([-init_scale, 0.0, init_scale]).repeat(channels, 1, 1)
        self.quantiles = nn.Parameter(quantiles, requires_grad=False)

    @property
    def medians(self) -> Tensor:
        """(channels,)"""
        return self.quantiles[:, 0, 1]

    def logits_cdf(self, z: Tensor) -> Tensor:
        """Logit of the cumulative distribution at z, (channels, 1, count)."""
        for i, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            z = F.softplus(matrix) @ z + bias
            if i < len(self.factors):
                z = z + self.factors[i].tanh() * z.tanh()
        return z

    def likelihood(self, z: Tensor) -> Tensor:
        """Probability mass of [z - 1/2, z + 1/2], (channels, 1, count)."""
        lower, upper = self.logits_cdf(z - 0.5), self.logits_cdf(z + 0.5)
        # In the upper tail both sigmoids are close to one: mirror, so that the difference keeps its digits.
        sign = torch.where(lower + upper > 0, -1.0, 1.0)
        return ((sign * upper).sigmoid() - (sign * lower).sigmoid()).abs()

    def forward(self, z: Tensor) -> Tensor:
        """Bits of each element of z, (B, C, H, W)."""
        b, c, h, w = z.shape
        flat = z.permute(1, 0, 2, 3).reshape(c, 1, -1)
        return bits(self.likelihood(flat)).reshape(c, b, h, w).permute(1, 0, 2, 3)
