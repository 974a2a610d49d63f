"""The bitstream of `rans64` in plain Python integers, in the order of FORMAT.md: slow, and meant to be read.

The fast coder is tested against it, bytes included. It raises the same `CorruptStream`, and checks no
arguments.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from .errors import CorruptStream
from .reference import Row, cell_of, read_table
from .table import CdfTable

# Symbols: each becomes intervals (start, freq, precision), the first under its row, any others, for the
# payload of an escape, four bits as they are.

Interval = tuple[int, int, int]
MAX_NIBBLES = 8


def wrapped(number: int) -> int:
    """The signed 32-bit integer that equals the number modulo 2^32."""
    return (number + (1 << 31)) % (1 << 32) - (1 << 31)


def intervals_of(symbol: int, row: Row) -> list[Interval]:
    """What is coded for one symbol, in the decoder's order."""
    regular = len(row.freqs) - 1
    value = wrapped(symbol - row.offset)
    if 0 <= value < regular:
        return [(sum(row.freqs[:value]), row.freqs[value], 16)]
    raw = -2 * value - 1 if value < 0 else 2 * (value - regular)
    nibbles = []
    while raw:
        nibbles.append(raw & 15)
        raw >>= 4
    payload = [(nibble, 1, 4) for nibble in [len(nibbles), *nibbles]]
    return [(sum(row.freqs[:-1]), row.freqs[-1], 16), *payload]


# The coder

STATE_LOW = 1 << 31


def encode(symbols: Iterable[int], indexes: Iterable[int], table: CdfTable) -> bytes:
    """Stream of all symbols, equal to `rans64.encode`."""
    _, rows = read_table(table.to_bytes())
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


def decode(stream: bytes, indexes: Iterable[int], table: CdfTable) -> list[int]:
    """Symbols of a whole stream."""
    _, rows = read_table(table.to_bytes())
    if len(stream) < 8 or len(stream) % 4:
        raise CorruptStream(f"stream of {len(stream)} bytes")
    x, *rest = struct.unpack(f"<Q{len(stream) // 4 - 2}I", stream)
    if not STATE_LOW <= x < 1 << 63:
        raise CorruptStream(f"stream starts in state {x}")
    words = iter(rest)

    def get(freqs: tuple[int, ...], precision: int) -> int:
        nonlocal x
        slot = x & ((1 << precision) - 1)
        cell, start = cell_of(slot, freqs)
        x = freqs[cell] * (x >> precision) + slot - start
        if x < STATE_LOW:
            word = next(words, None)
            if word is None:
                raise CorruptStream("stream ends before its symbols do")
            x = x << 32 | word
        return cell

    symbols = []
    for index in indexes:
        row = rows[index]
        regular = len(row.freqs) - 1
        value = get(row.freqs, 16)
        if value == regular:
            count = get((1,) * 16, 4)
            if count > MAX_NIBBLES:
                raise CorruptStream(f"escape of {count} nibbles, the most is {MAX_NIBBLES}")
            nibbles = [get((1,) * 16, 4) for _ in range(count)]
            raw = sum(nibble << (4 * i) for i, nibble in enumerate(nibbles))
            value = -1 - raw // 2 if raw & 1 else regular + raw // 2
            if nibbles[-1:] == [0] or value >= 1 << 31:
                raise CorruptStream(f"escape to {value}, outside int32 or with a zero as last nibble")
        symbols.append(wrapped(value + row.offset))
    if next(words, None) is not None or x != STATE_LOW:
        raise CorruptStream(f"after {len(symbols)} symbols words are left or the state isn't 2^31")
    return symbols
