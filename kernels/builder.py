"""From layers to a program: a `Builder` collects instructions, and checks that what they combine fits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .placement import Buffer, Instruction, Value, allocate, fuse
from .program import (
    COLUMNS,
    ConvWeights,
    FloatArray,
    Function,
    IntArray,
    Op,
    Program,
    WeightStore,
)

MAX_FLOATS = 1 << 36
"""Largest value, all its images or positions together: 256 GiB."""


class Builder:
    """Collects instructions. Each method adds one, checks that shapes fit and gives the target's value."""

    def __init__(self, store: WeightStore, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a program works on at least one image, not {capacity}")
        self.store, self.capacity = store, capacity
        self._instructions: list[Instruction] = []
        self._ints: list[IntArray] = []
        self._int_places: dict[bytes, int] = {}
        self._int_count = 0
        self._named: dict[str, Value] = {}
        self._bound: dict[str, Value] = {}
        self.used: set[str] = set()
        """Names that `value` was asked for."""

    def bind(self, name: str, value: Value) -> None:
        """Let layers find a value under a name."""
        self._bound[name] = value

    def value(self, name: str) -> Value:
        """A plane, an input or what else was bound to a name. ValueError if there is none."""
        if name not in self._bound:
            raise ValueError(f"no input is named {name!r}, only {sorted(self._bound)}")
        self.used.add(name)
        return self._bound[name]

    def plane(self, name: str, height: int, width: int, channels: int) -> Value:
        """A plane: one image that steps read and that outlives them."""
        return self._outer(name, self._new(height, width, channels, shared=True))

    def input(self, name: str, height: int, width: int, channels: int) -> Value:
        """A value that the caller writes before the program runs."""
        return self._outer(name, self._new(height, width, channels))

    def _outer(self, name: str, value: Value) -> Value:
        self.output(name, value)
        self.bind(name, value)
        return value

    def output(self, name: str, value: Value) -> None:
        """Keep a value for the caller, under a name."""
        value.buffer.kept = True
        self._named[name] = value

    def ints(self, values: Sequence[int] | IntArray) -> int:
        """Offset of some integers among the program's."""
        array = np.asarray(values, np.int64).reshape(-1)
        key = array.tobytes()
        if key not in self._int_places:
            self._int_places[key] = self._int_count
            self._ints.append(array)
            self._int_count += len(array)
        return self._int_places[key]

    def _new(self, height: int, width: int, channels: int, shared: bool = False) -> Value:
        images = 1 if shared else self.capacity
        if min(height, width, channels) < 1 or images * height * width * channels > MAX_FLOATS:
            raise ValueError(
                f"{images} images of {height}x{width}x{channels} floats: none, or more than {MAX_FLOATS}"
            )
        return Value(Buffer(height, width, channels, shared), channels)

    def _add(
        self,
        op: Op,
        source: Value,
        target: Value,
        extra: tuple[int, ...] = (),
        others: tuple[Value, ...] = (),
    ) -> Value:
        read = [] if op in (Op.CONTEXT, Op.WINDOW) else [source, *(() if op == Op.ATTENTION else others)]
        if self.capacity > 1 and any(value.buffer.shared for value in read):
            raise ValueError(
                f"{op.name} of {self.capacity} images or positions can't read a plane, which is one"
            )
        self._instructions.append(Instruction(op, source, target, extra, others))
        return target

    def conv(
        self,
        x: Value,
        weights: ConvWeights,
        taps: IntArray,
        size: tuple[int, int],
        up: int = 1,
        down: int = 1,
    ) -> Value:
        """Convolution to (size, outputs). taps: (T, 3) int64 of (slot, dr, dc)."""
        return self._conv(Op.CONV, x, weights, taps, size, up, down)

    def context(self, plane: Value, weights: ConvWeights, taps: IntArray) -> Value:
        """Convolution of a plane at the step's positions, (1, 1, outputs) each."""
        return self._conv(Op.CONTEXT, plane, weights, taps, (1, 1), 1, 1)

    def _conv(
        self,
        op: Op,
        x: Value,
        weights: ConvWeights,
        taps: IntArray,
        size: tuple[int, int],
        up: int,
        down: int,
    ) -> Value:
        slots, inputs, outputs = weights.weight.shape
        if x.channels != inputs:
            raise ValueError(f"a convolution of {inputs} channels on a value that has {x.channels}")
        if len(taps) and not 0 <= taps[:, 0].min() <= taps[:, 0].max() < slots:
            raise ValueError(f"taps {taps[:, 0].min()}..{taps[:, 0].max()} of a kernel of {slots}")
        extra = (self.ints(taps), len(taps), up, down, *self.store.conv(weights), 0, 0)
        return self._add(op, x, self._new(*size, outputs), extra)

    def window(self, plane: Value, taps: IntArray, size: tuple[int, int], context: bool) -> Value:
        """A plane around the step's positions. taps: (T, 3) int64 of (target position, dr, dc)."""
        if len(taps) and not 0 <= taps[:, 0].min() <= taps[:, 0].max() < size[0] * size[1]:
            raise ValueError(f"taps {taps[:, 0].min()}..{taps[:, 0].max()} of a {size} window")
        extra = (self.ints(taps), len(taps), int(context))
        return self._add(Op.WINDOW, plane, self._new(*size, plane.channels), extra)

    def depthwise(
        self,
        x: Value,
        weight: FloatArray,
        bias: FloatArray,
        taps: IntArray,
        size: tuple[int, int],
        up: int = 1,
    ) -> Value:
        """Depthwise convolution; weight (slots, channels), taps as `conv`."""
        if weight.shape[1:] != (x.channels,) or bias.shape != (x.channels,):
            raise ValueError(f"weights {weight.shape} and bias {bias.shape} for {x.channels} channels")
        places = self.store.array(weight), self.store.array(bias)
        extra = (self.ints(taps), len(taps), up, 1, *places, 0, 0)
        return self._add(Op.DEPTHWISE, x, self._new(*size, x.channels), extra)

    def unary(self, x: Value, function: Function, slope: float = 0.0) -> Value:
        """A function of each element; slope: LEAKY_RELU's."""
        return self._add(Op.UNARY, x, self._like(x), (int(function), float_bits(slope)))

    def add(self, x: Value, y: Value) -> Value:
        """x + y of one shape."""
        return self._binary(Op.ADD, x, y)

    def multiply(self, x: Value, y: Value) -> Value:
        """x * y of one shape."""
        return self._binary(Op.MULTIPLY, x, y)

    def _binary(self, op: Op, x: Value, y: Value) -> Value:
        shapes = [(one.height, one.width, one.channels) for one in (x, y)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"values of shapes {shapes[0]} and {shapes[1]} are combined element by element")
        return self._add(op, x, self._like(x), (), (y,))

    def layer_norm(self, x: Value, gamma: FloatArray, beta: FloatArray, epsilon: float) -> Value:
        """Over the channels of each position."""
        if gamma.shape != (x.channels,) or beta.shape != (x.channels,):
            raise ValueError(f"gamma {gamma.shape} and beta {beta.shape} for {x.channels} channels")
        extra = (self.store.array(gamma), self.store.array(beta), float_bits(epsilon))
        return self._add(Op.LAYER_NORM, x, self._like(x), extra)

    def attention(
        self,
        queries: Value,
        keys: Value,
        values: Value,
        heads: int,
        scale: float,
        length: tuple[int, int],
        bias: FloatArray | None = None,
        masks: tuple[FloatArray, IntArray] | None = None,
    ) -> Value:
        """Softmax attention within sequences of length (queries, keys) positions.

        bias (heads, queries, keys) is added to the scores. masks: (M, queries, keys) and numbers int64, one
        for each sequence of an image, of the mask that is added to its scores, too. Keys that are a plane
        serve all sequences.
        """
        if queries.channels != keys.channels or keys.channels != values.channels or queries.channels % heads:
            raise ValueError(
                f"{heads} heads of {queries.channels} query, {keys.channels} key and {values.channels} value "
                "channels"
            )
        shared = keys.buffer.shared
        if (keys.height, keys.width, shared) != (values.height, values.width, values.buffer.shared):
            raise ValueError(
                f"{keys.height}x{keys.width} keys, {values.height}x{values.width} values, or one is a plane"
            )
        positions = (queries.height * queries.width, keys.height * keys.width)
        sequences = positions[0] // length[0]
        if sequences * length[0] != positions[0] or positions[1] != length[1] * (1 if shared else sequences):
            raise ValueError(f"{positions} positions of queries and keys don't make sequences of {length}")
        if bias is not None and bias.shape != (heads, *length):
            raise ValueError(f"bias of shape {bias.shape}, not {(heads, *length)}")
        mask_places = -1, -1
        if masks is not None:
            arrays, numbers = masks
            if arrays.shape[1:] != length or numbers.shape != (sequences,):
                raise ValueError(
                    f"masks of shape {arrays.shape} and {numbers.shape} numbers of them for {sequences} "
                    f"sequences of {length}"
                )
            if not 0 <= numbers.min() <= numbers.max() < len(arrays):
                raise ValueError(f"masks {numbers.min()}..{numbers.max()} of {len(arrays)}")
            mask_places = self.store.array(arrays), self.ints(numbers)
        extra = (
            *length,
            heads,
            queries.channels // heads,
            float_bits(scale),
            -1 if bias is None else self.store.array(bias),
            *mask_places,
            int(shared),
        )
        return self._add(Op.ATTENTION, queries, self._like(queries), extra, (keys, values))

    def shuffle(self, x: Value, factor: int) -> Value:
        """(h, w, c * factor^2) to (h * factor, w * factor, c), as PyTorch's PixelShuffle."""
        if x.channels % factor**2:
            raise ValueError(f"{x.channels} channels can't be shuffled by {factor}")
        target = self._new(x.height * factor, x.width * factor, x.channels // factor**2)
        return self._add(Op.SHUFFLE, x, target, (factor,))

    def unshuffle(self, x: Value, factor: int) -> Value:
        """(h * factor, w * factor, c) to (h, w, c * factor^2), as PyTorch's PixelUnshuffle."""
        if x.height % factor or x.width % factor:
            raise ValueError(f"{x.height}x{x.width} positions can't be unshuffled by {factor}")
        target = self._new(x.height // factor, x.width // factor, x.channels * factor**2)
        return self._add(Op.UNSHUFFLE, x, target, (factor,))

    def gather(self, x: Value, sources: IntArray, size: tuple[int, int]) -> Value:
        """Position i of the result is position sources[i] of x; +0 where that is -1."""
        count = x.height * x.width
        if len(sources) != size[0] * size[1] or not -1 <= sources.min() <= sources.max() < count:
            raise ValueError(
                f"{len(sources)} sources, {sources.min()}..{sources.max()}, for {size} of {count} positions"
            )
        return self._add(Op.GATHER, x, self._new(*size, x.channels), (self.ints(sources),))

    def constant(self, array: FloatArray) -> Value:
        """(height, width, channels) that every image has."""
        target = self._new(*array.shape)
        return self._add(Op.CONSTANT, target, target, (self.store.array(array),))

    def concatenate(self, values: Sequence[Value]) -> Value:
        """Channels of all values, one after the other. Copies only what already has another place."""
        sizes = {(value.height, value.width) for value in values}
        if len(sizes) != 1:
            raise ValueError(f"values of sizes {sorted(sizes)} can't be concatenated")
        joined = self._new(values[0].height, values[0].width, sum(value.channels for value in values))
        column = 0
        for value in values:
            buffer = value.buffer
            if value.whole and buffer.parent is None and not buffer.kept:
                buffer.parent, buffer.column = joined.buffer, column
            else:
                self.copy(value, joined.part(column, column + value.channels))
            column += value.channels
        return joined

    def copy(self, x: Value, target: Value) -> Value:
        """Write a value into another, or part of another, of the same shape."""
        shapes = [(value.height, value.width, value.channels) for value in (x, target)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"a value of {shapes[0]} can't be copied to one of {shapes[1]}")
        return self._add(Op.COPY, x, target)

    def _like(self, x: Value) -> Value:
        return self._new(x.height, x.width, x.channels)

    def build(self) -> Program:
        """The program, its values placed. The builder is used up."""
        instructions = fuse(self._instructions, {id(value.buffer) for value in self._named.values()})
        for value in self._named.values():
            value.buffer.place()[0].kept |= value.buffer.kept
        offsets, size = allocate(instructions, list(self._named.values()), self.capacity)

        def place(value: Value) -> tuple[int, int, int, int, int]:
            owner, column = value.buffer.place()
            offset = offsets[id(owner)] + column + value.column
            return offset, owner.pitch, value.height, value.width, value.channels

        table = np.zeros((len(instructions), COLUMNS), np.int64)
        for row, one in zip(table, instructions, strict=True):
            others = [number for value in one.others for number in place(value)[:2]]
            numbers = [one.op, *place(one.source), *place(one.target), *others, *one.extra]
            row[: len(numbers)] = numbers
        places = {name: place(value) for name, value in self._named.items()}
        ints = np.concatenate([np.zeros(0, np.int64), *self._ints])
        return Program(table, ints, self.store, size, self.capacity, places)


def float_bits(value: float) -> int:
    """The bits of the nearest binary32."""
    return int(np.float32(value).view(np.int32))
