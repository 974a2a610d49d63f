"""`quadrans bench decode`: latents from z to y_hat in every coding order, beside serial decoders of today."""

from __future__ import annotations

import importlib.util
import json
import re
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from ..nets.codec import ImageCodec
from ..nets.container import check_size
from ..nets.demo import demo_photo
from ..nets.files import check_writable, write_file
from ..nets.images import read_image
from ..nets.weights import find_weights
from .coder import environment, missing_peers, print_lines, select
from .decode_report import plot, table
from .decoders import DECODERS, PARTS, Case, LatentDecoder
from .latents import ORDERS, Source, trained, untrained
from .measure import one_line, times

RESULTS = Path(__file__).resolve().parent / "results"
"""What `--record` writes to: a file for each device."""

DEVICES = {"cpu": ("cpu",), "cuda": ("cuda",), "all": ("cpu", "cuda")}


@dataclass
class Row:
    """One decoder on one latent. ms: from z_hat to y_hat, the median of the runs; parts are shares of it."""

    decoder: str
    model: str
    order: str
    steps: int
    device: str
    threads: int | None
    """None on GPUs."""
    width: int
    height: int
    """Of the image, in pixels."""
    symbols: int
    bytes: int | None = None
    ms: float | None = None
    parts_ms: dict[str, float] = field(default_factory=dict)
    """ms by part, those of `decoders.PARTS` that the decoder has."""
    runs_ms: list[float] = field(default_factory=list)
    exact: bool = False
    """Whether every run gave the encoder's y_hat."""
    error: str = ""


def run_benchmark(
    orders: list[str],
    decoders: list[str],
    sizes: str,
    threads: str,
    runs: int,
    device: str,
    channels: str,
    model: str | None,
    photo: Path | None,
    json_path: Path | None,
    plot_path: Path | None,
    record: bool,
    force: bool,
    console: Console,
) -> list[str]:
    """Runs, prints and writes what is asked for: names or patterns of orders and decoders, all where none.

    sizes: of images, "256,768x512"; threads: "1,2"; channels: "N,M" of networks with random weights, which a
    model's name or path replaces, with its latents of a photo. Returns a line for each decoder that failed.
    Raises ValueError for arguments that make no sense, OSError and ImportError for what can't be read,
    written or imported.
    """
    pixels = [image_size(size) for size in sizes.split(",")]
    teams = integers(threads, "threads")
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, not {device!r}")
    if runs < 1:
        raise ValueError(f"runs must be at least 1, not {runs}")
    if photo and not model:
        raise ValueError("a photo needs --model: networks with random weights make no sense of it")
    names = select(orders, ORDERS, "order")
    chosen = select(decoders, (entry.name for entry in DECODERS), "decoder")
    entries = [one for one in DECODERS if one.name in chosen and one.device in DEVICES[device]]
    entries = [one for one in entries if one.orders is None or not one.orders.isdisjoint(names)]
    if not entries:
        raise ValueError(f"{', '.join(chosen)} can't decode {', '.join(names)} on {device}")
    for path in (json_path, plot_path):
        if path:
            check_writable(path, force)
    if plot_path and not importlib.util.find_spec("matplotlib"):
        raise ImportError("the plot needs matplotlib: pip install 'quadrans[bench]'")

    missing = missing_peers({one.peer for one in entries if one.peer})
    entries = [one for one in entries if one.peer not in missing]
    context: dict[str, Any] = environment(runs, max(teams)) | {"threads": teams}
    context["devices"] = _devices({one.device for one in entries}, context["cpu"])
    records = {RESULTS / f"{file_name(name)}.json": kind for kind, name in context["devices"].items()}
    if record:
        RESULTS.mkdir(exist_ok=True)
        for path in records:
            check_writable(path, force)
    source = _source(channels, model, photo)
    names = [name for name in names if name in source.networks]
    if not names:
        raise ValueError(f"model {source.codec.name} codes in {', '.join(source.networks)} alone")
    net: Any = source.codec.system
    context["channels"] = [net.n, net.m]

    devices = (f"{kind}: {name}" for kind, name in context["devices"].items())
    packages = (f"{name} {number}" for name, number in context["packages"].items())
    machine = "{simd}, load {load}, Python {python}".format(**context)
    console.print(", ".join([*devices, machine, *packages]))
    console.print(
        f"{model or 'random weights'}, N={net.n}, M={net.m}, from z to y_hat, hyper-synthesis included; "
        f"median of {runs} run(s), every latent compared with the encoder's"
    )
    notes = [f"{peer} is left out: {reason}" for peer, reason in missing.items()]
    print_lines(console, notes, "yellow")

    rows: list[Row] = []
    for width, height in pixels:
        rows += run(source, names, entries, (width, height), teams, runs, console)
    for one in entries:
        console.print(f"{one.name}, {one.device}: {one.about}")
    used = [source.networks[name] for name in names]
    print_lines(console, dict.fromkeys(f"{network.name}: {network.about}" for network in used))
    print_lines(console, notes, "yellow")

    def found(some: Iterable[Row]) -> str:
        content = {"environment": context, "missing": missing, "rows": [asdict(row) for row in some]}
        return json.dumps(content, indent=1)

    if json_path:
        write_file(json_path, lambda path: path.write_text(found(rows)), force)
    if plot_path and any(not row.error for row in rows):
        write_file(plot_path, lambda path: plot([row for row in rows if not row.error], path), force)
    failures = [f"{_title(row)}: {row.error}" for row in rows if row.error]
    if record and not failures:
        for path, kind in records.items():
            text = found(row for row in rows if row.device == kind)
            write_file(path, lambda temporary, text=text: temporary.write_text(text), force)  # type: ignore[misc]
    return failures


