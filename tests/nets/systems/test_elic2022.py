"""ELIC: its transforms, what each of ten steps sees, and CompressAI's names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exact_latents import back, planes, randomized
from exact_systems import check_twins, exact, random_sides, sees
from tiny import SMALL

from quadrans.nets import elic_transforms
from quadrans.nets.context import anchors
from quadrans.nets.quantizer import ROUND, Quantizer
from quadrans.nets.systems.elic2022 import Elic2022, aggregation

TINY = SMALL["elic2022"]


def tiny(**changes: object) -> Elic2022:
    torch.manual_seed(0)
    return Elic2022(**{**TINY, **changes})


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_counts() -> None:
    with torch.device("meta"):
        system, small = Elic2022(), Elic2022(transforms="elic-sm")
    assert count(system) == 32_074_200
    assert count(system.g_a) + count(system.g_s) == 14_675_267
    assert (count(small.g_a), count(small.g_s)) == (3_755_072, 3_754_755)
    assert count(system) - count(small) == 14_675_267 - 7_509_827
    assert system.m == 320


def test_transforms_divide_by_16() -> None:
    pairs = (
        (elic_transforms.elic_analysis(4, 6), elic_transforms.elic_synthesis(4, 6)),
        (elic_transforms.elic_sm_analysis(4, 6), elic_transforms.elic_sm_synthesis(4, 6)),
    )
    for analysis, synthesis in pairs:
        y = analysis(torch.rand(2, 3, 64, 32))
        assert y.shape == (2, 6, 4, 2)
        assert synthesis(y).shape == (2, 3, 64, 32)


@pytest.mark.parametrize(("transforms", "reach"), [("elic", 10), ("elic-sm", 4)])
def test_reach(transforms: str, reach: int) -> None:
    """Nothing changes farther than that from a change, either way."""
    system = randomized(tiny(transforms=transforms), gain=1)
    assert system.reach == reach
    n = 2 * reach + 3
    x, y = torch.rand(1, 3, 16 * n, 16), torch.randn(1, 16, n, 1)
    center = reach + 1
    x2, y2 = x.clone(), y.clone()
    x2[:, :, 16 * center : 16 * center + 16] += 1
    y2[:, :, center] += 1
    seen = (system.g_a(x2) != system.g_a(x)).any(1)[0, :, 0].nonzero()
    assert center in seen
    assert (seen - center).abs().max() <= reach
    seen = (system.g_s(y2) != system.g_s(y)).any(1)[0].any(1).nonzero() // 16
    assert (seen - center).abs().max() <= reach


def test_names() -> None:
    """Those of CompressAI's Elic2022Official, but for its buffers."""
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in Elic2022().state_dict().items()}
    codec = "latent_codec.y.latent_codec."
    for name, shape in {
        "g_a.8.conv_a.2.conv.4.weight": (192, 96, 1, 1),
        "g_a.14.conv_b.3.bias": (320,),
        "g_s.0.conv_b.0.conv.2.weight": (160, 160, 3, 3),
        "g_s.6.conv_a.0.conv.0.weight": (96, 192, 1, 1),
        "g_s.14.weight": (192, 3, 5, 5),
        "latent_codec.hyper.h_a.4.weight": (192, 192, 5, 5),
        "latent_codec.hyper.h_s.2.weight": (192, 288, 5, 5),
        "latent_codec.hyper.h_s.4.weight": (288, 384, 3, 3),
        "latent_codec.hyper.entropy_bottleneck.quantiles": (192, 1, 3),
        "latent_codec.y.channel_context.y4.0.weight": (224, 128, 5, 5),
        "latent_codec.y.channel_context.y1.4.weight": (32, 128, 5, 5),
        codec + "y0.entropy_parameters.0.weight": (384, 416, 1, 1),
        codec + "y4.entropy_parameters.2.weight": (640, 896, 1, 1),
        codec + "y4.context_prediction.weight": (384, 192, 5, 5),
    }.items():
        assert shapes[name] == shape
    assert not any(name.startswith("latent_codec.y.channel_context.y0") for name in shapes)


def test_aggregation_widths() -> None:
    """Even steps from the inputs to the outputs, at least 2n; or those that are given."""

    def widths(head: torch.nn.Module) -> list[int]:
        return [conv.out_channels for conv in head[::2]]

    assert widths(aggregation(1152, 384, 384)) == [896, 640, 384]
    assert widths(aggregation(416, 32, 384)) == [384, 384, 32]
    assert widths(aggregation(577, 10, 0)) == [388, 199, 10]
    assert widths(tiny(aggregated=(7, 9)).parts()["y"].model.aggregation[2]) == [7, 9, 8]


