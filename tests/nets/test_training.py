"""Training: deterministic, and the same after an interruption."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import SMALL
from typer.testing import CliRunner

from quadrans.cli import app
from quadrans.nets.export import export_weights
from quadrans.nets.images import ImageError
from quadrans.nets.photos import Photos
from quadrans.nets.registry import ARCHITECTURES, SYSTEMS, make
from quadrans.nets.schedules import SCHEDULES, factor
from quadrans.nets.training import CHECKPOINT, LOG, TrainConfig, Trainer, default_lmbda, distance
from quadrans.nets.weights import Weights, read_weights, write_weights

ORDERS = ("wavefront", "checkerboard", "parallel")
TINY = {"n": 4, "m": 6, "orders": ORDERS}
CONFIG = TrainConfig(config=TINY, orders=ORDERS, steps=6, batch=2, crop=64, learning_rate=1e-3, seed=3)


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


def run(trainer: Trainer, steps: int | None = None, checkpoint_every: int = 2) -> list:
    done = []
    for metrics in trainer.run(checkpoint_every):
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


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "float32"},
        {"precision": "bfloat16"},
        {"auxiliary": True, "ema": 0.9, "surrogate": "noise", "schedule": "dca2024"},
        {"distortion": "ms-ssim", "crop": 192, "surrogate": "straight-through", "lmbda": 8.0},
        {"system": "minnen2018-mean", "config": {"n": 4, "m": 6}, "orders": ()},
    ],
)
def test_resumed_equals_uninterrupted(folder: Path, tmp_path: Path, changes: dict) -> None:
    config = TrainConfig(**{**vars(CONFIG), **changes})
    photos = Photos(folder, config.crop)
    whole = Trainer(config, photos, tmp_path / "whole")
    expected = run(whole)
    # Stopped after step 3, whose checkpoint is that of step 2: step 3 is run again.
    assert run(Trainer(config, photos, tmp_path / "parts"), 3) == expected[:3]
    resumed = Trainer(config, photos, tmp_path / "parts")
    assert resumed.step == 2
    assert run(resumed) == expected[2:]
    for key, value in whole.exported.state_dict().items():
        assert torch.equal(value, resumed.exported.state_dict()[key]), key
    assert (whole.exported is whole.system) == (not config.ema)
    moved = whole.system.sides()["z"].prior.medians.abs().sum() > 0
    assert moved == config.auxiliary
    lines = [(tmp_path / name / LOG).read_text() for name in ("whole", "parts")]
    assert lines[0] == lines[1]
    logged = [json.loads(line) for line in lines[0].splitlines()]
    assert [line["step"] for line in logged] == list(range(6))
    for line in logged:
        assert line["loss"] == pytest.approx(
            sum(line["bpp"].values()) + config.lmbda * line["distortion"], rel=1e-4
        )


ONE_OF_EACH = {row.architecture: name for name, row in reversed(SYSTEMS.items())}
SMALLEST = {**SMALL, "random-mask": {"n": 8, "m": 16}}
WITHOUT_QUANTILES = {"lee2019", "lee2019-hybrid", "theis2017", "dcvc-dc2023"}


def smallest(architecture: str, **changes: object) -> TrainConfig:
    """Two steps of one crop of a small system's smallest size."""
    name, config = ONE_OF_EACH[architecture], SMALLEST[architecture]
    with torch.device("meta"):
        crop = make(name, **config).multiple
    settings = {"system": name, "config": config, "lmbda": default_lmbda(name, "mse"), "crop": crop}
    return TrainConfig(**{**settings, "steps": 2, "batch": 1, "learning_rate": 1e-3, **changes})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_resumes(folder: Path, tmp_path: Path, architecture: str) -> None:
    config = smallest(architecture, auxiliary=architecture not in WITHOUT_QUANTILES)
    photos = Photos(folder, config.crop)
    whole = Trainer(config, photos, tmp_path / "whole")
    before = {key: value.clone() for key, value in whole.system.state_dict().items()}
    expected = run(whole)
    assert run(Trainer(config, photos, tmp_path / "parts"), 1, checkpoint_every=1) == expected[:1]
    resumed = Trainer(config, photos, tmp_path / "parts")
    assert resumed.step == 1
    assert run(resumed) == expected[1:]
    after = whole.exported.state_dict()
    for key, value in resumed.exported.state_dict().items():
        assert torch.equal(value, after[key]), key
    quantiles = [key for key in after if key.endswith("quantiles")]
    assert bool(quantiles) == config.auxiliary
    assert all(not torch.equal(after[key], before[key]) for key in quantiles)
    assert any(not torch.equal(after[key], before[key]) for key in after if key not in quantiles)


