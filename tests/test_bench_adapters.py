"""`quadrans bench adapters`: bytes and round trips are checked in the run, and what fails is loud."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import compressai_stub
import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from quadrans.bench import adapters
from quadrans.bench.adapters_ways import COMPARISONS, Comparison, Job, Load, Way, latent, model, near
from quadrans.bench.coders import PEERS
from quadrans.cli import app

SMALL = ("--size", "100x64", "--channels", "8,12", "--symbols", "1000", "--runs", "1")
COMPRESSAI = ["CompressAI", "install()", "accelerate, compressai", "accelerate, lanes"]
WAYS = {
    "compressai-serial": COMPRESSAI,
    "compressai-mean": COMPRESSAI,
    "compressai-coder": [*COMPRESSAI[:3], "EntropyBackend"],
    "torchac-int16": ["torchac", "adapters.torchac"],
    "torchac-float": ["torchac", "adapters.torchac"],
    "backend": ["plain", "checkerboard"],
}
SAME = {"install()", "accelerate, compressai", "adapters.torchac"}


@pytest.fixture(autouse=True)
def _torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def bench(*arguments: object) -> Result:
    # As it can be imported here: other tests need more of it than the command does.
    compressai_stub.stub_unused()
    return CliRunner().invoke(app, ["bench", "adapters", *(str(a) for a in arguments)])


@pytest.mark.parametrize("table", COMPARISONS)
def test_rows(tmp_path: Path, table: str) -> None:
    if table.startswith(("compressai", "torchac")):
        try:
            PEERS[table.partition("-")[0]]()
        except ImportError:
            pytest.skip(f"{table.partition('-')[0]} is not installed")
    found = tmp_path / "rows.json"
    result = bench(*SMALL, "-t", table, "--json", found)
    assert result.exit_code == 0, result.output
    rows = json.loads(found.read_text())["rows"]
    assert [row["way"] for row in rows] == WAYS[table]
    for row in rows:
        assert (row["table"], row["error"]) == (table, "")
        assert row["symbols"] == (1000 if table.startswith("torchac") else 12 * 4 * 8)
        assert row["encode_ms"] > 0
        assert row["decode_ms"] > 0
        # More than nothing is coded, y at about the rate that its scales were made for, z at more.
        assert 0.3 < 8 * row["bytes"] / row["symbols"] < (2.5 if table == "compressai-serial" else 2)
        assert row["same"] is (True if row["way"] in SAME else None)
        assert row["way"] in result.stdout


def test_json_record_and_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "RESULTS", tmp_path)
    result = bench(*SMALL, "-t", "backend", "--record")
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("adapters-*.json")
    environment = json.loads(path.read_text())["environment"]
    assert (environment["channels"], environment["symbols"], environment["threads"]) == ([8, 12], 1000, 1)
    assert "exists; --force overwrites it" in bench(*SMALL, "-t", "backend", "--record").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-t", "nothing"), "no table is called 'nothing'"),
        (("--size", "big"), "a size is like 256 or 768x512"),
        (("--channels", "1,2,3"), "channels are N,M or one number for both"),
        (("--runs", 0), "at least 1"),
        (("--symbols", 0), "at least 1"),
    ],
)
def test_bad_arguments(arguments: tuple[object, ...], message: str) -> None:
    result = bench(*arguments)
    assert result.exit_code != 0
    assert message in result.stderr


def test_missing_peers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def imports() -> None:
        raise ModuleNotFoundError("No module named 'torchac'", name="torchac")

    monkeypatch.setitem(PEERS, "torchac", imports)
    result = bench(*SMALL, "-t", "torchac-int16")
    assert result.exit_code == 0, result.output
    assert "torchac is left out: not installed" in result.stdout
    assert "adapters.torchac" in result.stdout
    monkeypatch.setitem(PEERS, "compressai", imports)
    result = bench(*SMALL, "-t", "compressai*")
    assert result.exit_code == 0, result.output
    assert "compressai-mean is left out: nothing to compare with" in result.stdout


def bytes_of(load: Load) -> Job:
    """Bytes as they are."""
    values = np.arange(9, dtype=np.uint8)
    return Job(values.tobytes, lambda b: np.frombuffer(b, np.uint8), lambda b: [b], np.asarray, 9)


def other_bytes(load: Load) -> Job:
    return replace(bytes_of(load), strings=lambda b: [b + b"!"])


def other_values(load: Load) -> Job:
    return replace(bytes_of(load), decode=lambda b: np.frombuffer(b, np.int8))


def unsteady_bytes(load: Load) -> Job:
    numbers = count()
    return replace(bytes_of(load), strings=lambda b: [b"%d" % next(numbers)])


def unsteady_values(load: Load) -> Job:
    numbers = count()
    return replace(bytes_of(load), decode=lambda b: np.array([next(numbers)]))


@pytest.mark.parametrize(
    ("prepare", "same", "message"),
    [
        (other_bytes, True, "the strings are not those of the table's first way"),
        (other_values, True, "what was decoded is not what the table's first way decodes"),
        (unsteady_bytes, False, "encoding the same again gave other strings"),
        (unsteady_values, False, "decoding the same again gave something else"),
    ],
)
def test_what_fails_is_loud(
    monkeypatch: pytest.MonkeyPatch, prepare: Callable[[Load], Job], same: bool, message: str
) -> None:
    ways = Way("plain", "", bytes_of), Way("broken", "", prepare, same=same), Way("last", "", bytes_of)
    monkeypatch.setitem(COMPARISONS, "wrong", Comparison("", ways))
    result = bench(*SMALL, "-t", "wrong")
    assert result.exit_code == 2
    assert f"wrong, broken: AssertionError: {message}" in result.stderr
    assert "FAILED" in result.stdout
    assert result.stdout.count("last") > 1, "the others go on"


def test_a_wrong_symbol_is_seen() -> None:
    y = latent(3, 4, 5).numpy()
    y_hat = torch.from_numpy(np.rint(y))
    assert near(y, y_hat) is not None
    for wrong in (1.0, -1.0, float("nan")):
        damaged: Any = y_hat.clone()
        damaged[0, 1, 2, 3] += wrong
        with pytest.raises(AssertionError, match="1 of 60 elements are wrong"):
            near(y, damaged)


def test_models_are_the_same_every_time() -> None:
    compressai_stub.stub_unused()
    arguments = "MeanScaleHyperprior", 8, 12, 1, 2
    first = model(*arguments).state_dict()
    model.cache_clear()
    second = model(*arguments).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
