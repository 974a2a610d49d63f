"""`quadrans bench systems`: plausible rates, every latent checked, and the papers' tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from quadrans import kernels
from quadrans.bench import published, systems, systems_counts, systems_measure, systems_papers
from quadrans.bench.plausible import Dice, draw, plausible
from quadrans.bench.systems_measure import PARTS, decode, digest, encode, photo
from quadrans.cli import app
from quadrans.entropy import mixture
from quadrans.nets import registry
from quadrans.nets.codec import ImageCodec, latent_table
from quadrans.nets.export import export_weights
from quadrans.nets.latents import Latents
from quadrans.nets.registry import Row

NAMES = set(registry.SYSTEMS)

TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "balle2018-factorized": ("balle2018-factorized", {"n": 8, "m": 16}),
    "balle2018-large": ("balle2018", {"n": 8, "m": 16}),
    "minnen2018": ("minnen2018", {"n": 8, "m": 16}),
    "minnen2018-mean-large": ("minnen2018-mean", {"n": 8, "m": 16}),
    "minnen2018-large": ("minnen2018", {"n": 8, "m": 16}),
    "cheng2020-large": ("cheng2020", {"n": 12, "hidden": 24}),
    "charm2020": ("charm2020", {"n": 8, "m": 20, "hyper": [12, 10, 8], "widths": [8, 8]}),
    "random-mask": ("random-mask", {"n": 8, "m": 16}),
    "dca2024": (
        "dca2024",
        {
            "n": 8,
            "m": 16,
            "c_r": 8,
            "c_l": 4,
            "count": 4,
            "hyper": 8,
            "local": [4, 8],
            "head_dim": 8,
            "swin_head_dim": 4,
            "local_head_dim": 4,
        },
    ),
}
"""Architectures and arguments that the registry's names stand for here."""


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    rows = {
        name: Row(name, architecture, "a paper", config, codes=name != "random-mask")
        for name, (architecture, config) in TINY.items()
    }
    monkeypatch.setattr(registry, "SYSTEMS", rows)
    monkeypatch.setattr(systems_counts, "PARAMETERS", {})
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", "systems", *(str(a) for a in arguments)])


def codec(name: str, **config: Any) -> ImageCodec:
    return ImageCodec(export_weights(plausible(name, **config), name, {}, "float32"))


def check(row: Mapping[str, Any], other_process: bool) -> None:
    assert row["error"] == ""
    assert row["exact"]
    assert row["other_process"] == other_process
    for verb in ("encode", "decode"):
        parts, runs = row[f"{verb}_ms"], row[f"{verb}_runs_ms"]
        assert tuple(parts) == PARTS
        assert min(parts.values()) >= 0
        assert any(sum(parts.values()) == pytest.approx(ms) for ms in runs)
        assert parts["transforms"] > 0
        assert parts["coder"] > 0
    assert 0 < row["coder_share"] < row["coder_share_of_latents"] < 1
    # Of such small files, headers are a large part.
    assert 0.2 < 8 * row["bytes"] / row["symbols"] < 5


def test_systems(tmp_path: Path) -> None:
    found = tmp_path / "rows.json"
    result = bench("-s", "minnen2018", "-s", "random-mask", "--size", "100x64", "--runs", 1, "--json", found)
    assert result.exit_code == 0, result.output
    written = json.loads(found.read_text())
    (row,) = written["systems"]
    assert (row["system"], row["order"], row["steps"], row["symbols"]) == ("minnen2018", "wavefront", 17, 512)
    check(row, True)
    assert row["decode_ms"]["context"] > 0
    assert row["decode_ms"]["features"] > 0
    counts = {one["system"]: one for one in written["counts"]}
    assert counts["minnen2018"]["steps"] == {"wavefront": [141, 301], "raster": [1536, 76 * 76]}
    assert counts["random-mask"]["steps"] == {}
    assert "coder" in result.stdout


def test_papers_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (systems_papers, systems_counts):
        monkeypatch.setattr(module, "KODAK", (96, 64))
        monkeypatch.setattr(module, "TECNICK", (128, 64))
    # Processes of their own take seconds each, and `test_systems` starts one.
    monkeypatch.setattr(systems_measure, "decode_elsewhere", decoded)
    found = tmp_path / "rows.json"
    result = bench("-t", "he2021", "-t", "dca2024", "--runs", 1, "--json", found)
    assert result.exit_code == 0, result.output
    written = json.loads(found.read_text())
    rows = written["he2021"]["rows"]
    expected = [
        (one.name, width, order)
        for one in systems_papers.HE_SYSTEMS
        for width in (96, 128)
        for order in one.orders or ("parallel",)
    ]
    assert [(row["system"], row["width"], row["order"]) for row in rows] == expected
    for row in rows:
        first = row is next(one for one in rows if one["system"] == row["system"])
        check(row, first)
        assert sum(row["ms"].values()) == pytest.approx(sum(row["decode_ms"].values()))
        assert row["ms"]["parameter calculation"] > 0
    by_run = {(row["system"], row["width"], row["order"]): row for row in rows}
    assert by_run["minnen2018-large", 96, "raster"]["paper_ms"] == 1323.66
    assert by_run["minnen2018-large", 128, "checkerboard"]["paper_ms"] == 95.46
    assert by_run["minnen2018-mean-large", 128, "parallel"]["paper_ms"] == 86.31
    (networks,) = written["dca2024"]["ms"]
    assert set(networks) == {"threads", *published.DCA_PARTS}
    assert min(networks.values()) > 0
    check(written["dca2024"]["rows"][0], True)


