"""Ballé 2017: layers as published and as CompressAI's, and a latent under a prior alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from quadrans.nets.quantizer import ROUND, Quantizer
from quadrans.nets.system import System
from quadrans.nets.systems.balle2017 import Balle2017, Balle2018Factorized
from quadrans.nets.transforms import GDN


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"n": 128, "m": 192}, 2_998_147),
        ({"n": 192, "m": 320}, 7_030_531),
        ({"n": 128, "m": 192, "activation": "relu"}, 2_899_075),
        ({"n": 192, "m": 320, "activation": "relu"}, 6_808_195),
    ],
)
def test_parameter_counts_are_compressais(config: dict, expected: int) -> None:
    with torch.device("meta"):
        system = Balle2018Factorized(**config)
    assert count(system) == expected
    assert type(system)(**system.config).config == system.config == {"activation": "gdn", **config}


def test_published_layers() -> None:
    """9x9/4, 5x5/2 and 5x5/2 without a bias; mirrored, the outermost with its bias; 58 + 3 of each prior."""
    with torch.device("meta"):
        system = Balle2017()
    gdn = 2 * 128 * (128 + 1)
    assert count(system.g_a) == 81 * 3 * 128 + 128 + gdn + 25 * 128**2 + 128 + 25 * 128**2
    assert count(system.g_s) == 2 * (25 * 128**2 + 128) + gdn + 81 * 3 * 128 + 3
    assert count(system.entropy_bottleneck) == 61 * 128
    assert system.g_a[4].bias is None


def test_activations() -> None:
    kinds = {activation: Balle2018Factorized(4, 6, activation) for activation in ("gdn", "relu")}
    for activation, kind in (("gdn", GDN), ("relu", nn.ReLU)):
        for transform in (kinds[activation].g_a, kinds[activation].g_s):
            assert [type(layer) is kind for layer in transform] == [False, True] * 3 + [False]
    assert all(layer.inverse for layer in kinds["gdn"].g_s[1::2])
    with pytest.raises(ValueError, match="activation must be one of gdn, relu, not 'selu'"):
        Balle2018Factorized(4, 6, "selu")


@pytest.mark.parametrize("system", [Balle2017(4), Balle2018Factorized(4, 6)])
def test_y_is_the_only_side_information(system: System) -> None:
    with torch.no_grad():
        system.entropy_bottleneck.quantiles[:, 0, 1] = torch.linspace(-0.4, 0.4, system.m)
        system.g_a[-1].weight.mul_(50)
    x = torch.rand(2, 3, 64, 128)
    assert not system.parts()
    assert not system.lower_features()
    assert system.orders == ("parallel",)
    assert system.sides()["y"].size(4, 8) == (4, 8)
    prediction = system(x, ROUND)
    y, medians = system.analysis(x), system.entropy_bottleneck.medians[:, None, None]
    y_hat = (y - medians).round() + medians
    assert prediction.y_hat.shape == (2, system.m, 4, 8)
    torch.testing.assert_close(prediction.y_hat, y_hat)
    assert set(prediction.bits) == {"y"}
    torch.testing.assert_close(prediction.total_bits, system.entropy_bottleneck(y_hat).sum((1, 2, 3)))
    torch.testing.assert_close(prediction.x_hat, system.synthesis(prediction.y_hat))


@pytest.mark.parametrize("surrogate", ["noise", "straight-through", "mixed"])
def test_gradients(surrogate: str) -> None:
    system = Balle2017(4)
    with torch.no_grad():
        system.g_a[-1].weight.mul_(50)
    prediction = system(torch.rand(1, 3, 64, 64), Quantizer(surrogate))
    (prediction.x_hat.square().mean() + prediction.total_bits.mean()).backward()
    for name, parameter in system.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.any(), name


@torch.no_grad()
def test_published_strides_are_aligned() -> None:
    """A position of y sees pixels around its own 16x16, and gives back those around them."""
    torch.manual_seed(2)
    system = Balle2017(4)
    x = torch.rand(1, 3, 96, 96)
    x.requires_grad_()
    with torch.enable_grad():
        (seen,) = torch.autograd.grad(system.g_a(x)[0, :, 2, 3].square().sum(), x)
    rows = seen[0].abs().sum((0, 2)).nonzero()
    # 9x9 by 4 sees 4 either way, each 5x5 by 2 behind it 2 of its inputs, 4 and 8 pixels apart.
    assert (rows.min().item(), rows.max().item()) == (32 - 28, 32 + 28)
    y = torch.randn(1, 4, 6, 6)
    changed = y.clone()
    changed[0, :, 2, 3] += 1
    rows = (system.g_s(y) != system.g_s(changed))[0].any(0).any(1).nonzero()
    assert (rows.min().item(), rows.max().item()) == (32 - 28, 32 + 28)
