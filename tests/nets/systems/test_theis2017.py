"""Theis 2017: counts, geometry of the mirrored valid convolutions, scale mixtures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from quadrans.nets.export import prior_table
from quadrans.nets.quantizer import ROUND, Quantizer
from quadrans.nets.systems.theis2017 import MIRRORED, ScaleMixturePrior, Theis2017


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts() -> None:
    with torch.device("meta"):
        system = Theis2017()
    parts = count(system.g_a), count(system.g_s), count(system.entropy_bottleneck)
    assert parts == (1_402_592, 1_630_476, 1_152)
    assert count(system) == sum(parts)
    assert Theis2017(**{**system.config, "n": 2}).config == {"n": 2, "m": 96, "components": 6}


@pytest.mark.parametrize("size", [(64, 64), (64, 192), (72, 80)])
def test_eighths(size: tuple[int, int]) -> None:
    system = Theis2017(2, 3)
    prediction = system(torch.rand(2, 3, *size), ROUND)
    assert prediction.y_hat.shape == (2, 3, size[0] // 8, size[1] // 8)
    assert prediction.x_hat.shape == (2, 3, *size)
    assert torch.equal(prediction.y_hat, prediction.y_hat.round())
    assert prediction.bits["y"].shape == (2,)


def test_receptive_field_is_centered_and_within_reach() -> None:
    torch.manual_seed(4)
    system = Theis2017(4, 3)
    x = torch.rand(1, 3, 192, 192, requires_grad=True)
    (seen,) = torch.autograd.grad(system.analysis(x)[0, :, 11, 12].square().sum(), x)
    for axis, position in ((2, 11), (1, 12)):
        pixels = seen[0].abs().sum((0, axis)).nonzero()
        first, last = pixels.min().item(), pixels.max().item()
        assert last - first + 1 == 77
        assert (first + last) // 2 - 8 * position == 3
        assert 8 * position - first <= 8 * system.reach
        assert last - 8 * position - 7 <= 8 * system.reach
    assert MIRRORED[0] - MIRRORED[1] in (0, 1)
    y = torch.randn(1, 3, 24, 24, requires_grad=True)
    (seen,) = torch.autograd.grad(system.synthesis(y)[0, :, 88:96, 88:96].square().sum(), y)
    rows = seen[0].abs().sum((0, 2)).nonzero()
    assert 11 - system.reach <= rows.min() <= rows.max() <= 11 + system.reach


@torch.no_grad()
def test_edges_are_mirrored() -> None:
    """The first rows of y are those of an image that goes on, mirrored at its first row."""
    torch.manual_seed(5)
    system = Theis2017(4, 3)
    x = torch.rand(1, 3, 64, 64)
    longer = torch.cat([x[:, :, 1:49].flip(2), x], 2)
    torch.testing.assert_close(system.analysis(longer)[:, :, 6:12], system.analysis(x)[:, :, :6])


@torch.no_grad()
def test_residual_blocks_pass_what_is_left() -> None:
    system = Theis2017(2, 3)
    x = torch.rand(1, 4, 9, 11)
    for block, expected in ((system.g_a[4], x[:, :, 2:-2, 2:-2]), (system.g_s[1], x)):
        for parameter in block.parameters():
            parameter.zero_()
        assert torch.equal(block(x), expected)


@torch.no_grad()
def test_gray_is_the_decoders_origin() -> None:
    """Without weights it gives the mean color, which the encoder takes for zero."""
    system = Theis2017(2, 3)
    for parameter in (*system.g_s.parameters(), *system.g_a.parameters()):
        parameter.zero_()
    x = system.synthesis(torch.zeros(1, 3, 8, 8))
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.tensor([0.485, 0.456, 0.406]))
    nn.init.dirac_(system.g_a[0].weight)
    assert system.g_a[0](torch.zeros(1, 3, 9, 9)).abs().max() == 0


def mixture(channels: int = 3) -> ScaleMixturePrior:
    torch.manual_seed(6)
    prior = ScaleMixturePrior(channels)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter += torch.randn(parameter.shape)
    return prior.requires_grad_(False)


def test_mixture_is_the_sum_of_gaussians() -> None:
    prior = mixture()
    z = torch.tensor([[[-30.0, -2.0, 0.0, 0.3, 5.0]]]).expand(3, 1, 5)
    for channel in range(3):
        weights = np.exp(prior.logits[channel].double().numpy())
        scales = np.maximum(np.exp(prior.log_scales[channel].double().numpy()), 0.11)
        for i, value in enumerate(z[channel, 0].tolist()):
            ends = [(value + side) / (scales * math.sqrt(2)) for side in (-0.5, 0.5)]
            low, high = (0.5 * (1 + torch.erf(torch.tensor(end)).numpy()) for end in ends)
            expected = (weights / weights.sum() * (high - low)).sum()
            found = prior.likelihood(z)[channel, 0, i].item()
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_mixture_is_a_distribution_about_zero() -> None:
    prior = mixture()
    assert not prior.medians.any()
    assert prior.medians.shape == (3,)
    z = torch.arange(-3000.0, 3001.0).expand(3, 1, -1)
    mass = prior.likelihood(z)
    torch.testing.assert_close(mass.sum(2), torch.ones(3, 1), rtol=1e-5, atol=0)
    torch.testing.assert_close(mass, mass.flip(2), rtol=0, atol=0)
    assert prior.auxiliary_loss() is None


def test_mixture_survives_vanishing_scales() -> None:
    prior = ScaleMixturePrior(1)
    with torch.no_grad():
        prior.log_scales.fill_(-1e4)
    bits = prior(torch.tensor([-0.5, 0.0, 0.5, 9.0]).reshape(1, 1, 1, 4))
    bits.sum().backward()
    assert torch.isfinite(bits).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in prior.parameters())


def test_table_of_mixtures() -> None:
    """As a stream's table, it costs what the density says."""
    prior = mixture()
    z = torch.arange(-4.0, 5).expand(3, 1, -1)
    rows = np.broadcast_to(np.arange(3, dtype=np.int32)[:, None], (3, 9))
    found = prior_table(prior).symbol_bits(z[:, 0].int().numpy(), rows)
    mass = prior.likelihood(z)[:, 0].numpy()
    entropy = (-np.log2(mass) * mass).sum(1)
    np.testing.assert_allclose((found * mass).sum(1), entropy, rtol=2e-3)


def test_gradients() -> None:
    system = Theis2017(2, 3)
    prediction = system(torch.rand(1, 3, 64, 64), Quantizer())
    (prediction.x_hat.square().mean() + prediction.total_bits.mean()).backward()
    for name, parameter in system.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
