"""DCVC-DC's quadtree: the partition, what each step reads, and DCA's baseline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exact_latents import normals, planes, randomized
from exact_systems import check_twins, exact, random_sides, sees, torch_features

from quadrans import kernels
from quadrans.nets.entropy_model import step_elements
from quadrans.nets.quantizer import ROUND, Quantizer
from quadrans.nets.systems.dcvc_dc2023 import IntraNoAR, QuadtreeBaseline

TABLE = (
    ("TL", "TR", "BL", "BR"),
    ("BR", "BL", "TR", "TL"),
    ("BL", "BR", "TL", "TR"),
    ("TR", "TL", "BR", "BL"),
)
"""Where each step codes each of the four groups of channels in a block of 2x2 positions (Li 2023)."""


def test_partition() -> None:
    order, y = kernels.quadtree(4, 6, 8), torch.zeros(1, 8, 4, 6)
    for step, corners in enumerate(TABLE):
        part, mask = step_elements(order, step, y)
        assert part == slice(0, 8)
        for group, corner in enumerate(corners):
            expected = torch.zeros(4, 6, dtype=torch.bool)
            expected["TB".index(corner[0]) :: 2, "LR".index(corner[1]) :: 2] = True
            assert torch.equal(mask[2 * group], expected)
            assert torch.equal(mask[2 * group + 1], expected)


@pytest.mark.parametrize("reading", ["A", "B"])
def test_counts(reading: str) -> None:
    with torch.device("meta"):
        system = QuadtreeBaseline(reading=reading)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in system.named_children()}
    assert sum(counts.values()) == 32_641_955
    assert counts["g_a"] + counts["g_s"] == 7_509_827
    assert counts["h_a"] + counts["h_s"] == 10_538_976
    assert counts["adaptors"] + counts["trunk"] == 14_581_440
    assert len(system.adaptors) == (3 if reading == "A" else 4)


@pytest.mark.parametrize("reading", ["A", "B"])
@pytest.mark.parametrize("size", [(4, 4), (4, 12)])
def test_exact_twin(reading: str, size: tuple[int, int]) -> None:
    check_twins(QuadtreeBaseline(4, 8, reading), *size)


@pytest.mark.parametrize("reading", ["A", "B"])
def test_what_steps_see(reading: str) -> None:
    assert sees(QuadtreeBaseline(4, 8, reading), 4, 8) == [(False, True), *[(True, True)] * 3]


def test_a_step_sees_all_earlier_ones_and_no_more() -> None:
    """Of what it hasn't decoded a step reads zeros; all that it has reaches far in space and channels."""
    system = randomized(QuadtreeBaseline(4, 8), gain=0.5)
    model = system.parts()["y"].model
    seen = []

    class Watching(type(model)):
        def net(self, step, y_hat, features, memory):
            seen.append(y_hat)
            return super().net(step, y_hat, features, memory)

    watching = Watching(8, 16, list(system.adaptors), system.trunk)
    y, features = planes(normals((4, 4, 8))), {"features": planes(normals((4, 4, 16), 2))}
    coded = watching.forward(y, features, ROUND, "quadtree")
    order = model.order("quadtree", 4, 4)
    known = torch.zeros(1, 8, 4, 4, dtype=torch.bool)
    for step, found in enumerate(seen):
        assert torch.equal(found, torch.where(known, coded.y_hat, 0))
        known = known | step_elements(order, step, y)[1]
        assert int(known.sum()) == (step + 1) * 32


def test_the_first_step_of_reading_a_is_the_hyperprior() -> None:
    """The features themselves are its (scales, means)."""
    system = QuadtreeBaseline(4, 8, "A")
    features = planes(normals((4, 4, 16)))
    found = system.parts()["y"].model.parameters(0, torch.zeros(1, 8, 4, 4), {"features": features}, None)
    assert torch.equal(torch.cat(found, 1), features)


