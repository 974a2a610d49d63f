"""`quadrans bench coder`: our coders and the installed peers on the same workloads."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import platform
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console

from ..entropy._compiled import simd_level
from ..nets.files import check_writable, write_file
from .coders import CODERS, PEERS, Coder
from .measure import Row, measure, one_line
from .report import plot, table
from .workloads import WORKLOADS


def run_benchmark(
    workloads: list[str],
    coders: list[str],
    sizes: list[int],
    runs: int,
    threads: int,
    json_path: Path | None,
    plot_path: Path | None,
    force: bool,
    console: Console,
) -> list[str]:
    """Runs, prints and writes what the names or patterns select, all where there are none.

    sizes: symbols, instead of those of the workloads. Returns a line for each coder that failed. Raises
    ValueError for arguments that make no sense, OSError and ImportError where the files can't be written.
    """
    names = select(workloads, WORKLOADS, "workload")
    chosen = select(coders, (name for _, name in CODERS), "coder")
    if min([runs, threads, *sizes]) < 1:
        raise ValueError("runs, threads and symbols must be at least 1")
    # What would stop the writing must stop it before the work.
    for path in (json_path, plot_path):
        if path:
            check_writable(path, force)
    if plot_path and not importlib.util.find_spec("matplotlib"):
        raise ImportError("the plot needs matplotlib: pip install 'quadrans[bench]'")
    kinds = {WORKLOADS[name].kind for name in names}
    entries = {key: coder for key, coder in CODERS.items() if key[0] in kinds and key[1] in chosen}
    if not entries:
        raise ValueError(f"{', '.join(chosen)} can't do {', '.join(names)}")

    missing = missing_peers({coder.peer for coder in entries.values() if coder.peer})
    entries = {key: coder for key, coder in entries.items() if coder.peer not in missing}
    if any(coder.peer for coder in entries.values()) and importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(threads)
    context = environment(runs, threads)
    packages = (f"{name} {number}" for name, number in context["packages"].items())
    machine = "{cpu}, {simd}, load {load}, Python {python}".format(**context)
    console.print(", ".join([machine, *packages]))
    console.print(f"{threads} thread(s), median of {runs} run(s), every round trip checked")
    # Before the tables, that nobody waits for them; after, that nobody misses it.
    notes = [f"{peer} is left out: {reason}" for peer, reason in missing.items()]
    print_lines(console, notes, "yellow")

    # What was imported so far stays: collections need not walk it again and again.
    gc.freeze()
    rows: list[Row] = []
    try:
        for name in names:
            for size in sizes or WORKLOADS[name].sizes:
                rows += run(name, size, entries, runs, threads, console)
    finally:
        gc.unfreeze()

    about = {(coder.name, coder.about): kind for (kind, _), coder in entries.items()}
    several = Counter(name for name, _ in about)
    for (name, text), kind in about.items():
        console.print(f"{name}, {kind}: {text}" if several[name] > 1 else f"{name}: {text}")
    print_lines(console, notes, "yellow")
    if json_path:
        found = {"environment": context, "missing": missing, "rows": [asdict(row) for row in rows]}
        write_file(json_path, lambda path: path.write_text(json.dumps(found, indent=1)), force)
    if plot_path and any(not row.error for row in rows):
        write_file(plot_path, lambda path: plot(rows, path), force)
    return [f"{row.coder}, {row.workload}, {row.symbols} symbols: {row.error}" for row in rows if row.error]


def run(
    name: str,
    size: int,
    entries: dict[tuple[str, str], Coder],
    runs: int,
    threads: int,
    console: Console,
) -> list[Row]:
    """One workload at one size, printed: a row for each coder of its kind."""
    workload = WORKLOADS[name]
    able = [coder for (kind, _), coder in entries.items() if kind == workload.kind]
    fitting = [coder for coder in able if size <= coder.most]
    rows = []
    if fitting:
        load = workload.make(size)
        for coder in fitting:
            with console.status(f"{workload.about}, {size:,} symbols: {coder.name}"):
                rows.append(measure(coder, name, load, runs, threads))
        console.print(table(rows))
    print_lines(
        console, (f"{c.name} is left out: too much memory for {size:,}" for c in able if c not in fitting)
    )
    print_lines(console, (f"FAILED: {row.coder}: {row.error}" for row in rows if row.error), "bold red")
    return rows


def print_lines(console: Console, lines: Iterable[str], style: str | None = None) -> None:
    for line in lines:
        console.print(line, style=style)


def select(patterns: Iterable[str], names: Iterable[str], what: str) -> list[str]:
    """The names that match any of the patterns (fnmatch), all if there is none. Raises ValueError."""
    names, patterns = list(dict.fromkeys(names)), list(patterns)
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise ValueError(f"no {what} is called {pattern!r}; there are {', '.join(names)}")
    return [name for name in names if not patterns or any(fnmatch(name, pattern) for pattern in patterns)]


def missing_peers(peers: Iterable[str]) -> dict[str, str]:
    """Of these peers those that can't be used here, and why."""
    reasons = {}
    for peer in sorted(peers):
        try:
            PEERS[peer]()
        # An extension module may fail to load, or to compile, in any way.
        except Exception as error:
            absent = isinstance(error, ModuleNotFoundError) and error.name in (peer, None)
            reasons[peer] = "not installed" if absent else f"can't be used: {one_line(error)}"
    return reasons


def environment(runs: int, threads: int) -> dict[str, Any]:
    """What the figures depend on."""
    from llvmlite.binding import get_host_cpu_name

    from ..entropy._simd import LEVELS

    packages = {}
    for name in ("quadrans", "numpy", "numba", "torch", *PEERS):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "cpu": get_host_cpu_name(),
        "simd": LEVELS[simd_level()],
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": packages,
        "runs": runs,
        "threads": threads,
    }
