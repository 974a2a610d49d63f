"""ChARM: slices of channels, each conditioned on those before it, and latent residual prediction.

Minnen and Singh, "Channel-wise autoregressive entropy models for learned image compression", ICIP 2020.
Widths and names of the networks are those of the authors' code (TensorFlow Compression's `ms2020`). Its
networks give an index into a table of scales, these the scale itself, as the codes after it do.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..density import FactorizedPrior
from ..elic_transforms import elic_sm_analysis, elic_sm_synthesis
from ..slices import SlicedHyperprior, slice_nets
from ..transforms import analysis_transform, conv, deconv, synthesis_transform

TRANSFORMS = {
    "gdn": (analysis_transform, synthesis_transform),
    "elic-sm": (elic_sm_analysis, elic_sm_synthesis),
}


def hyper_synthesis(widths: Sequence[int]) -> nn.Sequential:
    """h_mean_s or h_scale_s: z_hat (B, widths[2], H/4, W/4) to features (B, widths[0], H, W)."""
    wide, middle, narrow = widths
    return nn.Sequential(
        deconv(narrow, narrow),
        nn.ReLU(),
        deconv(narrow, middle),
        nn.ReLU(),
        conv(middle, wide, 3, 1),
        nn.ReLU(),
    )


class Charm2020(SlicedHyperprior):
    """`slices` of the `m` channels; transforms of `n` channels, "gdn" or "elic-sm".

    max_support: how many slices, the first ones, a slice may see; -1: all before it. refine: with latent
    residual prediction. hyper: channels of h_a's layers, the last are z's. widths: inside a slice's networks.
    Raises ValueError for transforms that aren't known.
    """

    def __init__(
        self,
        n: int = 192,
        m: int = 320,
        slices: int = 10,
        max_support: int = 5,
        refine: bool = True,
        transforms: str = "gdn",
        hyper: Sequence[int] = (320, 256, 192),
        widths: Sequence[int] = (224, 128),
    ) -> None:
        if transforms not in TRANSFORMS:
            raise ValueError(f"transforms must be one of {', '.join(TRANSFORMS)}, not {transforms!r}")
        super().__init__(
            m,
            n=n,
            m=m,
            slices=slices,
            max_support=max_support,
            refine=refine,
            transforms=transforms,
            hyper=tuple(hyper),
            widths=tuple(widths),
        )
        wide, middle, narrow = hyper
        self.max_support, self.hyper_depth = max_support, wide
        self.g_a, self.g_s = (make(n, m) for make in TRANSFORMS[transforms])
        self.h_a = nn.Sequential(
            conv(m, wide, 3, 1),
            nn.ReLU(),
            conv(wide, middle),
            nn.ReLU(),
            nn.Conv2d(middle, narrow, 5, 2, 2, bias=False),
        )
        self.h_mean_s, self.h_scale_s = (hyper_synthesis(hyper) for _ in range(2))
        self.entropy_bottleneck = FactorizedPrior(narrow)
        shape = (wide, m, slices, widths, max_support, (5, 5, 3), nn.ReLU)
        self.cc_mean_transforms, self.cc_scale_transforms = slice_nets(*shape), slice_nets(*shape)
        self.lrp_transforms = slice_nets(*shape, refine=True) if refine else None
