"""The stream format in plain Python integers, in the order of FORMAT.md: slow, and meant to be read.

The fast coders are tested against it, compressed bytes included. It raises the same `CorruptStream`
and `TableMismatch`, and checks no arguments.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

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

VERSION = 2
KIND_LANES, KIND_RANGE, KIND_MIXTURE = 0, 1, 2


def write_header(kind: int, precision: int, layout: int) -> bytes:
    """The two bytes that every stream starts with."""
    return bytes((VERSION << 4 | kind, layout << 4 | precision - 1))


def read_header(stream: bytes, kind: int, legal_layouts: Iterable[int], table_precision: int) -> int:
    """The layout, once the header is found legal and of the table's precision."""
    if len(stream) < 2:
        raise CorruptStream(f"stream of {len(stream)} bytes, the header alone has 2")
    if stream[0] != VERSION << 4 | kind:
        raise CorruptStream(f"stream starts with 0x{stream[0]:02x}")
    precision, layout = (stream[1] & 15) + 1, stream[1] >> 4
    if precision < 4 or layout not in legal_layouts:
        raise CorruptStream(f"precision {precision} and layout {layout} in the header")
    if precision != table_precision:
        raise TableMismatch(f"stream of precision {precision}, table of precision {table_precision}")
    return layout


# 4. Lanes coder

LOW = 1 << 16
MAX_LOG2_LANES, GROUPED = 6, 8
LANES_LAYOUTS = [*range(MAX_LOG2_LANES + 1), *range(GROUPED, GROUPED + MAX_LOG2_LANES + 1)]


def encode_lanes(
    symbols: Iterable[int], indexes: Iterable[int], table: CdfTable, lanes: int, groups: int = 1
) -> bytes:
    """Stream of the lanes coder, equal to `quadrans.entropy.encode(..., lanes, groups)`."""
    precision, rows = read_table(table.to_bytes())
    pairs = zip(symbols, indexes, strict=True)
    return write_lanes([intervals_of(v, rows[i], precision) for v, i in pairs], precision, lanes, groups)


