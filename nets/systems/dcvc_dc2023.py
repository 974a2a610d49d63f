"""DCVC-DC's codec of images, and its quadtree in the baseline that DCA is compared with.

Li, Li and Lu, "Neural video compression with diverse contexts", CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..blocks import DepthConvBlock2
from ..dcvc_blocks import BitEstimator, StridedBlock, UNet, UpsampleBlock
from ..density import FactorizedPrior
from ..elic_transforms import elic_sm_analysis, elic_sm_synthesis
from ..entropy_model import Features
from ..hyper import hyper_analysis, hyper_synthesis
from ..hyperprior import Hyperprior
from ..lowering import lower
from ..quadtree import SteppedTrunkEntropy, TrunkEntropy, step_adaptors, trunk
from ..system import ExactFeatures, Part, Side, System


class QuadtreeBaseline(Hyperprior):
    """DCA's baseline: ELIC-sm's transforms, Minnen 2018's hyperprior, and DCVC-DC's trunk over a quadtree.

    `n` channels in transforms and z, `m` in y. Kim et al., "Diversify, contextualize, and adapt", NeurIPS
    2024, table 1: 32.64 million parameters. reading: see `quadtree.READINGS`.
    """

    def __init__(self, n: int = 192, m: int = 320, reading: str = "B") -> None:
        if m % 4:
            raise ValueError(f"{m} channels must be in four groups")
        super().__init__(m, n=n, m=m, reading=reading)
        self.g_a, self.g_s = elic_sm_analysis(n, m), elic_sm_synthesis(n, m)
        self.h_a, self.h_s = hyper_analysis(n, m), hyper_synthesis(n, m)
        self.entropy_bottleneck = FactorizedPrior(n)
        self.adaptors = step_adaptors(m, 2 * m, 3 * m, reading)
        self.trunk = trunk(m, reading)

    def parts(self) -> Mapping[str, Part]:
        return {"y": Part(TrunkEntropy(self.m, 2 * self.m, self.adaptors, self.trunk), 0, self.m)}


class IntraEncoder(nn.Module):
    """Images (B, 3, H, W) to y (B, n, H/16, W/16); what is at half the resolution is scaled by `step`."""

    def __init__(self, n: int, half: int, quarter: int) -> None:
        super().__init__()
        self.enc_1 = nn.Sequential(StridedBlock(3, half), DepthConvBlock2(half, half))
        self.enc_2 = nn.Sequential(
            StridedBlock(half, quarter),
            DepthConvBlock2(quarter, quarter),
            StridedBlock(quarter, n),
            DepthConvBlock2(n, n),
            nn.Conv2d(n, n, 3, 2, 1),
        )

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        return self.enc_2(self.enc_1(x) * step)


class IntraDecoder(nn.Module):
    """y_hat (B, n, H/16, W/16) to (B, out, H, W); what is at half the resolution is scaled by `step`."""

    def __init__(self, n: int, half: int, quarter: int, out: int) -> None:
        super().__init__()
        self.dec_1 = nn.Sequential(
            DepthConvBlock2(n, n),
            UpsampleBlock(n, n),
            DepthConvBlock2(n, n),
            UpsampleBlock(n, quarter),
            DepthConvBlock2(quarter, quarter),
            UpsampleBlock(quarter, half),
        )
        self.dec_2 = nn.Sequential(DepthConvBlock2(half, half), UpsampleBlock(half, out))

    def forward(self, y_hat: Tensor, step: Tensor) -> Tensor:
        return self.dec_2(self.dec_1(y_hat) * step)


class IntraNoAR(System):
    """DCVC-DC's codec of images, under the names of its published code: n channels in y and z.

    widths: channels at half and at a quarter of the resolution. refine: those that the last network takes,
    and that it has at each of its three scales. quality: which of `anchors` rates it has, 0 .. anchors - 1;
    one set of weights serves all. Scales have the floor of all systems here, not the published code's.
    """

    reach = 6

    def __init__(
        self,
        n: int = 256,
        widths: tuple[int, int] = (128, 192),
        refine: tuple[int, int, int, int] = (16, 32, 64, 128),
        anchors: int = 4,
        quality: int = 0,
    ) -> None:
        if n % 4 or not 0 <= quality < anchors:
            raise ValueError(f"{n} channels must be in four groups, quality {quality} in 0..{anchors - 1}")
        sizes = {"n": n, "widths": tuple(widths), "refine": tuple(refine)}
        super().__init__(**sizes, anchors=anchors, quality=quality)
        self.m, self.quality = n, quality
        half, quarter = widths
        out, *scales = refine
        if len(scales) != 3:
            raise ValueError(f"refine {tuple(refine)} must be the widths of an input and of three scales")
        unet = UNet(out, (scales[0], scales[1], scales[2]))
        self.enc = IntraEncoder(n, half, quarter)
        self.hyper_enc = nn.Sequential(
            DepthConvBlock2(n, n), nn.Conv2d(n, n, 3, 2, 1), nn.LeakyReLU(), nn.Conv2d(n, n, 3, 2, 1)
        )
        self.hyper_dec = nn.Sequential(UpsampleBlock(n, n), UpsampleBlock(n, n), DepthConvBlock2(n, n))
        self.y_prior_fusion = nn.Sequential(DepthConvBlock2(n, 2 * n), DepthConvBlock2(2 * n, 3 * n))
        self.y_spatial_prior_adaptor_1 = nn.Conv2d(4 * n, 3 * n, 1)
        self.y_spatial_prior_adaptor_2 = nn.Conv2d(4 * n, 3 * n, 1)
        self.y_spatial_prior_adaptor_3 = nn.Conv2d(4 * n, 3 * n, 1)
        blocks = DepthConvBlock2(3 * n, 3 * n), DepthConvBlock2(3 * n, 2 * n), DepthConvBlock2(2 * n, 2 * n)
        self.y_spatial_prior = nn.Sequential(*blocks)
        self.dec = IntraDecoder(n, half, quarter, out)
        self.refine = nn.Sequential(unet, nn.Conv2d(out, 3, 3, padding=1))
        self.q_basic_enc, self.q_basic_dec = (nn.Parameter(torch.ones(1, half, 1, 1)) for _ in range(2))
        self.q_scale_enc, self.q_scale_dec = (nn.Parameter(torch.ones(anchors, 1, 1, 1)) for _ in range(2))
        self.bit_estimator_z = BitEstimator(n)

    def sides(self) -> Mapping[str, Side]:
        return {"z": Side(self.bit_estimator_z)}

    def parts(self) -> Mapping[str, Part]:
        names = ("y_spatial_prior_adaptor_1", "y_spatial_prior_adaptor_2", "y_spatial_prior_adaptor_3")
        adaptors = [getattr(self, name) for name in names]
        return {"y": Part(SteppedTrunkEntropy(self.m, adaptors, self.y_spatial_prior), 0, self.m)}

    def analysis(self, x: Tensor) -> Tensor:
        return self.enc(x, self.q_basic_enc * self.q_scale_enc[self.quality])

    def synthesis(self, y_hat: Tensor) -> Tensor:
        return self.refine(self.dec(y_hat, self.q_basic_dec * self.q_scale_dec[self.quality]))

    def hyper_analysis(self, y: Tensor) -> dict[str, Tensor]:
        return {"z": self.hyper_enc(y)}

    def features(self, sides: Mapping[str, Tensor]) -> Features:
        return {"features": self.y_prior_fusion(self.hyper_dec(sides["z"]))}

    def lower_features(self) -> dict[str, ExactFeatures]:
        return {"features": ExactFeatures(lower(nn.Sequential(self.hyper_dec, self.y_prior_fusion)))}
