"""Jobs for torchac's functions, drawn from PCG64's raw integers: the same with every NumPy."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from quadrans.entropy import reference_torchac as plain

CASES = 500


def torchac_version() -> str | None:
    """The installed version of torchac, if any."""
    try:
        return version("torchac")
    except PackageNotFoundError:
        return None


class Job(NamedTuple):
    """Arguments of torchac's functions; normalize is None where the CDF is of integers."""

    cdf: np.ndarray
    symbols: np.ndarray
    normalize: bool | None

    def rows(self) -> list[list[int]]:
        """Every symbol's row as plain integers."""
        return integers(self.cdf.reshape(-1, self.cdf.shape[-1]), self.normalize)

    def encode(self, functions) -> bytes:
        """What one of the modules with torchac's functions makes of it."""
        if self.normalize is None:
            return functions.encode_int16_normalized_cdf(self.cdf, self.symbols)
        return functions.encode_float_cdf(self.cdf, self.symbols, self.normalize)

    def decode(self, functions, stream: bytes):
        if self.normalize is None:
            return functions.decode_int16_normalized_cdf(self.cdf, stream)
        return functions.decode_float_cdf(self.cdf, stream, self.normalize)


def integers(cdf: np.ndarray, normalize: bool | None) -> list[list[int]]:
    if normalize is None:
        return cdf.view(np.uint16).tolist()
    return [plain.to_row(row, normalize, cdf.dtype.char) for row in cdf.tolist()]


def draw(raw: np.random.PCG64, below: int) -> int:
    """An integer in 0 .. below - 1."""
    return int(raw.random_raw()) % below


def partition(raw: np.random.PCG64, parts: int, total: int) -> list[int]:
    """parts + 1 integers ascending strictly from 0 to total; half of the time most cells are narrow."""
    spare = total - parts
    reach = spare if draw(raw, 2) else draw(raw, spare + 1)
    cuts = sorted(draw(raw, reach + 1) for _ in range(parts - 1))
    return [0, *(cut + i + 1 for i, cut in enumerate(cuts)), total]


def found_for_sure(row: list[int]) -> list[int]:
    """The symbols that FORMAT.md's search finds for every count in their cells."""
    if all(low < high for low, high in pairwise(row[:-1])):
        return list(range(len(row) - 1))
    sure = []
    for symbol in range(len(row) - 1):
        start, end = plain.cell_of(symbol, row)
        left, right, fine = 0, len(row) - 1, start < end
        while left + 1 < right:
            m = (left + right) // 2
            fine &= m == symbol or (row[m] < start if m < symbol else row[m] >= end)
            left, right = (m, right) if m <= symbol else (left, m)
        if fine:
            sure.append(symbol)
    return sure


def spoiled(raw: np.random.PCG64, row: list[int]) -> list[int]:
    """The row with some values changed: it doesn't ascend, or not strictly, or doesn't begin at 0."""
    row = row.copy()
    for _ in range(1 + draw(raw, 4)):
        at = draw(raw, len(row))
        row[at] = row[at - 1] if draw(raw, 2) else draw(raw, 1 << 16)
    return row


@cache
def job(seed: int) -> Job:
    """One of CASES; six kinds take turns."""
    raw = np.random.PCG64(seed)
    kind, columns, sizes = seed % 6, 2 + draw(raw, 120), [1 + draw(raw, 12) for _ in range(1 + draw(raw, 3))]
    if seed < 12:
        columns, sizes = 2 + seed // 6, [seed]
    elif seed % 100 == 49:
        columns, sizes = 2000 + draw(raw, 3000), [50]
    if kind < 2:
        # The first ascends, so some symbol can be coded.
        rows = [partition(raw, columns - 1, 1 << 16) for _ in range(3)]
        rows[1:] = [spoiled(raw, row) if kind else row for row in rows[1:]]
        cdf, normalize = np.array(rows, np.int64).astype(np.int16), None
    else:
        # As float16 these aren't exact; the conversion is.
        rows = [partition(raw, columns - 1, 1 << 24) for _ in range(3)]
        kinds = [(np.float32, True), (np.float32, False), (np.float64, draw(raw, 2) > 0), (np.float16, True)]
        dtype, normalize = kinds[kind - 2]
        cdf = (np.array(rows) / (1 << 24)).astype(dtype)
    sure = [found_for_sure(row) for row in integers(cdf, normalize)]
    usable = [i for i in range(3) if sure[i]]
    picks = [usable[draw(raw, len(usable))] for _ in range(int(np.prod(sizes)))]
    symbols = np.array([sure[i][draw(raw, len(sure[i]))] for i in picks], np.int16)
    return Job(cdf[picks].reshape(*sizes, columns), symbols.reshape(sizes), normalize)
