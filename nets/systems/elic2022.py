"""ELIC: uneven groups of channels, in each a checkerboard.

He et al., "ELIC: Efficient learned image compression with unevenly grouped space-channel contextual adaptive
coding", CVPR 2022. Names, and widths by default, are those of CompressAI's `Elic2022Official`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ... import kernels
from ...kernels import Concat, Order, Slice, checkerboard_mask
from ...kernels import Sequential as Exact
from ..arguments import check_repeats
from ..context import ContextConv
from ..density import FactorizedPrior
from ..elic_transforms import elic_analysis, elic_sm_analysis, elic_sm_synthesis, elic_synthesis
from ..entropy_model import Features, StepEntropy, quantization
from ..lowering import array, bias_array, lower
from ..system import ExactFeatures, Part, Side, System
from ..transforms import conv, deconv

TRANSFORMS: Mapping[str, tuple[Callable[..., nn.Module], Callable[..., nn.Module], int]] = {
    "elic": (elic_analysis, elic_synthesis, 10),
    "elic-sm": (elic_sm_analysis, elic_sm_synthesis, 4),
}
"""Makers of g_a and g_s, and their reach."""


def aggregation(inputs: int, outputs: int, least: int, hidden: Sequence[int] | None = None) -> nn.Sequential:
    """Three 1x1 convolutions. hidden: the channels between them; by default even steps, `least` or more."""
    if hidden is None:
        hidden = [max((inputs * (3 - i) + outputs * i) // 3, least) for i in (1, 2)]
    widths = (inputs, *hidden, outputs)
    convs = [nn.Conv2d(widths[i], widths[i + 1], 1) for i in range(3)]
    return nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])


class Group(nn.Module):
    """Spatial context of one group, and 1x1 convolutions of (spatial context, channel context, features)."""

    def __init__(self, size: int, known: int, least: int, hidden: Sequence[int] | None) -> None:
        super().__init__()
        self.entropy_parameters = aggregation(2 * size + known, 2 * size, least, hidden)
        self.context_prediction = ContextConv(size)


class Groups(nn.Module):
    """All groups, and a network for each but the first, of all groups before it.

    least, aggregated: as `aggregation`'s least and hidden. features: channels of them.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        least: int,
        features: int,
        widths: Sequence[int],
        aggregated: Sequence[int] | None,
    ) -> None:
        super().__init__()
        first, second = widths
        self.channel_context, self.latent_codec = nn.ModuleDict(), nn.ModuleDict()
        for k, size in enumerate(sizes):
            known = features
            if k:
                known += 2 * size
                self.channel_context[f"y{k}"] = nn.Sequential(
                    conv(sum(sizes[:k]), first, 5, 1),
                    nn.ReLU(),
                    conv(first, second, 5, 1),
                    nn.ReLU(),
                    conv(second, 2 * size, 5, 1),
                )
            self.latent_codec[f"y{k}"] = Group(size, known, least, aggregated)


class HyperLatent(nn.Module):
    """z of `n` channels and its prior; widths: channels of h_s's layers."""

    def __init__(self, n: int, m: int, widths: Sequence[int]) -> None:
        super().__init__()
        first, second, self.depth = widths
        self.entropy_bottleneck = FactorizedPrior(n)
        self.h_a = nn.Sequential(conv(m, n, 3, 1), nn.ReLU(), conv(n, n), nn.ReLU(), conv(n, n))
        self.h_s = nn.Sequential(
            deconv(n, first),
            nn.ReLU(),
            deconv(first, second),
            nn.ReLU(),
            nn.ConvTranspose2d(second, self.depth, 3, 1, 1),
        )


class LatentCodec(nn.Module):
    """What codes y and z, under CompressAI's names."""

    def __init__(self, y: Groups, hyper: HyperLatent) -> None:
        super().__init__()
        self.y, self.hyper = y, hyper


