"""Work split over threads: the compiled loops release the GIL."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any


def split(work: Callable[[int, int], Any], count: int, threads: int) -> list[Any]:
    """[work(begin, end), ...] over contiguous parts of range(count), in order, at most `threads` at once."""
    parts = min(threads, count)
    if parts <= 1:
        return [work(0, count)]
    bounds = [count * part // parts for part in range(parts + 1)]
    return list(_pool().map(work, bounds[:-1], bounds[1:]))


@cache
def _pool() -> ThreadPoolExecutor:
    """One for all: however many threads calls ask for, more than the cores are of no use."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="quadrans")


# A forked child has none of its parent's threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
