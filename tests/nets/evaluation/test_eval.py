"""`quadrans eval`: what it writes, what it refuses before the work, and what it leaves behind."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from typer.testing import CliRunner, Result

from quadrans.cli import app
from quadrans.nets.codec import ImageCodec
from quadrans.nets.evaluation import packages
from quadrans.nets.evaluation.report import as_csv, as_json
from quadrans.nets.evaluation.rows import Row
from quadrans.nets.evaluation.run import Choice, Evaluation, choose
from quadrans.nets.weights import Weights, write_weights


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["eval", *(str(argument) for argument in arguments)])


def refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    for part in parts:
        assert part in line


def variant(weights: Weights, gain: float, **changes) -> Weights:
    """The same model with latents that are larger by a gain."""
    tensors = dict(weights.tensors)
    tensors["g_a.6.weight"] = (tensors["g_a.6.weight"] * gain).astype(np.float32)
    return dataclasses.replace(weights, tensors=tensors, **changes)


@pytest.fixture
def folder(
    tmp_path: Path, photo: np.ndarray, small_weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Two photos, one of them too small for MS-SSIM, and three models of two curves."""
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo[60:229, 100:283]).save(tmp_path / "photos" / "eyes.png")
    Image.fromarray(photo[:40, :70]).save(tmp_path / "photos" / "fur.png")
    write_weights(tmp_path / "a.safetensors", small_weights)
    write_weights(tmp_path / "b.safetensors", variant(small_weights, 0.5))
    info = {"system": "minnen2018-large"}
    write_weights(tmp_path / "c.safetensors", variant(small_weights, 0.7, name="other", info=info))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_everything_at_once(folder: Path) -> None:
    models = ("-m", "a.safetensors", "-m", "b.safetensors", "-m", "c.safetensors")
    outputs = ("--json", "out.json", "--csv", "out.csv", "--plot", "out.png")
    result = evaluate("photos", *models, "--reference", "jpeg,webp", "--anchor", "jpeg", *outputs)
    assert result.exit_code == 0, result.output
    assert "no BD-rate: minnen2018 has 2 of the 4 points" in result.stdout

    content = json.loads((folder / "out.json").read_text())
    assert content["environment"]["threads"] >= 1
    assert content["environment"]["packages"]["pillow"]
    of_models = [row for row in content["rows"] if row["order"]]
    assert len(of_models) == 2 * 3
    assert {row["curve"] for row in of_models} == {"minnen2018", "minnen2018-large"}
    assert {row["order"] for row in of_models} == {"wavefront"}
    assert [row["ms_ssim"] is None for row in of_models] == [False, True] * 3
    assert all(sum(row["sections"].values()) < row["bytes"] for row in of_models)
    means = {(one["curve"], one["point"]): one for one in content["means"]}
    points = [point for curve, point in means if curve == "minnen2018"]
    assert len(points) == 2
    assert all(point.startswith("small-") for point in points)
    assert means["minnen2018-large", "other"]["photos"] == 2
    rates = {(one["curve"], one["metric"]): one for one in content["bd_rate"]["rates"]}
    assert rates["webp", "psnr"]["percent"] is not None
    assert rates["webp", "ms_ssim_db"]["reason"] == "jpeg has 0 of the 4 points or more that it takes"

    with (folder / "out.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(content["rows"])
    for line, row in zip(lines, content["rows"], strict=True):
        assert (line["photo"], int(line["bytes"]), float(line["psnr"])) == (
            row["photo"],
            row["bytes"],
            row["psnr"],
        )
        assert line["bytes_y"] == str(row["sections"].get("y", ""))
    with Image.open(folder / "out.png") as image:
        assert image.format == "PNG"
    refused(evaluate("photos", "-m", "a.safetensors", "--csv", "out.csv"), "out.csv exists; --force")


def test_pictures(folder: Path) -> None:
    photo = folder / "photos" / "eyes.png"
    arguments = ("-m", "a.safetensors", "--reference", "none", "--pictures", "pictures")
    assert evaluate(photo, *arguments).exit_code == 0
    kept = {path.name: path.read_bytes() for path in (folder / "pictures").iterdir()}
    assert kept.keys() == {"eyes.png-small-bits.png", "eyes.png-small-normalized.png"}
    assert all(data.startswith(b"\x89PNG") for data in kept.values())
    refused(evaluate(photo, *arguments), "eyes.png-small-bits.png exists; --force")
    assert kept == {path.name: path.read_bytes() for path in (folder / "pictures").iterdir()}
    assert evaluate(photo, *arguments, "--force").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("nowhere",), ("nowhere",)),
        (("photos", "-m", "huge"), ("no model named huge",)),
        (("photos", "-m", "jpeg=a.safetensors"), ("can't have the name of the reference jpeg",)),
        (("photos", "-m", "a b=a.safetensors"), ("model name 'a b'",)),
        (("photos", "-m", "a.safetensors", "-m", "x=a.safetensors"), ("are the same weights",)),
        (("photos", "-m", "a.safetensors", "--order", "quadtree"), ("no coding order 'quadtree'",)),
        (
            ("photos", "-m", "a.safetensors", "--anchor", "bpg"),
            ("'bpg' is none of the curves minnen",),
        ),
        (("photos", "-m", "a.safetensors", "--reference", "png"), ("unknown reference 'png'",)),
        (("photos", "-m", "a.safetensors", "--threads", "0"), ("0 threads",)),
        (("photos", "-m", "a.safetensors", "--device", "nonsense"), ("can't use device 'nonsense'",)),
        (("photos", "-m", "a.safetensors", "--csv", "no/where.csv"), ("no is not a folder",)),
        (("photos", "copy", "-m", "a.safetensors"), ("eyes.png: photos of one name",)),
    ],
)
def test_refused_before_the_work(
    folder: Path, arguments: tuple[str, ...], parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "copy").mkdir()
    (folder / "copy" / "eyes.png").write_bytes((folder / "photos" / "eyes.png").read_bytes())
    monkeypatch.setattr(ImageCodec, "analyse", lambda *_: pytest.fail("work was done"))
    refused(evaluate(*arguments), *parts)