def decoded(weights: Any, data: bytes) -> str:
    return digest(decode(ImageCodec(weights), data)[1])


@pytest.mark.parametrize("name", ["balle2018-factorized", "cheng2020-large", "charm2020"])
def test_rates_and_parts(name: str) -> None:
    one = codec(name)
    latents = draw(one, 130, 128)
    assert draw(one, 130, 128).same_bits(latents)
    parts, data = encode(one, photo(130, 128), latents, one.orders[0])
    assert set(parts) <= set(PARTS)
    assert parts["coder"] > 0
    coded = one.code(latents, 130, 128)[1]
    parts, found = decode(one, data)
    assert found.same_bits(coded)
    assert digest(found) == digest(coded)
    assert set(parts) <= set(PARTS)
    assert ("nets" in parts) == bool(one.cpu.parts)
    # The patches are gone.
    assert "decode_from" not in vars(one.cpu)
    assert "encode" not in vars(one.cpu)
    y = np.abs(coded.y)
    assert 0.02 < np.mean(y > 0.5) < 0.7
    assert y.max() < 1000


def test_another_latent_has_another_digest() -> None:
    y = np.zeros((2, 2, 3), np.float32)
    other = y.copy()
    other[1, 1, 2] = -0.0
    assert digest(Latents(y, {})) != digest(Latents(other, {}))


@pytest.mark.parametrize("residual", [False, True])
def test_dice_follow_the_table(residual: bool) -> None:
    """What is drawn costs what the table's rows say on average: their entropy."""
    table = latent_table(residual)
    bits = None if residual else kernels.FRACTION_BITS
    rule = kernels.Quantization(np.arange(63, dtype=np.float32), bits)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, table.rows // 2, (300, 1)).repeat(2000, 1).astype(np.int32)
    symbols = Dice(rule, rng).get(rows)
    assert symbols.dtype == np.int32
    entropy = []
    for row in rows[:, 0]:
        values = np.arange(-400, 401, dtype=np.int32)
        costs = table.symbol_bits(values, np.full(values.shape, row, np.int32))
        mass = np.exp2(-costs)
        entropy.append((mass * costs).sum())
    assert table.symbol_bits(symbols, rows).mean() == pytest.approx(np.mean(entropy), rel=0.01)


def test_dice_follow_mixtures() -> None:
    shape = (2, 50_000)
    weights = np.broadcast_to(np.array([[0.25], [0.75]]), shape)
    means = np.broadcast_to(np.array([[-8.0], [4.0]]), shape)
    mixtures = mixture.parameters(weights, means, np.broadcast_to(np.array([[0.5], [1.0]]), shape))
    symbols = Dice(kernels.MixtureQuantization(2), np.random.default_rng(0)).get(mixtures)
    assert np.mean(symbols < -4) == pytest.approx(0.25, abs=0.01)
    assert symbols[symbols < -4].mean() == pytest.approx(-8, abs=0.05)
    assert symbols[symbols >= -4].std() == pytest.approx(np.sqrt(1 + 1 / 12), rel=0.02)


def test_failures_are_loud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems_measure, "decode_elsewhere", lambda weights, data: "another")
    monkeypatch.setattr(systems, "RESULTS", tmp_path)
    result = bench("-s", "minnen2018", "-t", "systems", "--size", "64", "--runs", 1, "--record")
    assert result.exit_code == 2
    assert "another process" in result.stderr
    assert "FAILED" in result.stdout
    assert not list(tmp_path.iterdir())


def test_counts_that_differ_are_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    count = systems_counts.counted("minnen2018").parameters
    for published_count, right in ((count, True), (count + 1, False)):
        monkeypatch.setattr(
            systems_counts, "PARAMETERS", {"minnen2018": published.Count(published_count, 1, "x")}
        )
        assert bench("-s", "minnen2018", "-t", "counts").exit_code == (0 if right else 2)
    monkeypatch.setattr(systems_counts, "PARAMETERS", {})
    monkeypatch.setattr(systems_counts, "STEPS", {"minnen2018": 141})
    assert not systems_counts.counted("minnen2018").agrees


def test_published_counts() -> None:
    exact = json.loads((Path(__file__).parent / "nets" / "systems" / "parameters.json").read_text())["counts"]
    both = exact.keys() & published.PARAMETERS.keys()
    assert len(both) > 20
    assert all(published.PARAMETERS[name].agrees(exact[name]) for name in both)
    assert set(published.PARAMETERS) <= NAMES
    rounded = published.PARAMETERS["dca2024"]
    assert rounded.agrees(37_890_553)
    assert not rounded.agrees(37_895_001)
    assert not published.PARAMETERS["minnen2018"].agrees(14_130_468)
    assert sum(published.HE_PARTS["checkerboard"].values()) == pytest.approx(29.66)
    assert sum(published.HE_PARTS["serial"].values()) == pytest.approx(1324.66)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-s", "nothing"), "no system is called 'nothing'"),
        (("-t", "table 4"), "no table is called"),
        (("--runs", 0), "runs must be at least 1"),
        (("--size", "12by3"), "a size is like"),
        (("--threads", "0"), "threads must be numbers"),
    ],
)
def test_bad_arguments(arguments: tuple[object, ...], words: str) -> None:
    result = bench(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
