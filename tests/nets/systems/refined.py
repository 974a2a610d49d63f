"""Systems whose decoder refines the latent, against their exact twins."""

from __future__ import annotations

import numpy as np
from exact_latents import FloatArray, back, normals, planes, randomized
from exact_systems import exact, random_sides, torch_features

from quadrans import kernels
from quadrans.nets.quantizer import ROUND
from quadrans.nets.system import System


def check_refined(system: System, height: int, width: int) -> FloatArray:
    """Features, symbols, scales, y_hat are torch's up to rounding; a stream's y_hat is found to the bit."""
    randomized(system, gain=0.5)
    assert system.refines
    sides, twin = random_sides(system, height, width), exact(system)
    found, expected = twin.features(sides), torch_features(system, sides)
    np.testing.assert_allclose(found["features"], back(expected["features"]), rtol=1e-4, atol=1e-4)

    model, y = system.parts()["y"].model, 4 * normals((height, width, system.m), 9)
    coding = model.order(system.orders[0], height, width)
    stream, y_hat = twin.encode("y", y, found, coding)
    assert twin.decode("y", stream, found, coding).tobytes() == y_hat.tobytes()

    coded = model.forward(planes(y), expected, ROUND, coding.name)
    np.testing.assert_allclose(y_hat, back(coded.y_hat), rtol=1e-3, atol=1e-3)
    lowered = twin.parts["y"].model
    symbols, rows = kernels.latent_symbols(y, found["features"], lowered, coding)
    means, scales = back(coded.means), back(coded.scales)
    np.testing.assert_array_equal(symbols, np.rint(y - means))
    bounds = np.concatenate([[-np.inf], lowered.quantization.thresholds, [np.inf]])
    slack = 1e-3 * np.maximum(1, np.abs(scales))
    assert (scales > bounds[rows] - slack).all()
    assert (scales <= bounds[rows + 1] + slack).all()
    # It was refined, in every slice, by a half at most.
    change = np.abs(y_hat - (symbols + means)).max((0, 1))
    assert change.min() > 0.01
    assert change.max() <= 0.5001
    return y_hat
