"""bench/random_mask.py: masks, equation 7, and a training that lowers what it says and can be taken up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from quadrans.bench import random_mask
from quadrans.bench.random_mask_training import Latent, Run, Settings, analyse, crops, rates, read_photos
from quadrans.nets.codec import build
from quadrans.nets.quantizer import ROUND
from quadrans.nets.systems.he2021 import TABLE_1, RandomMask, single_reference_masks
from quadrans.nets.weights import Weights, write_weights

TINY = Settings(steps=40, batch=2, crop=4, learning_rate=1e-2, checks=4)


@pytest.fixture(autouse=True)
def _torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def model() -> RandomMask:
    torch.manual_seed(0)
    return RandomMask(4, 6).requires_grad_(False)


def latents(count: int = 3) -> list[Latent]:
    """Latents whose neighbors on the left say much: each position is the one before it and a little."""
    torch.manual_seed(1)
    steps = [torch.randn(6, 8, 12).round().cumsum(2) for _ in range(count)]
    return [Latent(y - y.mean().round(), torch.randn(12, 8, 12), 100.0, 8 * 12 * 256) for y in steps]


def test_rates_are_the_models_own(photo: np.ndarray) -> None:
    """Of a photo: what `RandomMask.rates` says, the mask of zeros included, whose rate is R0."""
    net = model()
    x = torch.from_numpy(photo[:128, :192]).permute(2, 0, 1)[None].float() / 255
    expected = {name: float(bpp) for name, bpp in net.rates(x, TABLE_1).items()}
    assert rates(net, [analyse(net, x)], TABLE_1) == pytest.approx(expected, rel=1e-6)
    latent = analyse(net, x)
    assert latent.y_hat.shape == (6, 8, 12)
    assert latent.features.shape == (12, 8, 12)
    assert latent.pixels == 128 * 192


def test_rates_are_means_over_photos() -> None:
    net, many = model(), latents()
    alone = [rates(net, [latent], TABLE_1) for latent in many]
    for name, bpp in rates(net, many, TABLE_1).items():
        assert bpp == pytest.approx(np.mean([found[name] for found in alone]))


def test_savings_are_equation_7() -> None:
    net, many = model(), latents()
    result = random_mask.experiment(net, many)
    without = rates(net, many, {"none": np.zeros((5, 5), bool)})["none"]
    assert result["table_1"]["none"]["bpp"] == without
    assert result["table_1"]["none"]["saving"] == 0
    assert [row["taps"] for row in result["table_1"].values()] == [0, 4, 12, 4, 12, 8]
    assert len({(row["row"], row["col"]) for row in result["figure_4"]}) == 24
    for row in (*result["table_1"].values(), *result["figure_4"]):
        assert row["saving"] == pytest.approx(1 - row["bpp"] / without)
    masks = dict(single_reference_masks())
    for tap in result["figure_4"]:
        bpp = rates(net, many, {"": masks[tap["row"], tap["col"]]})[""]
        assert tap["bpp"] == bpp
        assert tap["distance"] ** 2 == pytest.approx(tap["row"] ** 2 + tap["col"] ** 2)


def test_papers_table_is_consistent() -> None:
    assert set(random_mask.PAPER) == set(TABLE_1)
    for bpp, saving in random_mask.PAPER.values():
        assert saving == pytest.approx(1 - bpp / 0.4332, abs=6e-4)


def test_training_finds_who_tells(capsys: pytest.CaptureFixture[str]) -> None:
    """It lowers the rate, trains only context and head, and the left neighbor comes to save most."""
    net, many = model(), latents()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    run = Run(net, many, many[:1], TINY)
    run.train()
    assert [line["step"] for line in run.curve] == [0, 10, 20, 30, 40]
    assert run.curve[-1]["crops"] < 0.8 * run.curve[1]["crops"]
    assert run.curve[-1]["random 0"] < 0.8 * run.curve[0]["random 0"]
    assert len(capsys.readouterr().out.splitlines()) == 4
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == {"context_prediction", "entropy_parameters"}
    longer = Settings(steps=300, batch=2, crop=8, learning_rate=1e-2, checks=1)
    Run(net, many, many[:1], longer).train()
    taps = random_mask.experiment(net, many)["figure_4"]
    best = max(taps, key=lambda tap: tap["saving"])
    assert best["row"] == 0
    assert abs(best["col"]) == 1
    assert best["saving"] > 0.05


def weights_of(run: Run) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def test_runs_repeat_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit: again, and broken off and taken up from the last check."""
    whole = Run(model(), latents(), latents(1), TINY)
    whole.train()
    checkpoint = tmp_path / "run.pt"
    broken = Run(model(), latents(), latents(1), TINY, checkpoint)
    train_step = Run._train_step

    def until_25(self: Run) -> float:
        if self.step == 25:
            raise KeyboardInterrupt
        return train_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_train_step", until_25)
        with pytest.raises(KeyboardInterrupt):
            broken.train()
    resumed = Run(model(), latents(), latents(1), TINY, checkpoint)
    assert resumed.step == 20
    resumed.train()
    assert resumed.curve == whole.curve
    for name, value in weights_of(resumed).items():
        assert torch.equal(value, weights_of(whole)[name]), name
    other = Settings(**{**vars(TINY), "seed": 1})
    with pytest.raises(ValueError, match="'seed': 0"):
        Run(model(), latents(), latents(1), other, checkpoint)
    with pytest.raises(ValueError, match=r"run\.pt is of"):
        Run(model(), latents(2), latents(1), TINY, checkpoint)


