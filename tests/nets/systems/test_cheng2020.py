"""Cheng 2020: CompressAI's layout, both heads, mixtures and their exact twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exact_latents import back, check_parameters, integers, normals, planes, randomized, round_trip

from quadrans import kernels
from quadrans.entropy import mixture
from quadrans.nets.density import GaussianMixture
from quadrans.nets.quantizer import GIVEN, Quantizer
from quadrans.nets.systems.cheng2020 import Cheng2020, Cheng2020Anchor
from quadrans.nets.systems.minnen2018 import Minnen2018

N = 4
SIZE = (5, 7)
ORDERS = ("raster", "wavefront")


def single(rounding: str = "residual") -> Cheng2020Anchor:
    return randomized(Cheng2020Anchor(N, rounding=rounding))


def mixed(components: int = 3) -> Cheng2020:
    return randomized(Cheng2020(N, components, hidden=12))


def test_parameter_counts() -> None:
    def count(system: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in system.parameters())

    with torch.device("meta"):
        for n, anchor, attention, whole in (
            (128, 11_833_149, 13_183_293, 14_207_436),
            (192, 26_598_956, 29_631_788, 30_622_764),
        ):
            assert count(Cheng2020Anchor(n)) == anchor
            assert count(Cheng2020(n, None, "residual")) == attention
            assert count(Cheng2020(n)) == whole


def test_names_are_compressais() -> None:
    """Some of each block, and where attention shifts the others."""
    n = 8
    with torch.device("meta"):
        anchor = {key: tuple(value.shape) for key, value in Cheng2020Anchor(n).state_dict().items()}
        attention = {
            key: tuple(value.shape) for key, value in Cheng2020(n, None, "residual").state_dict().items()
        }
    for key, shape in {
        "g_a.0.conv1.weight": (n, 3, 3, 3),
        "g_a.0.gdn.gamma": (n, n),
        "g_a.0.skip.weight": (n, 3, 1, 1),
        "g_a.1.conv2.bias": (n,),
        "g_a.6.weight": (n, n, 3, 3),
        "g_s.1.subpel_conv.0.weight": (4 * n, n, 3, 3),
        "g_s.1.igdn.beta": (n,),
        "g_s.5.upsample.0.weight": (4 * n, n, 3, 3),
        "g_s.7.0.weight": (12, n, 3, 3),
        "h_a.8.weight": (n, n, 3, 3),
        "h_s.2.0.weight": (4 * n, n, 3, 3),
        "h_s.4.weight": (12, n, 3, 3),
        "h_s.8.weight": (2 * n, 12, 3, 3),
        "context_prediction.weight": (2 * n, n, 5, 5),
        "entropy_parameters.4.weight": (2 * n, n * 8 // 3, 1, 1),
        "entropy_bottleneck.quantiles": (n, 1, 3),
    }.items():
        assert anchor[key] == shape, key
    for key, shape in {
        "g_a.3.conv_a.2.conv.4.weight": (n, n // 2, 1, 1),
        "g_a.3.conv_b.3.weight": (n, n, 1, 1),
        "g_a.8.conv_a.0.conv.2.weight": (n // 2, n // 2, 3, 3),
        "g_a.7.weight": (n, n, 3, 3),
        "g_s.0.conv_b.0.conv.0.bias": (n // 2,),
        "g_s.5.conv_a.0.conv.0.weight": (n // 2, n, 1, 1),
        "g_s.9.0.weight": (12, n, 3, 3),
    }.items():
        assert attention[key] == shape, key
    assert not any(key.endswith("skip.weight") and key.startswith("g_a.1.") for key in anchor)


@pytest.mark.parametrize("system", [Cheng2020Anchor, Cheng2020])
@torch.no_grad()
def test_reach(system: type[Cheng2020Anchor]) -> None:
    """Pixels further than `reach` positions from a latent don't depend on it, nor it on them."""
    one, stride = randomized(system(N), gain=1.0), system.stride
    side = 2 * system.reach + 3
    middle = system.reach + 1
    y = torch.randn(1, N, side, side)
    other = y.clone()
    other[:, :, middle, middle] += 1
    touched = (one.synthesis(y) != one.synthesis(other)).any(1)[0]
    assert touched[middle * stride, middle * stride]
    assert not touched[:stride].any()
    assert not touched[-stride:].any()
    x = torch.rand(1, 3, side * stride, side * stride)
    changed = x.clone()
    changed[:, :, middle * stride : (middle + 1) * stride, middle * stride : (middle + 1) * stride] += 1
    touched = (one.analysis(x) != one.analysis(changed)).any(1)[0]
    assert touched[middle, middle]
    assert not touched[0].any()
    assert not touched[-1].any()


