"""`quadrans bench coder`: what it measures is checked, what fails is loud, what is missing is named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from quadrans.bench.coders import CODERS, PEERS, Coder, Job, Prepare
from quadrans.bench.workloads import RATES, WORKLOADS, Gaussians, Mixture, cell_mass
from quadrans.cli import app
from quadrans.entropy import gaussian_table
from quadrans.entropy._compiled import simd_level


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", "coder", "--runs", "1", *(str(a) for a in arguments)])


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Adds a coder for this test only."""

    def add(name: str, prepare: Prepare, peer: str | None = None, most: int = 10**9) -> None:
        entry = Coder(name, "", prepare, peer, most, nullcontext)
        monkeypatch.setitem(CODERS, ("gaussians", name), entry)

    return add


def raw(load: Gaussians, threads: int) -> Job:
    """The symbols as they are"""
    return Job(load.symbols.tobytes, lambda stream: np.frombuffer(stream, np.int32))


def test_rows_and_plot(tmp_path: Path) -> None:
    found, picture = tmp_path / "rows.json", tmp_path / "speed.png"
    ours = ("-c", "lanes*", "-c", "range", "-c", "rans64")
    result = bench("-w", "0.6", "-w", "serial", "-n", 1000, *ours, "--json", found, "--plot", picture)
    assert result.exit_code == 0, result.output
    rows = json.loads(found.read_text())["rows"]
    names = ["lanes", "lanes-scalar", "lanes-compact", "range", "rans64"]
    assert [(row["workload"], row["coder"]) for row in rows] == [
        (workload, name) for workload in ("0.6", "serial") for name in names
    ]
    for row in rows:
        assert row["error"] == ""
        assert row["symbols"] == (1000 if row["workload"] == "0.6" else 5 * 192)
        assert row["calls"] == (1 if row["workload"] == "0.6" else 5)
        assert row["encode_ms"] > 0
        assert row["decode_ms"] > 0
        assert row["ideal_bytes"] <= row["bytes"] <= row["ideal_bytes"] + 16
        assert abs(row["table_bytes"] - row["ideal_bytes"]) < 2
        assert row["coder"] in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["mixture", "mixture-ready"])
def test_mixture(tmp_path: Path, name: str) -> None:
    found = tmp_path / "rows.json"
    result = bench("-w", "mixture", "-n", 1000, "-c", name, "--json", found)
    assert result.exit_code == 0, result.output
    (row,) = json.loads(found.read_text())["rows"]
    assert row["ideal_bytes"] <= row["bytes"] <= row["ideal_bytes"] + 16


@pytest.mark.parametrize("peer", PEERS)
def test_peers(tmp_path: Path, peer: str) -> None:
    try:
        PEERS[peer]()
    except ImportError:
        pytest.skip(f"{peer} is not installed")
    found = tmp_path / "rows.json"
    result = bench("-c", f"{peer}*", "-n", 1000, "--json", found)
    assert result.exit_code == 0, result.output
    rows = json.loads(found.read_text())["rows"]
    assert {row["workload"] for row in rows} == set(WORKLOADS)
    for row in rows:
        # A call of its own costs torchac a stream of its own.
        assert row["ideal_bytes"] - 1 <= row["bytes"] <= row["ideal_bytes"] + 16 * row["calls"], row


def wrong_symbol(load: Gaussians, threads: int) -> Job:
    return Job(load.symbols.tobytes, lambda stream: np.frombuffer(stream, np.int32) + (load.indexes == 9))


def too_few(load: Gaussians, threads: int) -> Job:
    return Job(load.symbols.tobytes, lambda stream: load.symbols[1:])


def unsteady(load: Gaussians, threads: int) -> Job:
    return Job(lambda: load.symbols.tobytes() + os.urandom(8), lambda stream: load.symbols)


def no_bytes(load: Gaussians, threads: int) -> Job:
    return Job(lambda: "text", lambda stream: load.symbols)  # type: ignore[arg-type, return-value]


