"""CompressAI's architectures, tiny, with random weights such that a model with them codes something."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from compressai import latent_codecs
from compressai.entropy_models import EntropyBottleneck
from compressai.layers import CheckerboardMaskedConv2d, MaskedConv2d
from compressai.models import base, google, sensetime, waseda
from torch import nn

N, M = 8, 12
GROUPS = (2, 2, 4, 8)


class Vae(base.SimpleVAECompressionModel):
    """Latent codecs under the transforms of the factorized model."""

    def __init__(self, codec: nn.Module, m: int = M) -> None:
        super().__init__()
        transforms = google.FactorizedPriorReLU(N, m)
        self.g_a, self.g_s, self.latent_codec = transforms.g_a, transforms.g_s, codec


def hyperprior(y: nn.Module, m: int = M, outputs: int | None = None) -> Vae:
    """A latent codec of y under a hyperprior. outputs: channels of h_s, by default 2m."""
    transforms = google.MeanScaleHyperprior(N, m)
    h_s = transforms.h_s
    if outputs:
        h_s[4] = nn.Conv2d(m * 3 // 2, outputs, 3, padding=1)
    hyper = latent_codecs.HyperLatentCodec(EntropyBottleneck(N), transforms.h_a, h_s)
    return Vae(latent_codecs.HyperpriorLatentCodec({"y": y, "hyper": hyper}), m)


def pointwise(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, 20, 1), nn.LeakyReLU(), nn.Conv2d(20, outputs, 1))


def gaussian(**given: Any) -> Any:
    return latent_codecs.GaussianConditionalLatentCodec(**given)


def raster() -> Vae:
    context = MaskedConv2d(M, 2 * M, 5, padding=2)
    conditional = gaussian().gaussian_conditional
    return hyperprior(latent_codecs.RasterScanLatentCodec(conditional, pointwise(4 * M, 2 * M), context))


def channel_groups() -> Vae:
    """Channel contexts of other depths than the groups', odd anchors, 3x3 contexts, one unmasked."""
    groups, depths = (3, 5, 4), (0, 7, 3)
    codecs = {}
    for k, size in enumerate(groups):
        kind = nn.Conv2d if k == 2 else CheckerboardMaskedConv2d
        context = kind(size, size + 1, 3, padding=1, bias=False)
        inputs = size + 1 + depths[k] + 2 * M
        codecs[f"y{k}"] = latent_codecs.CheckerboardLatentCodec(
            {"y": gaussian(chunks=("means", "scales"))},
            pointwise(inputs, 2 * size),
            context,
            anchor_parity="odd",
        )
    channel = {f"y{k}": nn.Conv2d(sum(groups[:k]), depths[k], 3, padding=1) for k in (1, 2)}
    return hyperprior(latent_codecs.ChannelGroupsLatentCodec(codecs, channel, groups=list(groups)))


MAKERS = {
    "bmshj2018-factorized": lambda: google.FactorizedPrior(N, M),
    "bmshj2018-factorized-relu": lambda: google.FactorizedPriorReLU(N, M),
    "bmshj2018-hyperprior": lambda: google.ScaleHyperprior(N, M),
    "mbt2018-mean": lambda: google.MeanScaleHyperprior(N, M),
    "mbt2018": lambda: google.JointAutoregressiveHierarchicalPriors(N, M),
    "cheng2020-anchor": lambda: waseda.Cheng2020Anchor(N),
    "cheng2020-attn": lambda: waseda.Cheng2020Attention(N),
    "cheng2020-checkerboard": lambda: sensetime.Cheng2020AnchorCheckerboard(N),
    "elic-official": lambda: sensetime.Elic2022Official(N, sum(GROUPS), GROUPS),
    "elic-chandelier": lambda: sensetime.Elic2022Chandelier(N, sum(GROUPS), GROUPS),
    "codec-factorized": lambda: Vae(latent_codecs.EntropyBottleneckLatentCodec(channels=M)),
    "codec-mean": lambda: hyperprior(gaussian()),
    "codec-scale": lambda: hyperprior(gaussian(chunks=("scales",)), outputs=M),
    "codec-parameters": lambda: hyperprior(
        gaussian(entropy_parameters=nn.Conv2d(M, 2 * M, 3, padding=1), chunks=("means", "scales")), outputs=M
    ),
    "codec-raster": raster,
    "codec-groups": channel_groups,
}
"""The zoo's architectures, then what latent codecs can be put together to."""

HYPER = [name for name in MAKERS if "factorized" not in name]


MEANS_FIRST = ("elic-chandelier", "codec-parameters", "codec-groups")
SCALES_ALONE = ("bmshj2018-hyperprior", "codec-scale")


def tiny(name: str, seed: int = 0) -> Any:
    """The model of that name, with its tables, in inference."""
    torch.manual_seed(seed)
    model = MAKERS[name]()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(_random(key, parameter))
        for path in ("g_a", "h_a", "latent_codec.hyper.h_a"):
            for conv in _convs(model, path)[-1:]:
                conv.weight.mul_(4)
        for path, _ in list(model.named_modules()):
            if path.endswith("h_s") or (path.endswith("entropy_parameters") and _convs(model, path)):
                raised = _convs(model, path)[-1].bias
                half = len(raised) // 2
                scales = slice(half, None) if name in MEANS_FIRST else slice(half)
                raised[slice(None) if name in SCALES_ALONE else scales] += 4
        model.update(force=True, update_quantiles=True)
    return model.eval()


def _random(key: str, old: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(old.shape)
    if "matrices" in key:
        return 0.3 * noise + math.log(math.expm1(1 / 30**0.2))
    match key.rsplit(".", 1)[-1]:
        case "beta":
            return (1 + 0.1 * noise.abs()).sqrt()
        case "gamma":
            return (0.1 * torch.eye(*noise.shape) + 0.02 * noise.abs()).sqrt()
        case "bias":
            return 0.1 * noise
        case "weight":
            return noise / math.sqrt(math.prod(noise.shape[1:]))
    return old


def _convs(model: nn.Module, path: str) -> list[Any]:
    """The convolutions of a module, if there is one of that name."""
    found = [module for name, module in model.named_modules() if f"{name}.".startswith(f"{path}.")]
    return [module for module in found if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]


@cache
def image(height: int = 64, width: int = 128, count: int = 1) -> torch.Tensor:
    """(count, 3, height, width) in 0..1: blocks of 8 pixels, and noise."""
    generator = torch.Generator().manual_seed(15)
    coarse = torch.rand(count, 3, -(-height // 8), -(-width // 8), generator=generator)
    fine = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)[:, :, :height, :width]
    return 0.9 * fine + 0.1 * torch.rand(fine.shape, generator=generator)