def run(
    source: Source,
    names: list[str],
    entries: list[LatentDecoder],
    size: tuple[int, int],
    teams: list[int],
    runs: int,
    console: Console,
) -> list[Row]:
    """One size of images, printed: a row for each decoder, order and number of threads."""
    width, height = size
    latent = source.latent(width, height)
    cases = {}
    for name in names:
        network = source.networks[name]
        cases[name] = Case(source.codec, network, network.order(*latent.y.shape[:2]), latent)
    rows: list[Row] = []
    for entry in entries:
        if width * height > entry.most:
            console.print(f"{entry.name} is left out at {width}x{height}: it would take too long")
            continue
        for name, case in cases.items():
            if entry.orders is not None and name not in entry.orders:
                continue
            for threads in teams if entry.device == "cpu" else [None]:
                about = entry.name, case.network.name, name, len(case.order), entry.device, threads
                row = Row(*about, width, height, latent.y.size)
                with console.status(_title(row)):
                    measure(row, entry, case, runs)
                rows.append(row)
    if rows:
        console.print(table(rows))
    print_lines(console, (f"FAILED: {_title(row)}: {row.error}" for row in rows if row.error), "bold red")
    return rows


def measure(row: Row, entry: LatentDecoder, case: Case, runs: int) -> None:
    """Fills a row. An exception or a wrong latent ends it, with the reason in `error`."""
    threads = row.threads or 1
    torch.set_num_threads(threads)
    try:
        job = entry.prepare(case, threads)

        def check(result: Any) -> None:
            y_hat = job.host(result)
            if y_hat.shape != job.y_hat.shape:
                raise AssertionError(f"the latent is {y_hat.shape}, the encoder's {job.y_hat.shape}")
            if wrong := int(np.count_nonzero(y_hat != job.y_hat)):
                raise AssertionError(f"the round trip failed: {wrong} of {y_hat.size} elements are wrong")

        row.runs_ms = times(job.decode, check, runs)
        parts = dict.fromkeys(PARTS, 0.0)
        check(job.decode(parts))
        row.exact, row.bytes = True, job.bytes
        row.ms = statistics.median(row.runs_ms)
        row.parts_ms = {part: row.ms * spent / sum(parts.values()) for part, spent in parts.items() if spent}
    # Whatever goes wrong in one decoder belongs into its row, and the others go on.
    except Exception as error:
        row.error = one_line(error)


def _source(channels: str, model: str | None, photo: Path | None) -> Source:
    if model:
        return trained(ImageCodec(find_weights(model)), read_image(photo).pixels if photo else demo_photo())
    counts = integers(channels, "channels")
    if len(counts) > 2:
        raise ValueError(f"channels are N,M or one number for both, not {channels}")
    return untrained(counts[0], counts[-1])


def _devices(kinds: set[str], cpu: str) -> dict[str, str]:
    """The devices' names."""
    names = {"cpu": cpu} if "cpu" in kinds else {}
    if "cuda" in kinds:
        from ..kernels import cuda

        runtime = cuda.import_cupy().cuda.runtime
        names["cuda"] = runtime.getDeviceProperties(runtime.getDevice())["name"].decode()
    return names


def file_name(device: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def _title(row: Row) -> str:
    where = row.device if row.threads is None else f"{row.threads} thread(s)"
    return f"{row.decoder}, {row.model}, {row.order}, {row.width}x{row.height}, {where}"


def image_size(text: str) -> tuple[int, int]:
    """(width, height) of "768x512", or of "256" for a square."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip())
    if not match:
        raise ValueError(f"a size is like 256 or 768x512, not {text!r}")
    size = int(match[1]), int(match[2] or match[1])
    check_size(*size)
    return size


def integers(text: str, what: str) -> list[int]:
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise ValueError(f"{what} must be numbers of at least 1, separated by commas, not {text!r}")
    return [int(number) for number in text.split(",")]
