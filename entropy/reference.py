"""The stream format in plain Python integers, in the order of FORMAT.md: slow, and meant to be read.

The fast coders are tested against it, compressed bytes included. It raises the same `CorruptStream`
and `TableMismatch`, and checks no arguments.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import NamedTuple

from .errors import CorruptStream, TableMismatch
from .table import CdfTable

# 1. Table


class Row(NamedTuple):
    """One distribution: `freqs[i]` is for symbol offset + i, the last one for the escape."""

    offset: int
    freqs: tuple[int, ...]


def read_table(data: bytes) -> tuple[int, list[Row]]:
    """(precision, rows) of a table's canonical bytes."""
    magic, precision, row_count, _ = struct.unpack_from("<4sIII", data)
    if magic != b"QCT\x01":
        raise ValueError(f"table starts with {magic!r}")
    offsets = struct.unpack_from(f"<{row_count}i", data, 16)
    lengths = struct.unpack_from(f"<{row_count}I", data, 16 + 4 * row_count)
    position, rows = 16 + 8 * row_count, []
    for offset, length in zip(offsets, lengths, strict=True):
        rows.append(Row(offset, struct.unpack_from(f"<{length}H", data, position)))
        position += 2 * length
    return precision, rows


# 2. Symbols, cells and escapes: a symbol becomes intervals (start, freq), the first under its row,
# any others, for the payload of an escape, uniform over 16 values.

Interval = tuple[int, int]
MAX_NIBBLES = 9


def intervals_of(symbol: int, row: Row, precision: int) -> list[Interval]:
    """What is coded for one symbol, in the decoder's order."""
    regular = len(row.freqs) - 1
    above = symbol - row.offset
    if 0 <= above < regular:
        return [(sum(row.freqs[:above]), row.freqs[above])]
    raw = 2 * (above - regular) if above >= 0 else 2 * (-above - 1) + 1
    nibbles = []
    while raw:
        nibbles.append(raw & 15)
        raw >>= 4
    uniform = 1 << (precision - 4)
    payload = [(value * uniform, uniform) for value in [len(nibbles), *nibbles]]
    return [(sum(row.freqs[:-1]), row.freqs[-1]), *payload]


# Decodes one cell: takes frequencies, returns the position of the cell.
Get = Callable[[tuple[int, ...]], int]


def symbol_from(get: Get, row: Row, precision: int) -> int:
    """One symbol, its escape included."""
    regular = len(row.freqs) - 1
    cell = get(row.freqs)
    if cell < regular:
        return row.offset + cell
    uniform = (1 << (precision - 4),) * 16
    count = get(uniform)
    if count > MAX_NIBBLES:
        raise CorruptStream(f"escape of {count} nibbles, the most is {MAX_NIBBLES}")
    nibbles = [get(uniform) for _ in range(count)]
    raw = sum(nibble << (4 * i) for i, nibble in enumerate(nibbles))
    symbol = row.offset - 1 - raw // 2 if raw & 1 else row.offset + regular + raw // 2
    if nibbles[-1:] == [0] or not -(1 << 31) <= symbol < 1 << 31:
        raise CorruptStream(f"escape to {symbol}, outside int32 or with a zero as last nibble")
    return symbol


def cell_of(slot: int, freqs: tuple[int, ...]) -> tuple[int, int]:
    """(cell, its start) that holds the slot."""
    cell, start = 0, 0
    while slot >= start + freqs[cell]:
        start += freqs[cell]
        cell += 1
    return cell, start


# 3. Header

VERSION = 1
KIND_LANES, KIND_RANGE = 0, 1


def write_header(kind: int, precision: int, log2_lanes: int) -> bytes:
    """The two bytes that every stream starts with."""
    return bytes((VERSION << 4 | kind, log2_lanes << 4 | precision - 1))


def read_header(stream: bytes, kind: int, max_log2_lanes: int, table_precision: int) -> int:
    """log2 of the lanes, once the header is found legal and of the table's precision."""
    if len(stream) < 2:
        raise CorruptStream(f"stream of {len(stream)} bytes, the header alone has 2")
    if stream[0] != VERSION << 4 | kind:
        raise CorruptStream(f"stream starts with 0x{stream[0]:02x}")
    precision, log2_lanes = (stream[1] & 15) + 1, stream[1] >> 4
    if precision < 4 or log2_lanes > max_log2_lanes:
        raise CorruptStream(f"precision {precision} and 2**{log2_lanes} lanes in the header")
    if precision != table_precision:
        raise TableMismatch(f"stream of precision {precision}, table of precision {table_precision}")
    return log2_lanes


# 4. Lanes coder

STATE_LOW = 1 << 16


