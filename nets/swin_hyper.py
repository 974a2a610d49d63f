"""The hyper-transforms of Swin blocks of Zhu et al., "Transformer-based transform coding", ICLR 2022."""

from __future__ import annotations

from torch import nn

from .swin import PatchMerge, PatchSplit, SwinBlock

DEPTH = 5
"""Swin blocks at half the resolution of y; there is one at a quarter."""


def _blocks(channels: int, count: int, window: int, head_dim: int) -> list[nn.Module]:
    """Swin blocks of which every second has moved windows."""
    heads = channels // head_dim
    return [SwinBlock(channels, heads, window, window // 2 * (i % 2)) for i in range(count)]


def swin_hyper_analysis(
    m: int, n: int = 192, outputs: int | None = None, window: int = 4, head_dim: int = 32
) -> nn.Sequential:
    """h_a: y (B, m, H, W) to z (B, outputs, H/4, W/4), by way of n channels; `outputs` is n by default.

    H and W must be multiples of 4 * window.
    """
    outputs = n if outputs is None else outputs
    inner, last = (_blocks(c, count, window, head_dim) for c, count in ((n, DEPTH), (outputs, 1)))
    return nn.Sequential(PatchMerge(m, n), *inner, PatchMerge(n, outputs), *last)


def swin_hyper_synthesis(
    m: int, n: int = 192, inputs: int | None = None, window: int = 4, head_dim: int = 32
) -> nn.Sequential:
    """h_s: z_hat (B, inputs, H/4, W/4) to features (B, 2m, H, W), the reverse of `swin_hyper_analysis`."""
    inputs = n if inputs is None else inputs
    first, inner = (_blocks(c, count, window, head_dim) for c, count in ((inputs, 1), (n, DEPTH)))
    return nn.Sequential(*first, PatchSplit(inputs, n), *inner, PatchSplit(n, 2 * m))