def test_a_damaged_photo_stops_it_before_the_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (folder / "photos" / "fur.png").read_bytes()
    (folder / "photos" / "fur.png").write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr(ImageCodec, "analyse", lambda *_: pytest.fail("work was done"))
    refused(evaluate("photos", "-m", "a.safetensors"), "fur.png: damaged image")


def test_a_latent_that_differs_ends_with_2(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = ImageCodec.decode

    def wrong(codec, container):
        latents = decode(codec, container)
        latents.y[0, 0, 0] += 1
        return latents

    monkeypatch.setattr(ImageCodec, "decode", wrong)
    refused(
        evaluate("photos", "-m", "a.safetensors", "--json", "out.json"),
        "eyes.png",
        "to another latent",
    )
    assert not (folder / "out.json").exists()


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [
        ("pytorch_msssim", ()),
        ("bjontegaard", ("--anchor", "jpeg")),
        ("matplotlib", ("--plot", "out.png")),
        ("matplotlib", ("--pictures", "pictures")),
    ],
)
def test_missing_packages(
    folder: Path, missing: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = packages.importlib.util.find_spec
    monkeypatch.setattr(
        packages.importlib.util, "find_spec", lambda name: None if name == missing else there(name)
    )
    result = evaluate("photos", "-m", "a.safetensors", *arguments)
    refused(result, missing.replace("_", "-"), "pip install 'quadrans[eval]'")


def test_a_pillow_without_a_codec(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: name == "jpg")
    photo = folder / "photos" / "fur.png"
    result = evaluate(photo, "-m", "a.safetensors", "--reference", "webp", "--json", "out.json")
    assert result.exit_code == 0, result.output
    assert "webp is left out: this Pillow was built without WEBP" in result.stderr
    assert json.loads((folder / "out.json").read_text())["left_out"] == {
        "webp": "this Pillow was built without WEBP"
    }


def test_names_of_curves_and_points(folder: Path) -> None:
    (folder / "x=y.safetensors").write_bytes((folder / "b.safetensors").read_bytes())
    first, second, third = choose(["mine=a.safetensors", "x=y.safetensors", "mine=c.safetensors"])
    assert (first.curve, second.curve, third) == (
        "mine",
        "minnen2018",
        Choice("mine", "other", "c.safetensors"),
    )
    assert first.point != second.point


def test_numbers_that_json_lacks() -> None:
    row = Row("flat.png", "jpeg", "quality 5", 200, 200, 500, float("inf"), 1.0)
    found = Evaluation([row], None, {}, {})
    (content,) = json.loads(as_json(found, {}, []))["rows"]
    assert (content["psnr"], content["ms_ssim"], content["ms_ssim_db"]) == (None, 1.0, None)
    assert next(csv.DictReader(as_csv([row]).splitlines()))["psnr"] == "inf"
