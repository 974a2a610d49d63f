"""Running coders on workloads: times, sizes, peak memory, and the check of every round trip.

A time is the median of several runs; a run repeats short jobs until it lasts long enough to be measured.
"""

from __future__ import annotations

import ctypes
import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .coders import Coder, Job, Stream
from .workloads import Load

# Jobs shorter than this many seconds are repeated within a run.
_RUN_SECONDS, _MOST_REPEATS = 0.01, 1000


@dataclass
class Row:
    """One coder on one workload. Times: of the whole workload. Peaks: memory above that in use before."""

    coder: str
    workload: str
    symbols: int
    calls: int
    ideal_bytes: float
    table_bytes: float | None = None
    """Cost under the coder's own quantized table."""
    bytes: int | None = None
    encode_ms: float | None = None
    decode_ms: float | None = None
    encode_runs_ms: list[float] = field(default_factory=list)
    decode_runs_ms: list[float] = field(default_factory=list)
    encode_peak_bytes: int | None = None
    decode_peak_bytes: int | None = None
    error: str = ""


def measure(coder: Coder, workload: str, load: Load, runs: int, threads: int) -> Row:
    """The row of one coder. An exception or a wrong symbol ends it, with the reason in `error`."""
    calls = len(load.symbols) if load.symbols.ndim == 2 else 1
    row = Row(coder.name, workload, load.symbols.size, calls, load.ideal_bits / 8)
    try:
        with coder.within():
            _measure(row, coder.prepare(load, threads), load, runs)
    # Coders are foreign code: whatever goes wrong in one belongs into its row, and the others go on.
    except Exception as error:
        row.encode_ms = row.decode_ms = row.bytes = None
        row.error = one_line(error)
    return row


def _measure(row: Row, job: Job, load: Load, runs: int) -> None:
    def check(symbols: Any) -> None:
        decoded = np.asarray(symbols).reshape(load.symbols.shape)
        if wrong := int(np.count_nonzero(decoded != load.symbols)):
            raise AssertionError(f"the round trip failed: {wrong} of {load.symbols.size} symbols are wrong")

    stream = job.encode()
    row.bytes = _size(stream)

    def check_stream(again: Stream) -> None:
        if again != stream:
            raise AssertionError("encoding the same symbols again gave another stream")

    check(job.decode(stream))
    row.encode_runs_ms = times(job.encode, check_stream, runs)
    row.decode_runs_ms = times(lambda: job.decode(stream), check, runs)
    row.encode_ms = statistics.median(row.encode_runs_ms)
    row.decode_ms = statistics.median(row.decode_runs_ms)
    row.encode_peak_bytes = _peak(job.encode)
    row.decode_peak_bytes = _peak(lambda: job.decode(stream))
    row.table_bytes = job.table_bits() / 8 if job.table_bits else None


def times(work: Callable[[], Any], check: Callable[[Any], None], runs: int) -> list[float]:
    """Times of one `work` in ms, one for each run; `check` gets the last result of each run."""
    start = time.perf_counter()
    work()
    repeats = min(_MOST_REPEATS, math.ceil(_RUN_SECONDS / (time.perf_counter() - start)))
    times = []
    gc.collect()
    for _ in range(runs):
        start = time.perf_counter()
        for _ in range(repeats):
            result = work()
        times.append(1000 * (time.perf_counter() - start) / repeats)
        check(result)
        del result
    return times


def _peak(work: Callable[[], Any]) -> int | None:
    """Resident memory that `work` needs above what is in use before it; None where the system can't say."""
    status = Path("/proc/self/status")

    def kilobytes(key: str) -> int:
        return int(status.read_text().partition(f"{key}:")[2].split()[0])

    try:
        # Memory that the allocator keeps from earlier work would hide what this work takes.
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = kilobytes("VmRSS")
        work()
        return 1024 * max(0, kilobytes("VmHWM") - before)
    except (OSError, AttributeError, IndexError):
        return None


def _size(stream: Stream) -> int:
    parts = [stream] if isinstance(stream, bytes) else stream
    if not all(isinstance(part, bytes) for part in parts):
        raise TypeError(f"encode gave {type(stream).__name__}, not bytes")
    return sum(len(part) for part in parts)


def one_line(error: Exception) -> str:
    """Its type and message."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
