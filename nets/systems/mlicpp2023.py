"""MLIC++: equal slices, in each a checkerboard, with contexts of many kinds and refinement after every step.

Jiang et al., "MLIC++: Linear complexity multi-reference entropy modeling for learned image compression",
arXiv 2307.15421. Module names are those of its code, so that its weights load, but for buffers of constants,
and the prior's, which are CompressAI's of today. Two things changed in that code after the paper: the
refinement, much smaller now, and the width of g_s's first layers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ... import kernels
from ...kernels import Checkerboard, Concat, Order, Slice, checkerboard_mask, even_slices
from ...kernels import Sequential as Exact
from ..arguments import check_repeats
from ..blocks import subpixel_conv
from ..density import FactorizedPrior
from ..elic_transforms import elic_sm_analysis, elic_sm_synthesis
from ..entropy_model import Features, StepEntropy, quantization
from ..hyperprior import Hyperprior
from ..lowering import lower
from ..mlic_attention import (
    ANCHORS,
    OTHERS,
    LinearGlobalInterContext,
    LinearGlobalIntraContext,
    LocalContext,
)
from ..residual import ResidualBlock, ResidualBlockUpsample, ResidualBlockWithStride
from ..slices import half_tanh
from ..system import Part
from ..transforms import conv


def named(name: str, layers: Iterable[nn.Module]) -> nn.Sequential:
    """Layers one after the other, as the one module of another: the code has a class for each."""
    return nn.Sequential(OrderedDict({name: nn.Sequential(*layers)}))


def convolutions(widths: Sequence[int], kernel: int) -> list[nn.Module]:
    """From widths[0] channels on to widths[-1], with GELU between."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [conv(inputs, outputs, kernel, 1), nn.GELU()]
    return layers[:-1]


def analysis_transform(n: int, m: int) -> nn.Sequential:
    """g_a: (B, 3, H, W) in 0..1 to y (B, m, H/16, W/16)."""
    layers: list[nn.Module] = []
    for inputs in (3, n, n):
        down = ResidualBlockWithStride(inputs, n, activation=nn.GELU)
        layers += [down, ResidualBlock(n, n, activation=nn.GELU)]
    return named("analysis_transform", [*layers, conv(n, m, 3)])


def synthesis_transform(n: int, m: int, first: int) -> nn.Sequential:
    """g_s: y_hat (B, m, H/16, W/16) to (B, 3, H, W), about 0..1, not yet clipped. first: its first width."""
    layers: list[nn.Module] = [ResidualBlock(m, first, activation=nn.GELU)]
    for inputs in (first, n, n):
        up = ResidualBlockUpsample(inputs, n, activation=nn.GELU)
        layers += [up, ResidualBlock(n, n, activation=nn.GELU)]
    return named("synthesis_transform", [*layers, subpixel_conv(n, 3)])


def hyper_analysis(n: int, m: int) -> nn.Sequential:
    """h_a: y (B, m, H, W) to z (B, n, H/4, W/4)."""
    convs = (conv(m, n, 3, 1), conv(n, n, 3, 1), conv(n, n, 3), conv(n, n, 3, 1), conv(n, n, 3))
    return named("reduction", [layer for one in convs for layer in (one, nn.GELU())][:-1])


def hyper_synthesis(n: int, m: int) -> nn.Sequential:
    """h_s: z_hat (B, n, H/4, W/4) to features (B, 2m, H, W)."""
    wide = m * 3 // 2
    convs = (conv(n, m, 3, 1), subpixel_conv(m, m), conv(m, wide, 3, 1), subpixel_conv(wide, wide))
    layers = [layer for one in convs for layer in (one, nn.GELU())]
    return named("increase", [*layers, conv(wide, 2 * m, 3, 1)])


