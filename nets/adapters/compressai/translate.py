"""CompressAI's modules as ours: an entropy model of y, and the exact layer of its features.

Whatever has no counterpart here is refused by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from compressai.entropy_models import GaussianConditional
from compressai.latent_codecs import (
    ChannelGroupsLatentCodec,
    CheckerboardLatentCodec,
    GaussianConditionalLatentCodec,
    RasterScanLatentCodec,
)
from compressai.layers import CheckerboardMaskedConv2d, MaskedConv2d
from numpy.typing import NDArray
from torch import Tensor, nn

from .... import kernels
from ....kernels import blocks, causal_mask, checkerboard_mask
from ...context import CHECKERBOARD, SERIAL, ContextConv, ContextEntropy
from ...entropy_model import EntropyModel, ParallelEntropy, with_zero_means
from ...lowering import array, lower, lowers
from ...systems.elic2022 import GroupEntropy
from .anatomy import SCALES_MEANS, Anatomy, check, refuse_others, refuse_overrides, unknown


@dataclass(frozen=True)
class Translation:
    """The exact twin of what gives the distributions of y."""

    model: EntropyModel
    order: str
    hyper: kernels.Layer
    """From the integers that z_hat is away from its medians, (h, w, N), to features (H, W, F)."""
    scales: NDArray[np.float64]
    """Of the table's rows."""


_AXIS = 1
"""Of channels."""
_CHANDELIER = ("compressai.models.sensetime", "Elic2022Chandelier._monkey_patch.<locals>.merge_y")


def medians(bottleneck: Any) -> NDArray[np.float32]:
    """(N,): z_hat is these and integers."""
    return array(bottleneck._get_medians()).reshape(-1)


def translate(model: Any, found: Anatomy) -> Translation:
    """The exact twin of what decides distributions of y. TypeError naming what has none."""
    assert found.h_s is not None
    z = medians(model.get_submodule(found.bottleneck))
    shifted = kernels.DepthwiseConv2d(np.ones((len(z), 1, 1, 1), np.float32), z)
    h_s = lower(model.get_submodule(found.h_s), found.h_s, _AXIS)
    hyper = blocks.Sequential([shifted, h_s])
    depth = _channels(hyper, len(z), found.h_s)
    if found.codec:
        path = f"{found.codec}.y"
        y = _of_codec(model.get_submodule(path), path, depth)
    elif found.serial:
        y = _raster(model, "", depth)
    else:
        conditionals = {"gaussian_conditional": model.gaussian_conditional}
        y = _parallel(depth, found.chunks, conditionals)
    hyper = blocks.Sequential([shifted, h_s, *y.hyper])
    return Translation(y.model, y.model.orders[0], hyper, _scales(y.conditionals))


class ScalesMeans(nn.Module):
    """(scales, means) of M channels each, from chunks in another sequence, or from scales alone."""

    def __init__(self, chunks: tuple[str, ...], m: int) -> None:
        super().__init__()
        self.chunks, self.m = chunks, m

    def forward(self, x: Tensor) -> Tensor:
        """(B, M or 2M, H, W) to (B, 2M, H, W)."""
        if self.chunks == ("scales",):
            return torch.cat([x, torch.zeros_like(x)], 1)
        return x.roll(self.m, 1)


@lowers(ScalesMeans, 1)
def _(module: ScalesMeans, path: str) -> kernels.Layer:
    if module.chunks == ("scales",):
        return with_zero_means(module.m)
    return kernels.Concat([kernels.Slice(module.m, 2 * module.m), kernels.Slice(0, module.m)])


@dataclass(frozen=True)
class _OfY:
    """What codes y becomes."""

    model: EntropyModel
    conditionals: Mapping[str, GaussianConditional]
    """All whose tables it uses, by their names."""
    hyper: tuple[kernels.Layer, ...] = ()
    """What features go through first."""


def _of_codec(codec: Any, path: str, depth: int) -> _OfY:
    """Of y, from `depth` features."""
    if type(codec) not in _TRANSLATIONS:
        raise unknown(codec, path, "is no latent codec of y that is known")
    refuse_overrides(codec, path)
    return _TRANSLATIONS[type(codec)](codec, path, depth)


