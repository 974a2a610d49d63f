"""The torch model: parameter count, context modes, and its exact counterpart in the kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quadrans import kernels
from quadrans.nets.codec import ImageCodec, coding_order
from quadrans.nets.context import ContextConv
from quadrans.nets.density import FactorizedPrior
from quadrans.nets.minnen2018 import Minnen2018
from quadrans.nets.transforms import GDN


def test_parameter_count() -> None:
    """CompressAI's mbt2018 with N = M = 192 has 14,130,467 parameters."""
    assert sum(p.numel() for p in Minnen2018(192, 192).parameters()) == 14_130_467


@torch.no_grad()
def test_gdn_starts_as_the_paper_says() -> None:
    x = torch.randn(2, 3, 4, 5)
    expected = x / (1 + 0.1 * x**2).sqrt()
    torch.testing.assert_close(GDN(3)(x), expected)
    torch.testing.assert_close(GDN(3, inverse=True)(expected), expected * (1 + 0.1 * expected**2).sqrt())


@torch.no_grad()
def test_prior_at_its_centre_of_symmetry() -> None:
    """There both logits differ in sign only, and the mass is the largest, not zero."""
    prior = FactorizedPrior(1)
    for bias in prior.biases:
        bias.zero_()
    mass = prior.likelihood(torch.tensor([[[-1.0, 0.0, 0.1]]]))[0, 0]
    assert mass[1] >= mass[2] > mass[0]


@torch.no_grad()
def test_prior_is_a_distribution() -> None:
    prior = FactorizedPrior(4)
    mass = prior.likelihood(torch.arange(-2000.0, 2001.0).expand(4, 1, -1).double().float())
    torch.testing.assert_close(mass.sum(-1), torch.ones(4, 1), atol=1e-3, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (3, 4), (6, 5)])
def test_context_sees_only_what_is_decoded(size: tuple[int, int]) -> None:
    """Changing one position changes no feature at positions that are coded with or before it."""
    torch.manual_seed(0)
    context = ContextConv(2)
    y = torch.randn(1, 2, *size)
    for mode, order in (
        ("causal", "raster"),
        ("causal", "wavefront"),
        ("checkerboard",) * 2,
        ("none", "parallel"),
    ):
        when = np.zeros(size, int)
        for number, step in enumerate(coding_order(order, *size)):
            when[step.rows, step.cols] = number
        before = context(y, mode)
        for row, col in np.ndindex(size):
            changed = y.clone()
            changed[:, :, row, col] += 1
            touched = (context(changed, mode) != before).any(1)[0].numpy()
            assert not (touched & (when <= when[row, col])).any(), (mode, order, row, col)


@torch.no_grad()
def test_anchors_have_zero_context() -> None:
    context = ContextConv(2)(torch.ones(1, 2, 4, 6), "checkerboard")
    anchors = np.add.outer(np.arange(4), np.arange(6)) % 2 == 1
    assert (context[0, :, anchors] == 0).all()
    assert (context[0, :, ~anchors] != 0).all()


@torch.no_grad()
def test_training_pass_gives_bits_and_gradients() -> None:
    with torch.enable_grad():
        net = Minnen2018(8, 12)
        prediction = net(torch.rand(3, 3, 64, 128), torch.arange(3))
        assert prediction.x_hat.shape == (3, 3, 64, 128)
        assert prediction.y_bits.shape == prediction.z_bits.shape == (3,)
        (prediction.x_hat.square().mean() + prediction.y_bits.mean() + prediction.z_bits.mean()).backward()
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


@torch.no_grad()
def test_lowered_hyper_synthesis_agrees_with_torch(small_codec: ImageCodec) -> None:
    """Not to the bit, since torch may sum in any order, but closely: same taps, padding and layout."""
    z = np.random.default_rng(0).integers(-9, 10, (3, 5, 8)).astype(np.int32)
    z_hat = torch.tensor(z).permute(2, 0, 1)[None] + small_codec.net.entropy_bottleneck.medians[:, None, None]
    expected = small_codec.net.h_s(z_hat)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(small_codec.features(z), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    ("mode", "order"),
    [("causal", "raster"), ("causal", "wavefront"), ("checkerboard", "checkerboard"), ("none", "parallel")],
)
def test_exact_parameters_agree_with_torch(small_codec: ImageCodec, mode: str, order: str) -> None:
    rng = np.random.default_rng(0)
    y_hat = rng.integers(-9, 10, (5, 7, 12)).astype(np.float32)
    features = rng.normal(size=(5, 7, 24)).astype(np.float32)
    net = small_codec.net
    context = net.context_prediction(torch.tensor(y_hat).permute(2, 0, 1)[None], mode)
    joined = torch.cat([torch.tensor(features).permute(2, 0, 1)[None], context], 1)
    scales, means = (t[0].permute(1, 2, 0).numpy() for t in net.entropy_parameters(joined).chunk(2, 1))
    coding = coding_order(order, 5, 7)
    whole, rows = kernels.latent_parameters(y_hat, features, small_codec.context_model, coding)
    fraction = rows % kernels.FRACTIONS - kernels.FRACTIONS // 2
    np.testing.assert_allclose(
        whole + fraction / kernels.FRACTIONS, means, atol=0.5 / kernels.FRACTIONS + 1e-3
    )
    bounds = np.concatenate([[-np.inf], small_codec.context_model.quantization.thresholds, [np.inf]])
    index = rows // kernels.FRACTIONS
    assert (scales > bounds[index] - 1e-3).all()
    assert (scales <= bounds[index + 1] + 1e-3).all()
