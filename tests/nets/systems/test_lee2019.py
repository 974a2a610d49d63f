"""Lee 2019: windows, the sampled rate, equation 6, the prior of z, and the hybrid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exact_latents import back, check_parameters, integers, normals, planes, randomized, round_trip
from torch import Tensor

from quadrans.nets.blocks import WindowEstimator
from quadrans.nets.density import FactorizedPrior
from quadrans.nets.export import prior_table
from quadrans.nets.quantizer import GIVEN, ROUND, Quantizer
from quadrans.nets.systems.lee2019 import Lee2019, Lee2019Hybrid, ScalePrior
from quadrans.nets.window import WindowEntropy, windows

M = 3
SIZE = (5, 7)
ORDERS = ("raster", "wavefront")


def model(features: int = M, points: int | None = 16) -> WindowEntropy:
    return WindowEntropy(randomized(WindowEstimator(M)), features, points=points)


def window_by_loop(plane: Tensor, row: int, col: int, known_only: bool) -> Tensor:
    """(C, 4, 4): rows row - 3 .. row, columns col - 2 .. col + 1, zero outside and where not yet known."""
    out = torch.zeros(plane.shape[0], 4, 4)
    for i in range(4):
        for j in range(4):
            r, c = row - 3 + i, col - 2 + j
            inside = 0 <= r < plane.shape[1] and 0 <= c < plane.shape[2]
            if inside and (not known_only or (r, c) < (row, col)):
                out[:, i, j] = plane[:, r, c]
    return out


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 6), SIZE])
def test_windows_are_those_of_a_plain_loop(size: tuple[int, int]) -> None:
    plane = torch.randn(2, M, *size)
    positions = torch.randperm(size[0] * size[1])
    found = windows(plane, positions).view(2, -1, M, 4, 4)
    for image in range(2):
        for n, position in enumerate(positions.tolist()):
            expected = window_by_loop(plane[image], *divmod(position, size[1]), known_only=False)
            assert torch.equal(found[image, n], expected)


@pytest.mark.parametrize("size", [(1, 1), (3, 6), SIZE])
def test_parameters_are_those_of_positions_one_by_one(size: tuple[int, int], monkeypatch) -> None:
    """f of (c'', c'), in this order, gives (mean, scale); blocks of positions and batches change nothing."""
    monkeypatch.setattr("quadrans.nets.window.BLOCK", 4)
    one, y_hat, features = model(), torch.randn(2, M, *size).round(), torch.randn(2, M, *size)
    scales, means = one.parameters(y_hat, features, torch.arange(size[0] * size[1]))
    for image in range(2):
        for row, col in np.ndindex(size):
            near = window_by_loop(y_hat[image], row, col, known_only=True)
            joined = torch.cat([near, window_by_loop(features[image], row, col, known_only=False)])
            mean, scale = one.estimator(joined[None])[0, :, 0, 0].chunk(2)
            at = image, slice(None), row * size[1] + col
            torch.testing.assert_close(means[at], mean, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(scales[at], scale, rtol=1e-4, atol=1e-5)


def test_only_what_is_decoded_is_seen() -> None:
    """Of the window's last row, the two taps on the left: later latents change nothing, earlier ones do."""
    one, features = model(), {"features": torch.randn(1, M, *SIZE)}
    y = torch.randn(1, M, *SIZE).round()
    before = one.forward(y, features, GIVEN, "raster").means
    for row, col in np.ndindex(SIZE):
        changed = y.clone()
        changed[:, :, row, col] += 5
        touched = (one.forward(changed, features, GIVEN, "raster").means != before).any(1)[0]
        expected = torch.zeros(SIZE, dtype=torch.bool)
        for r, c in np.ndindex(SIZE):
            inside = 0 <= r - row <= 3 and -1 <= c - col <= 2
            expected[r, c] = inside and (row, col) < (r, c)
        assert torch.equal(touched, expected)


@pytest.mark.parametrize("order", ORDERS)
def test_exact_parameters(order: str) -> None:
    check_parameters(model(), integers((*SIZE, M)), normals((*SIZE, M)), order)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), SIZE])