def test_config_and_refusals() -> None:
    system = QuadtreeBaseline(4, 8, "A")
    assert type(system)(**system.config).state_dict().keys() == system.state_dict().keys()
    assert np.all([part.stop == 8 for part in system.parts().values()])
    with pytest.raises(ValueError, match="reading must be one of B, A"):
        QuadtreeBaseline(4, 8, "C")


def intra(**changes: object) -> IntraNoAR:
    return IntraNoAR(**{"n": 8, "widths": (4, 6), "refine": (4, 4, 6, 8), **changes})


def test_intra_counts() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in IntraNoAR().parameters()) == 30_998_187


def test_intra_exact_twin() -> None:
    check_twins(intra(), 4, 8)
    assert sees(intra(), 4, 8) == [(False, True), *[(True, True)] * 3]


def test_intra_quantization_steps() -> None:
    """What is coded is y in steps of 0.5 or more: y_hat is off by half a step at most, and not by less."""
    system = randomized(intra(), gain=0.5)
    sides, twin = random_sides(system, 8, 12), exact(system)
    found = twin.features(sides)
    steps = np.maximum(found["features"][:, :, :8], 0.5)
    assert 0.5 == steps.min() < steps.max()
    y = 9 * normals((8, 12, 8), 3)
    coding = system.parts()["y"].model.order("quadtree", 8, 12)
    stream, y_hat = twin.encode("y", y, found, coding)
    off = np.abs(y_hat - y) / steps
    assert 0.4 < off.max() <= 0.5 + 1e-4
    assert twin.decode("y", stream, found, coding).tobytes() == y_hat.tobytes()
    coded = system.parts()["y"].model.forward(planes(y), torch_features(system, sides), ROUND, "quadtree")
    off = np.abs(coded.y_hat[0].permute(1, 2, 0).numpy() - y) / steps
    assert off.max() <= 0.5 + 1e-4


def test_intra_trains() -> None:
    system = intra(quality=2)
    x = torch.rand(2, 3, 64, 128)
    prediction = system(x, Quantizer("mixed"))
    assert prediction.x_hat.shape == x.shape
    (prediction.total_bits.sum() + (prediction.x_hat - x).square().sum()).backward()
    assert all(p.grad.isfinite().all() for p in system.parameters())
    assert system.q_scale_enc.grad.flatten().nonzero().tolist() == [[2]]


def test_intra_looks_no_farther_than_it_says() -> None:
    """Of a position of y_hat `reach` others around it know, and of a block of pixels as many."""
    system = randomized(intra(), gain=0.5).double()
    size, reach = 2 * system.reach + 3, system.reach
    y = torch.randn(1, 8, size, size, dtype=torch.float64)
    other = y.clone()
    other[:, :, reach + 1, reach + 1] += 1
    touched = (system.synthesis(other) != system.synthesis(y)).any(1)[0]
    assert not touched[:16].any()
    assert not touched[-16:].any()
    x = torch.randn(1, 3, 16 * size, 16 * size, dtype=torch.float64)
    other = x.clone()
    other[:, :, 16 * reach + 16 : 16 * reach + 32, 16 * reach + 16 : 16 * reach + 32] += 1
    touched = (system.analysis(other) != system.analysis(x)).any(1)[0]
    assert touched[reach + 1, reach + 1]
    assert not touched[0].any()
    assert not touched[-1].any()


def test_intra_prior_is_a_density() -> None:
    prior = intra().bit_estimator_z.double()
    z = torch.arange(-4000, 4001, dtype=torch.float64).expand(8, 1, -1)
    torch.testing.assert_close(prior.likelihood(z).sum(2), torch.ones(8, 1, dtype=torch.float64))
    assert (prior.medians == 0).all()


@pytest.mark.parametrize("changes", [{"n": 6}, {"quality": 4}, {"quality": -1}])
def test_intra_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match=r"in four groups, quality"):
        intra(**changes)