def _parallel(
    depth: int,
    chunks: tuple[str, ...],
    conditionals: Mapping[str, GaussianConditional],
    own: Sequence[kernels.Layer] = (),
) -> _OfY:
    m = depth // len(chunks)
    last = [] if chunks == SCALES_MEANS else [lower(ScalesMeans(chunks, m))]
    return _OfY(ParallelEntropy(m), conditionals, (*own, *last))


def _gaussian(codec: GaussianConditionalLatentCodec, path: str, depth: int) -> _OfY:
    chunks, conditionals = _conditional(codec, path)
    name = f"{path}.entropy_parameters"
    own = lower(codec.entropy_parameters, name, _AXIS)
    return _parallel(_channels(own, depth, name), chunks, conditionals, [own])


def _raster(codec: Any, path: str, depth: int) -> _OfY:
    """Of a latent codec, or of a model of its own, which has the same modules."""
    prefix = f"{path}." if path else ""
    context = _context(codec.context_prediction, f"{prefix}context_prediction", MaskedConv2d)
    own = {f"{prefix}entropy_parameters": codec.entropy_parameters}
    head = _head(context.in_channels, SCALES_MEANS, own)
    conditionals = {f"{prefix}gaussian_conditional": codec.gaussian_conditional}
    return _OfY(ContextEntropy(context, head, SERIAL[:1], residual=True), conditionals)


def _checkerboard(codec: CheckerboardLatentCodec, path: str, depth: int) -> _OfY:
    context, head, conditionals = _checkerboard_parts(codec, path)
    sees = {"parity": codec.anchor_parity, "context_first": True}
    return _OfY(ContextEntropy(context, head, (CHECKERBOARD,), residual=True, **sees), conditionals)


def _checkerboard_parts(
    codec: CheckerboardLatentCodec, path: str
) -> tuple[ContextConv, nn.Sequential, dict[str, GaussianConditional]]:
    refuse_others(codec, path, "y")
    check(codec.y, f"{path}.y", GaussianConditionalLatentCodec)
    context = _context(codec.context_prediction, f"{path}.context_prediction", CheckerboardMaskedConv2d)
    chunks, conditionals = _conditional(codec.y, f"{path}.y")
    own = {
        f"{path}.entropy_parameters": codec.entropy_parameters,
        f"{path}.y.entropy_parameters": codec.y.entropy_parameters,
    }
    return context, _head(context.in_channels, chunks, own), conditionals


def _groups(codec: ChannelGroupsLatentCodec, path: str, depth: int) -> _OfY:
    count = len(codec.groups)
    spatial: list[ContextConv] = []
    heads: list[nn.Module] = []
    conditionals: dict[str, GaussianConditional] = {}
    sees = set()
    for k, size in enumerate(codec.groups):
        name, one = f"{path}.latent_codec.y{k}", codec.latent_codec[f"y{k}"]
        check(one, name, CheckerboardLatentCodec)
        context, head, used = _checkerboard_parts(one, name)
        if context.in_channels != size:
            raise unknown(one, name, f"has {context.in_channels} channels in a group of {size}")
        spatial.append(context)
        heads.append(head)
        conditionals |= used
        sees.add((context.kernel_size[0], one.anchor_parity))
    if len(sees) > 1:
        raise unknown(codec, path, f"has groups of several kernels or parities, {sorted(sees)}")
    channel = [codec.channel_context[f"y{k}"] for k in range(1, count)]
    for k, network in enumerate(channel, 1):
        # Refused under its own name.
        lower(network, f"{path}.channel_context.y{k}", _AXIS)
    model = GroupEntropy(spatial, heads, channel, depth, sees.pop()[1], _reads(codec, path))
    return _OfY(model, conditionals)


def _reads(codec: ChannelGroupsLatentCodec, path: str) -> list[Sequence[int]]:
    """Of each group, the earlier ones that its channel context reads."""
    every = range(len(codec.groups))
    own = vars(codec).get("merge_y")
    if own is None:
        return [range(k) for k in every]
    function = getattr(own, "__func__", None)
    if (getattr(function, "__module__", ""), getattr(function, "__qualname__", "")) != _CHANDELIER:
        raise unknown(codec, path, "merges groups with a merge_y of its own")
    return [sorted({0, k - 1}) if k else () for k in every]


