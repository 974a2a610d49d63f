"""Ballé 2018: scales alone out of |y|, and their exact twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quadrans import entropy, kernels
from quadrans.nets.codec import latent_table
from quadrans.nets.quantizer import ROUND
from quadrans.nets.systems.balle2018 import ScaleHyperprior
from quadrans.nets.systems.minnen2018 import MeanScaleHyperprior


@pytest.mark.parametrize(
    ("kind", "n", "m", "expected"),
    [
        (ScaleHyperprior, 128, 192, 5_075_843),
        (ScaleHyperprior, 192, 320, 11_816_323),
        (MeanScaleHyperprior, 128, 192, 7_028_003),
        (MeanScaleHyperprior, 192, 320, 17_561_699),
    ],
)
def test_parameter_counts_are_compressais(kind: type, n: int, m: int, expected: int) -> None:
    with torch.device("meta"):
        system = kind(n, m)
    assert sum(parameter.numel() for parameter in system.parameters()) == expected
    assert system.config == {"n": n, "m": m}
    assert kind(**{**system.config, "n": 2, "m": 3}).m == 3


@pytest.fixture(scope="module")
def system() -> ScaleHyperprior:
    """Small, with a busy latent and scales of all sizes, many of them zero."""
    torch.manual_seed(3)
    system = ScaleHyperprior(6, 8).eval().requires_grad_(False)
    for layer, gain in ((system.g_a[6], 60.0), (system.h_a[4], 40.0), (system.h_s[4], 30.0)):
        layer.weight.mul_(gain)
    return system


def test_side_information_ignores_signs(system: ScaleHyperprior) -> None:
    y = torch.randn(1, 8, 8, 12)
    z = system.hyper_analysis(y)["z"]
    assert torch.equal(z, system.hyper_analysis(-y)["z"])
    assert not torch.equal(z, system.hyper_analysis(y.relu())["z"])


def test_scales_have_a_floor_and_means_are_zero(system: ScaleHyperprior) -> None:
    coded = system(torch.rand(1, 3, 128, 192), ROUND).coded["y"]
    assert not coded.means.any()
    assert coded.scales.min() == torch.tensor(0.11), "of zero"
    assert (coded.scales > 1).any()
    assert torch.equal(coded.y_hat, coded.y_hat.round())


def test_exact_twin_agrees_with_torch(system: ScaleHyperprior) -> None:
    """Scales to the float, means zero; and what is coded decodes to round(y), scales of zero included."""
    y = system.analysis(torch.rand(1, 3, 128, 192))
    z = system.hyper_analysis(y)["z"].round()
    expected = system.features({"z": z})["features"]
    given = z[0].permute(1, 2, 0).contiguous().numpy()
    features = system.lower_features()["features"].layer(given)
    scales = expected[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(features, scales, rtol=1e-4, atol=1e-4)
    model, order = system.parts()["y"].model.lower(), kernels.parallel(8, 12)
    latent = y[0].permute(1, 2, 0).contiguous().numpy()
    symbols, rows = kernels.latent_symbols(latent, features, model, order)
    np.testing.assert_array_equal(symbols, np.rint(latent))
    thresholds = entropy.scale_thresholds(entropy.default_scales())
    np.testing.assert_array_equal(rows, np.searchsorted(thresholds, features))
    table = latent_table(residual=True)
    encoder = entropy.Encoder(table)
    y_hat = kernels.encode_latent(encoder, latent, features, model, order)
    np.testing.assert_array_equal(y_hat, np.rint(latent))
    assert len(np.unique(y_hat)) > 5
    decoded = kernels.decode_latent(entropy.Decoder(encoder.finish(), table), features, model, order)
    np.testing.assert_array_equal(decoded.view(np.uint32), y_hat.view(np.uint32))
