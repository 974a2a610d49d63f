"""What every system of the registry must do: count, train, estimate, code and decode exactly anywhere."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import codec, crops, loss, photo, small, trained, weights

from quadrans.nets.codec import ImageCodec
from quadrans.nets.container import Container
from quadrans.nets.context import SERIAL, ContextEntropy
from quadrans.nets.export import export_weights
from quadrans.nets.latents import Latents
from quadrans.nets.quantizer import ROUND
from quadrans.nets.registry import SYSTEMS, architecture_of, make
from quadrans.nets.weights import read_weights, write_weights

PARAMETERS = json.loads((Path(__file__).parent / "parameters.json").read_text())
"""Of each system as published, or counted by other implementations: SOURCES of that file."""

ONE_OF_EACH = {row.architecture: name for name, row in reversed(SYSTEMS.items()) if row.codes}
NAMES = sorted(ONE_OF_EACH.values())


def parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in make(name).parameters())


@pytest.mark.parametrize("name", PARAMETERS["counts"])
def test_parameter_counts(name: str) -> None:
    assert parameters(name) == PARAMETERS["counts"][name]


@pytest.mark.parametrize("name", SYSTEMS)
def test_config_makes_it_again(name: str) -> None:
    with torch.device("meta"):
        system = make(name)
        again = type(system)(**json.loads(json.dumps(system.config)))
    shapes = [{key: value.shape for key, value in one.state_dict().items()} for one in (system, again)]
    assert shapes[0] == shapes[1]
    assert SYSTEMS[name].architecture == architecture_of(system)


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_loss(name: str) -> None:
    _, before, after = trained(name)
    assert np.isfinite(after)
    assert after < 0.9 * before


@pytest.mark.parametrize("name", NAMES)
def test_one_step_lowers_the_loss_and_gradients_are_finite(name: str) -> None:
    system = small(name).train()
    trainable = [p for p in system.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, 1e-3)
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        one = loss(system, crops(1, 3))
        losses.append(float(one.detach()))
        optimizer.zero_grad()
        one.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(trainable, 1.0, error_if_nonfinite=True))
        optimizer.step()
    assert norm > 0
    assert losses[1] < losses[0]


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_shapes(name: str) -> None:
    system = small(name).eval()
    side = system.multiple
    prediction = system(torch.rand(2, 3, side, 2 * side), ROUND)
    assert prediction.x_hat.shape == (2, 3, side, 2 * side)
    assert prediction.y_hat.shape == (2, system.m, side // system.stride, 2 * side // system.stride)
    assert list(prediction.bits) == [*system.sides(), *system.parts()]
    assert all(bits.shape == (2,) for bits in prediction.bits.values())


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_estimate_and_bytes(name: str) -> None:
    """The network's own rate and the streams' bytes, but for headers and states: half a percent apart."""
    one, pixels = codec(name), photo(768, 512)
    latents = one.analyse(pixels)
    for order in one.orders:
        container, coded = one.code(latents, 768, 512, order)
        model = one.model_bits(latents, coded, order)
        inspection = one.inspect(container)
        size, fixed = 0, 0
        for section, bits in model.items():
            found = inspection.sections[section]
            # Side information may be so little that a few bits are more than half a percent of it.
            assert found.bits.sum() == pytest.approx(bits, rel=0.005, abs=40), (order, section)
            report = found.report()
            size += report.bits
            fixed += report.header_bits + 32 * report.lanes * report.groups
        assert size > 8 * 1500, "too small a latent to tell"
        assert 0.995 * sum(model.values()) < size < 1.005 * sum(model.values()) + fixed, order
        assert inspection.latents.same_bits(coded)
        if forward_is_exact(one, order):
            found = one.system(images(pixels, one.system.multiple), ROUND, order).bits
            assert {key: float(bits) for key, bits in found.items()} == pytest.approx(model, rel=0.005)


def forward_is_exact(one: ImageCodec, order: str) -> bool:
    """Whether a pass of the module rounds as an encoder does: not residuals with a serial context."""
    models = [part.model for part in one.system.parts().values()]
    serial = any(isinstance(model, ContextEntropy) and model.residual for model in models)
    return not (serial and order in SERIAL)


def images(pixels: np.ndarray, multiple: int) -> torch.Tensor:
    """(1, 3, H, W) in 0..1, padded as the codec does."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % multiple), (0, -width % multiple), (0, 0)), "edge")
    return torch.tensor(padded).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (65, 300), (257, 130)])
def test_odd_sizes(name: str, size: tuple[int, int]) -> None:
    one, pixels = codec(name), photo(*size)
    latents = one.analyse(pixels)
    for order in one.orders:
        container, coded = one.code(latents, *size, order)
        data = container.to_bytes()
        assert one.decode(Container.from_bytes(data)).same_bits(coded)
        assert one.decompress(data).shape == pixels.shape


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gain", [1.0, 8.0])
def test_random_weights(name: str, gain: float) -> None:
    """Weights as they are made and large ones, of which scales, means and symbols go far out."""
    system = small(name)
    with torch.no_grad():
        for parameter in system.parameters():
            if parameter.ndim > 1:
                parameter.mul_(gain ** (1 / 4))
    one = ImageCodec(export_weights(system, "random", {}, "float32"), threads=2)
    latents = one.analyse(photo(150, 100))
    scaled = Latents(np.rint(latents.y * 1000 * gain), latents.sides)
    for values in (latents, scaled) if system.parts() else (latents,):
        container, coded = one.code(values, 150, 100)
        assert one.decode(container).same_bits(coded)


DECODE = """
import hashlib, pathlib, sys
from quadrans.nets import codec, container, weights

for name in sys.argv[1:]:
    one = codec.ImageCodec(weights.read_weights(pathlib.Path(f"{name}.safetensors")))
    latents = one.decode(container.Container.from_bytes(pathlib.Path(f"{name}.qdr").read_bytes()))
    print(hashlib.sha256(latents.y.tobytes()).hexdigest())
"""


def test_another_process(tmp_path: Path) -> None:
    expected = []
    for name in NAMES:
        write_weights(tmp_path / f"{name}.safetensors", weights(name))
        one = ImageCodec(read_weights(tmp_path / f"{name}.safetensors"))
        container, coded = one.code(one.analyse(photo(300, 200)), 300, 200)
        (tmp_path / f"{name}.qdr").write_bytes(container.to_bytes())
        expected.append(hashlib.sha256(coded.y.tobytes()).hexdigest())
    command = [sys.executable, "-c", DECODE, *NAMES]
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert out.split() == expected


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_pickles_copies_and_state_dicts(name: str) -> None:
    system = trained(name)[0]
    fresh = small(name).eval()
    fresh.load_state_dict(system.state_dict())
    x = crops(1, 4)
    expected = system(x, ROUND)
    for other in (pickle.loads(pickle.dumps(system)), deepcopy(system), fresh):
        found = other(x, ROUND)
        assert torch.equal(found.x_hat, expected.x_hat)
        assert {key: float(bits) for key, bits in found.bits.items()} == {
            key: float(bits) for key, bits in expected.bits.items()
        }


@pytest.mark.parametrize("name", NAMES)
def test_wrong_orders_are_refused(name: str) -> None:
    one = codec(name)
    with pytest.raises(ValueError, match="has no coding order 'spiral', only"):
        one.compress(photo(70, 70), "spiral")
