"""MLIC++: its contexts and their exact twins, what each of its steps sees, and its own code's names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from exact_latents import FloatArray, back, normals, planes, randomized
from exact_systems import exact, random_sides, sees, torch_features
from refined import check_refined
from tiny import SMALL
from torch import Tensor, nn

from quadrans import kernels
from quadrans.kernels import reference_network
from quadrans.nets.lowering import lower
from quadrans.nets.mlic_attention import LinearGlobalInterContext, LinearGlobalIntraContext, LocalContext
from quadrans.nets.quantizer import ROUND, Quantizer
from quadrans.nets.systems.mlicpp2023 import Mlicpp2023, refinement_widths

TINY = SMALL["mlicpp2023"]
OLD = {"lrp": "old", "synthesis": "old"}


def tiny(**changes: object) -> Mlicpp2023:
    torch.manual_seed(0)
    return Mlicpp2023(**{**TINY, **changes})


@pytest.mark.parametrize(
    ("changes", "total", "entropy_part"),
    [
        ({}, 83_501_408, 64_404_884),
        (OLD, 116_716_928, 100_286_964),
        ({"transforms": "elic-sm", "lrp": "old"}, 107_796_791, 100_286_964),
        ({"transforms": "elic-sm"}, 71_914_711, 64_404_884),
    ],
    ids=str,
)
def test_counts(changes: dict, total: int, entropy_part: int) -> None:
    with torch.device("meta"):
        system = Mlicpp2023(**changes)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in system.named_children()}
    assert sum(counts.values()) == total
    assert total - counts["g_a"] - counts["g_s"] == entropy_part
    contexts = "local_context", "channel_context", "global_inter_context", "global_intra_context"
    assert [counts[name] for name in contexts] == [755_220, 5_810_112, 4_633_344, 659_232]
    assert len(system.parts()["y"].model.order("slices_checkerboard", 8, 8)) == 20


def test_names() -> None:
    """Those of the authors' code."""
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in Mlicpp2023().state_dict().items()}
        old = {name: tuple(value.shape) for name, value in Mlicpp2023(**OLD).state_dict().items()}
    for name, shape in {
        "g_a.analysis_transform.0.conv1.weight": (192, 3, 3, 3),
        "g_a.analysis_transform.0.skip.weight": (192, 3, 1, 1),
        "g_a.analysis_transform.4.gdn.gamma": (192, 192),
        "g_a.analysis_transform.5.conv2.bias": (192,),
        "g_a.analysis_transform.6.weight": (320, 192, 3, 3),
        "g_s.synthesis_transform.0.conv1.weight": (320, 320, 3, 3),
        "g_s.synthesis_transform.1.subpel_conv.0.weight": (768, 320, 3, 3),
        "g_s.synthesis_transform.1.upsample.0.bias": (768,),
        "g_s.synthesis_transform.5.igdn.beta": (192,),
        "g_s.synthesis_transform.7.0.weight": (12, 192, 3, 3),
        "h_a.reduction.8.weight": (192, 192, 3, 3),
        "h_s.increase.0.weight": (320, 192, 3, 3),
        "h_s.increase.2.0.weight": (1280, 320, 3, 3),
        "h_s.increase.6.0.weight": (1920, 480, 3, 3),
        "h_s.increase.8.weight": (640, 480, 3, 3),
        "entropy_bottleneck.quantiles": (192, 1, 3),
        "local_context.0.qkv_proj.weight": (96, 32),
        "local_context.9.relative_position_table": (81, 2),
        "local_context.9.fusion.weight": (64, 32, 5, 5),
        "local_context.9.mlp.fc1.weight": (128, 64),
        "local_context.9.norm2.bias": (64,),
        "channel_context.9.fushion.0.weight": (192, 288, 3, 3),
        "channel_context.1.fushion.4.weight": (128, 128, 3, 3),
        "global_inter_context.9.queries.0.weight": (288, 288, 1, 1),
        "global_inter_context.1.keys.1.weight": (32, 1, 3, 3),
        "global_inter_context.9.reprojection.weight": (96, 288, 5, 5),
        "global_inter_context.9.skip.weight": (64, 96, 1, 1),
        "global_inter_context.9.mlp.2.weight": (128, 1, 3, 3),
        "global_intra_context.1.reprojection.weight": (64, 32, 5, 5),
        "global_intra_context.9.mlp.4.weight": (64, 128, 1, 1),
        "entropy_parameters_anchor.0.fusion.0.weight": (320, 640, 1, 1),
        "entropy_parameters_anchor.9.fusion.0.weight": (320, 832, 1, 1),
        "entropy_parameters_nonanchor.0.fusion.0.weight": (320, 704, 1, 1),
        "entropy_parameters_nonanchor.1.fusion.0.weight": (320, 960, 1, 1),
        "entropy_parameters_nonanchor.1.fusion.6.weight": (64, 128, 1, 1),
        "lrp_anchor.0.lrp_transform.0.weight": (224, 352, 3, 3),
        "lrp_nonanchor.9.lrp_transform.4.weight": (32, 128, 3, 3),
    }.items():
        assert shapes[name] == shape
    assert not [name for name in shapes if "context.0." in name and not name.startswith("local")]
    assert old["g_s.synthesis_transform.0.skip.weight"] == (192, 320, 1, 1)
    assert old["g_s.synthesis_transform.1.subpel_conv.0.weight"] == (768, 192, 3, 3)
    assert old["lrp_anchor.0.lrp_transform.0.weight"] == (272, 352, 3, 3)
    assert old["lrp_nonanchor.9.lrp_transform.6.weight"] == (32, 184, 3, 3)


