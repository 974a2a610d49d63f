"""Latents by slices of channels, each conditioned on those before it: ChARM's entropy model, and TCM's.

Source: Minnen and Singh, "Channel-wise autoregressive entropy models for learned image compression", ICIP
2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .. import kernels
from ..kernels import Concat, Layer, Order, Slice, Tanh, even_slices
from ..kernels import Sequential as Exact
from .arguments import check_repeats
from .entropy_model import Features, StepEntropy, quantization
from .hyperprior import Hyperprior
from .lowering import lower
from .system import ExactFeatures, Part
from .transforms import conv


class ChannelSlices(StepEntropy):
    """Equal slices; a network for the means of each and one for its scales.

    A slice's means are made of the features' first half and of the first `max_support` slices before it (-1:
    all of them), its scales of the second half and those. attention: for each slice two modules that keep the
    channels, which those are sent through first, the means' and the scales'.
    """

    orders = ("slices",)
    residual = True

    def __init__(
        self,
        channels: int,
        features: int,
        means: nn.ModuleList,
        scales: nn.ModuleList,
        max_support: int = -1,
        attention: tuple[nn.ModuleList, nn.ModuleList] | None = None,
    ) -> None:
        self.sizes = even_slices(channels, len(means))
        self.depth = features // 2
        self.means, self.scales = means, scales
        self.max_support, self.attention = max_support, attention

    def order(self, name: str, height: int, width: int) -> Order:
        """See `EntropyModel`."""
        self.check_order(name)
        return kernels.slices(height, width, self.sizes)

    def support(self, step: int) -> int:
        """Channels of the earlier slices that a slice sees."""
        return sum(self.sizes[: supporting(step, self.max_support)])

    def supports(self, step: int, y_hat: Tensor, features: Features) -> tuple[Tensor, Tensor]:
        """What a slice's means and scales are made of, but for attention."""
        seen = y_hat[:, : self.support(step)]
        first, second = features[self.plane].chunk(2, 1)
        return torch.cat([first, seen], 1), torch.cat([second, seen], 1)

    def before(self, step: int, y_hat: Tensor, features: Features) -> Tensor | None:
        """The means' support, which the refinement reads too."""
        support = self.supports(step, y_hat, features)[0]
        return support if self.attention is None else self.attention[0][step](support)

    def parameters(
        self, step: int, y_hat: Tensor, features: Features, memory: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `StepEntropy`."""
        support = self.supports(step, y_hat, features)[1]
        if self.attention is not None:
            support = self.attention[1][step](support)
        return self.scales[step](support), self.means[step](memory)

    def lower(self) -> kernels.StepModel:
        """See `EntropyModel`."""
        m, depth, steps = sum(self.sizes), self.depth, range(len(self.sizes))
        memory = 0 if self.attention is None else depth + max(map(self.support, steps))
        nets = []
        for step in steps:
            scales: list[Layer] = [self._exact_support(step, m + depth)]
            means: list[Layer] = [self.exact_means_support(step)]
            if self.attention is not None:
                scales += [lower(self.attention[1][step], f"scale attention {step}")]
            scales += [lower(self.scales[step], f"scales of slice {step}")]
            means += [lower(self.means[step], f"means of slice {step}")]
            nets.append(Concat([Exact(scales), Exact(means)]))
        before: list[Layer] = []
        if self.attention is not None:
            attention = [lower(module, f"mean attention {i}") for i, module in enumerate(self.attention[0])]
            before = [Exact([self._exact_support(step, m), attention[step]]) for step in steps]
        after = [self.exact_refinement(step) for step in steps]
        rule = quantization(self.residual)
        return kernels.StepModel(nets, m, 2 * depth, rule, memory=memory, before=before, after=after)

    def exact_refinement(self, step: int) -> Layer | None:
        """What is added to a slice, from the planes."""
        return None

    def exact_means_support(self, step: int) -> Layer:
        """What a slice's means are made of, from the planes: in memory, if there is attention."""
        m, depth = sum(self.sizes), self.depth
        if self.attention is None:
            return self._exact_support(step, m)
        return Slice(m + 2 * depth, m + 3 * depth + self.support(step))

    def _exact_support(self, step: int, start: int) -> Layer:
        """Features from channel `start` of the planes, and the slices that a slice sees."""
        features, seen = Slice(start, start + self.depth), self.support(step)
        return Concat([features, Slice(0, seen)]) if seen else features


class RefinedSlices(ChannelSlices):
    """With latent residual prediction: half the tanh of a network, of the means' support and of the slice."""

    refines = True

    def __init__(
        self,
        channels: int,
        features: int,
        means: nn.ModuleList,
        scales: nn.ModuleList,
        refinements: nn.ModuleList,
        max_support: int = -1,
        attention: tuple[nn.ModuleList, nn.ModuleList] | None = None,
    ) -> None:
        super().__init__(channels, features, means, scales, max_support, attention)
        self.refinements = refinements

    def _own(self, step: int) -> tuple[int, int]:
        start = sum(self.sizes[:step])
        return start, start + self.sizes[step]

    def after(self, step: int, y_hat: Tensor, features: Features, memory: Tensor | None) -> Tensor | None:
        """See `StepEntropy`."""
        assert memory is not None
        start, stop = self._own(step)
        return 0.5 * self.refinements[step](torch.cat([memory, y_hat[:, start:stop]], 1)).tanh()

    def exact_refinement(self, step: int) -> Layer | None:
        """See `ChannelSlices`."""
        joined = Concat([self.exact_means_support(step), Slice(*self._own(step))])
        return half_tanh([joined, lower(self.refinements[step], f"refinement {step}")], self.sizes[step])


class SlicedHyperprior(Hyperprior):
    """Two hyper-syntheses, of what means and of what scales are made of, and networks for each slice.

    Names are those of Minnen and Singh's code. A subclass makes the modules.
    """

    h_mean_s: nn.Module
    h_scale_s: nn.Module
    cc_mean_transforms: nn.ModuleList
    cc_scale_transforms: nn.ModuleList
    lrp_transforms: nn.ModuleList | None
    hyper_depth: int
    """Channels that each hyper-synthesis gives."""
    max_support: int

    def attention(self) -> tuple[nn.ModuleList, nn.ModuleList] | None:
        """See `ChannelSlices`."""
        return None

    def parts(self) -> Mapping[str, Part]:
        lrp, sees = self.lrp_transforms, (self.max_support, self.attention())
        shape = self.m, 2 * self.hyper_depth, self.cc_mean_transforms, self.cc_scale_transforms
        model = ChannelSlices(*shape, *sees) if lrp is None else RefinedSlices(*shape, lrp, *sees)
        return {"y": Part(model, 0, self.m)}

    def features(self, sides: Mapping[str, Tensor]) -> Features:
        return {"features": torch.cat([self.h_mean_s(sides["z"]), self.h_scale_s(sides["z"])], 1)}

    def lower_features(self) -> dict[str, ExactFeatures]:
        both = [lower(self.h_mean_s, "h_mean_s"), lower(self.h_scale_s, "h_scale_s")]
        return {"features": ExactFeatures(Concat(both))}


def half_tanh(layers: Sequence[Layer], channels: int) -> Layer:
    """0.5 * tanh of what layers give: latent residual prediction."""
    half = np.full((channels, 1, 1, 1), 0.5, np.float32)
    return Exact([*layers, Tanh(), kernels.DepthwiseConv2d(half, np.zeros(channels, np.float32))])


def supporting(step: int, max_support: int) -> int:
    """How many slices a slice sees, of at most `max_support`; -1: of all. ValueError for less than -1."""
    if max_support < -1:
        raise ValueError(f"max_support must be -1 for all slices, or at least 0, not {max_support}")
    return step if max_support < 0 else min(step, max_support)


def slice_nets(
    depth: int,
    channels: int,
    count: int,
    widths: Sequence[int],
    max_support: int,
    kernel_sizes: tuple[int, int, int],
    activation: type[nn.Module],
    *,
    refine: bool = False,
) -> nn.ModuleList:
    """Three convolutions for each slice, from `depth` features and the slices that it sees.

    refine: they take the slice itself as well.
    Raises ValueError unless there are as many widths as the convolutions need.
    """
    check_repeats("slices", count)
    if len(widths) != len(kernel_sizes) - 1:
        raise ValueError(f"widths {tuple(widths)} of {len(kernel_sizes)} convolutions, which have two")
    nets = nn.ModuleList()
    for step, size in enumerate(even_slices(channels, count)):
        inputs = depth + size * (supporting(step, max_support) + refine)
        ends = (inputs, *widths, size)
        convs = [conv(ends[i], ends[i + 1], kernel, 1) for i, kernel in enumerate(kernel_sizes)]
        nets.append(nn.Sequential(convs[0], activation(), convs[1], activation(), convs[2]))
    return nets