def test_steps() -> None:
    """Two for each group; the very first sees side information only."""
    model = tiny().parts()["y"].model
    order = model.order("slices_checkerboard", 4, 6)
    assert [step.width for step in order] == [2, 2, 2, 2, 4, 4, 8, 8]
    assert sees(tiny(), 4, 4) == [(False, True), *[(True, True)] * 7]
    with torch.device("meta"):
        assert len(Elic2022().parts()["y"].model.order("slices_checkerboard", 4, 4)) == 10


@pytest.mark.parametrize("parity", ["even", "odd"])
def test_what_a_step_sees(parity: str) -> None:
    """Anchors: earlier groups, nothing of their own. The others: also their own group's anchors near by."""
    system = randomized(tiny(parity=parity))
    model = system.parts()["y"].model
    features = {"features": torch.randn(1, 16, 8, 8)}
    order = model.order("slices_checkerboard", 8, 8)
    chosen = anchors(torch.zeros(1, 1, 8, 8), parity).bool()
    for step, start in ((4, 4), (5, 4), (6, 8), (7, 8)):
        y = torch.randn(1, 16, 8, 8, requires_grad=True)
        memory = model.before(step - step % 2, y, features)
        row, col = (int(axis[12]) for axis in (order.steps[step].rows, order.steps[step].cols))
        scales, means = model.parameters(step, y, features, memory)
        own = scales.shape[1]
        assert bool(chosen[row, col]) == (step % 2 == 0)
        (grad,) = torch.autograd.grad(scales[..., row, col].sum() + means[..., row, col].sum(), y)
        assert grad[0, :start].any()
        assert not grad[0, start + own :].any()
        near = grad[0, start : start + own].abs().sum(0) > 0
        if step % 2 == 0:
            assert not near.any()
            continue
        rows, cols = near.nonzero().T
        assert len(rows) > 4
        assert chosen[rows, cols].all()
        assert max((rows - row).abs().max(), (cols - col).abs().max()) == 2


def test_anchors_have_no_spatial_context_not_even_the_bias() -> None:
    system = randomized(tiny())
    sides = random_sides(system, 4, 4)
    y = np.random.default_rng(3).normal(size=(4, 4, 16)).astype(np.float32)
    results = []
    for bias in (0, 50):
        with torch.no_grad():
            for context in system.parts()["y"].model.spatial:
                context.bias.fill_(bias)
        twin = exact(system)
        found = twin.features(sides)
        model = system.parts()["y"].model
        order = model.order("slices_checkerboard", 4, 4)
        lowered = twin.parts["y"].model
        whole = np.zeros((4, 4, lowered.width), np.float32)
        whole[:, :, :16], whole[:, :, 16:32] = y, found["features"]
        results.append([])
        for step in range(8):
            lowered.remember(whole, order, step)
            results[-1].append(np.stack(lowered.parameters(whole, order, step)))
    same = [np.array_equal(*pair) for pair in zip(*results, strict=True)]
    assert same == [True, False] * 4


@pytest.mark.parametrize(
    "changes",
    [{}, {"parity": "odd"}, {"hyper": (6, 5, 9), "aggregated": (7, 9)}, {"groups": (5, 3)}, {"groups": (6,)}],
    ids=str,
)
def test_exact_twin(changes: dict) -> None:
    check_twins(tiny(**changes), 8, 4)


def test_torch_and_exact_y_hat_agree() -> None:
    """Rounding about means, group after group, is the same in an estimate and in a file."""
    system = randomized(tiny(), gain=0.5)
    sides, twin = random_sides(system, 8, 8), exact(system)
    found = twin.features(sides)
    model = system.parts()["y"].model
    y = 4 * np.random.default_rng(2).normal(size=(8, 8, 16)).astype(np.float32)
    _, y_hat = twin.encode("y", y, found, model.order("slices_checkerboard", 8, 8))
    features = {"features": planes(found["features"])}
    coded = model.forward(planes(y), features, ROUND, "slices_checkerboard")
    np.testing.assert_allclose(y_hat, back(coded.y_hat), atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"transforms": "elic-sm", "parity": "odd"}], ids=str)
def test_trains(changes: dict) -> None:
    system = tiny(**changes)
    again = type(system)(**system.config)
    assert again.state_dict().keys() == system.state_dict().keys()
    x = torch.rand(2, 3, 64, 64)
    prediction = system(x, Quantizer("straight-through"))
    (prediction.total_bits.sum() + (prediction.x_hat - x).square().sum()).backward()
    trained = [p.grad for p in system.parameters() if p.requires_grad]
    assert all(grad is not None and grad.isfinite().all() for grad in trained)


def test_unknown_arguments() -> None:
    for changes in ({"transforms": "gdn"}, {"parity": "none"}):
        with pytest.raises(ValueError, match="elic, elic-sm and parity even or odd, not"):
            tiny(**changes)
