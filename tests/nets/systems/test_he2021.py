"""He 2021: one pass and two, anchors of both parities, and what the random-mask model measures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from exact_latents import back, check_parameters, integers, normals, planes, randomized, round_trip
from torch import Tensor

from quadrans import kernels
from quadrans.nets.codec import ImageCodec
from quadrans.nets.context import ContextEntropy, anchors
from quadrans.nets.density import Gaussian, GaussianMixture
from quadrans.nets.export import export_weights
from quadrans.nets.quantizer import GIVEN, ROUND, Quantizer
from quadrans.nets.registry import make
from quadrans.nets.systems.he2021 import (
    TABLE_1,
    CheckerboardCheng2020,
    CheckerboardMinnen2018,
    RandomMask,
    random_mask,
    rate_saving,
    single_reference_masks,
)
from quadrans.nets.systems.minnen2018 import Minnen2018
from quadrans.nets.weights import WeightError

M = 4
SIZES = [(1, 1), (1, 6), (5, 7), (6, 4)]
PARITIES = ("even", "odd")


def minnen(parity: str, rounding: str = "integer") -> ContextEntropy:
    return randomized(CheckerboardMinnen2018(4, M, rounding, parity=parity)).parts()["y"].model


def cheng(parity: str) -> ContextEntropy:
    return randomized(CheckerboardCheng2020(M, parity=parity, hidden=12)).parts()["y"].model


HOSTS = {"minnen2018": minnen, "cheng2020": cheng}


def chosen(size: tuple[int, int], parity: str) -> np.ndarray:
    """(H, W) bool: the anchors."""
    return np.add.outer(np.arange(size[0]), np.arange(size[1])) % 2 == ("even", "odd").index(parity)


def raw_head(model: ContextEntropy, features: Tensor, context: Tensor) -> Tensor:
    joined = [context, features] if model.context_first else [features, context]
    return model.head(torch.cat(joined, 1))


def masked_conv(model: ContextEntropy, y: Tensor) -> Tensor:
    """g_cm of equation 5 with the 5x5 checkerboard mask of figure 1(d), written out."""
    mask = torch.tensor([[0, 1, 0, 1, 0], [1, 0, 1, 0, 1], [0, 1, 0, 1, 0], [1, 0, 1, 0, 1], [0, 1, 0, 1, 0]])
    conv = model.context
    return torch.nn.functional.conv2d(y, conv.weight * mask, conv.bias, padding=2)


def equation_8(model: ContextEntropy, y: Tensor, features: Tensor, parity: str) -> Tensor:
    """Anchors from features alone, the rest from the features and the anchors around them: two passes."""
    known = torch.from_numpy(chosen(tuple(y.shape[2:]), parity))
    context = masked_conv(model, torch.where(known, y, 0.0))
    without = raw_head(model, features, torch.zeros_like(context))
    return torch.where(known, without, raw_head(model, features, context))


def equation_11(model: ContextEntropy, y: Tensor, features: Tensor, parity: str) -> Tensor:
    """One pass: the context convolution of anchors, less its bias at anchors (equations 9 to 11)."""
    known = torch.from_numpy(chosen(tuple(y.shape[2:]), parity)).to(y)
    bias = model.context.bias[:, None, None] * known
    return raw_head(model, features, masked_conv(model, y * known) - bias)


def parameters(model: ContextEntropy, raw: Tensor) -> Any:
    if model.components is None:
        return Gaussian(*raw.chunk(2, 1))
    logits, means, scales = raw.view(len(raw), model.components, 3, M, *raw.shape[2:]).unbind(2)
    return GaussianMixture(logits, means, scales.abs())


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("parity", PARITIES)
@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_one_pass_gives_what_two_give(host: str, parity: str, size: tuple[int, int]) -> None:
    """Equation 11 equals equation 8, and both are what the entropy model computes."""
    model = HOSTS[host](parity)
    y, features = torch.randn(2, M, *size).round() * 3, torch.randn(2, 2 * M, *size)
    two, one = (form(model, y, features, parity) for form in (equation_8, equation_11))
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    coded = model.forward(y, {"features": features}, GIVEN, "checkerboard")
    expected = parameters(model, two)
    torch.testing.assert_close(coded.means, expected.means, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(coded.scales, expected.scales, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(coded.bits, expected.bits(y), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("parity", PARITIES)
@torch.no_grad()
def test_anchors_have_no_context(parity: str) -> None:
    """Zeros, not the bias; in torch and, to the bit, in the exact model."""
    seen = []

    class Watched(ContextEntropy):
        def refine(self, context: Tensor, features: Any) -> Tensor:
            seen.append(context)
            return context

    size, whole = (5, 7), minnen(parity)
    model = Watched(whole.context, whole.head, ("checkerboard", "parallel"), parity=parity)
    model.forward(torch.randn(1, M, *size), {"features": torch.randn(1, 2 * M, *size)}, ROUND, "checkerboard")
    known = chosen(size, parity)
    assert (anchors(torch.empty(1, 1, *size), parity).bool().numpy() == known).all()
    assert (seen[0][0].numpy()[:, known] == 0).all()
    assert (seen[0][0].numpy()[:, ~known] != 0).all()

    y, features = integers((*size, M)), normals((*size, 2 * M))
    exact = model.lower()
    with_anchors, without = (
        kernels.latent_parameters(y, features, exact, model.order(name, *size))
        for name in ("checkerboard", "parallel")
    )
    for one, other in zip(with_anchors, without, strict=True):
        np.testing.assert_array_equal(one[known], other[known])
        assert (one[~known] != other[~known]).any()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("parity", PARITIES)
@pytest.mark.parametrize("rounding", ["integer", "residual"])
def test_streams(rounding: str, parity: str, size: tuple[int, int]) -> None:
    """Two steps. A residual encoder runs the head twice, the anchors' means before the others' contexts."""
    model = minnen(parity, rounding)
    order = model.order("checkerboard", *size)
    assert len(order) == (1 if size == (1, 1) else 2)
    y, features = integers((*size, M)), normals((*size, 2 * M))
    if rounding == "residual":
        y += normals(y.shape, 2) / 4
    y_hat = round_trip(model, y, features, "checkerboard")
    check_parameters(model, y_hat, features, "checkerboard")
    if rounding == "integer":
        np.testing.assert_array_equal(y_hat, y)
        return
    coded = model.forward(planes(y), {"features": planes(features)}, ROUND, "checkerboard")
    # Where y is halfway between two residuals, last digits decide.
    near = np.abs(back(coded.y_hat) - y_hat) < 1e-3
    assert near.mean() > 0.95
    np.testing.assert_allclose(y_hat, y, atol=0.5001)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("parity", PARITIES)
def test_streams_of_mixtures(parity: str, size: tuple[int, int]) -> None:
    model = cheng(parity)
    y, features = integers((*size, M)), normals((*size, 2 * M))
    np.testing.assert_array_equal(round_trip(model, y, features, "checkerboard"), y)


def test_masks() -> None:
    assert [int(mask.sum()) for mask in TABLE_1.values()] == [0, 4, 12, 4, 12, 8]
    assert all(mask.shape == (5, 5) and not mask[2, 2] for mask in TABLE_1.values())
    assert (TABLE_1["checkerboard 3x3"] == (TABLE_1["checkerboard 5x5"] & TABLE_1["all of 3x3"])).all()
    assert (TABLE_1["serial 3x3"] == (TABLE_1["serial 5x5"] & TABLE_1["all of 3x3"])).all()
    singles = list(single_reference_masks())
    assert len({at for at, _ in singles}) == 24
    for (row, col), mask in singles:
        assert mask.sum() == 1
        assert mask[2 + row, 2 + col]
        assert (row, col) != (0, 0)


def test_random_masks() -> None:
    torch.manual_seed(0)
    drawn = torch.stack([random_mask() for _ in range(400)])
    assert not drawn[:, 2, 2].any()
    shares = drawn.float().mean(0).flatten()
    assert ((shares - 0.5).abs() < 0.1).sum() == 24


def test_rate_saving_of_table_1() -> None:
    rates = {0.3928: 9.3, 0.3817: 11.9, 0.3651: 15.7, 0.3648: 15.8, 0.3649: 15.8, 0.4332: 0.0}
    for rate, percent in rates.items():
        assert 100 * rate_saving(rate, 0.4332) == pytest.approx(percent, abs=0.05)


def measured() -> RandomMask:
    return randomized(RandomMask(4, M))


@torch.no_grad()
def test_any_mask_is_measured() -> None:
    """A serial mask gives the serial model's bits; others may look ahead; the center is refused."""
    one, other = measured(), randomized(Minnen2018(4, M))
    assert one.state_dict().keys() == other.state_dict().keys()
    y_hat, features = torch.randn(2, M, 5, 7).round(), {"features": torch.randn(2, 2 * M, 5, 7)}
    serial = other.parts()["y"].model.forward(y_hat, features, GIVEN, "raster").bits.sum((1, 2, 3))
    torch.testing.assert_close(one.bits(y_hat, features, TABLE_1["serial 5x5"]), serial)
    for (row, col), mask in single_reference_masks():
        kernel = one.context_prediction.weight * torch.from_numpy(mask)
        context = torch.nn.functional.conv2d(y_hat, kernel, one.context_prediction.bias, padding=2)
        scales, means = one.entropy_parameters(torch.cat([features["features"], context], 1)).chunk(2, 1)
        expected = Gaussian(scales, means).bits(y_hat).sum((1, 2, 3))
        torch.testing.assert_close(one.bits(y_hat, features, mask), expected, msg=str((row, col)))
    for bad in (np.ones((5, 5), bool), np.zeros((3, 3), bool)):
        with pytest.raises(ValueError, match="without its center"):
            one.bits(y_hat, features, bad)


