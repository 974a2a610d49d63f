"""The torch model: parameter count, context modes, and its exact counterpart in the kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quadrans import kernels
from quadrans.kernels import causal_mask, checkerboard_mask
from quadrans.nets.codec import ImageCodec
from quadrans.nets.context import ContextConv, ContextEntropy
from quadrans.nets.density import FactorizedPrior, GaussianMixture, gaussian_bits
from quadrans.nets.quantizer import GIVEN, SURROGATES, Quantizer
from quadrans.nets.systems.minnen2018 import Minnen2018
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


ORDERS = ("wavefront", "raster", "checkerboard", "parallel")


@torch.no_grad()
def test_mixture_of_one_is_a_gaussian() -> None:
    y, means = torch.randn(2, 2, 3, 4, 5).round()
    scales = torch.rand(2, 3, 4, 5)
    one = GaussianMixture(torch.zeros(2, 1, 3, 4, 5), means[:, None], scales[:, None])
    torch.testing.assert_close(one.bits(y), gaussian_bits(y, scales, means))
    torch.testing.assert_close(one.scales, scales.clamp(min=0.11))
    torch.testing.assert_close(one.means, means)


def identity(orders: tuple[str, ...] = ORDERS, parity: str = "odd") -> ContextEntropy:
    """A model whose means are the first two of four context channels."""
    torch.manual_seed(0)
    head = torch.nn.Conv2d(8, 4, 1, bias=False)
    with torch.no_grad():
        head.weight.zero_()
        head.weight[2:, 4:6, 0, 0] = torch.eye(2)
    return ContextEntropy(ContextConv(2), head, orders, parity=parity)


@torch.no_grad()
@pytest.mark.parametrize("parity", ["even", "odd"])
@pytest.mark.parametrize("size", [(1, 1), (3, 4), (6, 5)])
def test_context_sees_only_what_is_decoded(size: tuple[int, int], parity: str) -> None:
    """Changing one position changes no mean at positions that are coded with or before it."""
    model = identity(parity=parity)
    y = torch.randn(1, 2, *size)
    features = {"features": torch.zeros(1, 4, *size)}
    for order in ORDERS:
        when = np.zeros(size, int)
        for number, step in enumerate(model.order(order, *size)):
            when[step.rows, step.cols] = number
        before = model.forward(y, features, GIVEN, order).means
        for row, col in np.ndindex(size):
            changed = y.clone()
            changed[:, :, row, col] += 1
            touched = (model.forward(changed, features, GIVEN, order).means != before).any(1)[0].numpy()
            assert not (touched & (when <= when[row, col])).any(), (order, row, col)


@torch.no_grad()
@pytest.mark.parametrize("parity", ["even", "odd"])
def test_anchors_have_zero_context(parity: str) -> None:
    model = identity(parity=parity)
    features = {"features": torch.zeros(1, 4, 4, 6)}
    means = model.forward(torch.ones(1, 2, 4, 6), features, GIVEN, "checkerboard").means
    anchors = np.add.outer(np.arange(4), np.arange(6)) % 2 == (parity == "odd")
    assert (means[0, :, anchors] == 0).all()
    assert (means[0, :, ~anchors] != 0).all()


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("rounding", ["integer", "residual"])
@pytest.mark.parametrize("order", ORDERS)
def test_training_pass_gives_bits_and_gradients(rounding: str, order: str, surrogate: str) -> None:
    torch.manual_seed(0)
    net = Minnen2018(8, 12, rounding, ORDERS)
    prediction = net(torch.rand(2, 3, 64, 128), Quantizer(surrogate), order)
    assert prediction.x_hat.shape == (2, 3, 64, 128)
    assert {name: bits.shape for name, bits in prediction.bits.items()} == {"z": (2,), "y": (2,)}
    (prediction.x_hat.square().mean() + prediction.total_bits.mean()).backward()
    for name, parameter in net.named_parameters():
        if parameter.requires_grad and not (order == "parallel" and "context" in name):
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


@torch.no_grad()
def test_lowered_hyper_synthesis_agrees_with_torch(small_codec: ImageCodec) -> None:
    """Not to the bit, since torch may sum in any order, but closely: same taps, padding and layout."""
    z = np.random.default_rng(0).integers(-9, 10, (3, 5, 8)).astype(np.int32)
    net = small_codec.system
    z_hat = torch.tensor(z).permute(2, 0, 1)[None] + net.entropy_bottleneck.medians[:, None, None]
    expected = net.h_s(z_hat)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(small_codec.features({"z": z})["features"], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("order", ORDERS)
def test_exact_parameters_agree_with_torch(small_codec: ImageCodec, order: str) -> None:
    rng = np.random.default_rng(0)
    y_hat = rng.integers(-9, 10, (5, 7, 12)).astype(np.float32)
    features = rng.normal(size=(5, 7, 24)).astype(np.float32)
    model = small_codec.system.parts()["y"].model
    exact = small_codec.cpu.parts["y"].model
    tensors = [torch.tensor(values).permute(2, 0, 1)[None] for values in (y_hat, features)]
    coded = model.forward(tensors[0], {"features": tensors[1]}, GIVEN, order)
    scales, means = (values[0].permute(1, 2, 0).numpy() for values in (coded.scales, coded.means))
    whole, rows = kernels.latent_parameters(y_hat, features, exact, model.order(order, 5, 7))
    fraction = rows % kernels.FRACTIONS - kernels.FRACTIONS // 2
    np.testing.assert_allclose(
        whole + fraction / kernels.FRACTIONS, means, atol=0.5 / kernels.FRACTIONS + 1e-3
    )
    bounds = np.concatenate([[-np.inf], exact.quantization.thresholds, [np.inf]])
    index = rows // kernels.FRACTIONS
    assert (scales > bounds[index] - 1e-3).all()
    assert (scales <= bounds[index + 1] + 1e-3).all()


@torch.no_grad()
def test_masks_of_the_convolution() -> None:
    torch.manual_seed(0)
    conv, y = ContextConv(2), torch.randn(1, 2, 5, 5)
    for mask in (causal_mask(5), checkerboard_mask(5)):
        expected = conv.bias + (conv.weight * torch.tensor(mask) * y).sum((1, 2, 3))
        torch.testing.assert_close(conv(y, mask)[0, :, 2, 2], expected)


@torch.no_grad()
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("order", ["wavefront", "checkerboard"])
def test_context_and_synthesis_see_the_same(order: str, surrogate: str) -> None:
    model, read = identity(), []
    model.context.register_forward_hook(lambda module, inputs, output: read.append(inputs[0]))
    y = 3 * torch.randn(1, 2, 4, 6)
    coded = model.forward(y, {"features": torch.zeros(1, 4, 4, 6)}, Quantizer(surrogate), order)
    (seen,) = read
    torch.testing.assert_close(seen[seen != 0], coded.y_hat[seen != 0])
    assert (seen != 0).float().mean() > 0.3