def write_lanes(
    todo: list[list[Interval]], precision: int, lanes: int, groups: int = 1, kind: int = KIND_LANES
) -> bytes:
    """Stream of symbols given by their intervals, be they legal or not."""
    own: list[list[list[Interval]]] = [[] for _ in range(groups)]
    for j, symbol in enumerate(todo):
        own[j // lanes % groups].append(symbol)
    return join_groups([write_group(part, precision, lanes) for part in own], precision, kind)


class Group(NamedTuple):
    """What a stream holds of one group."""

    rounds: int
    states: list[int]
    words: list[int]


def write_group(todo: list[list[Interval]], precision: int, lanes: int) -> Group:
    """The group of these symbols, with the shortest tail whose words start all lanes."""
    rounds = len(todo) // lanes if lanes > 1 else 0
    while True:
        states = [LOW] * lanes
        words: list[int] = []
        for symbol in reversed(todo[rounds * lanes :]):
            states[0] = push_symbol(states[0], symbol, precision, words)
        if rounds == 0 or len(words) >= lanes - 1:
            break
        rounds -= 1
    stuffed = min(lanes - 1, len(words))
    # Words are emitted in the reverse of the order in which they are read.
    for lane, word in enumerate(reversed(words[:stuffed]), 1):
        states[lane] = LOW + word
    words = words[stuffed:]
    for j in reversed(range(rounds * lanes)):
        states[j % lanes] = push_symbol(states[j % lanes], todo[j], precision, words)
    return Group(rounds, states, words[::-1])


def push_symbol(x: int, intervals: list[Interval], precision: int, words: list[int]) -> int:
    """The state after coding a symbol's intervals, last first; appends the words that leave it."""
    for start, freq in reversed(intervals):
        if x >= freq << (32 - precision):
            words.append(x & 0xFFFF)
            x >>= 16
        x = (x // freq << precision) + x % freq + start
    return x


def join_groups(groups: list[Group], precision: int, kind: int = KIND_LANES) -> bytes:
    """The stream of the groups."""
    lanes = len(groups[0].states)
    layout = lanes.bit_length() - 1
    head = b"" if len(groups) == 1 else write_number(len(groups))
    bits, length = 0, 0
    for i, group in enumerate(groups):
        if lanes > 1:
            head += write_number(group.rounds)
        if i < len(groups) - 1:
            head += write_number(len(group.words))
        for x in group.states:
            e = x.bit_length() - 17
            bits |= (e | (x - (LOW << e)) << 4) << length
            length += 20 + e
    words = [word for group in groups for word in group.words]
    return (
        write_header(kind, precision, layout if len(groups) == 1 else layout | GROUPED)
        + head
        + bits.to_bytes(-(-length // 8), "little")
        + struct.pack(f"<{len(words)}H", *words)
    )


def write_number(value: int) -> bytes:
    """A number of the header, 7 bits a byte, least first."""
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + write_number(value >> 7)


def read_number(data: bytes, position: int) -> tuple[int, int]:
    """(value, position behind it) of a number of the header."""
    end = position
    while end < len(data) and data[end] >= 128:
        end += 1
    part = data[position : end + 1]
    if end == len(data) or not 1 <= len(part) <= 7 or (len(part) > 1 and part[-1] == 0):
        raise CorruptStream(f"a number in the header reads {part.hex()}")
    return sum((byte & 127) << (7 * i) for i, byte in enumerate(part)), end + 1


def split_groups(stream: bytes, layout: int) -> list[Group]:
    """The groups of a stream with that layout in its header."""
    lanes = 1 << (layout & 7)
    group_count, position = read_number(stream, 2) if layout & GROUPED else (1, 2)
    if layout & GROUPED and not 2 <= group_count <= 4096:
        raise CorruptStream(f"{group_count} groups")
    if 20 * group_count * lanes > 8 * (len(stream) - position):
        raise CorruptStream(f"stream of {len(stream)} bytes for {group_count} x {lanes} lanes")
    rounds, counts = [0] * group_count, [0] * group_count
    for i in range(group_count):
        if lanes > 1:
            rounds[i], position = read_number(stream, position)
        if i < group_count - 1:
            counts[i], position = read_number(stream, position)

    bits, total, length = int.from_bytes(stream[position:], "little"), 8 * (len(stream) - position), 0
    states: list[list[int]] = []
    for _ in range(group_count):
        own = []
        for _ in range(lanes):
            e = bits >> length & 15
            own.append((1 << 16 + e) + (bits >> length + 4 & (1 << 16 + e) - 1))
            length += 20 + e
        states.append(own)
    size = -(-length // 8)
    if length > total or bits >> length & (1 << 8 * size - length) - 1:
        raise CorruptStream("the states are cut short or end in a 1")
    position += size
    left = (len(stream) - position) // 2
    counts[-1] = left - sum(counts)
    if (len(stream) - position) % 2 or counts[-1] < 0:
        raise CorruptStream(f"{len(stream) - position} bytes of words, the groups' are {counts[:-1]}")
    words = iter(struct.unpack_from(f"<{left}H", stream, position))
    parts = [[next(words) for _ in range(count)] for count in counts]
    return [Group(*group) for group in zip(rounds, states, parts, strict=True)]


def decode_lanes(stream: bytes, indexes: Iterable[int], table: CdfTable) -> list[int]:
    """Symbols of a whole stream of the lanes coder."""
    precision, rows = read_table(table.to_bytes())
    return read_lanes(stream, [rows[index] for index in indexes], precision)


# Decodes one symbol under a distribution: a row, or what another kind of stream has in its place.
Read = Callable[[Get, Any, int], int]


def read_lanes(
    stream: bytes,
    rows: list[Any],
    precision: int,
    kind: int = KIND_LANES,
    read: Read = symbol_from,
) -> list[int]:
    """Symbols of a whole stream, each under its row."""
    groups = split_groups(stream, read_header(stream, kind, LANES_LAYOUTS, precision))
    lanes = len(groups[0].states)
    own: list[list[Any]] = [[] for _ in groups]
    for j, row in enumerate(rows):
        own[j // lanes % len(groups)].append(row)
    parts = [iter(read_group(group, part, precision, read)) for group, part in zip(groups, own, strict=True)]
    return [next(parts[j // lanes % len(groups)]) for j in range(len(rows))]


def read_group(group: Group, rows: list[Any], precision: int, read: Read = symbol_from) -> list[int]:
    """The symbols of a group, each under its row."""
    rounds, states, words = group.rounds, list(group.states), list(group.words)
    lanes = len(states)
    lane, position = 0, 0

    def get(freqs: tuple[int, ...]) -> int:
        nonlocal position
        x = states[lane]
        slot = x & ((1 << precision) - 1)
        cell, start = cell_of(slot, freqs)
        x = freqs[cell] * (x >> precision) + slot - start
        if x < LOW:
            if position == len(words):
                raise CorruptStream("stream ends before its symbols do")
            x = x << 16 | words[position]
            position += 1
        states[lane] = x
        return cell

    symbols = []
    if rounds * lanes > len(rows):
        raise CorruptStream(f"{rounds} rounds of {lanes} lanes for {len(rows)} symbols")
    for j in range(rounds * lanes):
        lane = j % lanes
        symbols.append(read(get, rows[j], precision))
    if max(states[1:], default=LOW) >= 2 * LOW:
        raise CorruptStream("a lane ends its rounds in a state of 2**17 or more")
    tail, stream_words = position, len(words)
    words += [x - LOW for x in states[1:]]
    lane, later = 0, -1
    for j in range(rounds * lanes, len(rows)):
        symbols.append(read(get, rows[j], precision))
        if j + 1 == (rounds + 1) * lanes:
            later = position
    if position < stream_words or any(words[position:]) or states[0] != LOW:
        raise CorruptStream(f"after {len(symbols)} symbols words are left or lanes end in a wrong state")
    short = position < len(words) and (rounds > 0 or stream_words > 0)
    long = lanes > 1 and later >= 0 and position - later >= lanes - 1
    if short or long:
        raise CorruptStream(f"a tail of {position - tail} words isn't the shortest that starts {lanes} lanes")
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
    read_header(stream, KIND_RANGE, (0,), precision)
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