def test_masks_change_in_training_alone() -> None:
    system = RandomMask(4, M).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        # Wide contexts, so that masks make a difference.
        system.context_prediction.weight.mul_(100)
        system.context_prediction.bias.fill_(1)
        system.g_a[6].weight.mul_(100)
        still = [float(system(x, ROUND).bits["y"]) for _ in range(2)]
        rates = system.rates(x, TABLE_1)
        assert still[0] == still[1]
        none = float(system(x, ROUND).total_bits) / 64**2
        assert float(rates["none"]) == pytest.approx(none, rel=1e-5)
        assert len({float(rate) for rate in rates.values()}) == len(TABLE_1)
        system.train()
        moving = {float(system(x, ROUND).bits["y"]) for _ in range(4)}
        assert len(moving) == 4
    prediction = system(x, Quantizer("noise"))
    (prediction.total_bits.sum() + prediction.x_hat.square().sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in system.parameters() if p.requires_grad)


def test_it_is_no_codec() -> None:
    model = measured().parts()["y"].model
    for attempt in (model.lower, lambda: model.order("measurement", 4, 4)):
        with pytest.raises(TypeError, match="measures rates and codes nothing"):
            attempt()


def test_a_measurement_is_no_codec() -> None:
    weights = export_weights(make("random-mask", n=8, m=12), "masks", {})
    with pytest.raises(WeightError, match=r"model masks can't be coded with: .* measures rates"):
        ImageCodec(weights)
