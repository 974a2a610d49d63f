"""Training: deterministic, and the same after an interruption."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from quadrans.nets.photos import Photos
from quadrans.nets.training import CHECKPOINT, LOG, TrainConfig, Trainer, learning_rate
from quadrans.nets.weights import read_weights

CONFIG = TrainConfig(n=4, m=6, steps=6, batch=2, crop=64, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> Path:
    path = tmp_path_factory.mktemp("photos")
    (path / "sub").mkdir()
    Image.fromarray(photo).save(path / "cat.png")
    Image.fromarray(photo[100:]).save(path / "sub" / "cat.jpg")
    Image.fromarray(photo[:10]).save(path / "thin.png")
    (path / "broken.png").write_bytes(b"\x89PNG")
    (path / "notes.txt").write_text("not a photo")
    return path


def run(trainer: Trainer, steps: int | None = None) -> list:
    done = []
    for metrics in trainer.run(checkpoint_every=2):
        done.append(metrics)
        if len(done) == steps:
            break
    return done


def test_photos(folder: Path) -> None:
    photos = Photos(folder, 64)
    assert [path.name for path in photos.paths] == ["cat.png", "cat.jpg"]
    assert sorted(path.name for path, _ in photos.skipped) == ["broken.png", "thin.png"]
    batch = photos.batch((1, 2), 3)
    assert batch.shape == (3, 64, 64, 3)
    assert np.array_equal(batch, photos.batch((1, 2), 3))
    assert not np.array_equal(batch, photos.batch((1, 3), 3))


def test_photos_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no photo of at least 64x64"):
        Photos(tmp_path, 64)
    with pytest.raises(FileNotFoundError):
        Photos(tmp_path / "none", 64)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_resumed_equals_uninterrupted(folder: Path, tmp_path: Path, precision: str) -> None:
    config = TrainConfig(**{**vars(CONFIG), "precision": precision})
    photos = Photos(folder, config.crop)
    whole = Trainer(config, photos, tmp_path / "whole")
    expected = run(whole)
    # Stopped after step 3, whose checkpoint is that of step 2: step 3 is run again.
    assert run(Trainer(config, photos, tmp_path / "parts"), 3) == expected[:3]
    resumed = Trainer(config, photos, tmp_path / "parts")
    assert resumed.step == 2
    assert run(resumed) == expected[2:]
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
    lines = [(tmp_path / name / LOG).read_text() for name in ("whole", "parts")]
    assert lines[0] == lines[1]
    logged = [json.loads(line) for line in lines[0].splitlines()]
    assert [line["step"] for line in logged] == list(range(6))
    for line in logged:
        assert line["loss"] == pytest.approx(
            line["bpp_y"] + line["bpp_z"] + config.lmbda * line["mse"], rel=1e-4
        )


def test_other_settings_are_not_resumed(folder: Path, tmp_path: Path) -> None:
    photos = Photos(folder, 64)
    Trainer(CONFIG, photos, tmp_path).save()
    with pytest.raises(ValueError, match=r"lmbda was 0.013, now 0.5"):
        Trainer(TrainConfig(**{**vars(CONFIG), "lmbda": 0.5}), photos, tmp_path)


@pytest.mark.parametrize(
    ("field", "value"), [("crop", 100), ("crop", 0), ("steps", 0), ("lmbda", -1), ("precision", "float8")]
)
def test_bad_settings(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        TrainConfig(**{**vars(CONFIG), field: value})


def test_loss_falls(folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(n=8, m=12, steps=60, batch=2, crop=64)
    losses = [metrics.loss for metrics in run(Trainer(config, Photos(folder, 64), tmp_path))]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


def test_learning_rate_schedule() -> None:
    config = TrainConfig(steps=10_000, learning_rate=1.0)
    assert learning_rate(config, 0) == pytest.approx(1 / 500, rel=0.01)
    assert learning_rate(config, 500) == pytest.approx(1, rel=0.02)
    assert learning_rate(config, 10_000) == pytest.approx(0.01)


def test_command_survives_a_kill(folder: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle, then the same command again: the weights of an undisturbed run."""

    def command(output: str) -> list[str]:
        options = "--name tiny --n 4 --m 6 --steps 40 --batch 2 --crop 64 --checkpoint-every 2".split()
        return [
            sys.executable,
            "-m",
            "quadrans",
            "train",
            str(folder),
            "-o",
            str(tmp_path / output),
            *options,
        ]

    subprocess.run(command("whole"), check=True, capture_output=True)
    process = subprocess.Popen(command("parts"), stdout=subprocess.DEVNULL)
    limit = time.monotonic() + 120
    while not (tmp_path / "parts" / CHECKPOINT).exists():
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "parts" / "tiny.safetensors").exists()
    out = subprocess.run(command("parts"), check=True, capture_output=True, text=True).stdout
    assert "from step 0 of" not in out
    whole, parts = (read_weights(tmp_path / name / "tiny.safetensors") for name in ("whole", "parts"))
    assert whole.digest == parts.digest
