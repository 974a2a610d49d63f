"""The command line end to end on real photos: names, exit codes, messages, and what is left behind."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from quadrans import __version__
from quadrans.cli import app
from quadrans.nets.container import Container
from quadrans.nets.images import read_image
from quadrans.nets.weights import DEFAULT_MODEL, Weights, write_weights


def quadrans(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result: Result, *parts: str) -> None:
    """Exit code 2 and one line that contains the parts."""
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("quadrans: ")
    for part in parts:
        assert part in line


@pytest.fixture
def folder(tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    Image.fromarray(photo).save(tmp_path / "cat.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_round_trip_in_two_processes(folder: Path, photo: np.ndarray) -> None:
    for command in (
        ("compress", "cat.png"),
        ("info", "cat.qdr"),
        ("decompress", "cat.qdr", "-o", "decoded.png"),
    ):
        subprocess.run([sys.executable, "-m", "quadrans", *command], check=True, capture_output=True)
    decoded = read_image(folder / "decoded.png").pixels
    assert decoded.shape == photo.shape
    assert np.mean((decoded.astype(float) - photo) ** 2) < 150
    assert (folder / "cat.qdr").stat().st_size < photo.size / 15
    assert names(folder) == {"cat.png", "cat.qdr", "decoded.png"}


def test_nothing_is_overwritten_without_force(folder: Path) -> None:
    assert quadrans("compress", "cat.png").exit_code == 0
    before = (folder / "cat.qdr").read_bytes()
    refused(quadrans("compress", "cat.png", "--order", "raster"), "cat.qdr exists", "--force")
    refused(quadrans("decompress", "cat.qdr"), "cat.png exists")
    assert (folder / "cat.qdr").read_bytes() == before
    assert quadrans("compress", "cat.png", "--order", "raster", "--force").exit_code == 0
    assert Container.from_bytes((folder / "cat.qdr").read_bytes()).order == "raster"


def test_a_folder_at_once(folder: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo[:70, :90, 0]).save(folder / "grey.jpg")
    (folder / "notes.txt").write_text("left alone")
    result = quadrans("compress", ".", "-o", "out")
    assert result.exit_code == 0
    assert "grey coded as RGB" in result.stdout
    assert names(folder / "out") == {"cat.qdr", "grey.qdr"}
    assert quadrans("decompress", "out").exit_code == 0
    assert read_image(folder / "out" / "grey.png").pixels.shape == (70, 90, 3)
    assert quadrans("info", "out").exit_code == 0


def test_where_the_bits_went(folder: Path) -> None:
    """The parts of each stream add up to its bytes, as printed."""
    assert quadrans("compress", "cat.png").exit_code == 0
    result = quadrans("info", "--bits", "cat.qdr")
    assert result.exit_code == 0
    container = Container.from_bytes((folder / "cat.qdr").read_bytes())
    lines = result.stdout.splitlines()
    parts = [re.findall(r"-?\d+\.\d", line) for line in lines if re.search("densities|[+] ", line)]
    sums = [sum(float(part) for part in column) for column in zip(*parts, strict=True)]
    assert sums == pytest.approx([len(one) for one in container.sections.values()], abs=0.3)
    assert f"{len(container.sections['y'])} │" in next(line for line in lines if "= stream" in line)


def test_one_bad_file_does_not_stop_the_others(folder: Path) -> None:
    (folder / "bad.png").write_bytes(b"no photo")
    result = quadrans("compress", ".")
    refused(result, "bad.png", "not a readable image")
    assert names(folder) == {"bad.png", "cat.png", "cat.qdr"}


def test_names_that_collide(folder: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo).save(folder / "cat.jpg")
    refused(quadrans("compress", "."), "cat.jpg and cat.png would both become cat.qdr")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("compress", "missing.png"), ("missing.png", "No such file")),
        (("compress", "cat.png", "--order", "spiral"), ("order must be one of raster",)),
        (("compress", "cat.png", "--model", "huge"), ("no model named huge",)),
        (("compress", "cat.png", "-o", "no/where.qdr"), ("no is not a folder",)),
        (("compress", "cat.png", "-o", "new/"), ("new must end in .qdr",)),
        (("compress", ".", "-o", "cat.png"), ("cat.png is a file, not a folder",)),
        (("compress", "cat.png", "--device", "nonsense"), ("can't use device 'nonsense'",)),
        (("compress", "no\nfile\x1b[2J.png"), ("no file [2J.png",)),
        (("compress", "[red]a[.png"), ("[red]a[.png",)),
        (("decompress", "cat.png", "-o", "x.png"), ("not a .qdr file",)),
        (("info", "cat.png"), ("not a .qdr file",)),
        (("train", "nowhere", "-o", "run"), ("nowhere is not a folder",)),
        (("train", ".", "-o", "run", "--crop", "100"), ("crop must be a multiple of 64",)),
        (("train", ".", "-o", "run", "--name", "a b"), ("model name 'a b'",)),
        (("demo", "missing.png", "-o", "."), ("missing.png",)),
    ],
)
def test_mistakes(folder: Path, arguments: tuple[str, ...], parts: tuple[str, ...]) -> None:
    refused(quadrans(*arguments), *parts)
    assert names(folder) == {"cat.png"}


def test_odd_file_names(folder: Path) -> None:
    """Neither rich's markup nor a terminal may act on a name."""
    (folder / "cat.png").rename("[old] a[b] \x1b[2J.png")
    result = quadrans("compress", ".")
    assert result.exit_code == 0
    assert "[old] a[b]  [2J.qdr: 451x300" in result.stdout
    assert quadrans("info", ".").exit_code == 0
    long = folder / f"{'n' * 249}.png"
    (folder / "[old] a[b] \x1b[2J.png").rename(long)
    assert quadrans("compress", long).exit_code == 0
    assert long.with_suffix(".qdr").exists()


