"""Densities of latents, in bits: Gaussians and their mixtures given by networks, and priors that are learned.

All are convolved with U(-1/2, 1/2), so that at a rounded value they give the mass of its cell.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bounds import lower_bound

SCALE_MIN = 0.11
LIKELIHOOD_MIN = 1e-9


def bits(likelihood: Tensor) -> Tensor:
    """-log2 of a likelihood that is floored at 1e-9."""
    return -lower_bound(likelihood, LIKELIHOOD_MIN).log2()


def gaussian_mass(y: Tensor, scales: Tensor, means: Tensor | float) -> Tensor:
    """Mass of [y - 1/2, y + 1/2] under N(mean, scale^2). Scales must be positive.

    Source: Minnen, Ballé and Toderici, "Joint autoregressive and hierarchical priors for learned image
    compression", NeurIPS 2018, eq. 3.
    """
    wide = scales * math.sqrt(2)
    distance = (y - means).abs()
    return 0.5 * (torch.erfc((distance - 0.5) / wide) - torch.erfc((distance + 0.5) / wide))


def gaussian_bits(y: Tensor, scales: Tensor, means: Tensor) -> Tensor:
    """Bits of each element of y under N(mean, max(scale, 0.11)^2) convolved with U(-1/2, 1/2)."""
    return bits(gaussian_mass(y, lower_bound(scales, SCALE_MIN), means))


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian for each element: scales, as a network gives them, and means, (B, C, H, W) each."""

    raw_scales: Tensor
    means: Tensor

    @property
    def scales(self) -> Tensor:
        """(B, C, H, W), 0.11 or more."""
        return lower_bound(self.raw_scales, SCALE_MIN)

    def bits(self, y: Tensor) -> Tensor:
        """Bits of each element of y (B, C, H, W)."""
        return gaussian_bits(y, self.raw_scales, self.means)


@dataclass(frozen=True)
class GaussianMixture:
    """A mixture of K Gaussians for each element: logits of weights, means and scales, (B, K, C, H, W) each.

    Components' scales are floored at 0.11.

    Source: Cheng et al., "Learned image compression with discretized Gaussian mixture likelihoods and
    attention modules", CVPR 2020, eq. 8.
    """

    logits: Tensor
    component_means: Tensor
    component_scales: Tensor

    @property
    def means(self) -> Tensor:
        """(B, C, H, W)"""
        return (self.logits.softmax(1) * self.component_means).sum(1)

    @property
    def scales(self) -> Tensor:
        """(B, C, H, W), the mixtures' standard deviations."""
        spread = self._floored_scales**2 + (self.component_means - self.means[:, None]) ** 2
        return (self.logits.softmax(1) * spread).sum(1).sqrt()

    def bits(self, y: Tensor) -> Tensor:
        """Bits of each element of y (B, C, H, W)."""
        mass = gaussian_mass(y[:, None], self._floored_scales, self.component_means)
        return bits((self.logits.softmax(1) * mass).sum(1))

    @property
    def _floored_scales(self) -> Tensor:
        return lower_bound(self.component_scales, SCALE_MIN)


Distribution = Gaussian | GaussianMixture


class Prior(nn.Module, ABC):
    """A density for each channel, which no network conditions: of side information, or of a whole latent."""

    @property
    @abstractmethod
    def medians(self) -> Tensor:
        """(channels,): values are rounded to these plus integers."""

    @abstractmethod
    def likelihood(self, z: Tensor) -> Tensor:
        """Probability mass of [z - 1/2, z + 1/2], (channels, 1, count), in z's precision."""

    def forward(self, z: Tensor) -> Tensor:
        """Bits of each element of z, (B, C, H, W)."""
        b, c, h, w = z.shape
        flat = z.permute(1, 0, 2, 3).reshape(c, 1, -1)
        return bits(self.likelihood(flat)).reshape(c, b, h, w).permute(1, 0, 2, 3)

    def auxiliary_parameters(self) -> list[nn.Parameter]:
        """What `auxiliary_loss` trains, apart from the rate."""
        return []

    def auxiliary_loss(self) -> Tensor | None:
        """None: there is nothing that it would train."""
        return None


class FactorizedPrior(Prior):
    """A learned univariate density for each channel, given by its cumulative.

    Source: Ballé et al., "Variational image compression with a scale hyperprior", ICLR 2018, appendix
    6.1. Parameters keep CompressAI's names, `quantiles` (channels, 1, 3) included, of which the middle one
    is the median about which z is rounded. They stay where they are, the median at zero, unless a gradient
    is asked of them: then the auxiliary loss moves them to where they belong.
    """

    filters = (1, 3, 3, 3, 3, 1)
    tail_mass = 1e-9

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
        """See `Prior`."""
        return self.quantiles[:, 0, 1].detach()

    def logits_cdf(self, z: Tensor, detach: bool = False) -> Tensor:
        """Logit of the cumulative distribution at z, (channels, 1, count). detach: no gradient but z's."""
        for i, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            matrix, bias = (matrix.detach(), bias.detach()) if detach else (matrix, bias)
            z = F.softplus(matrix) @ z + bias
            if i < len(self.factors):
                factor = self.factors[i].detach() if detach else self.factors[i]
                z = z + factor.tanh() * z.tanh()
        return z

    def likelihood(self, z: Tensor) -> Tensor:
        """See `Prior`."""
        lower, upper = self.logits_cdf(z - 0.5), self.logits_cdf(z + 0.5)
        # In the upper tail both sigmoids are close to one: mirror, so that the difference keeps its digits.
        sign = torch.where(lower + upper > 0, -1.0, 1.0)
        return ((sign * upper).sigmoid() - (sign * lower).sigmoid()).abs()

    def auxiliary_parameters(self) -> list[nn.Parameter]:
        """See `Prior`."""
        return [self.quantiles]

    def auxiliary_loss(self) -> Tensor | None:
        """Distance of the quantiles' logits from those of tail_mass / 2, 1/2 and 1 - tail_mass / 2."""
        if not self.quantiles.requires_grad:
            return None
        tail = math.log(2 / self.tail_mass - 1)
        target = self.quantiles.new_tensor([-tail, 0.0, tail])
        return (self.logits_cdf(self.quantiles, detach=True) - target).abs().sum()