def test_refinement_widths() -> None:
    assert refinement_widths(352, 32, None) == [352, 272, 192, 112, 32]
    assert refinement_widths(10, 3, None) == [10, 9, 7, 5, 3]
    assert refinement_widths(352, 32, (224, 128)) == [352, 224, 128, 32]


def odd(height: int, width: int) -> Tensor:
    return torch.from_numpy(np.indices((height, width)).sum(0) % 2 == 1)


def published_local(module: LocalContext, x: Tensor) -> Tensor:
    """Window by window, in one image, all queries and keys, with -100 at all but pairs of anchors."""
    (_, c, h, w), heads, n = x.shape, module.heads, module.window
    qkv = module.qkv_proj(module.norm1(x.flatten(2).mT)).mT.view(1, 3 * c, h, w)
    windows = F.unfold(qkv, n, padding=n // 2)[0].T.view(h * w, 3, c // heads, heads, n * n)
    chosen = F.unfold(odd(h, w)[None, None].float(), n, padding=n // 2)[0].T
    out = x.new_zeros(1, 2 * c, h, w)
    for position, ((q, k, v), marks) in enumerate(zip(windows, chosen, strict=True)):
        heard = x.new_zeros(heads, c // heads, n * n)
        for head in range(heads):
            scores = q[:, head].T @ k[:, head] * (c // heads) ** -0.5
            for i, j in np.ndindex(n * n, n * n):
                down, right = i // n - j // n + n - 1, i % n - j % n + n - 1
                bias = module.relative_position_table[down * (2 * n - 1) + right, head]
                scores[i, j] += bias + (0 if marks[i] and marks[j] else -100)
            heard[head] = v[:, head] @ scores.softmax(1).T
        y = module.proj(module.fusion(heard.reshape(1, c, n, n)).flatten())
        y = y + module.mlp(module.norm2(y))
        out[0, :, position // w, position % w] = y
    return out


def published_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Of (C, N) queries, and (C, M) keys and values, in one image."""
    outs = []
    for queries, keys, values in zip(*(x.chunk(heads) for x in (q, k, v)), strict=True):
        context = keys.softmax(1) @ values.T
        outs.append(context.T @ queries.softmax(0))
    return torch.cat(outs)


def published_inter(module: LinearGlobalInterContext, x: Tensor) -> Tensor:
    q, k, v = (part(x)[0].flatten(1) for part in (module.queries, module.keys, module.values))
    y = module.reprojection(published_attention(q, k, v, module.heads).view(x.shape))
    return module.skip(y) + module.mlp(y)


def published_intra(module: LinearGlobalIntraContext, x: Tensor) -> Tensor:
    previous, own = x.chunk(2, 1)
    chosen = odd(*x.shape[2:])
    q = module.queries(previous * ~chosen)[0][:, ~chosen]
    k, v = module.keys(previous * chosen)[0][:, chosen], module.values(own)[0][:, chosen]
    plane = torch.zeros_like(own)
    plane[0][:, ~chosen] = published_attention(q, k, v, module.heads)
    y = module.reprojection(plane)
    return y + module.mlp(y)


CONTEXTS = {
    "local": (LocalContext(4, 2), 4, published_local),
    "local, other sizes": (LocalContext(6, 3, window=3, ratio=1), 6, published_local),
    "inter": (LinearGlobalInterContext(6, 4, 3), 6, published_inter),
    "intra": (LinearGlobalIntraContext(4, 2), 8, published_intra),
}


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("size", [(5, 4), (4, 7)], ids=str)
def test_contexts(name: str, size: tuple[int, int]) -> None:
    """As published, batch or not, and their exact twins."""
    module, channels, published = CONTEXTS[name]
    randomized(module, gain=1)
    x = torch.randn(2, channels, *size)
    if name != "inter":
        # A slice's own part is its anchors alone.
        x[:, -channels // (1 + (name == "intra")) :] *= odd(*size)
    found = module(x)
    for one, own in zip(x, found, strict=True):
        expected = published(module, one[None])
        if name.startswith("local"):
            expected = expected * ~odd(*size)
        torch.testing.assert_close(own[None], expected, rtol=1e-4, atol=1e-5)
    twin = reference_network.run(lower(module), back(x[:1]))
    np.testing.assert_allclose(twin, back(found[:1]), rtol=1e-4, atol=1e-4)


def test_steps() -> None:
    """Two for each slice, anchors first; the very first sees side information only."""
    model = tiny().parts()["y"].model
    order = model.order("slices_checkerboard", 4, 8)
    assert [step.width for step in order] == [4] * 6
    for number, step in enumerate(order):
        assert set((step.rows + step.cols) % 2) == {1 - number % 2}
        assert set(step.first) == {number // 2 * 4}
    assert sees(tiny(), 4, 4) == [(False, True), *[(True, True)] * 5]


def test_contexts_of_earlier_slices_are_computed_once() -> None:
    system = tiny()
    calls = []
    names = "channel_context", "global_inter_context"
    for name in names:
        for key, module in getattr(system, name).items():
            module.register_forward_hook(lambda *_, call=(name, key): calls.append(call))
    model = system.parts()["y"].model
    features = {"features": torch.randn(1, 24, 4, 4)}
    model.forward(torch.randn(1, 12, 4, 4), features, ROUND, "slices_checkerboard")
    assert sorted(calls) == [(name, key) for name in names for key in "12"]
    lowered = tiny().parts()["y"].model.lower()
    assert lowered.memory == 6 * 4
    assert [layer is not None for layer in lowered.before] == [False, False, True, False, True, False]
    assert all(layer is not None for layer in lowered.after)


@pytest.mark.parametrize("changes", [{}, {"lrp": "old"}, {"slices": 1, "head_dim": 3}], ids=str)
def test_steps_and_their_exact_twins(changes: dict) -> None:
    """What each step remembers, computes and adds, from the same planes."""
    system = randomized(tiny(**changes), gain=0.5)
    sides, twin = random_sides(system, 4, 8), exact(system)
    model, lowered = system.parts()["y"].model, twin.parts["y"].model
    features = twin.features(sides)["features"]
    order = model.order("slices_checkerboard", 4, 8)
    whole = np.zeros((4, 8, lowered.width), np.float32)
    whole[:, :, 12:36] = features
    seen, memory = {"features": planes(features)}, None
    for number, step in enumerate(order):
        y_hat = planes(whole[:, :, :12].copy())
        lowered.remember(whole, order, number)
        given = model.before(number, y_hat, seen)
        memory = memory if given is None else given
        if memory is not None:
            np.testing.assert_allclose(whole[:, :, 36:], back(memory), rtol=1e-4, atol=1e-4)
        at = step.rows, step.cols
        expected = model.parameters(number, y_hat, seen, memory)
        for own, theirs in zip(lowered.parameters(whole, order, number), expected, strict=True):
            np.testing.assert_allclose(own, back(theirs)[at], rtol=1e-4, atol=1e-4)

        rows, cols, channels = step.elements(12)
        whole[rows, cols, channels] = 3 * normals(channels.shape, number)
        theirs = model.after(number, planes(whole[:, :, :12].copy()), seen, memory)
        own = lowered.refinement(whole, order, number)
        assert np.abs(own).max() > 0.01
        np.testing.assert_allclose(own, back(theirs)[at], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"lrp": "old"}], ids=str)
def test_exact_twin(changes: dict) -> None:
    check_refined(tiny(**changes), 4, 8)


@pytest.mark.parametrize("lrp", ["fixed", "old"])
def test_an_element_changes_nothing_coded_with_it_or_before(lrp: str) -> None:
    """Neither in torch nor in the exact twin; what it changes later is where the contexts say."""
    system = randomized(tiny(lrp=lrp), gain=0.5)
    h, w = 8, 12
    sides, model, twin = random_sides(system, h, w), system.parts()["y"].model, exact(system)
    order = model.order("slices_checkerboard", h, w)
    seen = torch_features(system, sides)
    times = np.empty((h, w, 12), np.int64)
    for number, step in enumerate(order):
        times[step.elements(12)] = number

    def parameters(y: FloatArray) -> tuple[FloatArray, FloatArray]:
        coded = model.forward(planes(y), seen, ROUND, order.name)
        exactly = exact_parameters(twin.parts["y"].model, order, y, back(seen["features"]))
        return np.stack([back(coded.scales), back(coded.means)]), exactly

    y = 4 * normals((h, w, 12), 3)
    base = parameters(y)
    for position in ((0, 0, 2), (0, 1, 3), (3, 4, 5), (7, 10, 4), (4, 4, 11), (4, 7, 8)):
        other = y.copy()
        other[position] += 7
        for before, after in zip(base, parameters(other), strict=True):
            changed = (before != after).any(0)
            assert not changed[times <= times[position]].any()
            # Its own slice's rest hears an anchor from everywhere, the next slices everything. The first
            # slice has local context alone, of 2 positions, of what its refinement's convolutions reach.
            near = 2 + {"fixed": 3, "old": 4}[lrp]
            for later in range(times[position] + 1, len(order)):
                rows, cols = np.nonzero((changed & (times == later)).any(2))
                far = max(np.abs(rows - position[0]).max(), np.abs(cols - position[1]).max())
                assert (far <= near) == (later == 1)


def exact_parameters(
    model: kernels.StepModel, order: kernels.Order, y: FloatArray, features: FloatArray
) -> FloatArray:
    """(2, H, W, M) scales and means of a latent that is coded step by step."""
    m = model.channels
    whole = np.zeros((*y.shape[:2], model.width), np.float32)
    whole[:, :, m : m + model.features] = features
    found = np.zeros((2, *y.shape), np.float32)
    for number, step in enumerate(order):
        at = step.elements(m)
        model.remember(whole, order, number)
        found[0][at], found[1][at] = model.parameters(whole, order, number)
        whole[at] = np.rint(y[at] - found[1][at]) + found[1][at]
        whole[at] += model.refinement(whole, order, number)
    return found


@pytest.mark.parametrize(("changes", "reach"), [({}, 7), ({"transforms": "elic-sm"}, 4)], ids=str)
def test_reach(changes: dict, reach: int) -> None:
    """Nothing changes farther than that from a change, either way."""
    system = randomized(tiny(**changes), gain=1)
    assert system.reach == reach
    n = 2 * reach + 3
    x, y = torch.rand(1, 3, 16 * n, 16), torch.randn(1, 12, n, 1)
    center = reach + 1
    x2, y2 = x.clone(), y.clone()
    x2[:, :, 16 * center : 16 * center + 16] += 1
    y2[:, :, center] += 1
    seen = (system.g_a(x2) != system.g_a(x)).any(1)[0, :, 0].nonzero()
    assert center in seen
    assert (seen - center).abs().max() <= reach
    seen = (system.g_s(y2) != system.g_s(y)).any(1)[0].any(1).nonzero() // 16
    assert (seen - center).abs().max() <= reach


@pytest.mark.parametrize("changes", [{}, OLD, {"transforms": "elic-sm"}], ids=str)
@pytest.mark.parametrize("surrogate", ["mixed", "straight-through"])
def test_trains(changes: dict, surrogate: str) -> None:
    system = tiny(**changes)
    again = type(system)(**system.config)
    assert again.state_dict().keys() == system.state_dict().keys()
    x = torch.rand(2, 3, 64, 128)
    prediction = system(x, Quantizer(surrogate))
    assert prediction.x_hat.shape == x.shape
    (prediction.total_bits.sum() + (prediction.x_hat - x).square().sum()).backward()
    trained = {name: p.grad for name, p in system.named_parameters() if p.requires_grad}
    assert all(grad is not None and grad.isfinite().all() for grad in trained.values())
    assert all(grad.abs().sum() > 0 for name, grad in trained.items() if "table" in name)


def test_activations() -> None:
    kinds = {type(module) for module in tiny().modules() if "activation" in type(module).__module__}
    assert kinds == {nn.GELU}


def test_arguments_that_do_not_fit() -> None:
    for changes, message in (
        ({"transforms": "elic"}, r"transforms must be mlic\+\+ or elic-sm, not 'elic'"),
        ({"lrp": "new"}, "lrp must be fixed or old, not 'new'"),
        ({"synthesis": "fixed"}, "synthesis must be new or old, not 'fixed'"),
        ({"slices": 5}, "12 channels don't divide into 5 even slices"),
        ({"heads": 3}, "a slice's 4 channels can't be shared by 3 heads and by heads of 2"),
        ({"head_dim": 8}, "by heads of 8"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny(**changes)
