"""`quadrans bench adapters`: other projects' coding as it is, and with our code in its place, in one run."""

from __future__ import annotations

import gc
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from ..nets.files import check_writable, write_file
from .adapters_report import table
from .adapters_ways import COMPARISONS, Load, Way
from .coder import environment, missing_peers, print_lines, select
from .decode import RESULTS, file_name, image_size, integers
from .measure import one_line, times


@dataclass
class Row:
    """One way to do a table's work. Times are medians of the runs, in ms."""

    table: str
    way: str
    symbols: int = 0
    bytes: int | None = None
    encode_ms: float | None = None
    decode_ms: float | None = None
    encode_runs_ms: list[float] = field(default_factory=list)
    decode_runs_ms: list[float] = field(default_factory=list)
    same: bool | None = None
    """Whether strings and values are those of the table's first way to the bit; None if none is promised."""
    error: str = ""


def run_benchmark(
    tables: Sequence[str],
    size: str | None,
    channels: str,
    symbols: int,
    runs: int,
    json_path: Path | None,
    record: bool,
    force: bool,
    console: Console,
) -> list[str]:
    """Runs, prints and writes the tables that names or patterns select, all where there are none.

    size: of the image, "768x512", instead of each table's; channels: "N,M"; symbols: of torchac's tables.
    Returns a line for everything that failed. Raises ValueError for arguments that make no sense, OSError
    for files that can't be written.
    """
    names = select(tables, COMPARISONS, "table")
    counts = integers(channels, "channels")
    if len(counts) > 2:
        raise ValueError(f"channels are N,M or one number for both, not {channels}")
    if min(runs, symbols) < 1:
        raise ValueError("runs and symbols must be at least 1")
    asked = image_size(size) if size else None
    threads = 1
    context = environment(runs, threads)
    target = RESULTS / f"adapters-{file_name(context['cpu'])}.json"
    if record:
        RESULTS.mkdir(exist_ok=True)
    for path in (json_path, target if record else None):
        if path:
            check_writable(path, force)
    missing = missing_peers({way.peer for name in names for way in COMPARISONS[name].ways if way.peer})
    packages = (f"{name} {number}" for name, number in context["packages"].items())
    machine = "{cpu}, {simd}, load {load}, Python {python}".format(**context)
    console.print(", ".join([machine, *packages]))
    console.print(f"random weights, one thread, median of {runs} run(s), every round trip checked")
    notes = [f"{peer} is left out: {reason}" for peer, reason in missing.items()]
    print_lines(console, notes, "yellow")

    torch.set_num_threads(threads)
    rows: list[Row] = []
    for name in names:
        comparison = COMPARISONS[name]
        load = Load(counts[0], counts[-1], *(asked or comparison.size), symbols)
        ways = [way for way in comparison.ways if way.peer not in missing]
        if not ways:
            console.print(f"{name} is left out: nothing to compare with", style="yellow")
            continue
        measured = measure(name, ways, load, runs, console)
        rows += measured
        console.print(table(comparison, load, measured))
        print_lines(console, (f"FAILED: {row.way}: {row.error}" for row in measured if row.error), "bold red")
        print_lines(console, (f"{way.name}: {way.about}" for way in ways))
    print_lines(console, notes, "yellow")
    failures = [f"{row.table}, {row.way}: {row.error}" for row in rows if row.error]
    settings = {"size": size, "channels": counts, "symbols": symbols}
    found = {"environment": context | settings, "missing": missing, "rows": [asdict(row) for row in rows]}
    text = json.dumps(found, indent=1)
    if json_path:
        write_file(json_path, lambda path: path.write_text(text), force)
    if record and not failures:
        write_file(target, lambda path: path.write_text(text), force)
    return failures


@dataclass(frozen=True, eq=False)
class _Result:
    strings: list[bytes]
    values: NDArray


def measure(name: str, ways: Sequence[Way], load: Load, runs: int, console: Console) -> list[Row]:
    """A row for each way of a table. What goes wrong in one belongs into its row, and the others go on."""
    rows = []
    first: _Result | None = None
    for way in ways:
        row = Row(name, way.name)
        rows.append(row)
        try:
            with console.status(f"{name}: {way.name}"), way.within():
                result = _measure(row, way, load, runs, first if way.same else None)
            first = first or result
        except Exception as error:
            row.encode_ms = row.decode_ms = row.bytes = None
            row.error = one_line(error)
        # Models and dense CDFs are large, and some are parts of cycles.
        gc.collect()
    return rows


def _measure(row: Row, way: Way, load: Load, runs: int, like: _Result | None) -> _Result:
    """Fills a row; strings and values must be those of `like`, if there is one, and of every other run."""
    job = way.prepare(load)
    row.symbols = job.count
    coded = job.encode()
    result = _Result(job.strings(coded), job.values(job.decode(coded)))

    def check_strings(again: Any) -> None:
        if job.strings(again) != result.strings:
            raise AssertionError("encoding the same again gave other strings")

    def check_values(again: Any) -> None:
        if not _same_bits(job.values(again), result.values):
            raise AssertionError("decoding the same again gave something else")

    if like:
        if result.strings != like.strings:
            raise AssertionError("the strings are not those of the table's first way")
        if not _same_bits(result.values, like.values):
            raise AssertionError("what was decoded is not what the table's first way decodes")
        row.same = True
    row.encode_runs_ms = times(job.encode, check_strings, runs)
    row.decode_runs_ms = times(lambda: job.decode(coded), check_values, runs)
    row.encode_ms = statistics.median(row.encode_runs_ms)
    row.decode_ms = statistics.median(row.decode_runs_ms)
    row.bytes = sum(map(len, result.strings))
    return result


def _same_bits(a: NDArray, b: NDArray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a.view(np.uint8), b.view(np.uint8))
