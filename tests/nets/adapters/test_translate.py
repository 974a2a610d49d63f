"""CompressAI's modules as ours: which models are known, what they become, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any

import numpy as np
import pytest
import tiny_compressai
import torch
from compressai import latent_codecs
from compressai.entropy_models import GaussianConditional, GaussianMixtureConditional
from compressai.layers import MaskedConv2d
from compressai.models import google
from tiny_compressai import HYPER, M, gaussian, hyperprior, pointwise, tiny
from torch import Tensor, nn

from quadrans.nets.adapters.compressai.anatomy import anatomy_of, watched
from quadrans.nets.adapters.compressai.translate import medians, translate

ORDERS = {
    "mbt2018": "wavefront",
    "cheng2020-anchor": "wavefront",
    "cheng2020-attn": "wavefront",
    "codec-raster": "wavefront",
    "cheng2020-checkerboard": "checkerboard",
    "elic-official": "slices_checkerboard",
    "elic-chandelier": "slices_checkerboard",
    "codec-groups": "slices_checkerboard",
}


def with_zeros(scales: Tensor) -> Tensor:
    return torch.cat([scales, torch.zeros_like(scales)], 1)


@pytest.mark.parametrize("name", HYPER)
def test_twins(name: str) -> None:
    model = tiny(name)
    found = anatomy_of(model)
    twin = translate(model, found)
    assert twin.order == ORDERS.get(name, "parallel")
    np.testing.assert_array_equal(twin.scales, google.get_scale_table().numpy())
    middle = medians(model.get_submodule(found.bottleneck))
    integers = torch.randint(-3, 4, (1, len(middle), 2, 3)).float()
    with torch.no_grad():
        features = model.get_submodule(found.h_s)(integers + torch.from_numpy(middle)[:, None, None])
        if name in tiny_compressai.SCALES_ALONE:
            features = with_zeros(features)
        if name == "codec-parameters":
            features = model.latent_codec.y.entropy_parameters(features).roll(M, 1)
    exact = torch.from_numpy(twin.hyper(integers[0].permute(1, 2, 0).numpy()))
    torch.testing.assert_close(exact.permute(2, 0, 1)[None], features, rtol=1e-4, atol=1e-4)


def test_scales_below_the_bound_have_no_rows() -> None:
    model = tiny("mbt2018-mean")
    model.gaussian_conditional = GaussianConditional(None, scale_bound=0.5)
    model.update()
    scales = translate(model, anatomy_of(model)).scales
    table = google.get_scale_table().numpy()
    assert scales[0] == table[table >= 0.5][0]
    assert len(scales) == (table >= 0.5).sum() < 64


class Renamed(google.MeanScaleHyperprior):
    """What changes modules alone is known by the methods that it inherits."""


def test_subclasses_with_other_modules_are_known() -> None:
    model = Renamed(8, 12)
    assert anatomy_of(model) == anatomy_of(tiny("mbt2018-mean"))
    assert anatomy_of(tiny("cheng2020-attn")) == anatomy_of(tiny("mbt2018"))


def test_watched() -> None:
    """All that decides distributions, and nothing of the transforms."""
    for name in ("mbt2018", "codec-raster", "bmshj2018-factorized", "codec-factorized", "elic-official"):
        model = tiny(name)
        before = copy.deepcopy(watched(model, anatomy_of(model)))
        unseen = set(model.state_dict()) - set(before)
        assert all(
            key.startswith(("g_a.", "g_s.", "h_a.", "latent_codec.hyper.h_a.")) or key.endswith(".mask")
            for key in unseen
        ), unseen
        # CompressAI's own pass writes what its masks leave.
        with torch.no_grad():
            model(torch.rand(1, 3, 64, 64))
        after = watched(model, anatomy_of(model))
        assert after.keys() == before.keys()
        for key, one in before.items():
            assert torch.equal(after[key], one) if isinstance(one, Tensor) else after[key] == one


class OwnCompress(google.MeanScaleHyperprior):
    def compress(self, x: Tensor) -> Any:
        return super().compress(x)


class OwnStep(google.JointAutoregressiveHierarchicalPriors):
    def _decompress_ar(self, *arguments: Any) -> None:
        super()._decompress_ar(*arguments)


class OwnCodec(latent_codecs.CheckerboardLatentCodec):
    pass


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[], Any]:
    def make() -> Any:
        model = tiny(name)
        change(model)
        return model

    return make


def put(path: str, module: Callable[[], Any]) -> Callable[[Any], None]:
    """Replaces an attribute of a model, by its dotted name."""

    def change(model: Any) -> None:
        parent, _, last = path.rpartition(".")
        setattr(model.get_submodule(parent), last, module())

    return change


def merge(*arguments: Tensor) -> Tensor:
    return torch.cat(arguments[::-1], 1)


def groups_of(make: Callable[[int], nn.Module], sizes: tuple[int, ...] = (4, 8)) -> Any:
    codecs = {f"y{k}": make(size) for k, size in enumerate(sizes)}
    channel = {"y1": nn.Conv2d(sizes[0], 2 * sizes[1], 1)}
    return hyperprior(latent_codecs.ChannelGroupsLatentCodec(codecs, channel, groups=list(sizes)))


def of_raster(size: int) -> nn.Module:
    conditional = gaussian().gaussian_conditional
    return latent_codecs.RasterScanLatentCodec(
        conditional, pointwise(4 * size, 2 * size), MaskedConv2d(size, 2 * size, 5, padding=2)
    )


def other_table(model: Any) -> None:
    codec = model.latent_codec.y.latent_codec["y1"].y
    codec.gaussian_conditional.update_scale_table([0.2, 1, 5], force=True)


def swap_codec(model: Any) -> None:
    model.latent_codec.latent_codec["y"] = gaussian()


def mask_more(model: Any) -> None:
    model.context_prediction.mask[:, :, 0, 0] = 0


def dropout(model: Any) -> None:
    model.h_s = nn.Sequential(*model.h_s, nn.Dropout())
    model.train()


def wide_head() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4 * M, 2 * M, 3, padding=1))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no model of theirs": (lambda: nn.Sequential(), "the model .Sequential. compresses in a way of its own"),
    "own compress": (lambda: OwnCompress(8, 12), "the model .OwnCompress. compresses in a way of its own"),
    "own step": (lambda: OwnStep(8, 12), "compresses in a way of its own"),
    "instance's compress": (changed("mbt2018", put("compress", lambda: print)), "has a compress of its own"),
    "hooks": (
        changed("mbt2018", lambda model: model.h_s[0].register_forward_hook(print)),
        "h_s.0 .* has hooks",
    ),
    "context's hooks": (
        changed("mbt2018", lambda model: model.context_prediction.register_forward_hook(print)),
        "context_prediction .* has hooks",
    ),
    "mixture": (
        changed("mbt2018-mean", put("gaussian_conditional", lambda: GaussianMixtureConditional(None))),
        "gaussian_conditional .GaussianMixtureConditional. isn't of class GaussianConditional",
    ),
    "bottleneck": (
        changed("mbt2018-mean", put("entropy_bottleneck", lambda: type("Own", (nn.Module,), {})())),
        "entropy_bottleneck .Own. isn't of class EntropyBottleneck",
    ),
    "unknown layer": (changed("mbt2018", put("h_s.1", lambda: nn.CELU())), "h_s.1 .CELU.* no exact"),
    "unknown head": (
        changed("mbt2018", put("entropy_parameters.1", lambda: nn.CELU())),
        "entropy_parameters.1 .CELU.* no exact",
    ),
    "dropout": (changed("mbt2018", dropout), r"h_s.5 .* call eval\(\) first"),
    "wide head": (changed("mbt2018", put("entropy_parameters", wide_head)), "reads more than one position"),
    "float64": (changed("mbt2018", lambda model: model.h_s.double()), "h_s.0 .*float64"),
    "mask": (changed("mbt2018", mask_more), "context_prediction .* has a mask of its own"),
    "stride": (
        changed("mbt2018", put("context_prediction", lambda: MaskedConv2d(M, 2 * M, 5, padding=1))),
        "context_prediction .* isn't centered",
    ),
    "own codec": (
        changed("cheng2020-checkerboard", lambda model: setattr(model.latent_codec.y, "__class__", OwnCodec)),
        "latent_codec.y .OwnCodec. is no latent codec of y that is known",
    ),
    "gain": (
        changed(
            "codec-mean",
            put("latent_codec", lambda: latent_codecs.GainHyperpriorLatentCodec({"y": None, "hyper": None})),
        ),
        "latent_codec .GainHyperpriorLatentCodec. isn't of class HyperpriorLatentCodec",
    ),
    "another y": (changed("codec-mean", swap_codec), "latent_codec .* another y"),
    "merge": (
        changed("codec-raster", put("latent_codec.y.merge", lambda: merge)),
        "latent_codec.y .* has a merge of its own",
    ),
    "merge_y": (
        changed("elic-official", put("latent_codec.y.merge_y", lambda: merge)),
        "latent_codec.y .* merge_y of its own",
    ),
    "merge_params": (
        changed("elic-chandelier", put("latent_codec.y.merge_params", lambda: merge)),
        "latent_codec.y .* merge_params of its own",
    ),
    "_get_ctx_params": (
        changed("elic-chandelier", put("latent_codec.y._get_ctx_params", lambda: merge)),
        "latent_codec.y .* _get_ctx_params of its own",
    ),
    "groups in raster scan": (
        lambda: groups_of(of_raster),
        "latent_codec.y.latent_codec.y0 .RasterScanLatentCodec. isn't of class CheckerboardLatentCodec",
    ),
    "parities": (
        changed("elic-official", put("latent_codec.y.latent_codec.y1.anchor_parity", lambda: "odd")),
        "latent_codec.y .* several kernels or parities",
    ),
    "tables": (changed("elic-official", other_table), "scale tables differ"),
    "chunks": (lambda: hyperprior(gaussian(chunks=("means",))), "latent_codec.y .* has chunks"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    make, message = REFUSED[case]
    model = make()
    with pytest.raises(TypeError, match=message):
        translate(model, anatomy_of(model))


def test_chandeliers_groups_read_the_first_and_the_latest() -> None:
    model = tiny("elic-chandelier")
    assert isinstance(model.latent_codec.y.merge_y, MethodType)
    assert translate(model, anatomy_of(model)).model.reads == [(), [0], [0, 1], [0, 2]]