def test_crops_are_places_of_the_latents() -> None:
    many = latents()
    y_hat, features = crops(many, TINY, 3)
    again, _ = crops(many, TINY, 3)
    assert torch.equal(y_hat, again)
    assert not torch.equal(y_hat, crops(many, TINY, 4)[0])
    for y, f in zip(y_hat, features, strict=True):
        found = [
            (latent, top, left)
            for latent in many
            for top in range(5)
            for left in range(9)
            if torch.equal(latent.y_hat[:, top : top + 4, left : left + 4], y)
        ]
        assert any(torch.equal(lt.features[:, top : top + 4, left : left + 4], f) for lt, top, left in found)


def test_what_cannot_be_trained(tmp_path: Path, small_weights: Weights) -> None:
    with pytest.raises(ValueError, match="a crop of 9 positions; the smallest latent has 8"):
        Run(model(), latents(), [], Settings(crop=9))
    with pytest.raises(ValueError, match="has 0"):
        Run(model(), [], [], TINY)
    with pytest.raises(ValueError, match="1 latents to train on, but none to watch"):
        Run(model(), latents(1), [], TINY)
    many = latents(1)
    many[0].features.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="step 0: loss nan"):
        Run(model(), many, [latents(1)[0]], TINY).train()
    with pytest.raises(ValueError, match="no photos"):
        list(read_photos(tmp_path, 64))
    Image.new("RGB", (100, 63)).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match="100x63 pixels, less than 64"):
        list(read_photos(tmp_path, 64))


def test_photos_are_their_middles(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 135, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    (x,) = read_photos(tmp_path, 64)
    assert np.array_equal((x[0] * 255).round().byte().permute(1, 2, 0).numpy(), pixels[3:67, 3:131])


def test_command(
    tmp_path: Path, photo: np.ndarray, small_weights: Weights, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole of it on a small model: JSON, figure, table; its own orders' rates are the system's."""
    folder = tmp_path / "photos"
    folder.mkdir()
    cats = np.concatenate([photo, photo])
    for i in range(random_mask.HELD_OUT):
        Image.fromarray(cats[i : i + 320, i : i + 320]).save(folder / f"cat{i:02}.png")
    path, found, picture = tmp_path / "small.safetensors", tmp_path / "found.json", tmp_path / "map.png"
    write_weights(path, small_weights)
    files = ("--model", path, "--json", found, "--plot", picture)
    random_mask.main([str(a) for a in (folder, folder, "--steps", 2, *files)])
    written: dict[str, Any] = json.loads(found.read_text())
    assert [line["step"] for line in written["training"]["curve"]] == [0, 1, 2]
    assert written["training"]["latents"] == 30
    assert written["training"]["watched"] == 1
    assert written["photos"] == 16
    assert set(written["table_1"]) == set(TABLE_1)
    assert len(written["figure_4"]) == 24
    assert "paper 0.3651  15.7%" in capsys.readouterr().out
    with Image.open(picture) as image:
        assert image.format == "PNG"

    system = build(small_weights)
    x = torch.cat(list(read_photos(folder, 64)))
    with torch.no_grad():
        for order, bpp in written["start_bpp"].items():
            bits = system(x, ROUND, order).total_bits
            assert bpp == pytest.approx(float(bits.mean()) / 320**2, rel=1e-5)
    assert list(written["start_bpp"]) == list(system.orders)


def test_other_systems_are_refused(small_weights: Weights) -> None:
    from dataclasses import replace

    residual = replace(small_weights, config={**small_weights.config, "rounding": "residual"})
    with pytest.raises(ValueError, match="minnen2018 of integers is needed"):
        random_mask.load(residual)
