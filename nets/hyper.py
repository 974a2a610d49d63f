"""Hyper-analysis and hyper-synthesis: of means and scales (Minnen 2018), of scales alone (Ballé 2018)."""

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


def scale_hyper_analysis(n: int, m: int) -> nn.Sequential:
    """h_a of Ballé 2018, who gives it |y|: (B, m, H, W) to z (B, n, H/4, W/4)."""
    return nn.Sequential(conv(m, n, 3, 1), nn.ReLU(), conv(n, n), nn.ReLU(), conv(n, n))


def scale_hyper_synthesis(n: int, m: int, last: nn.Module) -> nn.Sequential:
    """h_s of Ballé 2018: z_hat (B, n, H/4, W/4) to (B, m, H, W). last: what closes it, there a ReLU."""
    return nn.Sequential(deconv(n, n), nn.ReLU(), deconv(n, n), nn.ReLU(), conv(n, m, 3, 1), last)


def parameter_head(m: int) -> nn.Sequential:
    """The head of a position: (B, 4m, H, W), features and context, to (scales, means) (B, 2m, H, W)."""
    return nn.Sequential(
        nn.Conv2d(4 * m, m * 10 // 3, 1),
        nn.LeakyReLU(),
        nn.Conv2d(m * 10 // 3, m * 8 // 3, 1),
        nn.LeakyReLU(),
        nn.Conv2d(m * 8 // 3, 2 * m, 1),
    )