def encode_lanes(symbols: Iterable[int], indexes: Iterable[int], table: CdfTable, lanes: int) -> bytes:
    """Stream of the lanes coder, equal to `quadrans.entropy.encode(..., lanes)`."""
    precision, rows = read_table(table.to_bytes())
    todo = []
    for j, (symbol, index) in enumerate(zip(symbols, indexes, strict=True)):
        todo += [(j % lanes, *interval) for interval in intervals_of(symbol, rows[index], precision)]
    return write_lanes(todo, precision, lanes)


def write_lanes(todo: list[tuple[int, int, int]], precision: int, lanes: int) -> bytes:
    """Stream of (lane, start, freq) in the decoder's order, be they legal or not."""
    states, words = [STATE_LOW] * lanes, []
    for lane, start, freq in reversed(todo):
        x = states[lane]
        if x >= freq << (32 - precision):
            words.append(x & 0xFFFF)
            x >>= 16
        states[lane] = (x // freq << precision) + x % freq + start
    words.reverse()
    header = write_header(KIND_LANES, precision, lanes.bit_length() - 1)
    return header + struct.pack(f"<{lanes}I{len(words)}H", *states, *words)


def decode_lanes(stream: bytes, indexes: Iterable[int], table: CdfTable) -> list[int]:
    """Symbols of a whole stream of the lanes coder."""
    precision, rows = read_table(table.to_bytes())
    lanes = 1 << read_header(stream, KIND_LANES, 6, precision)
    if len(stream) < 2 + 4 * lanes or len(stream) % 2:
        raise CorruptStream(f"stream of {len(stream)} bytes for {lanes} lanes")
    states = list(struct.unpack_from(f"<{lanes}I", stream, 2))
    if min(states) < STATE_LOW:
        raise CorruptStream(f"a lane starts in {min(states)}, below 2**16")
    words = iter(struct.unpack_from(f"<{len(stream) // 2 - 1 - 2 * lanes}H", stream, 2 + 4 * lanes))
    lane = 0

    def get(freqs: tuple[int, ...]) -> int:
        x = states[lane]
        slot = x & ((1 << precision) - 1)
        cell, start = cell_of(slot, freqs)
        x = freqs[cell] * (x >> precision) + slot - start
        if x < STATE_LOW:
            word = next(words, None)
            if word is None:
                raise CorruptStream("stream ends before its symbols do")
            x = x << 16 | word
        states[lane] = x
        return cell

    symbols = []
    for j, index in enumerate(indexes):
        lane = j % lanes
        symbols.append(symbol_from(get, rows[index], precision))
    if next(words, None) is not None or states != [STATE_LOW] * lanes:
        raise CorruptStream(f"after {len(symbols)} symbols words are left or lanes end in a wrong state")
    return symbols


# 5. Range coder: `code` is the whole stream as one number, so carries need no care.

WIDTH_LOW = 1 << 24


def encode_range(symbols: Iterable[int], indexes: Iterable[int], table: CdfTable) -> bytes:
    """Stream of the range coder, equal to `quadrans.entropy.range_coder.encode`."""
    precision, rows = read_table(table.to_bytes())
    todo: list[Interval] = []
    for symbol, index in zip(symbols, indexes, strict=True):
        todo += intervals_of(symbol, rows[index], precision)
    return write_range(todo, precision)


def write_range(todo: list[Interval], precision: int) -> bytes:
    """Stream of (start, freq) in order, be they legal or not."""
    low, width, shifts = 0, 1 << 32, 0
    for start, freq in todo:
        unit = width >> precision
        low += unit * start
        width = unit * freq
        while width < WIDTH_LOW:
            low <<= 8
            width <<= 8
            shifts += 1
    code = -(-low // WIDTH_LOW)
    return write_header(KIND_RANGE, precision, 0) + code.to_bytes(shifts + 1, "big")


def decode_range(stream: bytes, indexes: Iterable[int], table: CdfTable) -> list[int]:
    """Symbols of a whole stream of the range coder."""
    precision, rows = read_table(table.to_bytes())
    read_header(stream, KIND_RANGE, 0, precision)
    if len(stream) < 3:
        raise CorruptStream("stream of 2 bytes, the least has 3")
    # Three zero bytes follow the stream.
    data = stream[2:] + bytes(3)
    code, width, position = int.from_bytes(data[:4], "big"), 1 << 32, 4

    def get(freqs: tuple[int, ...]) -> int:
        nonlocal code, width, position
        unit = width >> precision
        slot = code // unit
        if slot >> precision:
            raise CorruptStream("code outside the interval of all symbols")
        cell, start = cell_of(slot, freqs)
        code -= unit * start
        width = unit * freqs[cell]
        while width < WIDTH_LOW:
            if position == len(data):
                raise CorruptStream("stream ends before its symbols do")
            code = code << 8 | data[position]
            width <<= 8
            position += 1
        return cell

    symbols = [symbol_from(get, rows[index], precision) for index in indexes]
    if position != len(data) or code >= WIDTH_LOW:
        raise CorruptStream(f"after {len(symbols)} symbols {len(data) - position} bytes are left")
    return symbols
