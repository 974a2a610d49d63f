"""Tables, symbols and streams that our encoders would never choose: legal, or illegal by a hair.

Everything is drawn from a `random.Random`, so Hypothesis can draw and shrink it too.
"""

import random
from collections.abc import Sequence

import numpy as np

from quadrans.entropy import CdfTable, reference
from quadrans.entropy.reference import LOW, Group, Interval

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1


def table(rng: random.Random, precision: int | None = None) -> CdfTable:
    """Rows of very different lengths, escapes from frequency 1 to nearly all, offsets at int32 limits too."""
    precision = precision or rng.randint(4, 16)
    total = 1 << precision
    freqs, offsets = [], []
    for _ in range(rng.choice([1, 1, 2, 3, 5, 40])):
        regular = min(rng.choice([1, 1, 2, 5, 20, 40, 600]), total - 1)
        cuts = sorted(rng.sample(range(1, total), regular))
        freqs.append(np.diff([0, *cuts, total]))
        offsets.append(rng.choice([rng.randint(-30, 30), -regular // 2, INT32_MIN, INT32_MAX - regular + 1]))
    return CdfTable(freqs, offsets, precision)


def symbols(rng: random.Random, table: CdfTable, count: int) -> tuple[list[int], list[int]]:
    """(symbols, indexes): as their rows expect them, with some or many escapes."""
    escapes = rng.choice([0, 0, 0.01, 0.1, 1])
    drawn, indexes = [], []
    for _ in range(count):
        row = rng.randrange(table.rows)
        offset, first, end = (
            int(table.offsets[row]),
            int(table.row_starts[row]),
            int(table.row_starts[row + 1]),
        )
        symbol = offset + min(rng.randrange(end - first - 1), rng.randrange(end - first - 1))
        if rng.random() < escapes:
            near, far = symbol + rng.randint(-2000, 2000), rng.randint(INT32_MIN, INT32_MAX)
            symbol = rng.choice([near, far, INT32_MIN, INT32_MAX, offset - 1, offset + end - first - 1])
        drawn.append(min(max(symbol, INT32_MIN), INT32_MAX))
        indexes.append(row)
    return drawn, indexes


def lanes_stream(rng: random.Random, drawn: Sequence[int], indexes: Sequence[int], table: CdfTable) -> bytes:
    """A stream of the lanes coder of these symbols, in some layout, that breaks any rule or none."""
    precision, rows = reference.read_table(table.to_bytes())
    lanes, count = 1 << rng.randrange(7), rng.choice([1, 1, 1, 2, 3, 7, 40])
    own: list[list[list[Interval]]] = [[] for _ in range(count)]
    for j, (symbol, index) in enumerate(zip(drawn, indexes, strict=True)):
        own[j // lanes % count].append(reference.intervals_of(symbol, rows[index], precision))
    groups = [reference.write_group(part, precision, lanes) for part in own]
    odd = rng.randrange(count)
    groups[odd] = rng.choice([_same, _other_tail, _other_start, _other_words, _other_rounds])(
        rng, groups[odd], own[odd], precision
    )
    stream = reference.join_groups(groups, precision)
    return rng.choice([_same, _same, _other_number])(rng, stream)


def _same(rng, item, *_):
    return item


def _other_tail(rng: random.Random, group: Group, todo: list[list[Interval]], precision: int) -> Group:
    """Of another length than the shortest."""
    lanes = len(group.states)
    most = len(todo) // lanes
    return code_group(todo, precision, lanes, rng.choice([0, min(1, most), most, rng.randint(0, most)]))


def _other_start(rng: random.Random, group: Group, todo: list[list[Interval]], precision: int) -> Group:
    """Some lane starts elsewhere: with a word that the tail won't read, or beyond what a word can say."""
    lanes = len(group.states)
    start = [LOW] * lanes
    start[rng.randrange(lanes)] += rng.choice([1, 0xFFFF, 0x10000, 0xFFFEFFFF, rng.randrange(1 << 16)])
    return code_group(todo, precision, lanes, group.rounds, start)


def _other_words(rng: random.Random, group: Group, todo: list[list[Interval]], precision: int) -> Group:
    """A word too many or too few, anywhere."""
    words = list(group.words)
    place = rng.choice([0, len(words), rng.randint(0, len(words))])
    if words and rng.random() < 0.5:
        del words[min(place, len(words) - 1)]
    else:
        words.insert(place, rng.choice([0, 1, 0xFFFF, rng.randrange(1 << 16)]))
    return group._replace(words=words)


def _other_rounds(rng: random.Random, group: Group, todo: list[list[Interval]], precision: int) -> Group:
    """More or fewer rounds than were coded."""
    step = rng.choice([-1, 1, 2, 1 << 20, (1 << 49) - 1 - group.rounds])
    return group._replace(rounds=max(group.rounds + step, 0))


def code_group(
    todo: list[list[Interval]], precision: int, lanes: int, rounds: int, start: Sequence[int] = ()
) -> Group:
    """The group with so many rounds, the lanes started there (LOW where the tail has no word for them)."""
    states, words = list(start) or [LOW] * lanes, []
    for symbol in reversed(todo[rounds * lanes :]):
        states[0] = reference.push_symbol(states[0], symbol, precision, words)
    stuffed = min(lanes - 1, len(words))
    for lane, word in enumerate(reversed(words[:stuffed]), 1):
        states[lane] = LOW + word
    words = words[stuffed:]
    for j in reversed(range(rounds * lanes)):
        states[j % lanes] = reference.push_symbol(states[j % lanes], todo[j], precision, words)
    return Group(rounds, states, words[::-1])


def _other_number(rng: random.Random, stream: bytes) -> bytes:
    """One number of the header is written otherwise or is another one, huge as like as not."""
    layout = stream[1] >> 4
    position, ends = 2, []
    numbers = int(layout & 7 > 0)
    if layout & reference.GROUPED:
        groups, _ = reference.read_number(stream, 2)
        numbers = groups * (1 + numbers)
    for _ in range(numbers):
        _, end = reference.read_number(stream, position)
        ends.append((position, end))
        position = end
    if not ends:
        return stream
    begin, end = rng.choice(ends)
    value, _ = reference.read_number(stream, begin)
    longer = bytes([*stream[begin : end - 1], stream[end - 1] | 128, *rng.choice([[0], [128, 0], [128, 1]])])
    others = [longer, bytes([255] * rng.randint(1, 9)), bytes([255] * rng.randint(5, 6) + [127])]
    others += [
        reference.write_number(n) for n in (max(value - 1, 0), value + 1, 4096, 4097, rng.getrandbits(49))
    ]
    return stream[:begin] + rng.choice(others) + stream[end:]


def mutated(rng: random.Random, stream: bytes, other: bytes) -> bytes:
    """The stream with one to three changes of the kinds that files suffer or attackers make."""
    data = bytearray(stream)
    for _ in range(rng.choice([1, 1, 2, 3])):
        kind, size = rng.randrange(12), len(data)
        place = int(rng.random() * size)
        if kind <= 3 and size:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 4 and size:
            data[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 5 and size:
            data[min(place, rng.randrange(8))] = rng.randrange(256)
        elif kind == 6:
            del data[place:]
        elif kind == 7:
            data += rng.randbytes(rng.randint(1, 5))
        elif kind == 8:
            del data[place : place + rng.randint(1, 4)]
        elif kind == 9:
            data[place:place] = rng.randbytes(rng.randint(1, 4))
        elif kind == 10:
            data[place:] = other[int(rng.random() * len(other)) :]
        else:
            data[min(2, size) :] = rng.randbytes(rng.randrange(2 * size + 8))
    return bytes(data)


def layout_of(stream: bytes) -> tuple[int, int]:
    """(lanes, groups) of a stream of a lanes coder."""
    layout = stream[1] >> 4
    groups = reference.read_number(stream, 2)[0] if layout & reference.GROUPED else 1
    return 1 << (layout & 7), groups
