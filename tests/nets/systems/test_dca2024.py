"""DCA: its parts' sizes, what each step reads, and every variant of its section 4.2."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exact_latents import randomized
from exact_systems import check_twins, random_sides, sees, torch_features

from quadrans.nets.quantizer import ROUND, Quantizer
from quadrans.nets.systems.dca2024 import DCA2024, LARGE_REGIONAL

TINY = {
    "n": 4,
    "m": 8,
    "c_r": 8,
    "c_l": 2,
    "count": 4,
    "hyper": 8,
    "local": (4, 8),
    "head_dim": 4,
    "swin_head_dim": 4,
    "local_head_dim": 4,
}

VARIANTS = {
    "DCA": ({}, 37_890_553),
    "reading A": ({"reading": "A"}, 37_890_553),
    "R": ({"contexts": "R"}, 28_487_819),
    "large R": ({"contexts": "R", "c_r": LARGE_REGIONAL}, 30_836_949),
    "RG": ({"contexts": "RG"}, 34_707_379),
    "RL": ({"contexts": "RL"}, 31_670_993),
    "GL": ({"contexts": "GL"}, 29_036_401),
    "RG, step-independent": ({"contexts": "RG", "step_adaptive": False}, 34_707_379),
    "RGL, step-independent, A": ({"step_adaptive": False, "reading": "A"}, 37_890_553),
    "RLG": ({"contexts": "RLG"}, 37_890_553),
    "GLR": ({"contexts": "GLR"}, 36_354_233),
    "LGR": ({"contexts": "LGR"}, 36_354_233),
    "B (CNN) + F (CNN)": ({"forward_net": "cnn"}, 38_746_049),
    "GL without attention": ({"contexts": "GL", "forward_net": "cnn"}, None),
    "B (attention) + F (attention)": ({"backward": "attention"}, 40_337_973),
    "B (attention) + F (CNN)": ({"backward": "attention", "forward_net": "cnn"}, 41_193_469),
    "B (LRG) + F (LRG)": ({"backward_tokens": 8}, 44_256_953),
    "B (LRG) + F (LG)": ({"backward_tokens": 8, "contexts": "LG"}, None),
}


def tiny(**changes: object) -> DCA2024:
    changes = {key: 12 if key == "c_r" else value for key, value in changes.items()}
    torch.manual_seed(0)
    return DCA2024(**{**TINY, **changes})


@pytest.mark.parametrize(("changes", "count"), [one for one in VARIANTS.values() if one[1]])
def test_counts(changes: dict, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in DCA2024(**changes).parameters()) == count


def test_parts() -> None:
    with torch.device("meta"):
        system = DCA2024()
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in system.named_children()}
    assert counts == {
        "f_a": 3_755_072,
        "f_s": 3_754_755,
        "r_a": 3_068_260,
        "r_s": 3_316_580,
        "l_a": 73_169,
        "l_s": 287_138,
        "g_a": 2_560 + 1_233_600 + 12_840,
        "g_s": 26_240,
        "priors": 11_712 + 610 + 19_520,
        "c": 14_581_440 + 4_924_800 + 2_822_257,
    }
    first, *others = system.c.adaptors
    assert first.weight.shape == (960, 640, 1, 1)
    assert [one.weight.shape for one in others] == [(960, 960, 1, 1)] * 3
    assert {name: side.stride for name, side in system.sides().items()} == {"z_r": 4, "z_l": 1, "z_g": None}
    # Values of side information for each position of y, of large R and of DCA.
    assert LARGE_REGIONAL / 16 == 192 / 16 + 10


@pytest.mark.parametrize("changes", [one for one, _ in VARIANTS.values()], ids=list(VARIANTS))
def test_variants(changes: dict) -> None:
    """Each trains, and has an exact twin. Only the first step doesn't read what is decoded."""
    system = tiny(**changes)
    assert type(system)(**system.config).state_dict().keys() == system.state_dict().keys()
    x = torch.rand(2, 3, system.multiple, system.multiple)
    prediction = system(x, Quantizer("mixed"))
    (prediction.total_bits.sum() + (prediction.x_hat - x).square().sum()).backward()
    without = [name for name, p in system.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert all(p.grad.isfinite().all() for p in system.parameters() if p.requires_grad)
    check_twins(system, 16, 16)
    assert sees(system, 16, 16) == [(False, True), *[(True, True)] * 3]


def test_odd_numbers_of_windows() -> None:
    check_twins(tiny(), 16, 48)


def test_local_context_is_of_single_positions() -> None:
    """z_l of a position depends on that position of y alone, and so does what is made of it."""
    system = randomized(tiny(), gain=0.5)
    y = torch.randn(1, 8, 4, 6)
    z = system.l_a(y)
    assert z.shape == (1, 2, 4, 6)
    changed = y.clone()
    changed[0, 0, 1, 2] += 1
    moved = (system.l_a(changed) != z).any(1)[0]
    assert moved.nonzero().tolist() == [[1, 2]]
    features = system.l_s(z)
    z[0, :, 3, 5] += 1
    assert (system.l_s(z) != features).any(1)[0].nonzero().tolist() == [[3, 5]]


@pytest.mark.parametrize("forward_net", ["attention", "cnn"])
def test_global_context_is_one_position(forward_net: str) -> None:
    """It looks at all of y and is read everywhere."""
    system = randomized(tiny(forward_net=forward_net), gain=0.5)
    y = torch.randn(1, 8, 16, 16)
    z = system.g_a(y)
    assert z.shape == (1, 8, 1, 1)
    y[0, 0, 15, 3] += 1
    assert (system.g_a(y) != z).any()
    sides = random_sides(system, 16, 16)
    y_hat = torch.zeros(1, 8, 16, 16)
    one = system.c(0, y_hat, torch_features(system, sides), None)
    sides["z_g"] += 1
    other = system.c(0, y_hat, torch_features(system, sides), None)
    assert (one != other).any(1).all()


def test_contexts_are_used_in_order() -> None:
    """The last context's layers give (scales, means): in R, G, L it is the local head."""
    assert list(tiny().c.stages) == ["G", "L"]
    assert list(tiny(contexts="GLR").c.stages) == ["G", "L", "R"]
    assert not tiny(contexts="R").c.stages


def test_steps_share_all_but_the_first_convolution() -> None:
    names = [name for name, _ in tiny().c.named_parameters() if "adaptors" not in name]
    assert {name.split(".")[0] for name in names} == {"trunk", "stages"}


def test_the_first_step_of_reading_a_has_no_trunk() -> None:
    """Its state is the regional features themselves."""
    system = randomized(tiny(contexts="R", reading="A"), gain=0.5)
    features = torch_features(system, random_sides(system, 16, 16))
    torch.testing.assert_close(system.c(0, torch.zeros(1, 8, 16, 16), features, None), features["features"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contexts": "G"}, "not tokens alone"),
        ({"contexts": "RR"}, "different letters"),
        ({"contexts": "RX"}, "different letters"),
        ({"contexts": ""}, "different letters"),
        ({"contexts": "GLR", "reading": "A"}, "begin with R"),
        ({"contexts": "GL", "step_adaptive": False}, "begin with R"),
        ({"contexts": "GLR", "backward_tokens": 4}, "isn't first"),
        ({"reading": "C"}, "reading must be"),
        ({"backward": "attention", "reading": "A"}, "backward"),
        ({"forward_net": "mlp"}, "forward_net"),
        ({"m": 10}, "m = 10"),
        ({"count": 3}, "m = 8 must be a multiple of 3"),
        ({"local": (6, 8)}, "local = 6"),
        ({"contexts": "L", "local": (4, 6)}, "local = 6"),
        ({"c_r": 6}, "c_r = 6"),
        ({"hyper": 6}, "hyper = 6"),
        ({"head_dim": 3}, "m = 8 must be a multiple of 3"),
        ({"contexts": "R", "head_dim": 3, "backward_tokens": 2}, "m = 8 must be a multiple of 3"),
        ({"forward_net": "cnn", "backward": "attention", "swin_head_dim": 3}, "2m = 16"),
    ],
)
def test_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DCA2024(**{**TINY, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"forward_net": "cnn", "c_r": 6, "hyper": 7, "local": (5, 6), "count": 3, "head_dim": 3},
        {"contexts": "RG", "local": (5, 6)},
        {"contexts": "RL", "count": 3, "head_dim": 3},
        {"contexts": "L", "c_r": 6, "hyper": 7, "swin_head_dim": 3},
    ],
    ids=str,
)
def test_sizes_of_what_is_not_there_may_be_any(changes: dict) -> None:
    check_twins(DCA2024(**{**TINY, **changes}), 16, 16)


@torch.no_grad()
def test_a_rounded_pass() -> None:
    system = tiny().eval()
    x = torch.rand(1, 3, 256, 256)
    prediction = system(x, ROUND)
    assert set(prediction.bits) == {"z_r", "z_l", "z_g", "y"}
    assert prediction.y_hat.shape == (1, 8, 16, 16)
    assert np.isfinite(float(prediction.total_bits))
