"""Values of a program that is being built, and where they go in its memory.

Values that are parts of others, or are concatenated, share memory instead of being copied; a place is free
again after its last use.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from .program import Function, Op


@dataclass(eq=False)
class Buffer:
    """A stretch of the memory: (capacity, height, width, pitch) floats.

    shared: one image, whatever the capacity, and kept while the program lives: a plane.
    parent, column: the buffer whose channels from `column` on this one turned out to be.
    """

    height: int
    width: int
    pitch: int
    shared: bool = False
    kept: bool = False
    parent: Buffer | None = None
    column: int = 0

    def place(self) -> tuple[Buffer, int]:
        """The buffer that has memory of its own, and this one's first channel in it."""
        buffer, column = self, 0
        while buffer.parent is not None:
            buffer, column = buffer.parent, column + buffer.column
        return buffer, column


@dataclass(frozen=True, eq=False)
class Value:
    """Channels column .. column + channels - 1 of a buffer."""

    buffer: Buffer
    channels: int
    column: int = 0

    @property
    def height(self) -> int:
        return self.buffer.height

    @property
    def width(self) -> int:
        return self.buffer.width

    @property
    def whole(self) -> bool:
        """Whether this is all of its buffer."""
        return self.column == 0 and self.channels == self.buffer.pitch

    def part(self, start: int, stop: int) -> Value:
        """Channels start .. stop - 1 of it."""
        if not 0 <= start < stop <= self.channels:
            raise ValueError(f"channels {start}..{stop - 1} of a value that has {self.channels}")
        return Value(self.buffer, stop - start, self.column + start)


@dataclass(frozen=True, eq=False)
class Instruction:
    op: Op
    source: Value
    target: Value
    extra: tuple[int, ...] = ()
    """Columns from 11 on, but for those that are places of `others`."""
    others: tuple[Value, ...] = ()
    """Further sources; their (offset, pitch) pairs are the columns from 11 on, before `extra`."""


def fuse(instructions: list[Instruction], named: set[int]) -> list[Instruction]:
    """Gives a convolution the function of the UNARY behind it, where nothing else reads its sums."""
    reads = Counter(id(value.buffer) for one in instructions for value in (one.source, *one.others))
    fused: list[Instruction] = []
    for one in instructions:
        last = fused[-1] if fused else None
        if (
            one.op == Op.UNARY
            and last is not None
            and last.op in (Op.CONV, Op.DEPTHWISE)
            and last.extra[6] == Function.IDENTITY
            and last.target.buffer is one.source.buffer
            and one.source.whole
            and last.target.whole
            and one.source.buffer.parent is None
            and reads[id(one.source.buffer)] == 1
            and id(one.source.buffer) not in named
        ):
            fused[-1] = replace(last, target=one.target, extra=(*last.extra[:6], *one.extra))
        else:
            fused.append(one)
    return fused


def allocate(
    instructions: list[Instruction], named: list[Value], capacity: int
) -> tuple[dict[int, int], int]:
    """(offset of each buffer by its id, floats in all): first fit, each place free after its last use."""
    align = 16
    lives: dict[int, tuple[Buffer, int, int]] = {}
    for number, one in enumerate(instructions):
        for value in (one.source, one.target, *one.others):
            owner = value.buffer.place()[0]
            first = lives[id(owner)][1] if id(owner) in lives else number
            lives[id(owner)] = owner, first, number
    end = len(instructions)
    for value in named:
        owner = value.buffer.place()[0]
        lives[id(owner)] = owner, -1, end
    offsets: dict[int, int] = {}
    taken: list[tuple[int, int, int]] = []
    size = 0
    for key, (owner, first, last) in sorted(lives.items(), key=lambda item: item[1][1]):
        floats = owner.height * owner.width * owner.pitch * (1 if owner.shared else capacity)
        floats = -(-floats // align) * align
        taken = [one for one in taken if one[2] >= first]
        offset = 0
        for start, stop, _ in sorted(taken):
            if start - offset >= floats:
                break
            offset = max(offset, stop)
        taken.append((offset, offset + floats, last))
        offsets[key] = offset
        size = max(size, offset + floats)
    return offsets, size
