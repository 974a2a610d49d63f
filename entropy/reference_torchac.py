"""The bitstream of `torchac` in plain integers, bit by bit as in FORMAT.md: slow, and meant to be read.

The fast coder is tested against it, bytes included. It raises the same `CorruptStream`, and ValueError for
symbols without a cell, and checks nothing else. A row is a list of integers in 0..65535; its last is unused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

from .errors import CorruptStream

Row = Sequence[int]

FULL, HALF, QUARTER = 1 << 32, 1 << 31, 1 << 30


def to_row(values: Sequence[float], needs_normalization: bool, kind: str = "f") -> list[int]:
    """The row of float values below 2^31 / 2^16; kind: e, f or d, for binary16, binary32 or binary64."""
    factor = (1 << 16) - (len(values) - 1 if needs_normalization else 0)
    slope = 1 if needs_normalization else 0
    return [(round(product(value, factor, kind)) + slope * i) % (1 << 16) for i, value in enumerate(values)]


def product(value: float, factor: int, kind: str) -> float:
    """Rounded to the type; the product of two shorter ones is exact as a float64."""
    result = value * factor
    # One of binary16 is rounded to binary32 first. Packing rounds, and raises for what becomes infinite.
    for code in {"e": "fe", "f": "f", "d": "d"}[kind]:
        try:
            (result,) = struct.unpack(f"<{code}", struct.pack(f"<{code}", result))
        except OverflowError:
            return 0.0
    return result


def cell_of(symbol: int, row: Row) -> tuple[int, int]:
    """(start, end) of a symbol's cell."""
    return row[symbol], 1 << 16 if symbol == len(row) - 2 else row[symbol + 1]


class Interval:
    """The numbers low .. high, of 32 bits, and how they are doubled."""

    def __init__(self) -> None:
        self.low, self.high = 0, FULL - 1

    @property
    def width(self) -> int:
        """How many numbers it has: more than 2^30 before each symbol."""
        return self.high - self.low + 1

    def narrow(self, start: int, end: int) -> None:
        """To the part of a cell."""
        width, low = self.width, self.low
        self.low, self.high = low + (width * start >> 16), low + (width * end >> 16) - 1

    def doublings(self) -> Iterator[int]:
        """Doubles it until it can't be. Yields what was taken from its ends before each: 0, 2^31 or 2^30."""
        while True:
            if self.high < HALF:
                off = 0
            elif self.low >= HALF:
                off = HALF
            elif self.low >= QUARTER and self.high < HALF + QUARTER:
                off = QUARTER
            else:
                return
            self.low, self.high = 2 * (self.low - off), 2 * (self.high - off) + 1
            yield off


def encode(symbols: Iterable[int], rows: Iterable[Row]) -> bytes:
    """Stream of symbols, each under its row."""
    interval, bits, pending = Interval(), list[int](), 0
    for symbol, row in zip(symbols, rows, strict=True):
        if not 0 <= symbol <= len(row) - 2:
            raise ValueError(f"symbol {symbol}, legal are 0..{len(row) - 2}")
        start, end = cell_of(symbol, row)
        if start >= end:
            raise ValueError(f"symbol {symbol} has an empty cell, from {start} to {end}")
        interval.narrow(start, end)
        for off in interval.doublings():
            if off == QUARTER:
                pending += 1
            else:
                bit = int(off == HALF)
                bits += [bit] + [1 - bit] * pending
                pending = 0
    bit = int(interval.low >= QUARTER)
    bits += [bit] + [1 - bit] * (pending + 1)
    bits += [0] * (-len(bits) % 8)
    return bytes(int("".join(map(str, bits[i : i + 8])), 2) for i in range(0, len(bits), 8))


def search(count: int, row: Row) -> int:
    """The symbol for a count."""
    left, right = 0, len(row) - 1
    while left + 1 < right:
        middle = (left + right) // 2
        if row[middle] == count and count < cell_of(middle, row)[1]:
            return middle
        if row[middle] <= count:
            left = middle
        else:
            right = middle
    return left


def decode(stream: bytes, rows: Iterable[Row]) -> list[int]:
    """The symbols of a stream, one for each row."""
    bits = iter("".join(f"{byte:08b}" for byte in stream))

    def get() -> int:
        return int(next(bits, "0"))

    interval, value, taken, symbols = Interval(), 0, 2, list[int]()
    for _ in range(32):
        value = 2 * value + get()
    for row in rows:
        count = ((value - interval.low + 1 << 16) - 1) // interval.width
        symbol = search(count, row)
        start, end = cell_of(symbol, row)
        if not start <= count < end or symbol > 0x7FFF:
            raise CorruptStream(f"count {count} is in no cell")
        symbols.append(symbol)
        interval.narrow(start, end)
        for off in interval.doublings():
            value = 2 * (value - off) + get()
            taken += 1
    if taken > 8 * len(stream):
        raise CorruptStream(f"stream of {len(stream)} bytes, its symbols take {taken} bits")
    return symbols
