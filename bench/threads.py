"""What threads bring: two streams in two Python threads, and one stream's groups in several.

python bench/threads.py [--threads N] [--repetitions N]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable

import numpy as np

from quadrans.bench.workloads import BASE, gaussians
from quadrans.entropy import decode, encode, gaussian_table

LARGE = 4_000_000
DECODES = 50


def milliseconds(work: Callable[[], object], repetitions: int) -> float:
    """The median, after one run that isn't counted."""
    times = []
    for _ in range(repetitions + 1):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=9)
    arguments = parser.parse_args()
    threads, repetitions = arguments.threads, arguments.repetitions
    table = gaussian_table()

    load = gaussians(0.6, BASE)
    stream = encode(load.symbols, load.indexes, table)

    def alone() -> None:
        for _ in range(DECODES):
            decode(stream, load.indexes, table)

    def together() -> None:
        workers = [threading.Thread(target=alone) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    one, several = milliseconds(alone, repetitions), milliseconds(together, repetitions)
    print(
        f"{DECODES} decodes of {BASE:,} symbols in one thread {one:.1f} ms, in each of {threads} threads "
        f"{several:.1f} ms: {several / one:.2f} times as long"
    )

    large = gaussians(0.6, LARGE)
    stream = encode(large.symbols, large.indexes, table)
    if not np.array_equal(decode(stream, large.indexes, table, threads=threads), large.symbols):
        sys.exit("the stream decodes to other symbols")

    def split(parts: int) -> Callable[[], object]:
        return lambda: decode(stream, large.indexes, table, threads=parts)

    one, several = (milliseconds(split(parts), repetitions) for parts in (1, threads))
    print(
        f"one stream of {LARGE:,} symbols with one thread {one:.2f} ms, with {threads} {several:.2f} ms: "
        f"{several / one:.2f} times as long"
    )


if __name__ == "__main__":
    main()
