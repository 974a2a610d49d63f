"""ChARM: what each slice sees, refinement, and its ablations."""

from __future__ import annotations

import pytest
import torch
from exact_systems import check_twins, sees
from refined import check_refined
from tiny import SMALL

from quadrans.nets.quantizer import ROUND, Quantizer
from quadrans.nets.slices import ChannelSlices
from quadrans.nets.systems.charm2020 import Charm2020

TINY = SMALL["charm2020"]


def tiny(**changes: object) -> Charm2020:
    torch.manual_seed(0)
    return Charm2020(**{**TINY, **changes})


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 113_988_035),
        ({"max_support": -1}, 119_364_035),
        ({"transforms": "elic-sm"}, 114_486_851),
        ({"refine": False}, 80_463_555),
    ],
)
def test_counts(changes: dict, count: int) -> None:
    with torch.device("meta"):
        system = Charm2020(**changes)
    assert sum(p.numel() for p in system.parameters()) == count
    model = system.parts()["y"].model
    assert len(model.order("slices", 4, 4)) == 10
    assert set(model.sizes) == {32}


@pytest.mark.parametrize("max_support", [0, 2, -1])
def test_what_a_slice_sees(max_support: int) -> None:
    """The first slices only, of those before it; and both of the features' halves."""
    system = tiny(max_support=max_support)
    model = system.parts()["y"].model
    features = {"features": torch.randn(1, 24, 5, 3)}
    for step in range(5):
        y = torch.randn(1, 20, 5, 3, requires_grad=True)
        memory = model.before(step, y, features)
        scales, means = model.parameters(step, y, features, memory)
        assert scales.shape == means.shape == (1, 4, 5, 3)
        for out in (scales, means):
            (grad,) = torch.autograd.grad(out.sum(), y, retain_graph=True, allow_unused=True)
            seen = 0 if grad is None else int((grad.abs().sum((0, 2, 3)) > 0).sum())
            limit = step if max_support < 0 else min(step, max_support)
            assert seen == 4 * limit
            assert grad is None or not grad[:, 4 * limit :].any()


def test_halves_of_the_features() -> None:
    """Means and refinement read the first half, scales the second."""
    system = tiny()
    model = system.parts()["y"].model
    y = torch.randn(1, 20, 3, 3)
    plane = torch.randn(1, 24, 3, 3)

    def outputs(plane: torch.Tensor) -> list[torch.Tensor]:
        features = {"features": plane}
        memory = model.before(3, y, features)
        return [*model.parameters(3, y, features, memory), model.after(3, y, features, memory)]

    base = outputs(plane)
    for half, changed in ((slice(0, 12), (False, True, True)), (slice(12, 24), (True, False, False))):
        other = plane.clone()
        other[:, half] += 1
        assert tuple(not torch.equal(a, b) for a, b in zip(base, outputs(other), strict=True)) == changed


def test_refinement_is_half_a_tanh_and_conditions_later_slices() -> None:
    system = tiny()
    with torch.no_grad():
        for net in system.lrp_transforms:
            net[-1].bias.fill_(100)
    model = system.parts()["y"].model
    features = {"features": torch.randn(1, 24, 4, 4)}
    y = 3 * torch.randn(1, 20, 4, 4)
    coded = model.forward(y, features, ROUND, "slices")
    symbols = (coded.y_hat - 0.5 - coded.means).detach()
    assert torch.allclose(symbols, symbols.round(), atol=1e-5)
    memory = model.before(1, coded.y_hat, features)
    means = model.parameters(1, coded.y_hat, features, memory)[1]
    assert torch.allclose(means, coded.means[:, 4:8], atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"max_support": -1}, {"transforms": "elic-sm"}], ids=str)
def test_exact_twin(changes: dict) -> None:
    check_refined(tiny(**changes), 8, 4)


def test_without_refinement() -> None:
    system = tiny(refine=False)
    assert type(system.parts()["y"].model) is ChannelSlices
    assert not system.refines
    check_twins(system, 8, 4)
    assert sees(system, 4, 4) == [(False, True), *[(True, True)] * 4]


@pytest.mark.parametrize("changes", [{}, {"refine": False}, {"transforms": "elic-sm"}], ids=str)
def test_trains(changes: dict) -> None:
    system = tiny(**changes)
    again = type(system)(**system.config)
    assert again.state_dict().keys() == system.state_dict().keys()
    x = torch.rand(2, 3, 64, 64)
    prediction = system(x, Quantizer("mixed"))
    (prediction.total_bits.sum() + (prediction.x_hat - x).square().sum()).backward()
    trained = [p.grad for p in system.parameters() if p.requires_grad]
    assert all(grad is not None and grad.isfinite().all() for grad in trained)


def test_refused() -> None:
    with pytest.raises(ValueError, match="gdn, elic-sm, not 'elic'"):
        tiny(transforms="elic")
    with pytest.raises(ValueError, match="-1 for all slices, or at least 0, not -2"):
        tiny(max_support=-2)
