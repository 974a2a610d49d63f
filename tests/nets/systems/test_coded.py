"""What entropy models say of what they have coded: the densities' own scales, and whether it is refined."""

from __future__ import annotations

import pytest
import torch
from exact_latents import normals, planes, randomized
from exact_systems import random_sides, torch_features
from tiny import SMALL, small

from quadrans.nets.context import ContextEntropy
from quadrans.nets.density import SCALE_MIN
from quadrans.nets.entropy_model import StepEntropy
from quadrans.nets.quantizer import ROUND

NAMES = [name for name in SMALL if name not in ("balle2017", "theis2017", "balle2018-factorized")]
"""Those whose y has a model."""


@pytest.mark.parametrize("name", NAMES)
def test_models_refine_that_say_so(name: str) -> None:
    for part in small(name).parts().values():
        after = isinstance(part.model, StepEntropy) and type(part.model).after is not StepEntropy.after
        assert part.model.refines == after
    assert small(name).refines == (name in ("charm2020", "tcm2023", "mlicpp2023"))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_bits_are_those_of_means_and_scales(name: str) -> None:
    """Of a cell of y's step, by the normal distribution function; the floor is in such units, too."""
    # Lee's scales are exponentials: only larger weights give some below the floor.
    system = randomized(small(name), gain=1.4 if name.startswith("lee") else 0.5)
    side = system.multiple // system.stride
    features = torch_features(system, random_sides(system, side, side))
    for part in system.parts().values():
        model = part.model
        y = planes(4 * normals((side, side, part.stop - part.start), 9))
        coded = model.forward(y, features, ROUND, model.orders[0])
        step = torch.ones_like(y)
        if model.least_step is not None:
            step = features[model.plane][:, : y.shape[1]].clamp(min=model.least_step)
            assert step.min() < step.max()
        assert (coded.scales >= 0.999999 * SCALE_MIN * step).all()
        if isinstance(model, ContextEntropy) and model.components:
            continue
        assert torch.isclose(coded.scales, SCALE_MIN * step).any(), "none is below the floor"
        # Of what was coded, before it was refined.
        distance = coded.y_hat - coded.means
        if model.residual:
            distance = step * ((y - coded.means) / step).round()
        normal = torch.distributions.Normal(0, coded.scales.double())
        mass = normal.cdf(distance + step / 2) - normal.cdf(distance - step / 2)
        likely = mass > 1e-4
        assert likely.any()
        torch.testing.assert_close(coded.bits[likely].double(), -mass[likely].log2(), rtol=1e-3, atol=1e-3)