@torch.no_grad()
def test_mixture_head_reads_context_first() -> None:
    """(w0, mu0, sigma0, w1, ...) of softmax, equation 8, by hand; scales by their absolute values."""
    system = mixed()
    y, features = torch.randn(1, N, *SIZE).round(), torch.randn(1, 2 * N, *SIZE)
    mask = torch.zeros(5, 5)
    mask[:2] = mask[2, :2] = 1
    conv = system.context_prediction
    context = torch.nn.functional.conv2d(y, conv.weight * mask, conv.bias, padding=2)
    raw = system.entropy_parameters(torch.cat([context, features], 1)).view(1, 3, 3, N, *SIZE)
    logits, means, scales = raw.double().unbind(2)
    normal = torch.distributions.Normal(means, scales.abs().clamp(min=0.11))
    mass = normal.cdf(y[:, None] + 0.5) - normal.cdf(y[:, None] - 0.5)
    expected = -(logits.softmax(1) * mass).sum(1).clamp(min=1e-9).log2()
    coded = system.parts()["y"].model.forward(y, {"features": features}, GIVEN, "raster")
    likely = expected < 20
    assert likely.float().mean() > 0.5
    torch.testing.assert_close(coded.bits[likely].double(), expected[likely], rtol=1e-3, atol=1e-3)
    assert system.entropy_parameters[4].bias is None


@torch.no_grad()
@pytest.mark.parametrize("components", [1, 3])
def test_exact_mixtures(components: int) -> None:
    model = mixed(components).parts()["y"].model
    y, features = integers((*SIZE, N)), normals((*SIZE, 2 * N))
    found = kernels.latent_mixtures(y, features, model.lower(), model.order("raster", *SIZE))
    assert found.shape == (*SIZE, N)
    context = model.context(planes(y), kernels.causal_mask(5))
    p = model.distribution({"features": planes(features)}, context)
    assert isinstance(p, GaussianMixture)
    weights, means, scales = (
        np.stack([back(plane) for plane in planes_of.unbind(1)])
        for planes_of in (p.logits.softmax(1), p.component_means, p.component_scales)
    )
    ours = mixture.parameters(weights, means, np.maximum(scales, 0.11))
    # The integers of torch's numbers, or those next to them.
    np.testing.assert_allclose(found.weights.astype(int), ours.weights, atol=3)
    np.testing.assert_allclose(found.means, ours.means, atol=2)
    np.testing.assert_allclose(found.inverse_scales.astype(int), ours.inverse_scales, atol=1)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), SIZE])
def test_streams_of_mixtures(size: tuple[int, int]) -> None:
    model = mixed().parts()["y"].model
    y, features = integers((*size, N)), normals((*size, 2 * N))
    for order in ORDERS:
        np.testing.assert_array_equal(round_trip(model, y, features, order), y)


@pytest.mark.parametrize("rounding", ["integer", "residual"])
def test_single_gaussians(rounding: str) -> None:
    model = single(rounding).parts()["y"].model
    y, features = integers((*SIZE, N)), normals((*SIZE, 2 * N))
    for order in ORDERS:
        y_hat = round_trip(model, y, features, order)
        check_parameters(model, y_hat, features, order)
        np.testing.assert_allclose(y_hat, y, atol=0.5 if rounding == "residual" else 0)


@torch.no_grad()
def test_hyper_synthesis_is_lowered() -> None:
    system, z = single(), integers((2, 3, N))
    features = system.lower_features()["features"].layer(z)
    expected = back(system.features({"z": planes(z)})["features"])
    assert features.shape == (8, 12, 2 * N)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


def test_mixtures_are_rounded_to_integers() -> None:
    with pytest.raises(ValueError, match="3 components with 'residual' rounding"):
        Cheng2020(N, rounding="residual")
    with pytest.raises(ValueError, match="0 components"):
        Cheng2020(N, 0)
    with pytest.raises(ValueError, match="parallel, not spiral"):
        Cheng2020(N, orders=("spiral",))


def test_hidden_is_of_mixtures() -> None:
    assert mixed().entropy_parameters[0].out_channels == 12
    with pytest.raises(ValueError, match="hidden = 12"):
        Cheng2020(N, None, "residual", hidden=12)


def test_training_pass() -> None:
    system = Cheng2020(N, hidden=12).train()
    prediction = system(torch.rand(2, 3, 64, 64), Quantizer("mixed"))
    (prediction.total_bits.sum() + prediction.x_hat.square().sum()).backward()
    for name, parameter in system.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_single_gaussians_have_minnens_head() -> None:
    """With (features, context) in this order, as CompressAI's classes inherit it."""
    ours, theirs = single(), randomized(Minnen2018(N, N, "residual"))
    theirs.context_prediction, theirs.entropy_parameters = ours.context_prediction, ours.entropy_parameters
    y, features = torch.randn(1, N, *SIZE), {"features": torch.randn(1, 2 * N, *SIZE)}
    one, other = (s.parts()["y"].model.forward(y, features, GIVEN, "raster") for s in (ours, theirs))
    assert torch.equal(one.bits, other.bits)
