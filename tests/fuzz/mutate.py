"""Throws random and mutated streams at every decoder, fast: `python tests/fuzz/mutate.py --seconds 3600`.

Batches are numbered and depend on the seed and their number alone; what fails is printed with both.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import random
import resource
import time
from collections import Counter
from dataclasses import dataclass, field

import fuzz_targets
import guarded
from fuzz_targets import ACCEPTED, JOBS, use_level
from unusual_streams import mutated

# Of the streams of a batch, one in THOROUGH is decoded in every way.
BATCH, THOROUGH = 400, 100
# A batch takes a fraction of a second, but for what is compiled in it.
HANG_S = 300


@dataclass
class Totals:
    """What came of the streams so far."""

    streams: int = 0
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    slowest: dict[str, tuple[float, str]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.streams} streams, peak memory {peak_mib():.0f} MiB"]
        for name, (spent, where) in self.slowest.items():
            outcomes = (
                f"{n} {outcome}" for (job, outcome), n in sorted(self.outcomes.items()) if job == name
            )
            lines.append(f"  {name}: {', '.join(outcomes)}; slowest {1e3 * spent:.2f} ms ({where})")
        return "\n".join(lines)


def peak_mib() -> float:
    """The most memory that the process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_batch(seed: int, number: int, names: list[str], totals: Totals, size: int = BATCH) -> None:
    """One job, its stream and mutations of it."""
    rng = random.Random(f"{seed}/{number}")
    name = names[number % len(names)]
    level = rng.choice(fuzz_targets.LEVELS)
    use_level(level)
    job, other = JOBS[name](rng), JOBS[name](rng).stream
    for i in range(size):
        stream = mutated(rng, job.stream, other) if i else job.stream
        begin = time.thread_time()
        try:
            outcome = job.verdict(stream)
            spent = time.thread_time() - begin
            if i % THOROUGH == 0:
                job.verdicts_agree(stream, rng)
                use_level(level)
            if i == 1 and number % 8 == 0:
                job.memory_is_bounded(stream)
        except Exception:
            print(f"seed {seed}, batch {number}: {name}, {level}, stream {i}: {stream.hex()}", flush=True)
            raise
        totals.streams += 1
        totals.outcomes[name, outcome] += 1
        if spent > totals.slowest.get(name, (0.0, ""))[0]:
            totals.slowest[name] = spent, f"batch {number}, stream {i}"


def warm_up(names: list[str], batches: int) -> None:
    """Compiles what the batches use: for each level, each number of lanes."""
    totals = Totals()
    for number in range(batches * len(names)):
        run_batch(-1, number, names, totals, 2)


def main() -> None:
    """Runs batches until there were enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=10_000_000, help="stop after so many")
    parser.add_argument("--seconds", type=float, default=3600, help="or after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first batch")
    parser.add_argument(
        "--guarded", action="store_true", help="arrays lie between pages that end the process"
    )
    parser.add_argument("--only", choices=JOBS, nargs="+", default=list(JOBS), help="only these decoders")
    options = parser.parse_args()
    faulthandler.enable()
    print(f"levels {', '.join(fuzz_targets.LEVELS)}; compiling", flush=True)
    if options.guarded:
        guarded.guard()
    warm_up(options.only, min(200, options.streams // 1000))
    gc.freeze()
    totals, number, begin = Totals(), options.first, time.monotonic()
    print(f"peak memory {peak_mib():.0f} MiB before the first stream", flush=True)
    told = begin
    while totals.streams < options.streams and time.monotonic() - begin < options.seconds:
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        run_batch(options.seed, number, options.only, totals)
        number += 1
        if time.monotonic() - told > 60:
            told = time.monotonic()
            print(f"{told - begin:.0f} s, before batch {number}: {totals}", flush=True)
    faulthandler.cancel_dump_traceback_later()
    print(f"{time.monotonic() - begin:.0f} s, before batch {number}: {totals}\nno failure")
    assert sum(n for (_, outcome), n in totals.outcomes.items() if outcome == ACCEPTED) > 0


if __name__ == "__main__":
    main()
