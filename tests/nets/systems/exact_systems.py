"""Systems against their exact twins, on small random latents: features, parameters close, streams exact."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from exact_latents import FloatArray, back, normals, planes, randomized
from torch import Tensor

from quadrans import kernels
from quadrans.nets.codec import latent_table
from quadrans.nets.exact import ExactPart, OnCpu
from quadrans.nets.quantizer import GIVEN
from quadrans.nets.system import System


def random_sides(system: System, height: int, width: int) -> dict[str, FloatArray]:
    """Rounded side information for a y of height x width positions."""
    sides = {}
    for seed, (name, side) in enumerate(system.sides().items()):
        shape = (*side.size(height, width), len(side.prior.medians))
        sides[name] = np.rint(2 * normals(shape, seed))
    return sides


def torch_features(system: System, sides: Mapping[str, FloatArray]) -> dict[str, Tensor]:
    return dict(system.features({name: planes(side) for name, side in sides.items()}))


def exact(system: System) -> OnCpu:
    """The exact part of a system whose y is one latent."""
    model = system.parts()["y"].model
    table = latent_table(model.residual)
    part = ExactPart(model.lower(), model.plane, model.inputs, table, model.least_step)
    return OnCpu(system.lower_features(), {"y": part})


def check_twins(system: System, height: int, width: int, order: str | None = None) -> FloatArray:
    """Features and parameters are torch's, up to rounding, and a stream's y_hat is found to the bit."""
    randomized(system, gain=0.5)
    sides, twin = random_sides(system, height, width), exact(system)
    found, expected = twin.features(sides), torch_features(system, sides)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        theirs = back(values) if values.ndim == 4 else values.numpy()
        np.testing.assert_allclose(found[name], theirs, rtol=1e-4, atol=1e-4)

    part = system.parts()["y"]
    coding = part.model.order(order or system.orders[0], height, width)
    y = 4 * normals((height, width, system.m), 9)
    if not part.model.residual:
        y = np.rint(y)
    stream, y_hat = twin.encode("y", y, found, coding)
    assert twin.decode("y", stream, found, coding).tobytes() == y_hat.tobytes()

    coded = part.model.forward(planes(y_hat), expected, GIVEN, coding.name)
    twin_part, plane = twin.parts["y"], found[part.model.plane]
    arrays = y_hat, back(coded.means), back(coded.scales)
    values, means, scales = (twin_part.divided(array, plane) for array in arrays)
    inputs = {name: found[name] for name in part.model.inputs}
    if part.model.residual:
        symbols, rows = kernels.latent_symbols(values, plane, twin_part.model, coding, inputs=inputs)
        np.testing.assert_allclose(values - symbols, means, rtol=1e-3, atol=1e-3)
        bounds = np.concatenate([[-np.inf], twin_part.model.quantization.thresholds, [np.inf]])
        slack = 1e-3 * np.maximum(1, np.abs(scales))
        assert (scales > bounds[rows] - slack).all()
        assert (scales <= bounds[rows + 1] + slack).all()
    return y_hat


def sees(system: System, height: int, width: int) -> list[tuple[bool, bool]]:
    """Of each step: whether its parameters depend on (what is decoded, any side information)."""
    randomized(system, gain=0.5)
    model = system.parts()["y"].model
    coding = model.order(model.orders[0], height, width)
    sides = random_sides(system, height, width)

    def parameters(y: Tensor, sides: Mapping[str, FloatArray], step: int) -> Tensor:
        features = torch_features(system, sides)
        memory = None
        for number in range(step + 1):
            given = model.before(number, y, features)
            memory = memory if given is None else given
        return torch.cat(model.parameters(step, y, features, memory), 1)

    y = planes(normals((height, width, system.m)))
    other = {name: side + 1 for name, side in sides.items()}
    found = []
    for step in range(len(coding)):
        base = parameters(y, sides, step)
        changed = parameters(y + 1, sides, step), parameters(y, other, step)
        found.append(tuple(not torch.equal(base, one) for one in changed))
    return found
