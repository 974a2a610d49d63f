"""The bitstream of `rans64` in plain Python integers, in the order of FORMAT.md: slow, and meant to be read.

The fast coder is tested against it, bytes included. It raises the same `CorruptStream`, and checks no
arguments.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import accumulate

from .errors import CorruptStream
from .reference import read_table
from .table import CdfTable

# Symbols: each becomes intervals (start, freq, precision), the first under its row, any others, for the
# payload of an escape, four bits as they are.

Interval = tuple[int, int, int]
Row = tuple[list[int], int]
"""Cumulative frequencies of 16 bits, of as many cells as there are symbols and last the escape, and the
symbol of the first cell. They need not begin at 0, end at 2^16, or be fit for use where nothing uses them."""
MAX_NIBBLES = 8


def wrapped(number: int) -> int:
    """The signed 32-bit integer that equals the number modulo 2^32."""
    return (number + (1 << 31)) % (1 << 32) - (1 << 31)


def rows_of(table: CdfTable) -> list[Row]:
    """The rows of a table."""
    _, rows = read_table(table.to_bytes())
    return [([0, *accumulate(row.freqs)], row.offset) for row in rows]


def intervals_of(symbol: int, row: Row) -> list[Interval]:
    """What is coded for one symbol, in the decoder's order."""
    cdf, offset = row
    regular = len(cdf) - 2
    value = wrapped(symbol - offset)
    cell = value if 0 <= value < regular else regular
    intervals = [(cdf[cell], cdf[cell + 1] - cdf[cell], 16)]
    if cell < regular:
        return intervals
    raw = -2 * value - 1 if value < 0 else 2 * (value - regular)
    nibbles = []
    while raw:
        nibbles.append(raw & 15)
        raw >>= 4
    return intervals + [(nibble, 1, 4) for nibble in [len(nibbles), *nibbles]]


# The coder

STATE_LOW = 1 << 31


def encode(symbols: Iterable[int], indexes: Iterable[int], table: CdfTable | Sequence[Row]) -> bytes:
    """Stream of all symbols, equal to `rans64.encode`."""
    rows = rows_of(table) if isinstance(table, CdfTable) else table
    todo: list[Interval] = []
    for symbol, index in zip(symbols, indexes, strict=True):
        todo += intervals_of(symbol, rows[index])
    return write(todo)


def write(todo: list[Interval]) -> bytes:
    """Stream of intervals in the decoder's order, be they legal or not."""
    x, words = STATE_LOW, []
    for start, freq, precision in reversed(todo):
        if x >= freq << (63 - precision):
            words.append(x & 0xFFFFFFFF)
            x >>= 32
        x = (x // freq << precision) + x % freq + start
    words.reverse()
    return struct.pack(f"<Q{len(words)}I", x, *words)


def decode(stream: bytes, indexes: Iterable[int], table: CdfTable | Sequence[Row]) -> list[int]:
    """Symbols of a whole stream."""
    rows = rows_of(table) if isinstance(table, CdfTable) else table
    if len(stream) < 8 or len(stream) % 4:
        raise CorruptStream(f"stream of {len(stream)} bytes")
    x, *rest = struct.unpack(f"<Q{len(stream) // 4 - 2}I", stream)
    if not STATE_LOW <= x < 1 << 63:
        raise CorruptStream(f"stream starts in state {x}")
    words = iter(rest)

    def get(cdf: Sequence[int], precision: int) -> int:
        nonlocal x
        slot = x & ((1 << precision) - 1)
        cell = next((i for i, end in enumerate(cdf) if end > slot), 0) - 1
        if cell < 0:
            raise CorruptStream(f"slot {slot} is in no cell of its row")
        x = (cdf[cell + 1] - cdf[cell]) * (x >> precision) + slot - cdf[cell]
        if x < STATE_LOW:
            word = next(words, None)
            if word is None:
                raise CorruptStream("stream ends before its symbols do")
            x = x << 32 | word
        return cell

    symbols = []
    for index in indexes:
        cdf, offset = rows[index]
        regular = len(cdf) - 2
        value = get(cdf, 16)
        if value == regular:
            count = get(range(17), 4)
            if count > MAX_NIBBLES:
                raise CorruptStream(f"escape of {count} nibbles, the most is {MAX_NIBBLES}")
            nibbles = [get(range(17), 4) for _ in range(count)]
            raw = sum(nibble << (4 * i) for i, nibble in enumerate(nibbles))
            value = -1 - raw // 2 if raw & 1 else regular + raw // 2
            if nibbles[-1:] == [0] or value >= 1 << 31:
                raise CorruptStream(f"escape to {value}, outside int32 or with a zero as last nibble")
        symbols.append(wrapped(value + offset))
    if next(words, None) is not None or x != STATE_LOW:
        raise CorruptStream(f"after {len(symbols)} symbols words are left or the state isn't 2^31")
    return symbols
