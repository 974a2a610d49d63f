"""Hyper-analysis and hyper-synthesis of the mean-scale hyperprior (Minnen 2018)."""

from __future__ import annotations

from torch import nn

from .transforms import conv, deconv


def hyper_analysis(n: int, m: int) -> nn.Sequential:
    """h_a: y (B, m, H, W) to z (B, n, H/4, W/4)."""
    return nn.Sequential(conv(m, n, 3, 1), nn.LeakyReLU(), conv(n, n), nn.LeakyReLU(), conv(n, n))


def hyper_synthesis(n: int, m: int) -> nn.Sequential:
    """h_s: z_hat (B, n, H/4, W/4) to features (B, 2m, H, W)."""
    wide = m * 3 // 2
    return nn.Sequential(
        deconv(n, m), nn.LeakyReLU(), deconv(m, wide), nn.LeakyReLU(), conv(wide, 2 * m, 3, 1)
    )
