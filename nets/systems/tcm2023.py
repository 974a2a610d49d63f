"""LIC-TCM: transforms of convolutions and transformers side by side, and slices with window attention.

Liu, Sun and Katto, "Learned image compression with mixed transformer-CNN architectures", CVPR 2023. Module
names are those of its code, so that its weights load. Where that pads a y of 8 positions or fewer for its
windows, here images are padded beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm

from torch import nn

from ..arguments import check_repeats
from ..blocks import subpixel_conv
from ..density import FactorizedPrior
from ..elic_transforms import elic_sm_analysis, elic_sm_synthesis
from ..residual import ResidualBlockUpsample, ResidualBlockWithStride
from ..slices import SlicedHyperprior, slice_nets, supporting
from ..tcm_blocks import SwinAttention, conv_trans_blocks
from ..tiling import TILE
from ..transforms import conv


def analysis_transform(
    width: int, m: int, depths: Sequence[int], head_dims: Sequence[int], window: int
) -> nn.Sequential:
    """g_a: (B, 3, H, W) in 0..1 to y (B, m, H/16, W/16); H and W are multiples of 8 windows."""
    layers: list[nn.Module] = [ResidualBlockWithStride(3, width)]
    for stage, last in enumerate((False, False, True)):
        layers += conv_trans_blocks(width, depths[stage], head_dims[stage], window)
        layers += [conv(width, m, 3) if last else ResidualBlockWithStride(width, width)]
    return nn.Sequential(*layers)


def synthesis_transform(
    width: int, m: int, depths: Sequence[int], head_dims: Sequence[int], window: int
) -> nn.Sequential:
    """g_s: y_hat (B, m, H/16, W/16) to (B, 3, H, W), about 0..1 and not yet clipped."""
    layers: list[nn.Module] = [ResidualBlockUpsample(m, width)]
    for stage, last in enumerate((False, False, True)):
        layers += conv_trans_blocks(width, depths[stage], head_dims[stage], window)
        layers += [subpixel_conv(width, 3) if last else ResidualBlockUpsample(width, width)]
    return nn.Sequential(*layers)


class Tcm2023(SlicedHyperprior):
    """`slices` of the `m` channels; blocks of 2 * `n` channels in the transforms and the hyper-transforms.

    transforms: its own, "tcm", or "elic-sm" of `transform_width` channels. depths, head_dims: blocks of the
    six stages of g_a and g_s, and channels of their heads; h_a and each h_s have as many blocks as the first
    stage of either. z: channels of z. max_support, widths: as `Charm2020`'s. squeeze, head_dim: of the
    slices' attention. window: of that and of the transforms. hyper_head_dim, hyper_window: of the
    hyper-transforms' blocks. Raises ValueError for transforms that aren't known, and heads that can't share
    the channels.
    """

    def __init__(
        self,
        n: int = 128,
        m: int = 320,
        slices: int = 5,
        max_support: int = 5,
        transforms: str = "tcm",
        transform_width: int = 192,
        depths: Sequence[int] = (2, 2, 2, 2, 2, 2),
        head_dims: Sequence[int] = (8, 16, 32, 32, 16, 8),
        z: int = 192,
        widths: Sequence[int] = (224, 128),
        squeeze: int = 128,
        head_dim: int = 16,
        window: int = 8,
        hyper_head_dim: int = 32,
        hyper_window: int = 4,
    ) -> None:
        if transforms not in ("tcm", "elic-sm"):
            raise ValueError(f"transforms must be tcm or elic-sm, not {transforms!r}")
        check_repeats("slices and depths", slices, *depths)
        if len(depths) != 6 or len(head_dims) != 6 or min(*head_dims, hyper_head_dim, head_dim) < 1:
            raise ValueError(
                f"depths {tuple(depths)}, head_dims {tuple(head_dims)}: six each, heads of a channel or more"
            )
        if min(window, hyper_window) < 1 or TILE % window:
            raise ValueError(
                f"windows of {window} or {hyper_window} positions: the first must fill tiles of {TILE}"
            )
        shared = [(n, size) for size in (*head_dims, hyper_head_dim)] + [(squeeze, head_dim)]
        for channels, size in shared:
            if channels % size:
                raise ValueError(f"{channels} channels can't be shared by heads of {size}")
        super().__init__(
            m,
            n=n,
            m=m,
            slices=slices,
            max_support=max_support,
            transforms=transforms,
            transform_width=transform_width,
            depths=tuple(depths),
            head_dims=tuple(head_dims),
            z=z,
            widths=tuple(widths),
            squeeze=squeeze,
            head_dim=head_dim,
            window=window,
            hyper_head_dim=hyper_head_dim,
            hyper_window=hyper_window,
        )
        self.max_support, self.hyper_depth = max_support, m
        # Whole windows of y, and of what has half its rows and columns.
        self.multiple = lcm(64, 16 * window, 32 * hyper_window)
        wide = 2 * n
        if transforms == "tcm":
            self.g_a = analysis_transform(wide, m, depths[:3], head_dims[:3], window)
            self.g_s = synthesis_transform(wide, m, depths[3:], head_dims[3:], window)
            # Pairs of blocks at 1/8, 1/4 and 1/2 of the size reach 1, 1/2 and 1/4 of a window's positions of
            # y, convolutions less than the rest. So tiles begin with whole windows.
            self.reach = 2 * window
        else:
            self.g_a, self.g_s = elic_sm_analysis(transform_width, m), elic_sm_synthesis(transform_width, m)
        blocks = [conv_trans_blocks(wide, depths[i], hyper_head_dim, hyper_window) for i in (0, 3, 3)]
        self.h_a = nn.Sequential(ResidualBlockWithStride(m, wide), *blocks[0], conv(wide, z, 3))
        self.h_mean_s, self.h_scale_s = (
            nn.Sequential(ResidualBlockUpsample(z, wide), *own, subpixel_conv(wide, m)) for own in blocks[1:]
        )
        self.entropy_bottleneck = FactorizedPrior(z)
        self.atten_mean, self.atten_scale = (
            nn.ModuleList(
                nn.Sequential(SwinAttention(depth, head_dim, window, squeeze))
                for depth in (m + m // slices * supporting(i, max_support) for i in range(slices))
            )
            for _ in range(2)
        )
        shape = (m, m, slices, widths, max_support, (3, 3, 3), nn.GELU)
        self.cc_mean_transforms, self.cc_scale_transforms = slice_nets(*shape), slice_nets(*shape)
        self.lrp_transforms = slice_nets(*shape, refine=True)

    def attention(self) -> tuple[nn.ModuleList, nn.ModuleList]:
        return self.atten_mean, self.atten_scale