@pytest.mark.parametrize("architecture", ["cheng2020", "charm2020", "dca2024", "balle2018-factorized"])
def test_bfloat16_step(folder: Path, tmp_path: Path, architecture: str) -> None:
    """A serial mixture, refined slices, a quadtree with tokens, and a prior alone: near float32's step."""
    losses = []
    for precision in ("float32", "bfloat16"):
        config = smallest(architecture, steps=1, precision=precision)
        (one,) = run(Trainer(config, Photos(folder, config.crop), tmp_path / precision))
        losses.append(one.loss)
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.parametrize("architecture", sorted(WITHOUT_QUANTILES))
def test_auxiliary_without_quantiles(folder: Path, tmp_path: Path, architecture: str) -> None:
    config = smallest(architecture, auxiliary=True)
    with pytest.raises(ValueError, match=f"the priors of {config.system} have no quantiles"):
        Trainer(config, Photos(folder, config.crop), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distortion": "ms-ssim", "crop": 192, "lmbda": 0.2}, r"lambda = 0.2 .* / 1000 = 0.0008, .* mse"),
        ({"lmbda": 1.5}, "0 < lambda < 1, not 1.5"),
    ],
)
def test_loss_that_lee2019_does_not_have(folder: Path, tmp_path: Path, changes: dict, message: str) -> None:
    """Refused before there is anything to train."""
    config = smallest("lee2019", **changes)
    with pytest.raises(ValueError, match=message):
        Trainer(config, Photos(folder, config.crop), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_default_lambdas() -> None:
    assert default_lmbda("lee2019", "mse") == 0.3
    assert default_lmbda("charm2020", "mse") == 0.013
    for name, row in SYSTEMS.items():
        assert default_lmbda(name, "mse") in row.usual_lambdas
    with pytest.raises(ValueError, match=r"ms-ssim needs a lambda of its own, .* 8.73"):
        default_lmbda("minnen2018", "ms-ssim")
    with pytest.raises(ValueError, match="unknown system 'none'"):
        default_lmbda("none", "mse")


def start(seed: int, system: str = "minnen2018", **config: object) -> Weights:
    torch.manual_seed(seed)
    return export_weights(make(system, **{"n": 4, "m": 6, **config}), f"start{seed}", {}, "float32")


def test_starts_from_weights(folder: Path, tmp_path: Path) -> None:
    photos, weights = Photos(folder, 64), start(1)

    def trainer(init: Weights | None, output: str = "run") -> Trainer:
        return Trainer(CONFIG, photos, tmp_path / output, init=init)

    first = trainer(weights)
    for key, value in first.system.state_dict().items():
        assert np.array_equal(value.numpy(), weights.tensors[key]), key
    expected = run(first)
    assert run(trainer(weights, "parts"), 3) == expected[:3]
    assert run(trainer(weights, "parts")) == expected[2:]
    digest = weights.digest.hex()
    with pytest.raises(ValueError, match=f"other settings: init was {digest}, now None"):
        trainer(None)
    with pytest.raises(ValueError, match=f"other settings: init was {digest}, now {start(2).digest.hex()}"):
        trainer(start(2))
    trainer(None, "random").save()
    with pytest.raises(ValueError, match=f"other settings: init was None, now {digest}"):
        trainer(weights, "random")


@pytest.mark.parametrize(
    ("system", "config", "message"),
    [
        ("minnen2018", {"n": 5}, r"start1 don't fit minnen2018 as it is set: \d+ tensors differ, such as "),
        ("minnen2018-mean", {}, "start1 are of minnen2018-mean, but minnen2018 is of minnen2018"),
    ],
)
def test_weights_that_do_not_fit(
    folder: Path, tmp_path: Path, system: str, config: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Trainer(CONFIG, Photos(folder, 64), tmp_path / "run", init=start(1, system, **config))
    assert not (tmp_path / "run").exists()


def test_command_starts_from_weights(folder: Path, tmp_path: Path) -> None:
    """--init, with the system's own lambda; what it started from is in the weights' description."""
    config = {"n": 4, "m1": 6}
    torch.manual_seed(1)
    weights = export_weights(make("lee2019", **config), "start", {}, "float32")
    write_weights(tmp_path / "start.safetensors", weights)
    options = "--system lee2019 --set n=4 --set m1=6 --steps 1 --batch 1 --crop 64 --device cpu".split()
    command = ["train", str(folder), "-o", str(tmp_path / "run"), *options]
    done = CliRunner().invoke(app, [*command, "--init", str(tmp_path / "start.safetensors")])
    assert done.exit_code == 0, done.output
    made = read_weights(tmp_path / "run" / "custom.safetensors")
    assert made.info["lambda"] == "0.3, mse"
    assert made.info["started from"].startswith("start, weights ")
    for options, message in (
        ([], "init was"),
        (["--init", "none"], "no model named none is bundled"),
        (["--distortion", "ms-ssim"], "ms-ssim needs a lambda of its own"),
    ):
        refused = CliRunner().invoke(app, [*command, *options])
        assert refused.exit_code == 2
        assert message in refused.output


def test_other_settings_are_not_resumed(folder: Path, tmp_path: Path) -> None:
    photos = Photos(folder, 64)
    Trainer(CONFIG, photos, tmp_path).save()
    with pytest.raises(ValueError, match=r"lmbda was 0.013, now 0.5"):
        Trainer(TrainConfig(**{**vars(CONFIG), "lmbda": 0.5}), photos, tmp_path)
    photos.paths.pop()
    with pytest.raises(ValueError, match="holds a run on other photos than the 1 here"):
        Trainer(CONFIG, photos, tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop", 0),
        ("steps", 0),
        ("lmbda", -1),
        ("precision", "float8"),
        ("surrogate", "hope"),
        ("schedule", "never"),
        ("distortion", "lpips"),
        ("ema", 1.0),
        ("seed", -1),
        ("seed", 1 << 63),
        ("lmbda", float("nan")),
    ],
)
def test_bad_settings(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        TrainConfig(**{**vars(CONFIG), field: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 100}, "crop must be a multiple of 64 for minnen2018, not 100"),
        (
            {"orders": ("quadtree",)},
            "orders quadtree: minnen2018 has wavefront, checkerboard, parallel alone",
        ),
        ({"system": "none"}, "unknown system 'none'"),
        ({"config": {"n": 4.5}}, "argument n = 4.5 is no int"),
        ({"config": {"width": 4}}, "no argument 'width', only n, m"),
    ],
)
def test_settings_that_a_system_refuses(folder: Path, tmp_path: Path, changes: dict, message: str) -> None:
    config = TrainConfig(**{**vars(CONFIG), **changes})
    with pytest.raises(ValueError, match=message):
        Trainer(config, Photos(folder, 64), tmp_path)


