"""Programs as a GPU wants them: weights packed, what all blocks need to know worked out once. NumPy only.

A `program.Program` says what is computed; its table gets the columns that `program.cuh` reads beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..program import COLUMNS, Column, ConvWeights, FloatArray, IntArray, Op, Program

ROW_COLUMNS = 32
"""Integers of a row: an instruction's COLUMNS, then the two below."""
PHASES, MEETS = COLUMNS, COLUMNS + 1

SHARED_BASE, SHARED_PER_WARP = 512 + 5120, 13824
"""Bytes of shared memory of a block that runs programs: `Shared` of program.cuh."""
PIECE_KEYS = SHARED_PER_WARP // 4
"""Keys of which a warp keeps a query's scores in its shared memory; of more it computes them again."""
MAX_POSITIONS = 2**31 - 1
"""Positions of all images together, and of attention's queries times heads."""

_OWN = len(Column)


def pack(weights: ConvWeights) -> tuple[FloatArray, FloatArray]:
    """Weights as [slot][quad of inputs][output][4 inputs], and the bias, 1-D each: a `program.Packing`.

    Inputs that fill the last quad have the weight -0: their terms, 0 * -0 = -0, leave any sum as it is.
    """
    slots, inputs, outputs = weights.weight.shape
    padded = np.full((slots, -(-inputs // 4) * 4, outputs), -0.0, np.float32)
    padded[:, :inputs] = weights.weight
    quads = padded.reshape(slots, -1, 4, outputs).transpose(0, 1, 3, 2)
    return np.ascontiguousarray(quads).reshape(-1), weights.bias


def shared_bytes(threads: int) -> int:
    """Dynamic shared memory of a block of so many threads."""
    return SHARED_BASE + threads // 32 * SHARED_PER_WARP


def device_table(program: Program) -> tuple[IntArray, IntArray]:
    """A program's (table (instructions, ROW_COLUMNS), ints). ValueError for sizes that are too large."""
    table = np.zeros((len(program.table), ROW_COLUMNS), np.int64)
    table[:, :COLUMNS] = program.table
    ints = _Ints(program.ints)
    recent: list[tuple[list[_Region], list[_Region]]] = []
    for number, row in enumerate(table):
        _check(row, program.capacity)
        if row[Column.OP] in (Op.CONV, Op.CONTEXT, Op.DEPTHWISE):
            row[PHASES] = ints.phases(*row[_OWN : _OWN + 4].tolist())
        reads, writes = _accesses(row, program.capacity)
        waits = any(
            _conflict(writes, others) or _conflict(reads, other_writes) or _conflict(writes, other_writes)
            for others, other_writes in recent
        )
        row[MEETS] = number > 0 and waits
        recent = [*([] if waits else recent), (reads, writes)]
    return table, ints.joined()


class _Ints:
    """A program's integers, and the lists of taps that are added to them."""

    def __init__(self, ints: IntArray) -> None:
        self._parts, self._size = [ints], len(ints)
        self._phases: dict[tuple[int, ...], int] = {}

    def _append(self, values: IntArray) -> int:
        start = self._size
        self._parts.append(values.reshape(-1))
        self._size += values.size
        return start

    def phases(self, taps: int, count: int, up: int, down: int) -> int:
        """Offset of (taps, offset of their ints) for each phase.

        Targets (r, c) with equal (r mod down, c mod down) = (top, left) have the same taps: those where
        top * up + dr and left * up + dc are multiples of `down`. Row r = top + i * down reads
        i * up + (top * up + dr) / down.
        """
        key = taps, count, up, down
        if key not in self._phases:
            slots, drs, dcs = self._parts[0][taps : taps + 3 * count].reshape(count, 3).T
            heads = []
            for top in range(down):
                for left in range(down):
                    r, c = top * up + drs, left * up + dcs
                    here = (r % down == 0) & (c % down == 0)
                    own = np.stack([slots[here], r[here] // down, c[here] // down], axis=1)
                    heads += [len(own), self._append(own)]
            self._phases[key] = self._append(np.array(heads, np.int64))
        return self._phases[key]

    def joined(self) -> IntArray:
        return np.concatenate(self._parts)


@dataclass(frozen=True)
class _Region:
    """Channels at positions that lie `pitch` floats apart."""

    offset: int
    pitch: int
    channels: int
    positions: int

    def meets(self, other: _Region) -> bool:
        ends = [one.offset + (one.positions - 1) * one.pitch + one.channels for one in (self, other)]
        if ends[0] <= other.offset or ends[1] <= self.offset:
            return False
        ahead = (other.offset - self.offset) % self.pitch
        apart = self.pitch == other.pitch and ahead >= self.channels and ahead + other.channels <= self.pitch
        return not apart


def _conflict(some: list[_Region], others: list[_Region]) -> bool:
    return any(one.meets(other) for one in some for other in others)


def _accesses(row: IntArray, capacity: int) -> tuple[list[_Region], list[_Region]]:
    """What an instruction reads and what it writes."""
    op, source, pitch, height, width, channels = row[: Column.TARGET].tolist()
    target, target_pitch, *size, target_channels = row[Column.TARGET : _OWN].tolist()
    own = row[_OWN:].tolist()
    images = 1 if op in (Op.CONTEXT, Op.WINDOW) else capacity
    target_positions = capacity * size[0] * size[1]
    reads = [_Region(source, pitch, channels, images * height * width)]
    if op in (Op.ADD, Op.MULTIPLY):
        reads.append(_Region(own[0], own[1], target_channels, target_positions))
    elif op == Op.ATTENTION:
        queries, keys = own[4], own[5]
        count = keys if own[12] else target_positions // queries * keys
        reads += [_Region(own[i], own[i + 1], target_channels, count) for i in (0, 2)]
    elif op == Op.CONSTANT:
        reads = []
    return reads, [_Region(target, target_pitch, target_channels, target_positions)]


def _check(row: IntArray, capacity: int) -> None:
    heads = int(row[_OWN + 6]) if row[Column.OP] == Op.ATTENTION else 1
    for at in (Column.SOURCE_HEIGHT, Column.TARGET_HEIGHT):
        height, width = row[at : at + 2].tolist()
        images = 1 if at == Column.SOURCE_HEIGHT and row[Column.OP] in (Op.CONTEXT, Op.WINDOW) else capacity
        if images * height * width * heads > MAX_POSITIONS:
            raise ValueError(
                f"{images} images of {height}x{width} positions and {heads} heads exceed {MAX_POSITIONS}"
            )