def raises(load: Gaussians, threads: int) -> Job:
    raise RuntimeError("[red]it\nbroke")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (wrong_symbol, "the round trip failed"),
        (too_few, "cannot reshape"),
        (unsteady, "gave another stream"),
        (no_bytes, "encode gave str, not bytes"),
        (raises, "RuntimeError: [red]it broke"),
    ],
)
def test_a_broken_coder_is_an_error(
    tmp_path: Path, register: Callable[..., None], broken: Prepare, reason: str
) -> None:
    register("broken", broken)
    register("sound", raw)
    found = tmp_path / "rows.json"
    result = bench("-w", "1.5", "-n", 1000, "-c", "broken", "-c", "sound", "--json", found)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert "FAILED: broken" in result.stdout
    bad, good = json.loads(found.read_text())["rows"]
    assert bad["coder"] == "broken"
    assert reason in bad["error"]
    assert bad["encode_ms"] is bad["decode_ms"] is bad["bytes"] is None
    assert good["error"] == ""
    assert good["bytes"] == 4000


def test_missing_peers_are_named(
    tmp_path: Path, register: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise RuntimeError("no compiler")

    def imports() -> None:
        import no_such_peer  # noqa: F401

    monkeypatch.setitem(PEERS, "no_such_peer", imports)
    monkeypatch.setitem(PEERS, "unbuilt", fails)
    register("absent", raw, "no_such_peer")
    register("unbuilt", raw, "unbuilt")
    register("sound", raw)
    found = tmp_path / "rows.json"
    chosen = ("-c", "absent", "-c", "unbuilt", "-c", "sound")
    result = bench("-w", "0.3", "-n", 1000, *chosen, "--json", found)
    assert result.exit_code == 0, result.output
    assert "no_such_peer is left out: not installed" in result.stdout
    assert "unbuilt is left out: can't be used: RuntimeError: no compiler" in result.stdout
    written = json.loads(found.read_text())
    assert set(written["missing"]) == {"no_such_peer", "unbuilt"}
    assert [row["coder"] for row in written["rows"]] == ["sound"]


def test_too_large_for_memory(register: Callable[..., None]) -> None:
    register("small", raw, most=999)
    result = bench("-w", "0.3", "-n", 1000, "-c", "small")
    assert result.exit_code == 0, result.output
    assert "small is left out: too much memory for 1,000" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("-w", "7"), "no workload is called '7'"),
        (("-c", "zip"), "no coder is called 'zip'"),
        (("-c", "range", "-w", "mixture"), "range can't do mixture"),
        (("-n", "0"), "must be at least 1"),
        (("--threads", "0"), "must be at least 1"),
        (("--json", "there"), "there exists; --force overwrites it"),
        (("--plot", "no/where.png"), "no is not a folder"),
    ],
)
def test_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").write_text("left alone")
    result = bench(*arguments)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert Path("there").read_text() == "left alone"


@pytest.mark.parametrize("rate", RATES)
def test_rates(rate: float) -> None:
    load = WORKLOADS[f"{rate:g}"].make(100_000)
    assert isinstance(load, Gaussians)
    assert load.ideal_bits / 100_000 == pytest.approx(rate, rel=0.02)
    assert load.ideal_bits == pytest.approx(
        gaussian_table(load.scales).bits(load.symbols, load.indexes), rel=1e-3
    )
    again = WORKLOADS[f"{rate:g}"].make(100_000)
    assert np.array_equal(load.symbols, again.symbols)


def test_mixture_workload() -> None:
    load = WORKLOADS["mixture"].make(1000)
    assert isinstance(load, Mixture)
    assert load.weights.sum(0) == pytest.approx(1, abs=1e-6)
    reach = np.arange(-100, 101)
    masses = cell_mass(reach, load.means[0, :, None].astype(float), load.scales[0, :, None].astype(float))
    assert masses.sum(1) == pytest.approx(1)


def test_the_scalar_path_is_chosen_and_given_back() -> None:
    before = simd_level(), os.environ.get("QUADRANS_SIMD")
    with CODERS["gaussians", "lanes-scalar"].within():
        assert simd_level() == 0
    assert (simd_level(), os.environ.get("QUADRANS_SIMD")) == before
