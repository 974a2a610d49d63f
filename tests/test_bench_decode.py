"""`quadrans bench decode`: every latent is checked, parts add up, and what fails is loud."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from quadrans.bench import decode, decoders
from quadrans.bench.coders import PEERS
from quadrans.bench.decoders import DECODERS, PARTS, Case, Job, quadrans_cpu, split, split_by_ticks
from quadrans.bench.latents import ORDERS
from quadrans.cli import app
from quadrans.nets.codec import ImageCodec
from quadrans.nets.demo import demo_photo

SMALL = ("--channels", "8,12", "--runs", "1")


@pytest.fixture(autouse=True)
def _torch_threads() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", "decode", *(str(a) for a in arguments)])


def test_rows_and_plot(tmp_path: Path) -> None:
    found, picture = tmp_path / "rows.json", tmp_path / "times.png"
    files = "--json", found, "--plot", picture
    result = bench(*SMALL, "--sizes", "100x64,64", "--threads", "1,2", "-d", "quadrans", *files)
    assert result.exit_code == 0, result.output
    written = json.loads(found.read_text())
    assert written["environment"]["channels"] == [8, 12]
    assert written["environment"]["threads"] == [1, 2]
    rows = written["rows"]
    steps = {"raster": 32, "wavefront": 17, "checkerboard": 2, "parallel": 1, "quadtree": 4}
    steps["slices_checkerboard"] = 10
    assert [(row["width"], row["height"], row["order"], row["threads"]) for row in rows] == [
        (*size, order, threads) for size in ((100, 64), (64, 64)) for order in ORDERS for threads in (1, 2)
    ]
    by_run = {(row["width"], row["order"], row["threads"]): row for row in rows}
    for row in rows:
        assert row["error"] == ""
        assert row["exact"]
        assert (row["decoder"], row["device"]) == ("quadrans", "cpu")
        assert row["symbols"] == (384 if row["width"] == 100 else 192)
        assert row["width"] == 64 or row["steps"] == steps[row["order"]]
        assert row["ms"] > 0
        assert sum(row["parts_ms"].values()) == pytest.approx(row["ms"])
        assert {"hyper", "index", "coder", "rest"} < set(row["parts_ms"]) < set(PARTS)
        # The weights are random, yet the latents cost what real ones do.
        assert 0.2 < 8 * row["bytes"] / row["symbols"] < 1.5
        assert row["bytes"] == by_run[row["width"], row["order"], 1]["bytes"]
        assert row["order"] in result.stdout
    # The same symbols and rows in another sequence.
    assert abs(by_run[100, "raster", 1]["bytes"] - by_run[100, "wavefront", 1]["bytes"]) <= 2
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_torch(tmp_path: Path) -> None:
    found = tmp_path / "rows.json"
    names = "-o", "raster", "-d", "torch", "-d", "quadrans"
    result = bench(*SMALL, "--sizes", "128x64", *names, "--json", found)
    assert result.exit_code == 0, result.output
    serial, ours = json.loads(found.read_text())["rows"]
    assert (serial["decoder"], serial["order"], serial["steps"]) == ("torch", "raster", 32)
    assert serial["exact"]
    assert {"hyper", "context", "nets", "index", "coder"} == set(serial["parts_ms"])
    # The same distributions, but for torch's rounding.
    assert abs(serial["bytes"] - ours["bytes"]) <= 1


def test_trained_weights_and_a_photo(tmp_path: Path, bundled_codec: ImageCodec) -> None:
    found = tmp_path / "rows.json"
    result = bench(
        "-m", bundled_codec.name, "--sizes", "130x70", "--runs", 1, "-d", "quadrans", "--json", found
    )
    assert result.exit_code == 0, result.output
    rows = json.loads(found.read_text())["rows"]
    latents = bundled_codec.analyse(demo_photo()[:70, :130])
    expected = {
        order: len(bundled_codec.encode(latents, 130, 70, order).sections["y"])
        for order in ("raster", "wavefront", "checkerboard", "parallel")
    }
    assert {row["order"]: row["bytes"] for row in rows} == expected
    assert {row["model"] for row in rows} == {bundled_codec.name}


def test_a_photo_is_continued(bundled_codec: ImageCodec) -> None:
    source = decode.trained(bundled_codec, demo_photo()[:40, :50])
    latent = source.latent(64, 64)
    expected = bundled_codec.analyse(np.pad(demo_photo()[:40, :50], ((0, 24), (0, 14), (0, 0)), "symmetric"))
    assert np.array_equal(latent.y, expected.y)
    assert np.array_equal(latent.z_hat, expected.sides["z"] + bundled_codec.medians["z"])


def test_compressai(tmp_path: Path) -> None:
    try:
        PEERS["compressai"]()
    except ImportError:
        pytest.skip("compressai is not installed")
    found = tmp_path / "rows.json"
    result = bench(*SMALL, "--sizes", "128x64", "-o", "raster", "--json", found)
    assert result.exit_code == 0, result.output
    rows = {row["decoder"]: row for row in json.loads(found.read_text())["rows"]}
    assert list(rows) == ["compressai", "torch", "quadrans"]
    assert all(row["exact"] for row in rows.values())
    assert {"hyper", "context", "nets", "index", "coder"} == set(rows["compressai"]["parts_ms"])
    # The same network: what differs is its coder's end, and where its means are rounded.
    assert abs(rows["compressai"]["bytes"] - rows["quadrans"]["bytes"]) <= 8


def wrong_latent(case: Case, threads: int) -> Job:
    job = quadrans_cpu(case, threads)

    def decode(parts: Any = None) -> Any:
        y_hat = job.decode(parts).copy()
        y_hat[1, 2, 3] += 1
        return y_hat

    return Job(job.y_hat, job.bytes, decode)


def too_small(case: Case, threads: int) -> Job:
    job = quadrans_cpu(case, threads)
    return Job(job.y_hat, job.bytes, lambda parts=None: job.decode(parts)[1:])


def raises(case: Case, threads: int) -> Job:
    raise RuntimeError("[red]it\nbroke")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (wrong_latent, "the round trip failed: 1 of 192 elements are wrong"),
        (too_small, "the latent is (3, 4, 12), the encoder's (4, 4, 12)"),
        (raises, "RuntimeError: [red]it broke"),
    ],
)
def test_a_broken_decoder_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Any, reason: str
) -> None:
    monkeypatch.setattr(decode, "DECODERS", list(DECODERS))
    monkeypatch.setattr(decoders, "DECODERS", decode.DECODERS)
    monkeypatch.setattr(decode, "RESULTS", tmp_path / "results")
    decoders.decoder("broken")(broken)
    found = tmp_path / "rows.json"
    names = "-o", "checkerboard", "-d", "broken", "-d", "quadrans"
    result = bench(*SMALL, "--sizes", 64, *names, "--json", found, "--record")
    assert result.exit_code == 2
    assert reason in result.stderr
    assert "FAILED: broken" in result.stdout
    good, bad = json.loads(found.read_text())["rows"]
    assert bad["decoder"] == "broken"
    assert reason in bad["error"]
    assert bad["ms"] is bad["bytes"] is None
    assert not bad["exact"]
    assert good["exact"]
    assert not list((tmp_path / "results").iterdir())


def test_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "RESULTS", tmp_path / "results")
    arguments = *SMALL, "--sizes", 64, "-o", "parallel", "--record"
    result = bench(*arguments)
    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "results").iterdir()
    written = json.loads(path.read_text())
    assert [row["order"] for row in written["rows"]] == ["parallel"]
    assert path.stem == written["environment"]["devices"]["cpu"]
    assert "exists; --force overwrites it" in bench(*arguments).stderr


def test_missing_peers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def imports() -> None:
        raise ModuleNotFoundError("No module named 'compressai'", name="compressai")

    monkeypatch.setitem(PEERS, "compressai", imports)
    result = bench(*SMALL, "--sizes", 64, "-o", "raster", "-d", "compressai", "-d", "quadrans")
    assert result.exit_code == 0, result.output
    assert "compressai is left out: not installed" in result.stdout


def test_serial_decoders_are_spared_large_images() -> None:
    result = bench(*SMALL, "--sizes", "768x513", "-d", "torch")
    assert result.exit_code == 0, result.output
    assert "torch is left out at 768x513" in result.stdout


def test_gpus_need_cupy() -> None:
    if importlib.util.find_spec("cupy"):
        pytest.skip("cupy is installed")
    for device in ("cuda", "all"):
        result = bench(*SMALL, "--sizes", 64, "--device", device)
        assert result.exit_code == 2
        assert "pip install 'quadrans[cuda]'" in result.stderr


@pytest.mark.gpu
def test_gpu(tmp_path: Path) -> None:
    found = tmp_path / "rows.json"
    files = "--json", found, "--plot", tmp_path / "times.png"
    result = bench(*SMALL, "--sizes", "100x64,64", "-d", "quadrans", "--device", "all", *files)
    assert result.exit_code == 0, result.output
    rows = [row for row in json.loads(found.read_text())["rows"] if row["device"] == "cuda"]
    assert [row["order"] for row in rows] == 2 * list(ORDERS)
    for row in rows:
        assert row["exact"]
        assert row["threads"] is None
        assert {"hyper", "transfers", "nets", "index", "coder"} <= set(row["parts_ms"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("-o", "spiral"), "no order is called 'spiral'"),
        (("-d", "zip"), "no decoder is called 'zip'"),
        (("-d", "torch", "-o", "quadtree"), "torch can't decode quadtree on cpu"),
        (("-d", "torch", "--device", "cuda"), "torch can't decode"),
        (("--device", "tpu"), "device must be one of cpu, cuda, all, not 'tpu'"),
        (("--sizes", "768x"), "a size is like 256 or 768x512, not '768x'"),
        (("--sizes", "0"), "0x0"),
        (("--sizes", "100000"), "100000x100000"),
        (("--threads", "0"), "threads must be numbers of at least 1"),
        (("--channels", "1,2,3"), "channels are N,M"),
        (("--runs", "0"), "runs must be at least 1, not 0"),
        (("--photo", "there"), "a photo needs --model"),
        (
            ("-m", "minnen2018-s1", "-o", "quadtree"),
            "codes in raster, wavefront, checkerboard, parallel alone",
        ),
        (("-m", "nothing"), "no model named nothing"),
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


class Worker:
    def work(self, count: int) -> int:
        return count


def test_parts_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(decoders.time, "perf_counter", lambda: float(next(clock)))
    worker, parts = Worker(), {"coder": 5.0}
    with split(parts, "rest", (worker, "work", "coder")):
        assert worker.work(3) == 3
        assert worker.work(count=4) == 4
    # 0 and 5 around all, 1 to 2 and 3 to 4 around the calls.
    assert parts == {"coder": 7.0, "rest": 3.0}
    assert "work" not in vars(worker)
    with split(None, "rest", (worker, "work", "coder")):
        assert worker.work(3) == 3
    assert parts == {"coder": 7.0, "rest": 3.0}


def test_ticks_are_shares_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders.time, "perf_counter", iter([10.0, 18.0, 20.0, 28.0]).__next__)
    parts: dict[str, float] = {}
    with split_by_ticks(parts, iter([1000, 1400]).__next__) as ticks:
        assert ticks is not None
        ticks.update(nets=100, coder=200)
    assert parts == {"nets": 2.0, "coder": 4.0, "rest": 2.0}
    # Where the host can't read the counter, the whole is what was counted.
    with split_by_ticks(parts) as ticks:
        assert ticks is not None
        ticks.update(nets=100, coder=100)
    assert parts == {"nets": 6.0, "coder": 8.0, "rest": 2.0}
    with split_by_ticks(None) as ticks:
        assert ticks is None