_TRANSLATIONS: Mapping[type[nn.Module], Callable[[Any, str, int], _OfY]] = {
    GaussianConditionalLatentCodec: _gaussian,
    RasterScanLatentCodec: _raster,
    CheckerboardLatentCodec: _checkerboard,
    ChannelGroupsLatentCodec: _groups,
}


def _conditional(
    codec: GaussianConditionalLatentCodec, path: str
) -> tuple[tuple[str, ...], dict[str, GaussianConditional]]:
    """(chunks, conditional by its name) of a latent codec."""
    check(codec, path, GaussianConditionalLatentCodec)
    if sorted(codec.chunks) not in (["scales"], ["means", "scales"]):
        raise unknown(codec, path, f"has chunks {codec.chunks}")
    return codec.chunks, {f"{path}.gaussian_conditional": codec.gaussian_conditional}


def _context(conv: Any, path: str, masked: type[MaskedConv2d]) -> ContextConv:
    """A context convolution, plain or `masked`, as one of ours, with its weights."""
    check(conv, path, nn.Conv2d, masked)
    if conv._forward_hooks or conv._forward_pre_hooks:
        raise unknown(conv, path, "has hooks")
    kernel = conv.kernel_size[0]
    shape = conv.kernel_size, conv.padding, conv.stride, conv.dilation, conv.groups, conv.padding_mode
    if kernel % 2 == 0 or shape != ((kernel,) * 2, (kernel // 2,) * 2, (1, 1), (1, 1), 1, "zeros"):
        raise unknown(conv, path, f"isn't centered with zeros around it ({conv})")
    mask = checkerboard_mask(kernel) if masked is CheckerboardMaskedConv2d else causal_mask(kernel)
    if type(conv) is masked and not np.array_equal(
        array(conv.mask), np.broadcast_to(mask, conv.weight.shape)
    ):
        raise unknown(conv, path, "has a mask of its own")
    own = ContextConv(conv.in_channels, kernel, conv.out_channels)
    # Other taps may hold anything: CompressAI masks them as it runs.
    weight = np.where(mask, array(conv.weight), np.float32(0))
    own.weight = nn.Parameter(torch.from_numpy(weight), requires_grad=False)
    own.bias = conv.bias
    return own


def _head(m: int, chunks: tuple[str, ...], modules: Mapping[str, nn.Module]) -> nn.Sequential:
    """Pointwise modules, by their names, one after the other, to (scales, means)."""
    leaves: list[nn.Module] = []
    for path, module in modules.items():
        # CompressAI runs them on half of the positions at a time, or on a single one.
        if not lower(module, path, _AXIS).pointwise:
            raise unknown(module, path, "isn't pointwise: it reads more than one position")
        leaves += _leaves(module)
    return nn.Sequential(*leaves, *([] if chunks == SCALES_MEANS else [ScalesMeans(chunks, m)]))


def _leaves(module: nn.Module) -> list[nn.Module]:
    if type(module) is nn.Identity:
        return []
    return [leaf for one in module for leaf in _leaves(one)] if type(module) is nn.Sequential else [module]


def _scales(conditionals: Mapping[str, Any]) -> NDArray[np.float64]:
    """The scales of all tables that are in use."""
    found: dict[bytes, tuple[str, NDArray[np.float64]]] = {}
    for path, one in conditionals.items():
        check(one, path, GaussianConditional)
        table = array(one.scale_table)
        # `build_indexes` raises scales to the bound first: no lower row is ever used, unless it is the last.
        below = int((table < array(one.lower_bound_scale.bound)).sum())
        own = table[min(below, len(table) - 1) :]
        found[own.tobytes()] = path, own.astype(np.float64)
    if len(found) > 1:
        named = [f"{path} has {len(own)} from {own[0]:.4g} to {own[-1]:.4g}" for path, own in found.values()]
        raise TypeError(f'scale tables differ, of which stream="lanes" has one: {", ".join(named)}')
    return next(iter(found.values()))[1]


def _channels(layer: kernels.Layer, given: int, path: str) -> int:
    channels = layer.channels(given)
    if not channels:
        raise TypeError(f"{path}: it isn't known how many channels it gives")
    return channels
