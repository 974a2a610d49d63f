"""Minnen 2018: hyperprior and 5x5 context with GDN transforms, under any causal mask.

Minnen, Ballé and Toderici, "Joint autoregressive and hierarchical priors for learned image
compression", NeurIPS 2018. Module names and layouts are CompressAI's `mbt2018`.
"""

from __future__ import annotations

from dataclasses import dataclass

try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise ImportError("quadrans.nets.minnen2018 needs PyTorch: pip install 'quadrans[codec]'") from error

from .bounds import round_through, uniform_noise
from .context import MODES, ContextConv
from .density import FactorizedPrior, gaussian_bits
from .hyper import hyper_analysis, hyper_synthesis
from .transforms import analysis_transform, synthesis_transform


@dataclass(frozen=True)
class Prediction:
    """What one training pass gives: the reconstruction and the bits of both latents."""

    x_hat: Tensor
    """(B, 3, H, W)"""
    y_bits: Tensor
    """(B,) bits of each image's y"""
    z_bits: Tensor
    """(B,) bits of each image's z"""


class Minnen2018(nn.Module):
    """The joint model with `n` channels in the transforms and `m` in the latent.

    y is rounded to integers, so the latent does not depend on the context mode, and an encoder
    knows all its distributions after one pass.
    """

    downsampling = 64

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.n, self.m = n, m
        self.g_a = analysis_transform(n, m)
        self.g_s = synthesis_transform(n, m)
        self.h_a = hyper_analysis(n, m)
        self.h_s = hyper_synthesis(n, m)
        self.entropy_bottleneck = FactorizedPrior(n)
        self.context_prediction = ContextConv(m)
        hidden = (m * 10 // 3, m * 8 // 3)
        self.entropy_parameters = nn.Sequential(
            nn.Conv2d(4 * m, hidden[0], 1),
            nn.LeakyReLU(),
            nn.Conv2d(hidden[0], hidden[1], 1),
            nn.LeakyReLU(),
            nn.Conv2d(hidden[1], 2 * m, 1),
        )

    def forward(self, x: Tensor, modes: Tensor) -> Prediction:
        """A training pass: x (B, 3, H, W) in 0..1 with sides multiple of 64, modes (B,) indexes MODES.

        Context, hyper-synthesis and synthesis see rounded latents (straight-through); only the
        likelihoods see uniform noise (Lee et al., "Context-adaptive entropy model for end-to-end
        optimized image compression", ICLR 2019, section 3.2).
        """
        y = self.g_a(x).float()
        z = self.h_a(y).float()
        y_hat = round_through(y)
        scales, means = self.distributions(y_hat, self.round_z(z), modes)
        # Likelihoods need all of float32, whatever the precision of the layers.
        with torch.autocast(x.device.type, enabled=False):
            y_bits = gaussian_bits(uniform_noise(y), scales, means)
            z_bits = self.entropy_bottleneck(uniform_noise(z))
        return Prediction(self.g_s(y_hat), y_bits.sum((1, 2, 3)), z_bits.sum((1, 2, 3)))

    def distributions(self, y_hat: Tensor, z_hat: Tensor, modes: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and means of y, (B, m, H, W) float32 each, from both rounded latents.

        y_hat (B, m, H, W); z_hat (B, n, H/4, W/4); modes (B,) indexes MODES.
        """
        features = self.h_s(z_hat)
        context = torch.zeros_like(features)
        for i, mode in enumerate(MODES):
            chosen = modes == i
            if chosen.any():
                context[chosen] = self.context_prediction(y_hat[chosen], mode).to(context.dtype)
        joined = torch.cat([features, context], 1)
        scales, means = self.entropy_parameters(joined).float().chunk(2, 1)
        return scales, means

    def latent_bits(self, y_hat: Tensor, z_hat: Tensor, modes: Tensor) -> tuple[Tensor, Tensor]:
        """The model's own estimate for rounded y and z, (B,) bits each: -log2 of its continuous densities.

        Shapes as in `distributions`.
        """
        y_bits = gaussian_bits(y_hat, *self.distributions(y_hat, z_hat, modes))
        return y_bits.sum((1, 2, 3)), self.entropy_bottleneck(z_hat).sum((1, 2, 3))

    def channels_last(self) -> Minnen2018:
        """The model itself, its weights laid out channels-last: what the CPU's convolutions like best."""
        for parameter in self.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return self

    def round_z(self, z: Tensor) -> Tensor:
        """z rounded to its channels' medians plus integers (straight-through), (B, n, H, W)."""
        medians = self.entropy_bottleneck.medians[:, None, None]
        return round_through(z - medians) + medians