def refinement_widths(inputs: int, outputs: int, fixed: Sequence[int] | None) -> list[int]:
    """Of the refinement's layers: the fixed ones; None: even steps, as at first."""
    if fixed is None:
        fixed = [inputs - (inputs - outputs) * quarters // 4 for quarters in (1, 2, 3)]
    return [inputs, *fixed, outputs]


class MultiReferenceEntropy(StepEntropy):
    """For each slice anchors, then the rest, under features and what is decoded.

    Both see earlier slices, all positions of them (inter) and those near by (channel), which is computed
    once. The rest also sees its slice's anchors, those near by (local), and all of them, wherever they are
    (intra). The order's taps tell of the first alone; the others are in the planes for the same reason:
    the anchors of a slice are a step, which is complete when the next one begins, and what isn't decoded by
    then is zero there. Then half the tanh of a network of means' features and slices, their own included, is
    added to what a step has decoded.
    """

    orders = ("slices_checkerboard",)
    residual = refines = True

    def __init__(self, system: Mlicpp2023) -> None:
        self.system = system
        self.m, self.count = system.m, len(system.local_context)
        self.size = self.m // self.count

    def order(self, name: str, height: int, width: int) -> Order:
        """See `EntropyModel`."""
        self.check_order(name)
        mask = checkerboard_mask(self.system.config["window"])
        return kernels.slices_checkerboard(height, width, [self.size] * self.count, mask, ANCHORS)

    def before(self, step: int, y_hat: Tensor, features: Features) -> Tensor | None:
        """What both steps of a slice know of earlier ones."""
        i, rest = divmod(step, 2)
        if rest or not i:
            return None
        earlier, key = y_hat[:, : i * self.size], str(i)
        contexts = self.system.global_inter_context[key], self.system.channel_context[key]
        return torch.cat([context(earlier) for context in contexts], 1)

    def parameters(
        self, step: int, y_hat: Tensor, features: Features, memory: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `StepEntropy`."""
        i, rest = divmod(step, 2)
        start, stop = i * self.size, (i + 1) * self.size
        seen = [features[self.plane]] if memory is None else [memory, features[self.plane]]
        if rest and i:
            intra = self.system.global_intra_context[str(i)]
            seen.insert(0, intra(y_hat[:, start - self.size : stop]))
        if rest:
            seen.insert(0, self.system.local_context[i](y_hat[:, start:stop]))
        scales, means = self.heads(rest)[i](torch.cat(seen, 1)).chunk(2, 1)
        return scales, means

    def after(self, step: int, y_hat: Tensor, features: Features, memory: Tensor | None) -> Tensor | None:
        """See `StepEntropy`."""
        i, rest = divmod(step, 2)
        joined = [features[self.plane][:, self.m :], y_hat[:, : (i + 1) * self.size]]
        return 0.5 * self.refinements(rest)[i](torch.cat(joined, 1)).tanh()

    def heads(self, rest: int) -> nn.ModuleList:
        """Of anchors, or of the rest."""
        system = self.system
        return system.entropy_parameters_nonanchor if rest else system.entropy_parameters_anchor

    def refinements(self, rest: int) -> nn.ModuleList:
        """As `heads`."""
        return self.system.lrp_nonanchor if rest else self.system.lrp_anchor

    def lower(self) -> kernels.StepModel:
        """See `EntropyModel`."""
        nets: list[kernels.Layer] = []
        before: list[kernels.Layer | None] = []
        after: list[kernels.Layer | None] = []
        for i in range(self.count):
            before += [self._exact_before(i) if i else None, None]
            for rest, parity in enumerate((ANCHORS, OTHERS)):
                head = Checkerboard(parity, lower(self.heads(rest)[i], f"head {i}"))
                nets.append(Exact([Concat(self._exact_seen(i, rest)), head]))
                joined = Concat([Slice(2 * self.m, 3 * self.m), Slice(0, (i + 1) * self.size)])
                network = lower(self.refinements(rest)[i], f"refinement {i}")
                after.append(half_tanh([joined, network], self.size))
        memory = self._memory if self.count > 1 else 0
        sizes = self.m, 2 * self.m, quantization(True)
        return kernels.StepModel(nets, *sizes, memory=memory, before=before, after=after)

    @property
    def _memory(self) -> int:
        """Channels of what `before` gives: 2 of inter and 4 of channel context for each of a slice."""
        return 6 * self.size

    def _exact_before(self, i: int) -> kernels.Layer:
        names = ("global_inter_context", "channel_context")
        contexts = [lower(getattr(self.system, name)[str(i)], f"{name}.{i}") for name in names]
        return Exact([Slice(0, i * self.size), Concat(contexts)])

    def _exact_seen(self, i: int, rest: int) -> list[kernels.Layer]:
        """What a head is given, of planes (y_hat, features, memory)."""
        start, stop = i * self.size, (i + 1) * self.size
        seen: list[kernels.Layer] = []
        if rest:
            local = lower(self.system.local_context[i], f"local_context.{i}")
            seen.append(Exact([Slice(start, stop), local]))
        if rest and i:
            intra = lower(self.system.global_intra_context[str(i)], f"global_intra_context.{i}")
            seen.append(Exact([Slice(start - self.size, stop), intra]))
        if i:
            seen.append(Slice(3 * self.m, 3 * self.m + self._memory))
        return [*seen, Slice(self.m, 3 * self.m)]


class Mlicpp2023(Hyperprior):
    """`slices` of the `m` channels; transforms and z of `n` channels.

    transforms: its own, "mlic++", or "elic-sm" of `transform_width` channels. synthesis: of the former,
    "new", or "old" as in the paper. lrp: the refinement, "fixed" with `lrp_widths` inside, or "old" in even
    steps. channel_widths, head_widths: inside the channel contexts and the heads. heads: of local and intra
    contexts. head_dim: of inter contexts. window: of local contexts. ratio: of the MLPs of all three. Raises
    ValueError for what isn't known, and for slices or heads that can't share the channels.
    """

    def __init__(
        self,
        n: int = 192,
        m: int = 320,
        slices: int = 10,
        transforms: str = "mlic++",
        transform_width: int = 192,
        synthesis: str = "new",
        lrp: str = "fixed",
        lrp_widths: Sequence[int] = (224, 128),
        channel_widths: Sequence[int] = (192, 128),
        head_widths: Sequence[int] = (320, 256, 128),
        heads: int = 2,
        head_dim: int = 32,
        window: int = 5,
        ratio: int = 2,
    ) -> None:
        check_repeats("slices", slices)
        for what, given, kinds in (
            ("transforms", transforms, ("mlic++", "elic-sm")),
            ("synthesis", synthesis, ("new", "old")),
            ("lrp", lrp, ("fixed", "old")),
        ):
            if given not in kinds:
                raise ValueError(f"{what} must be {' or '.join(kinds)}, not {given!r}")
        size = even_slices(m, slices)[0]
        if size % heads or size % head_dim:
            raise ValueError(
                f"a slice's {size} channels can't be shared by {heads} heads and by heads of {head_dim}"
            )
        super().__init__(
            m,
            n=n,
            m=m,
            slices=slices,
            transforms=transforms,
            transform_width=transform_width,
            synthesis=synthesis,
            lrp=lrp,
            lrp_widths=tuple(lrp_widths),
            channel_widths=tuple(channel_widths),
            head_widths=tuple(head_widths),
            heads=heads,
            head_dim=head_dim,
            window=window,
            ratio=ratio,
        )
        if transforms == "mlic++":
            self.g_a = analysis_transform(n, m)
            self.g_s = synthesis_transform(n, m, m if synthesis == "new" else n)
            self.reach = 7
        else:
            self.g_a, self.g_s = elic_sm_analysis(transform_width, m), elic_sm_synthesis(transform_width, m)
        self.h_a, self.h_s = hyper_analysis(n, m), hyper_synthesis(n, m)
        self.entropy_bottleneck = FactorizedPrior(n)

        self.local_context = nn.ModuleList(LocalContext(size, heads, window, ratio) for _ in range(slices))
        # Keys, not places in a list, since the first slice has none of these.
        self.channel_context, self.global_inter_context, self.global_intra_context = (
            nn.ModuleDict() for _ in range(3)
        )
        for i in range(1, slices):
            known, key = i * size, str(i)
            channel = convolutions([known, *channel_widths, 4 * size], 3)
            # Spelled as in the code.
            self.channel_context[key] = named("fushion", channel)
            inter = LinearGlobalInterContext(known, 2 * size, known // head_dim, ratio)
            self.global_inter_context[key] = inter
            self.global_intra_context[key] = LinearGlobalIntraContext(size, heads, ratio)
        # Features, channel and inter contexts; the rest has local and intra contexts as well.
        self.entropy_parameters_anchor, self.entropy_parameters_nonanchor = (
            nn.ModuleList(
                named("fusion", convolutions([2 * m + (later if i else first), *head_widths, 2 * size], 1))
                for i in range(slices)
            )
            for first, later in ((0, 6 * size), (2 * size, 10 * size))
        )
        fixed = lrp_widths if lrp == "fixed" else None
        self.lrp_anchor, self.lrp_nonanchor = (
            nn.ModuleList(
                named("lrp_transform", convolutions(refinement_widths(m + (i + 1) * size, size, fixed), 3))
                for i in range(slices)
            )
            for _ in range(2)
        )

    def parts(self) -> dict[str, Part]:
        return {"y": Part(MultiReferenceEntropy(self), 0, self.m)}
