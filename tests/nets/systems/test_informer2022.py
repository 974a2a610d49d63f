"""Informer: its parts' sizes, contexts that attend to global tokens, and the published code's layout."""

from __future__ import annotations

import pytest
import torch
from exact_latents import normals, planes, randomized
from exact_systems import check_twins, random_sides, torch_features
from torch.nn import functional as F

from quadrans.kernels import causal_mask
from quadrans.nets.global_tokens import as_position, as_tokens
from quadrans.nets.quantizer import GIVEN, ROUND
from quadrans.nets.systems.informer2022 import Informer2022

TINY = {"n": 4, "m": 16, "num_global": 4, "head_dim": 8}


def tiny(**changes: object) -> Informer2022:
    return Informer2022(**{**TINY, **changes})


@pytest.mark.parametrize(("sizes", "count"), [((192, 192), 10_940_051), ((192, 320), 21_308_388)])
def test_counts(sizes: tuple[int, int], count: int) -> None:
    with torch.device("meta"):
        system = Informer2022(*sizes)
    assert sum(p.numel() for p in system.parameters()) == count
    assert system.ca_a.cross_attn.heads * 64 == sizes[1]
    assert system.ca_s.cross_attn.heads * 32 == sizes[1]


@pytest.mark.parametrize("rounding", ["residual", "integer"])
@pytest.mark.parametrize("size", [(1, 1), (3, 5)])
@pytest.mark.parametrize("order", ["raster", "wavefront"])
def test_exact_twin(rounding: str, size: tuple[int, int], order: str) -> None:
    check_twins(tiny(rounding=rounding), *size, order)


def test_tokens_follow_each_other() -> None:
    tokens = torch.randn(2, 4, 3)
    z = as_position(tokens)
    assert z.shape == (2, 12, 1, 1)
    assert torch.equal(z[1, 3:6, 0, 0], tokens[1, 1])
    assert torch.equal(as_tokens(z, 4), tokens)


def test_the_global_latent_hears_every_position() -> None:
    """It is what a plain cross-attention gives, and doesn't depend on where positions are."""
    system = randomized(tiny(), gain=0.5)
    y = torch.randn(2, 16, 3, 5)
    z = system.hyper_analysis(y)["z_g"]
    block, sequence = system.ca_a, y.flatten(2).transpose(1, 2)
    tokens = system.global_tokens.expand(2, -1, -1)
    keys, values = block.cross_attn.kv(block.norm_kv(sequence)).chunk(2, 2)
    q, k, v = (
        x.unflatten(2, (2, 8)).transpose(1, 2)
        for x in (block.cross_attn.q(block.norm_q(tokens)), keys, values)
    )
    heard = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    tokens = tokens + block.cross_attn.proj(heard)
    tokens = tokens + block.mlp(block.norm_mlp(tokens))
    expected = system.global_h_a(tokens).reshape(2, 16, 1, 1)
    torch.testing.assert_close(z, expected, rtol=1e-4, atol=1e-5)
    moved = y.flatten(2)[:, :, torch.randperm(15)].unflatten(2, (3, 5))
    torch.testing.assert_close(system.hyper_analysis(moved)["z_g"], z, rtol=1e-4, atol=1e-5)


def test_the_head_takes_local_features_first() -> None:
    """As the published code joins them: local features, then the context that attended to the tokens."""
    system = randomized(tiny(), gain=0.5)
    features = torch_features(system, random_sides(system, 3, 5))
    y = planes(normals((3, 5, 16)))
    coded = system.parts()["y"].model.forward(y, features, GIVEN, "raster")
    tokens = features["pairs"]
    context = system.ca_s.attend(system.context_prediction(y, causal_mask(5)), tokens)
    scales, means = system.entropy_parameters(torch.cat([features["features"], context], 1)).chunk(2, 1)
    torch.testing.assert_close(coded.scales, scales.clamp(min=0.11))
    torch.testing.assert_close(coded.means, means)


def test_names_are_the_published_ones() -> None:
    names = {name.split(".")[0] for name in tiny().state_dict()}
    assert names == {
        *(
            "g_a",
            "g_s",
            "local_h_a",
            "local_h_s",
            "local_entropy_bottleneck",
            "global_tokens",
            "ca_a",
            "ca_s",
        ),
        *(
            "global_h_a",
            "global_h_s",
            "global_entropy_bottleneck",
            "context_prediction",
            "entropy_parameters",
        ),
    }


@torch.no_grad()
def test_a_rounded_pass() -> None:
    system = tiny().eval()
    prediction = system(torch.rand(2, 3, 64, 128), ROUND)
    assert prediction.y_hat.shape == (2, 16, 4, 8)
    assert list(prediction.bits) == ["z_l", "z_g", "y"]
    assert type(system)(**system.config).config == system.config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"m": 24}, "must be a multiple"),
        ({"num_global": 5}, "must be a multiple"),
        ({"head_dim": 12}, "must be a multiple"),
        ({"rounding": "up"}, "rounding must be of integer, residual, not up"),
        ({"orders": ("raster", "parallel")}, "orders must be of wavefront, raster, not raster, parallel"),
        ({"orders": ()}, "not none"),
    ],
)
def test_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)