def test_targets_that_are_no_files(folder: Path) -> None:
    os.mkfifo("pipe.qdr")
    Path("link.qdr").symlink_to("nowhere")
    refused(quadrans("compress", "cat.png", "-o", "pipe.qdr", "--force"), "pipe.qdr is not a regular file")
    refused(quadrans("compress", "cat.png", "-o", "link.qdr"), "link.qdr exists")
    refused(quadrans("info", "pipe.qdr"), "pipe.qdr is neither a file nor a folder")


def test_a_file_may_not_name_a_path_as_its_model(folder: Path, small_weights: Weights) -> None:
    write_weights(folder / "small.safetensors", small_weights)
    assert quadrans("compress", "cat.png", "-m", "small.safetensors").exit_code == 0
    container = Container.from_bytes((folder / "cat.qdr").read_bytes())
    named = dataclasses.replace(container, model="small.safetensors")
    (folder / "cat.qdr").write_bytes(named.to_bytes())
    refused(quadrans("decompress", "cat.qdr", "-o", "x.png"), "no model named small.safetensors is bundled")


def test_an_empty_folder(folder: Path) -> None:
    (folder / "empty").mkdir()
    refused(quadrans("compress", "empty"), "empty holds no", ".png")


def test_damaged_files_write_nothing(folder: Path) -> None:
    assert quadrans("compress", "cat.png").exit_code == 0
    whole = (folder / "cat.qdr").read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[: rng.integers(len(whole))] for _ in range(8)]
    for _ in range(8):
        flipped = bytearray(whole)
        flipped[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        damaged.append(bytes(flipped))
    before = names(folder)
    for data in damaged:
        (folder / "cat.qdr").write_bytes(data)
        refused(quadrans("decompress", "cat.qdr", "-o", "out.png"), "cat.qdr")
        assert names(folder) == before


def test_a_file_of_other_weights(folder: Path, small_weights: Weights) -> None:
    write_weights(folder / "small.safetensors", small_weights)
    assert quadrans("compress", "cat.png", "-m", "small.safetensors").exit_code == 0
    refused(quadrans("decompress", "cat.qdr", "-o", "x.png"), "no model named small is bundled")
    refused(
        quadrans("decompress", "cat.qdr", "-o", "x.png", "-m", DEFAULT_MODEL),
        "made with model small",
        DEFAULT_MODEL,
    )
    assert quadrans("decompress", "cat.qdr", "-o", "x.png", "-m", "small.safetensors").exit_code == 0


def test_models_and_version() -> None:
    assert DEFAULT_MODEL in quadrans("models").stdout
    assert quadrans("--version").stdout.strip() == f"quadrans {__version__}"


def test_demo(folder: Path) -> None:
    result = quadrans("demo", "cat.png", "-o", "out")
    assert result.exit_code == 0, result.output
    assert "all latents agree to the bit" in result.stdout
    for order in ("raster", "wavefront", "checkerboard", "parallel"):
        assert order in result.stdout
    assert names(folder / "out") == {"demo.qdr", "demo.png"}
    refused(quadrans("demo", "cat.png", "-o", "out"), "demo.qdr exists")
    assert quadrans("decompress", "out/demo.qdr").exit_code == 2
    assert quadrans("decompress", "out/demo.qdr", "-o", "again.png").exit_code == 0