class GroupEntropy(StepEntropy):
    """Groups of channels, of each first the anchors of a checkerboard, then the rest.

    spatial: each group's context convolution, of zero for anchors. aggregation: each group's 1x1 convolutions
    of (spatial context, channel context, features). channel: for each group but the first a network of
    earlier groups, those that `reads` numbers, by default all.
    """

    orders = ("slices_checkerboard",)
    residual = True

    def __init__(
        self,
        spatial: Sequence[ContextConv],
        aggregation: Sequence[nn.Module],
        channel: Sequence[nn.Module],
        features: int,
        parity: str,
        reads: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.spatial, self.aggregation, self.channel = spatial, aggregation, channel
        self.depth, self.parity = features, parity
        self.sizes = [context.in_channels for context in spatial]
        self.reads = [range(group) for group in range(len(spatial))] if reads is None else reads

    @property
    def mask(self) -> Any:
        """Of the spatial context."""
        return checkerboard_mask(self.spatial[0].kernel_size[0])

    def order(self, name: str, height: int, width: int) -> Order:
        """See `EntropyModel`."""
        self.check_order(name)
        return kernels.slices_checkerboard(height, width, self.sizes, self.mask, self.parity)

    def own(self, group: int) -> tuple[int, int]:
        """A group's first channel, and the one behind its last."""
        start = sum(self.sizes[:group])
        return start, start + self.sizes[group]

    def before(self, step: int, y_hat: Tensor, features: Features) -> Tensor | None:
        """The channel context, for both steps of a group."""
        group, rest = divmod(step, 2)
        if rest or not group:
            return None
        earlier = [y_hat[:, slice(*self.own(number))] for number in self.reads[group]]
        return self.channel[group - 1](torch.cat(earlier, 1))

    def parameters(
        self, step: int, y_hat: Tensor, features: Features, memory: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `StepEntropy`."""
        group, rest = divmod(step, 2)
        if rest:
            spatial = self.spatial[group](y_hat[:, slice(*self.own(group))], self.mask)
        else:
            b, _, h, w = y_hat.shape
            spatial = y_hat.new_zeros(b, self.spatial[group].out_channels, h, w)
        known = [] if memory is None else [memory]
        scales, means = self.aggregation[group](torch.cat([spatial, *known, features[self.plane]], 1)).chunk(
            2, 1
        )
        return scales, means

    def lower(self) -> kernels.StepModel:
        """See `EntropyModel`."""
        m, memory = sum(self.sizes), 0
        nets: list[kernels.Layer] = []
        before: list[kernels.Layer | None] = []
        for group, (context, aggregation) in enumerate(zip(self.spatial, self.aggregation, strict=True)):
            weights, reach = (array(context.weight), bias_array(context)), context.kernel_size[0] // 2
            spatial = kernels.Conv2d(*weights, padding=reach, mask=self.mask)
            known: list[kernels.Layer] = [Slice(m, m + self.depth)]
            before += [None, None]
            if group:
                channel = Exact(
                    [self._earlier(group), lower(self.channel[group - 1], f"channel context {group}")]
                )
                given = channel.channels(m + self.depth)
                assert given is not None
                before[-2] = channel
                known = [Slice(m + self.depth, m + self.depth + given), *known]
                memory = max(memory, given)
            head = lower(aggregation, f"aggregation {group}")
            own = Exact([Slice(*self.own(group)), spatial])
            nets += [
                Exact([Concat(known), _without_first(head, context.out_channels)]),
                Exact([Concat([own, *known]), head]),
            ]
        return kernels.StepModel(nets, m, self.depth, quantization(True), memory=memory, before=before)

    def _earlier(self, group: int) -> kernels.Layer:
        """What a group's channel context reads, in one slice where groups follow each other."""
        slices: list[tuple[int, int]] = []
        for start, stop in map(self.own, self.reads[group]):
            if slices and slices[-1][1] == start:
                start = slices.pop()[0]
            slices.append((start, stop))
        return Slice(*slices[0]) if len(slices) == 1 else Concat([Slice(*one) for one in slices])


def _without_first(head: kernels.Layer, channels: int) -> kernels.Layer:
    """A head of 1x1 convolutions whose first input channels are zero: without them."""
    assert isinstance(head, Exact)
    first = head.layers[0]
    assert isinstance(first, kernels.Conv2d)
    return Exact([kernels.Conv2d(first.weight[:, channels:], first.bias), *head.layers[1:]])


class Elic2022(System):
    """Transforms of `n` channels, "elic" or "elic-sm"; `groups` of channels of y.

    hyper: channels of h_s's layers, by default n, 3n/2 and 2n. widths: inside the networks of earlier
    groups. aggregated: between the 1x1 convolutions, by default even steps of 2n or more. parity: of the
    anchors' row + column. Raises ValueError for what isn't known.
    """

    def __init__(
        self,
        n: int = 192,
        groups: Sequence[int] = (16, 16, 32, 64, 192),
        transforms: str = "elic",
        hyper: Sequence[int] | None = None,
        widths: Sequence[int] = (224, 128),
        aggregated: Sequence[int] | None = None,
        parity: str = "even",
    ) -> None:
        if transforms not in TRANSFORMS or parity not in ("even", "odd"):
            raise ValueError(
                f"transforms must be one of {', '.join(TRANSFORMS)} and parity even or odd, "
                f"not {transforms!r} and {parity!r}"
            )
        check_repeats("groups", len(groups))
        if not groups or min(groups) < 1 or len(widths) != 2 or len(aggregated or (1, 1)) != 2:
            raise ValueError(
                f"groups {tuple(groups)}, widths {tuple(widths)}, aggregated {aggregated}: groups have one "
                "channel or more, the others are two numbers each"
            )
        super().__init__(
            n=n,
            groups=tuple(groups),
            transforms=transforms,
            hyper=hyper and tuple(hyper),
            widths=tuple(widths),
            aggregated=aggregated and tuple(aggregated),
            parity=parity,
        )
        self.m = m = sum(groups)
        hyper = hyper or (n, n * 3 // 2, n * 2)
        analysis, synthesis, self.reach = TRANSFORMS[transforms]
        self.g_a, self.g_s = analysis(n, m), synthesis(n, m)
        self.latent_codec = LatentCodec(
            Groups(groups, 2 * n, hyper[2], widths, aggregated), HyperLatent(n, m, hyper)
        )

    def sides(self) -> Mapping[str, Side]:
        return {"z": Side(self.latent_codec.hyper.entropy_bottleneck)}

    def parts(self) -> Mapping[str, Part]:
        y, hyper = self.latent_codec.y, self.latent_codec.hyper
        own = [group for group in y.latent_codec.values() if isinstance(group, Group)]
        model = GroupEntropy(
            [group.context_prediction for group in own],
            [group.entropy_parameters for group in own],
            list(y.channel_context.values()),
            hyper.depth,
            self.config["parity"],
        )
        return {"y": Part(model, 0, self.m)}

    def analysis(self, x: Tensor) -> Tensor:
        return self.g_a(x)

    def synthesis(self, y_hat: Tensor) -> Tensor:
        return self.g_s(y_hat)

    def hyper_analysis(self, y: Tensor) -> dict[str, Tensor]:
        return {"z": self.latent_codec.hyper.h_a(y)}

    def features(self, sides: Mapping[str, Tensor]) -> Features:
        return {"features": self.latent_codec.hyper.h_s(sides["z"])}

    def lower_features(self) -> dict[str, ExactFeatures]:
        return {"features": ExactFeatures(lower(self.latent_codec.hyper.h_s, "h_s"))}
