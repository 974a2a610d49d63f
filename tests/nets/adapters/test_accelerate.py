"""`accelerate`, `decelerate`: what they put on a model, in copies and pickles, and what goes stale."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from compressai.models import google
from tiny_compressai import MAKERS, image, tiny
from torch import nn

from quadrans.nets.adapters.compressai import accelerate, decelerate
from quadrans.nets.adapters.compressai.tables import TablesMissing
from quadrans.nets.stale import StaleWeights

STREAMS = ("lanes", "compressai")


def x_hat(model: Any, coded: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return model.decompress(coded["strings"], coded["shape"])["x_hat"]


@pytest.mark.parametrize("stream", STREAMS)
def test_the_model_itself_and_back(stream: str) -> None:
    model = tiny("mbt2018")
    before, stock = {key: value.clone() for key, value in model.state_dict().items()}, model.compress(image())
    attributes = set(vars(model))
    assert accelerate(model, stream) is model
    with torch.no_grad():
        model(image())
    coded = model.compress(image())
    assert (coded == stock) == (stream == "compressai")
    state = model.state_dict()
    # CompressAI's own pass clears what its mask leaves out.
    changed = [key for key in before if not torch.equal(state[key], before[key])]
    assert list(state) == list(before)
    assert changed in ([], ["context_prediction.weight"])
    assert decelerate(model) is model
    assert set(vars(model)) == attributes
    assert model.compress(image()) == stock
    assert decelerate(model).compress.__func__ is google.JointAutoregressiveHierarchicalPriors.compress


@pytest.mark.parametrize("name", ["mbt2018-mean", "cheng2020-checkerboard"])
def test_again_with_another_stream(name: str) -> None:
    model = tiny(name)
    results = {}
    for stream in (*STREAMS, *STREAMS):
        coded = accelerate(model, stream).compress(image())
        assert results.setdefault(stream, coded["strings"]) == coded["strings"]
        assert x_hat(model, coded).shape == image().shape
    assert results["lanes"] != results["compressai"] == decelerate(model).compress(image())["strings"]


@pytest.mark.parametrize("stream", STREAMS)
def test_never_updated(stream: str) -> None:
    for name in ("mbt2018-mean", "bmshj2018-factorized", "elic-official"):
        model = MAKERS[name]()
        with pytest.raises(TablesMissing, match=r"model\.update\(force=True\)"):
            accelerate(model, stream)
        assert "compress" not in vars(model)
        model.update()
        accelerate(model, stream)


@pytest.mark.parametrize("stream", STREAMS)
def test_weights_changed_before(stream: str) -> None:
    model = tiny("mbt2018-mean")
    with torch.no_grad():
        model.entropy_bottleneck.biases[0][3] += 0.5
    with pytest.raises(StaleWeights, match=r"entropy_bottleneck.*model\.update\(force=True\)"):
        accelerate(model, stream)
    model.update(force=True)
    accelerate(model, stream)


def add(path: str, write: Callable[[torch.Tensor], Any]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        with torch.no_grad():
            write(model.get_parameter(path))

    return change


def by_data(parameter: torch.Tensor) -> None:
    parameter.data.view(-1)[7] += 0.25


def new_head(model: Any) -> None:
    model.entropy_parameters[2] = nn.Conv2d(40, 32, 1)


def new_activation(model: Any) -> None:
    model.h_s[1] = nn.ReLU()


def new_scales(model: Any) -> None:
    model.update(torch.linspace(0.2, 9, 32), force=True)


def new_weights(model: Any) -> None:
    other = dict(tiny("mbt2018", seed=1).named_parameters())
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(other[key])


CHANGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "in place": (add("h_s.2.weight", lambda p: p[0, 0].add_(1)), "h_s.2.weight has other values"),
    "by data": (add("entropy_parameters.0.weight", by_data), "entropy_parameters.0.weight has other"),
    "context": (add("context_prediction.weight", lambda p: p[0, 0, 0].add_(1)), "context_prediction.weight"),
    "bottleneck": (add("entropy_bottleneck.biases.0", lambda p: p.add_(1)), "entropy_bottleneck.biases.0"),
    "medians": (add("entropy_bottleneck.quantiles", lambda p: p.add_(1)), "entropy_bottleneck.quantiles"),
    "module": (new_head, "entropy_parameters.2.weight has other values"),
    "activation": (new_activation, r"h_s.1 is ReLU\(\), not LeakyReLU"),
    "scales": (new_scales, "gaussian_conditional"),
    "all": (new_weights, "and .* more"),
    "half": (lambda model: model.half(), "became torch.float16"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_weights_changed_after(change: str) -> None:
    model = accelerate(tiny("mbt2018"))
    coded = model.compress(image())
    write, message = CHANGES[change]
    write(model)
    for call in (lambda: model.compress(image()), lambda: model.decompress(**coded)):
        with pytest.raises(StaleWeights, match=message) as caught:
            call()
        assert "run model.update(force=True), then accelerate(model) again" in str(caught.value)
    if change != "half":
        if change != "scales":
            model.update(force=True)
        accelerate(model)
        again = model.compress(image())
        assert again["strings"] != coded["strings"]
        assert x_hat(model, again).shape == image().shape


def test_what_is_no_change() -> None:
    """Transforms, taps that the mask leaves out, equal weights, their layout."""
    model = accelerate(tiny("mbt2018"))
    coded = model.compress(image())
    decoded = x_hat(model, coded)
    with torch.no_grad():
        model.context_prediction.weight[:, :, 2, 2] += 1
        model.g_s[0].weight.mul_(0.5)
    model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()})
    model.to(memory_format=torch.channels_last).train()
    model.update(force=True)
    assert not torch.equal(x_hat(model, coded), decoded)
    model.g_a = tiny("mbt2018", seed=3).g_a
    assert model.compress(image())["strings"] != coded["strings"]


def test_of_a_latent_codec_too() -> None:
    model = accelerate(tiny("elic-official"))
    with torch.no_grad():
        model.latent_codec.y.latent_codec["y2"].context_prediction.weight[0, 0, 0, 1] += 1
    with pytest.raises(StaleWeights, match=r"latent_codec\.y\.latent_codec\.y2\.context_prediction\.weight"):
        model.compress(image())


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("duplicate", [deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("name", ["mbt2018", "cheng2020-checkerboard", "bmshj2018-factorized"])
def test_copies(name: str, duplicate: Callable[[Any], Any], stream: str) -> None:
    """They are accelerated, and by themselves."""
    model = accelerate(tiny(name), stream)
    coded = model.compress(image())
    copy = duplicate(model)
    assert copy.state_dict().keys() == model.state_dict().keys()
    assert copy.compress(image())["strings"] == coded["strings"]
    assert torch.equal(x_hat(copy, coded), x_hat(model, coded))
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    assert copy.compress(image())["strings"] == coded["strings"]
    decelerate(model)
    assert copy.compress(image())["strings"] == coded["strings"]
    decelerate(copy)
    assert not any(key in vars(copy) for key in ("compress", "decompress", "_quadrans_acceleration"))
    assert (copy.compress(image())["strings"] == coded["strings"]) == (stream == "compressai")


def test_a_copy_that_is_changed_before_its_first_use_is_stale() -> None:
    model = accelerate(tiny("mbt2018"))
    copy = deepcopy(model)
    with torch.no_grad():
        copy.h_s[0].bias += 1
    with pytest.raises(StaleWeights, match=r"h_s\.0\.bias"):
        copy.compress(image())
    model.compress(image())


def test_chandeliers_copies() -> None:
    """CompressAI's can't be pickled, with or without."""
    model = accelerate(tiny("elic-chandelier"))
    copy = deepcopy(model)
    coded = model.compress(image())
    assert copy.compress(image())["strings"] == coded["strings"]
    assert copy.latent_codec.y.merge_y.__self__ is copy.latent_codec.y


def test_arguments() -> None:
    model = tiny("mbt2018-mean")
    with pytest.raises(ValueError, match="stream must be one of lanes, compressai, not 'rans'"):
        accelerate(model, "rans")
    with pytest.raises(TypeError, match=r"torch\.nn\.Module, not dict"):
        accelerate({})  # type: ignore[type-var]
    for threads in (0, True, 1.5):
        with pytest.raises(ValueError, match="threads"):
            accelerate(model, threads=threads)  # type: ignore[arg-type]
    for device in ("meta", "cuda:first", "cpu:", "cpuu", "", 0.5, None):
        with pytest.raises(ValueError, match="device must be cpu or cuda"):
            accelerate(model, device=device)  # type: ignore[arg-type]
    for given in ({"threads": 2}, {"device": "cuda"}):
        with pytest.raises(ValueError, match=r'threads on c.*stream="compressai" runs where torch'):
            accelerate(model, "compressai", **given)  # type: ignore[arg-type]
    assert "compress" not in vars(model)


@pytest.mark.parametrize("stream", STREAMS)
def test_what_fails_leaves_the_model_as_it_was(stream: str) -> None:
    model = accelerate(tiny("mbt2018"), stream)
    coded = model.compress(image())
    model.h_s[1], kept = nn.CELU(), model.h_s[1]
    with pytest.raises(TypeError, match=r"h_s\.1 .CELU.*no exact counterpart"):
        accelerate(model)
    model.h_s[1] = kept
    assert model.compress(image()) == coded
    assert torch.equal(x_hat(model, coded), x_hat(deepcopy(model), coded))


def test_models_that_lanes_does_not_know_have_the_other_stream() -> None:
    model = tiny("mbt2018-mean")
    model.h_s[1] = nn.CELU()
    with pytest.raises(TypeError, match=r"h_s\.1 .CELU.*no exact counterpart"):
        accelerate(model)
    stock = model.compress(image())
    assert accelerate(model, "compressai").compress(image()) == stock