def test_each_step_draws_an_order(folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(**{**vars(CONFIG), "steps": 12})
    assert {metrics.order for metrics in run(Trainer(config, Photos(folder, 64), tmp_path))} == set(ORDERS)


def test_distances() -> None:
    x = torch.rand(1, 3, 192, 192)
    assert float(distance(x + 2 / 255, x, "mse")) == pytest.approx(4, rel=1e-3)
    assert float(distance(x, x, "ms-ssim")) == pytest.approx(0, abs=1e-6)
    assert float(distance(torch.rand_like(x), x, "ms-ssim")) > 0.3


def test_loss_falls(folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(config={"n": 8, "m": 12}, steps=60, batch=2, crop=64, learning_rate=1e-3)
    losses = [metrics.loss for metrics in run(Trainer(config, Photos(folder, 64), tmp_path))]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


def test_learning_rate_schedules() -> None:
    def at(schedule: str, *steps: int) -> list[float]:
        return [factor(schedule, step, 10_000) for step in steps]

    assert at("cosine", 0, 500, 10_000) == pytest.approx([1 / 500, 1, 0.01], rel=0.02)
    assert at("constant", 0, 9_999) == [1, 1]
    assert at("dca2024", 0, 8_999, 9_000) == [1, 1, 0.1]
    assert at("lee2019", 7_999, 8_000, 8_500, 9_000, 9_500) == [1, 0.5, 0.25, 0.125, 0.0625]
    assert at("he2021", 4_999, 5_000) == [1, 0.5]
    assert all(factor(schedule, 10**9, 10) > 0 for schedule in SCHEDULES)


KILLED = """
import os, signal, sys
from quadrans.nets.training import Trainer

save = Trainer.save
def save_and_die(trainer):
    save(trainer)
    if trainer.step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
Trainer.save = save_and_die

from quadrans.cli import app
app()
"""


def test_command_survives_a_kill(folder: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle, then the same command again: the weights of an undisturbed run."""
    options = "--name tiny --set n=4 --set m=6 --steps 9 --batch 2 --crop 64 --checkpoint-every 2".split()

    def run_train(output: str, *entry: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *entry, "train", str(folder), "-o", str(tmp_path / output), *options]
        return subprocess.run(command, capture_output=True, text=True)

    assert run_train("whole", "-m", "quadrans").returncode == 0
    assert run_train("parts", "-c", KILLED).returncode == -signal.SIGKILL
    assert not (tmp_path / "parts" / "tiny.safetensors").exists()
    assert "from step 6 of 9" in run_train("parts", "-m", "quadrans").stdout
    whole, parts = (read_weights(tmp_path / name / "tiny.safetensors") for name in ("whole", "parts"))
    assert whole.digest == parts.digest
    assert (tmp_path / "whole" / LOG).read_text() == (tmp_path / "parts" / LOG).read_text()


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04"])
def test_damaged_checkpoint(folder: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(ValueError, match="is no checkpoint of a training, or a damaged one"):
        Trainer(CONFIG, Photos(folder, 64), tmp_path)


def test_checkpoint_without_its_parts(folder: Path, tmp_path: Path) -> None:
    photos = Photos(folder, 64)
    run(Trainer(CONFIG, photos, tmp_path))
    whole = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    less = {key: value for key, value in whole["model"].items() if key != "g_a.0.weight"}
    for change, message in (
        ({"model": less}, "doesn't fit minnen2018, or is damaged"),
        ({"optimizer": {}}, "doesn't fit minnen2018, or is damaged"),
        ({"model": None}, "doesn't fit minnen2018, or is damaged"),
    ):
        torch.save({**whole, **change}, tmp_path / CHECKPOINT)
        with pytest.raises(ValueError, match=message):
            Trainer(CONFIG, photos, tmp_path)
    del whole["optimizer"]
    torch.save(whole, tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match="is no checkpoint of a training"):
        Trainer(CONFIG, photos, tmp_path)


def test_fewer_steps_than_done(folder: Path, tmp_path: Path) -> None:
    photos = Photos(folder, 64)
    run(Trainer(CONFIG, photos, tmp_path))
    with pytest.raises(ValueError, match="a run of 6 steps already, more than 2"):
        Trainer(TrainConfig(**{**vars(CONFIG), "steps": 2}), photos, tmp_path)


def test_log_of_a_run_killed_before_its_first_checkpoint(folder: Path, tmp_path: Path) -> None:
    (tmp_path / LOG).write_bytes(b'{"step": 0}\n\xff\0}\n{"step": 1, "lo')
    run(Trainer(CONFIG, Photos(folder, 64), tmp_path))
    steps = [json.loads(line)["step"] for line in (tmp_path / LOG).read_text().splitlines()]
    assert steps == list(range(6))


def test_photo_damaged_behind_its_header(photo: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(photo).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:50_000])
    with pytest.raises(ImageError, match=r"cut.png: damaged"):
        Photos(tmp_path, 64).batch((0,), 1)


def test_not_finite_gradient_stops_before_it_harms(folder: Path, tmp_path: Path) -> None:
    trainer = Trainer(CONFIG, Photos(folder, 64), tmp_path)
    trainer.system.g_a[0].bias.register_hook(lambda grad: grad * float("nan"))
    with pytest.raises(FloatingPointError, match=r"step 0: .* gradient norm nan"):
        run(trainer)
    assert all(torch.isfinite(p).all() for p in trainer.system.parameters())
    assert not (tmp_path / CHECKPOINT).exists()


def test_two_processes(folder: Path, tmp_path: Path) -> None:
    """They train one model, write one log, and after an interruption end where an undisturbed run does."""
    options = "--name tiny --set n=4 --set m=6 --batch 1 --crop 64 --auxiliary --ema 0.9".split()

    def run_train(output: str, steps: int) -> None:
        launch = "-m accelerate.commands.launch --cpu --num_processes 2 --num_machines 1".split()
        launch += "--mixed_precision no --dynamo_backend no -m quadrans train".split()
        folders = [str(folder), "-o", str(tmp_path / output)]
        command = [
            sys.executable,
            *launch,
            *folders,
            "--steps",
            str(steps),
            "--schedule",
            "constant",
            *options,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    run_train("whole", 4)
    run_train("parts", 2)
    run_train("parts", 4)
    whole, parts = (read_weights(tmp_path / name / "tiny.safetensors") for name in ("whole", "parts"))
    assert whole.digest == parts.digest
    logs = [(tmp_path / name / LOG).read_text() for name in ("whole", "parts")]
    assert logs[0] == logs[1]
    assert [json.loads(line)["step"] for line in logs[0].splitlines()] == [0, 1, 2, 3]