def test_streams(size: tuple[int, int]) -> None:
    y, features = integers((*size, M)), normals((*size, M))
    for order in ORDERS:
        np.testing.assert_array_equal(round_trip(model(), y, features, order), y)


def test_orders_lag_two() -> None:
    assert len(model().order("raster", *SIZE)) == 35
    assert len(model().order("wavefront", *SIZE)) == 7 + 2 * 4
    with pytest.raises(ValueError, match="'checkerboard'"):
        model().order("checkerboard", *SIZE)


def test_rate_of_random_positions() -> None:
    """16 of them, the same for all images and channels, scaled to all; in training alone."""
    one, size = model(), (6, 8)
    y, features = torch.randn(2, M, *size) * 4, {"features": torch.randn(2, M, *size)}
    through = Quantizer("straight-through")
    whole = one.forward(y, features, through, "raster")
    assert (whole.bits > 0).all()
    one.estimator.train()
    torch.manual_seed(0)
    chosen = []
    for _ in range(2):
        some = one.forward(y, features, through, "raster")
        assert torch.equal(some.y_hat, whole.y_hat)
        at = some.bits[0, 0] != 0
        chosen.append(at)
        assert at.sum() == 16
        torch.testing.assert_close(
            some.bits, torch.where(at, whole.bits * 48 / 16, 0.0), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(some.means, torch.where(at, whole.means, 0.0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(some.scales, torch.where(at, whole.scales, 1.0), rtol=1e-4, atol=1e-5)
    assert not torch.equal(*chosen)
    for quantizer in (ROUND, GIVEN):
        torch.testing.assert_close(one.forward(whole.y_hat, features, quantizer, "raster").bits, whole.bits)
    one.points = None
    torch.testing.assert_close(one.forward(y, features, through, "raster").bits, whole.bits)
    one.points = 49
    torch.testing.assert_close(one.forward(y, features, through, "raster").bits, whole.bits)


def test_noise_enters_likelihoods_only() -> None:
    system = randomized(Lee2019(4, M, absolute=False, points=None), gain=0.5)
    y = torch.randn(1, M, 4, 8) * 5
    z = system.hyper_analysis(y)["z"]
    assert torch.equal(z, system.hyper_analysis(y.round())["z"])
    absolute = randomized(Lee2019(4, M), gain=0.5)
    assert not torch.equal(z, absolute.hyper_analysis(y)["z"])
    assert torch.equal(absolute.hyper_analysis(y)["z"], absolute.hyper_analysis(-y)["z"])
    y.requires_grad_()
    system.hyper_analysis(y)["z"].sum().backward()
    assert (y.grad != 0).any(), "rounding has the gradient of the identity"

    features = system.features({"z": z.round()})
    part = system.parts()["y"].model
    noisy, rounded = (part.forward(y, features, Quantizer(how), "raster") for how in ("mixed", "round"))
    for name in ("y_hat", "means", "scales"):
        assert torch.equal(getattr(noisy, name), getattr(rounded, name)), name
    assert not torch.equal(noisy.bits, rounded.bits)


def test_prior_of_scales() -> None:
    prior = ScalePrior(4)
    with torch.no_grad():
        prior.sigma.copy_(torch.tensor([3.0, -3.0, 1e-20, 40.0]))
    z = torch.arange(-400.0, 401.0).expand(4, 1, -1)
    mass = prior.likelihood(z)[:, 0]
    torch.testing.assert_close(mass.sum(1), torch.ones(4), atol=1e-4, rtol=0)
    assert torch.equal(mass, mass.flip(1))
    assert torch.equal(mass[0], mass[1])
    assert mass[2, 400] > 0.99999
    assert torch.equal(prior.medians, torch.zeros(4))
    assert prior.auxiliary_loss() is None
    table = prior_table(prior)
    assert table.rows == 4
    # Values beyond them want wider Gaussians, in either sign of the parameter, and from below the floor too.
    prior(torch.tensor([9.0, 9.0, 1.5, 0.0])[None, :, None, None]).sum().backward()
    assert (prior.sigma.grad.sign() * prior.sigma.detach().sign()).tolist() == [-1, -1, -1, 1]


@torch.no_grad()
def test_equation_6() -> None:
    system = Lee2019(4, M).eval()
    x = torch.rand(2, 3, 64, 128)
    prediction = system(x, ROUND)
    mse = ((prediction.x_hat - x) * 255).square().mean()
    rate = sum(float(bits.sum()) for bits in prediction.bits.values()) / 2
    squares = float(((prediction.x_hat - x) * 255).square().sum()) / 2
    expected = 0.2 / (8 * 4 * M) * rate + (1 - 0.2) / (1000 * 128 * 64 * 3) * squares
    assert float(system.loss(prediction, x, 0.2, mse)) == pytest.approx(expected, rel=1e-5)
    for lmbda in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match="0 < lambda < 1"):
            system.loss(prediction, x, lmbda, mse)


def test_parameter_counts() -> None:
    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    with torch.device("meta"):
        system = Lee2019()
        assert count(system.estimator) == 1_401_792
        # Ballé 2018's, with f, and one parameter instead of the factorized prior's 61 for each channel.
        assert count(system) == 5_075_843 - count(FactorizedPrior(128)) + 128 + 1_401_792
        assert count(Lee2019Hybrid(16, 8, 4).estimator) == count(Lee2019(16, 8).estimator)


def hybrid() -> Lee2019Hybrid:
    return randomized(Lee2019Hybrid(4, M, 2), gain=1.0)


def test_hybrid_parts() -> None:
    """y1 has contexts, y2 scales alone, which the last channels of h_s's output are."""
    system = hybrid()
    assert (system.m, system.orders) == (5, ("wavefront", "raster"))
    first, second = system.parts().values()
    assert [(part.start, part.stop) for part in (first, second)] == [(0, 3), (3, 5)]
    assert [system.part_order(part, "raster") for part in (first, second)] == ["raster", "parallel"]

    features = system.features({"z": torch.randn(1, 4, 2, 3).round()})["features"]
    assert (features > 0).all(), "exp ends h_s"
    y = torch.randn(1, 5, 8, 12).round()
    changed = features.clone()
    changed[:, 3:] += 1
    one, other = (
        first.model.forward(y[:, :3], {"features": f}, GIVEN, "raster") for f in (features, changed)
    )
    assert torch.equal(one.means, other.means)
    assert torch.equal(one.scales, other.scales)
    light = second.model.forward(y[:, 3:], {"features": features}, GIVEN, "parallel")
    assert torch.equal(light.scales, features[:, 3:].clamp(min=0.11))
    assert (light.means == 0).all()


def test_hybrid_codes() -> None:
    system = hybrid()
    y, z = integers((*SIZE, 5)), integers((2, 3, 4))
    features = system.lower_features()["features"].layer(z)
    expected = system.features({"z": planes(z)})["features"]
    np.testing.assert_allclose(features, back(expected), rtol=1e-4)
    features = np.ascontiguousarray(features[: SIZE[0], : SIZE[1]])
    for part, order in zip(system.parts().values(), ("wavefront", "parallel"), strict=True):
        own = np.ascontiguousarray(y[..., part.start : part.stop])
        check_parameters(part.model, own, features, order)
        np.testing.assert_array_equal(round_trip(part.model, own, features, order), own)


def test_training_pass() -> None:
    system = Lee2019Hybrid(4, M, 2).train()
    prediction = system(torch.rand(2, 3, 64, 128), Quantizer("mixed"))
    assert list(prediction.bits) == ["z", "y1", "y2"]
    distortion = prediction.x_hat.square().mean() * 255**2
    system.loss(prediction, torch.rand(2, 3, 64, 128), 0.1, distortion).backward()
    for name, parameter in system.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
