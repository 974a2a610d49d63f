"""Sub-networks as programs: a flat list of instructions over one flat float32 memory.

A program's instructions are one table of integers, which a `builder.Builder` makes of layers. CPU and GPU
interpret the same table, so the table is what is computed, and a device only how. `Op` says what each
instruction does and what its columns hold.

A value is (n, height, width, channels), channels last, n the number of images or of a step's positions.
Its positions lie `pitch` floats apart, so that a part of another value's channels is a value too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from threading import Lock

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

COLUMNS = 24
"""Integers of an instruction. Those of `Column` are the same for all, the others the operation's own."""


class Column(IntEnum):
    """Columns that every instruction has. An offset counts floats in the memory, of image 0."""

    OP = 0
    SOURCE, SOURCE_PITCH, SOURCE_HEIGHT, SOURCE_WIDTH, SOURCE_CHANNELS = 1, 2, 3, 4, 5
    TARGET, TARGET_PITCH, TARGET_HEIGHT, TARGET_WIDTH, TARGET_CHANNELS = 6, 7, 8, 9, 10


class Op(IntEnum):
    """What an instruction computes (ARITHMETIC.md says how), and what its columns from 11 on hold.

    Offsets of `ints` and `floats` count elements of a program's integers and weights. Floats that stand
    in a column are given by their bits.
    """

    CONV = 0
    """Convolution. 11: ints of its taps, (slot, dr, dc) each; 12: taps; 13: up; 14: down; 15: floats of
    the packed weights; 16: of the bias; 17: function applied to the sum; 18: its slope. A tap reads row
    (r * up + dr) / down of the source, column likewise, where that is a whole number inside it."""
    CONTEXT = 1
    """CONV at the step's positions of a plane, one position a target image; +0 in a step without context."""
    WINDOW = 2
    """Parts of a plane around the step's positions, one window a target image. 11: ints of its taps, (target
    position, dr, dc) each; 12: taps; 13: whether it is context. Everything else, and everything in a step
    without context if it is that, is +0."""
    DEPTHWISE = 3
    """Depthwise convolution. 11..14 as CONV; 15: floats of its weights, (slots, channels); 16: of the bias;
    17: function applied to the sum; 18: its slope."""
    UNARY = 4
    """A function of each element. 11: which; 12: its slope."""
    ADD = 5
    """Sum with a second source of the same shape. 11: its offset; 12: its pitch."""
    MULTIPLY = 6
    """Product with a second source, as ADD."""
    LAYER_NORM = 7
    """Over the channels of each position. 11: floats of gamma; 12: of beta; 13: epsilon."""
    ATTENTION = 8
    """Source: queries. 11, 12: offset and pitch of the keys; 13, 14: of the values; 15: queries of a
    sequence; 16: keys of a sequence; 17: heads; 18: channels of a head; 19: scale; 20: floats of the bias
    (heads, queries, keys), or -1; 21: floats of the masks (masks, queries, keys), or -1; 22: ints, the
    number of the mask of each sequence of an image, or -1; 23: whether all sequences have the same keys.
    Sequences follow each other through the positions of all images."""
    SHUFFLE = 9
    """Pixel shuffle: channels to positions. 11: upscaling factor."""
    UNSHUFFLE = 10
    """Pixel unshuffle: positions to channels. 11: downscaling factor."""
    GATHER = 11
    """Positions of each image in another sequence. 11: ints, the source position of each target position; one
    below 0 makes it +0."""
    COPY = 12
    """The source itself."""
    CONSTANT = 13
    """Every image is the same. 11: floats of it."""


class Function(IntEnum):
    """Functions of one number."""

    IDENTITY = 0
    RELU = 1
    LEAKY_RELU = 2
    GELU = 3
    GELU_TANH = 4
    EXP = 5
    SOFTPLUS = 6
    TANH = 7
    SIGMOID = 8
    ABS = 9
    SQRT = 10


@dataclass(frozen=True, eq=False)
class ConvWeights:
    """weight (slots, inputs, outputs), bias (outputs,) float32; a slot is a kernel's tap."""

    weight: FloatArray
    bias: FloatArray


def aligned_floats(size: int) -> FloatArray:
    """That many floats, +0, that begin with a cache line."""
    spare = np.zeros(size + 16, np.float32)
    start = -(spare.ctypes.data // 4) % 16
    return spare[start : start + size]


Packing = Callable[[ConvWeights], tuple[FloatArray, FloatArray]]
"""How a device wants the weights and the bias of a convolution: 1-D arrays each."""


class WeightStore:
    """The weights of programs on one device: added once however many programs are built with them.

    Offsets are multiples of 16 floats. Threads may share a store.
    """

    def __init__(self, packing: Packing) -> None:
        self._packing = packing
        self._parts: list[FloatArray] = []
        self._size = 0
        # Their owners are kept, since an id stays taken only while its object lives.
        self._places: dict[int, tuple[object, tuple[int, ...]]] = {}
        self._floats = np.zeros(0, np.float32)
        self._lock = Lock()

    def _append(self, array: FloatArray) -> int:
        start = self._size
        padded = np.zeros(-(-array.size // 16) * 16, np.float32)
        padded[: array.size] = array.reshape(-1)
        self._parts.append(padded)
        self._size += padded.size
        return start

    def conv(self, weights: ConvWeights) -> tuple[int, ...]:
        """(offset of the packed weights, offset of the packed bias)."""
        with self._lock:
            if id(weights) not in self._places:
                places = tuple(self._append(part) for part in self._packing(weights))
                self._places[id(weights)] = weights, places
            return self._places[id(weights)][1]

    def array(self, array: FloatArray) -> int:
        """Offset of an array's elements in C order."""
        with self._lock:
            if id(array) not in self._places:
                self._places[id(array)] = array, (self._append(array),)
            return self._places[id(array)][1][0]

    @property
    def floats(self) -> FloatArray:
        """All weights, 1-D."""
        with self._lock:
            if len(self._floats) != self._size:
                self._floats = np.concatenate(
                    [np.zeros(0, np.float32), *self._parts], out=aligned_floats(self._size)
                )
                self._parts = [self._floats]
            return self._floats


@dataclass(frozen=True, eq=False)
class Program:
    """A table of instructions and where its inputs and outputs are.

    table: (instructions, COLUMNS) int64; ints: 1-D int64; floats: 1-D float32, the weights of its store;
    size: floats of memory that it works on, up to `capacity` images or positions at once.
    """

    table: IntArray
    ints: IntArray
    store: WeightStore = field(repr=False)
    size: int
    capacity: int
    places: dict[str, tuple[int, int, int, int, int]]
    """(offset, pitch, height, width, channels) of the named values."""

    @cached_property
    def surroundings(self) -> tuple[int, int] | None:
        """(rows, columns) within which the positions of a step must be; None: it works at no positions."""
        reads = np.isin(self.table[:, Column.OP], (Op.CONTEXT, Op.WINDOW))
        if not reads.any():
            return None
        height, width = (
            int(self.table[reads, column].min()) for column in (Column.SOURCE_HEIGHT, Column.SOURCE_WIDTH)
        )
        return height, width
