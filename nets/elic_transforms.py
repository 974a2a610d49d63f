"""ELIC's transforms: strided 5x5 convolutions with residual bottlenecks and attention between them.

Source: He et al., "ELIC: Efficient learned image compression with unevenly grouped space-channel contextual
adaptive coding", CVPR 2022. Module names are those of CompressAI's `Elic2022Official`. ELIC-sm, with one
bottleneck in each stage and no attention, are the transforms of DCA (NeurIPS 2024) and of the models that it
is compared with.
"""

from __future__ import annotations

from torch import nn

from .blocks import ResidualBottleneck
from .residual import AttentionBlock
from .transforms import conv, deconv


def _bottlenecks(channels: int, count: int) -> list[nn.Module]:
    return [ResidualBottleneck(channels) for _ in range(count)]


def elic_analysis(n: int, m: int, residual_blocks: int = 3, attention: bool = True) -> nn.Sequential:
    """g_a: (B, 3, H, W) in 0..1 to y (B, m, H/16, W/16)."""
    layers: list[nn.Module] = [conv(3, n), *_bottlenecks(n, residual_blocks)]
    layers += [conv(n, n), *_bottlenecks(n, residual_blocks)]
    layers += [AttentionBlock(n)] if attention else []
    layers += [conv(n, n), *_bottlenecks(n, residual_blocks), conv(n, m)]
    layers += [AttentionBlock(m)] if attention else []
    return nn.Sequential(*layers)


def elic_synthesis(n: int, m: int, residual_blocks: int = 3, attention: bool = True) -> nn.Sequential:
    """g_s: y_hat (B, m, H/16, W/16) to (B, 3, H, W), about 0..1 and not yet clipped."""
    layers: list[nn.Module] = [AttentionBlock(m)] if attention else []
    layers += [deconv(m, n), *_bottlenecks(n, residual_blocks), deconv(n, n)]
    layers += [AttentionBlock(n)] if attention else []
    layers += [*_bottlenecks(n, residual_blocks), deconv(n, n)]
    layers += [*_bottlenecks(n, residual_blocks), deconv(n, 3)]
    return nn.Sequential(*layers)


def elic_sm_analysis(n: int = 192, m: int = 320) -> nn.Sequential:
    """ELIC-sm's g_a: (B, 3, H, W) in 0..1 to y (B, m, H/16, W/16)."""
    return elic_analysis(n, m, 1, attention=False)


def elic_sm_synthesis(n: int = 192, m: int = 320) -> nn.Sequential:
    """ELIC-sm's g_s: y_hat (B, m, H/16, W/16) to (B, 3, H, W), about 0..1 and not yet clipped."""
    return elic_synthesis(n, m, 1, attention=False)
