"""Stamps of weights: what changes values is found, however it was written, and nothing else is."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from quadrans.nets._digest import KEY, digest
from quadrans.nets.stale import StaleWeights, Stamp

MEND = "call accelerate(model) again"


def network() -> nn.Sequential:
    torch.manual_seed(0)
    # A list's description names the types of its tensors, and where they are.
    more = nn.ParameterList([torch.ones(3), torch.zeros(2, 2)])
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 7, 1).half(), nn.ReLU(), more)


def edit(tensor: torch.Tensor) -> None:
    with torch.no_grad():
        tensor.view(-1)[tensor.numel() // 2] += 0.25


def swap(tensor: torch.Tensor) -> None:
    """The same values in another sequence."""
    tensor.data.copy_(tensor.flip(0))


@pytest.mark.parametrize(
    "change",
    [
        lambda net: edit(net[0].weight),
        lambda net: net[0].weight.data.view(-1)[7:8].mul_(1 + 2**-20),
        lambda net: net[0].weight.data.neg_(),
        lambda net: net[0].weight.detach().numpy().reshape(-1).__setitem__(44, -3.5),
        lambda net: swap(net[0].bias),
        lambda net: swap(net[0].weight),
        lambda net: net[1].running_mean.fill_(1),
        lambda net: edit(net[2].weight.data),
        lambda net: setattr(net[0], "weight", nn.Parameter(torch.zeros_like(net[0].weight))),
        lambda net: setattr(net[0], "weight", nn.Parameter(net[0].weight.data[:, :2])),
        lambda net: setattr(net[0], "bias", None),
        lambda net: net[0].register_buffer("more", torch.zeros(1)),
        lambda net: net.half(),
        lambda net: net.load_state_dict({k: v * 2 for k, v in net.state_dict().items()}),
        lambda net: net.__setitem__(3, nn.Tanh()),
        lambda net: net.append(net[3]),
        lambda net: setattr(net[0], "stride", (2, 2)),
        lambda net: setattr(net[1], "eps", 1e-3),
        lambda net: net[3].register_forward_pre_hook(lambda module, given: given),
        lambda net: setattr(net[3], "forward", net[3].forward),
    ],
)
def test_changes_are_found(change) -> None:
    net = network()
    stamp = Stamp(net, MEND)
    stamp.check()
    change(net)
    with pytest.raises(StaleWeights, match=rf"weights changed since: .*; {MEND[:4]}"):
        stamp.check()


def test_every_element_counts() -> None:
    tensor = torch.randn(3, 5, 7)
    stamp = Stamp({"t": tensor}, MEND)
    for i in range(tensor.numel()):
        flat = tensor.view(-1)
        old = flat[i].item()
        flat.data[i] = float(np.nextafter(np.float32(old), np.float32(9)))
        with pytest.raises(StaleWeights, match="t has other values"):
            stamp.check()
        flat.data[i] = old
    stamp.check()


@pytest.mark.parametrize(
    "keep",
    [
        lambda net: net.to("cpu"),
        lambda net: net.to(memory_format=torch.channels_last),
        lambda net: net.load_state_dict(copy.deepcopy(net.state_dict())),
        lambda net: net.load_state_dict(copy.deepcopy(net.state_dict()), assign=True),
        lambda net: setattr(net[0], "weight", nn.Parameter(net[0].weight.data.clone())),
        lambda net: net.double(),
        lambda net: net[2].float(),
        lambda net: net.requires_grad_(False),
        lambda net: net.eval(),
        lambda net: net[0].weight.data.mul_(2).div_(2),
        lambda net: net.zero_grad(),
        lambda net: net.apply(lambda module: setattr(module, "training", True)),
    ],
)
def test_equal_values_are_no_change(keep) -> None:
    net = network()
    stamp = Stamp(net, MEND)
    keep(net)
    stamp.check()


def test_layouts() -> None:
    """A channels-last tensor, a part of another's storage, a transposed and a strided one, none at all."""
    whole = torch.randn(9, 8, 5, 4)
    tensors = {
        "last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "odd": whole.view(-1)[3:1000],
        "turned": torch.randn(6, 7).t(),
        "strided": whole[:, ::2],
        "none": torch.zeros(0, 3),
        "single": torch.tensor(3.0),
        "brain": torch.randn(5).bfloat16(),
        "counts": torch.arange(7),
        "expanded": torch.ones(1).expand(5),
    }
    stamp = Stamp(tensors, MEND)
    stamp.check()
    for name in ("last", "odd", "turned", "strided", "single", "brain", "counts"):
        first = tensors[name].data[(0,) * tensors[name].ndim]
        old = first.item()
        first.fill_(old + 3)
        with pytest.raises(StaleWeights, match=f"{name} has other values"):
            stamp.check()
        first.fill_(old)
    stamp.check()


def test_copies_look_at_their_own() -> None:
    net = network()
    one = {"net": net, "stamp": Stamp(net, MEND)}
    copies = [copy.deepcopy(one), pickle.loads(pickle.dumps(one))]
    edit(net[0].weight)
    for other in copies:
        other["stamp"].check()
        edit(other["net"][0].weight)
        with pytest.raises(StaleWeights, match=r"0\.weight has other values"):
            other["stamp"].check()


def test_descriptions() -> None:
    source = {"act": "ReLU()", "t": torch.zeros(1)}
    stamp = Stamp(source, MEND)
    stamp.check()
    source |= {"act": torch.zeros(1), "t": "Tanh()"}
    with pytest.raises(StaleWeights, match=r"act is a tensor, not ReLU\(\), t is Tanh\(\), not a tensor"):
        stamp.check()


def test_the_error_names_some_tensors_and_counts_the_others() -> None:
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(5)))
    stamp = Stamp({"g_s": net}, MEND)
    for parameter in net.parameters():
        edit(parameter)
    with pytest.raises(StaleWeights) as caught:
        stamp.check()
    assert str(caught.value) == (
        "weights changed since: g_s.0.weight has other values, g_s.0.bias has other values, "
        f"g_s.1.weight has other values and 7 more; {MEND}"
    )


@given(st.integers(0, 10000), st.integers(0, 2**64 - 1), st.data())
def test_digest_is_what_its_docstring_says(count: int, state: int, data: st.DataObject) -> None:
    words = np.random.default_rng(count).integers(0, 1 << 64, count, np.uint64)
    expected, mask = state, (1 << 64) - 1
    for start in range(0, count, len(KEY)):
        total = 0
        for word, key in zip(words[start : start + len(KEY)].tolist(), KEY.tolist(), strict=False):
            total += ((word ^ key) & 0xFFFFFFFF) * ((word ^ key) >> 32) + word
        expected = ((expected ^ total & mask) * 0x9E3779B97F4A7C15) & mask
        expected ^= expected >> 29
    assert int(digest(words, KEY, np.uint64(state))) == expected
    if count:
        words[data.draw(st.integers(0, count - 1))] ^= np.uint64(1 << data.draw(st.integers(0, 63)))
        assert int(digest(words, KEY, np.uint64(state))) != expected
