"""A plain NumPy interpreter of program tables: each `Op` as its docstring says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quadrans.kernels import reference_functions as functions
from quadrans.kernels.program import ConvWeights, Function, Op, Program
from quadrans.kernels.reference import fma

FloatArray = NDArray[np.float32]

BLOCK = 64

UNARY = {
    Function.IDENTITY: lambda x, slope: x,
    Function.RELU: lambda x, slope: functions.relu(x),
    Function.LEAKY_RELU: functions.leaky_relu,
    Function.GELU: lambda x, slope: functions.gelu(x),
    Function.GELU_TANH: lambda x, slope: functions.gelu_tanh(x),
    Function.EXP: lambda x, slope: functions.exp(x),
    Function.SOFTPLUS: lambda x, slope: functions.softplus(x),
    Function.TANH: lambda x, slope: functions.tanh(x),
    Function.SIGMOID: lambda x, slope: functions.sigmoid(x),
    Function.ABS: lambda x, slope: functions.absolute(x),
    Function.SQRT: lambda x, slope: functions.sqrt(x),
}


def pack(weights: ConvWeights) -> tuple[FloatArray, FloatArray]:
    """Weights as (slots, inputs, outputs) in C order, and the bias."""
    return weights.weight.reshape(-1), weights.bias


def execute(program: Program, memory: FloatArray, n: int, positions=None) -> None:  # type: ignore[no-untyped-def]
    """Run a program whose store packs with `pack`. positions: (rows, cols, context) of its step."""
    assert n <= program.capacity
    assert memory.shape == (program.size,)
    machine = _Machine(program.ints, program.store.floats, memory, n, *(positions or ([], [], False)))
    with np.errstate(all="ignore"):
        for row in program.table.tolist():
            getattr(machine, Op(row[0]).name.lower())(row)


def read(program: Program, memory: FloatArray, name: str, n: int) -> FloatArray:
    """View of a named value, (n, height, width, channels)."""
    return _view(memory, n, *program.places[name])


def _view(memory: FloatArray, n: int, offset: int, pitch: int, *shape: int) -> FloatArray:
    height, width, channels = shape
    positions = n * height * width
    # The last position may lack the floats between its channels and the pitch.
    assert 0 <= offset <= offset + (positions - 1) * pitch + channels <= len(memory)
    strides = [4 * height * width * pitch, 4 * width * pitch, 4 * pitch, 4]
    return np.lib.stride_tricks.as_strided(memory[offset:], (n, *shape), strides)


def number(bits: int) -> float:
    """The binary32 number with these bits."""
    return float(np.array(bits, np.int64).astype(np.int32).view(np.float32))


@dataclass
class _Machine:
    ints: NDArray[np.int64]
    floats: FloatArray
    memory: FloatArray
    n: int
    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    context_read: bool

    def source(self, row: list[int], images: int | None = None) -> FloatArray:
        return _view(self.memory, self.n if images is None else images, *row[1:6])

    def target(self, row: list[int]) -> FloatArray:
        return _view(self.memory, self.n, *row[6:11])

    def weights(self, offset: int, *shape: int) -> FloatArray:
        size = int(np.prod(shape))
        assert 0 <= offset <= offset + size <= len(self.floats)
        return self.floats[offset : offset + size].reshape(shape)

    def taps(self, row: list[int]) -> list[list[int]]:
        assert 0 <= row[11] <= row[11] + 3 * row[12] <= len(self.ints)
        return self.ints[row[11] : row[11] + 3 * row[12]].reshape(-1, 3).tolist()

    def unary_function(self, x: FloatArray, function: int, slope: int) -> FloatArray:
        return UNARY[Function(function)](x, number(slope))

    def conv(self, row: list[int]) -> None:
        source, target = self.source(row), self.target(row)
        up, down, weights, bias, function, slope = row[13:19]
        total = np.broadcast_to(self.weights(bias, row[10]), target.shape).copy()
        for slot, dr, dc in self.taps(row):
            (to_r, r), (to_c, c) = (
                _present(to, size, up, down, shift)
                for to, size, shift in zip(target.shape[1:3], source.shape[1:3], (dr, dc), strict=True)
            )
            at, x = np.ix_(range(self.n), to_r, to_c), source[np.ix_(range(self.n), r, c)]
            weight = self.weights(weights + slot * row[5] * row[10], row[5], row[10])
            total[at] = self.joined(total[at], x, weight)
        target[...] = self.unary_function(total, function, slope)

    def joined(self, total: FloatArray, x: FloatArray, weight: FloatArray) -> FloatArray:
        """total + the products of x (..., C) and weight (C, D), in blocks."""
        for first in range(0, len(weight), BLOCK):
            acc = np.zeros_like(total)
            for k in range(first, min(first + BLOCK, len(weight))):
                acc = fma(x[..., k, None], weight[k], acc)
            total = total + acc
        return total

    def context(self, row: list[int]) -> None:
        plane, target = self.source(row, 1)[0], self.target(row)
        _, _, weights, bias, function, slope = row[13:19]
        if not self.context_read:
            target[...] = 0
            return
        for image, (r, c) in enumerate(zip(self.rows, self.cols, strict=True)):
            total = self.weights(bias, row[10]).copy()
            for slot, dr, dc in self.taps(row):
                if 0 <= r + dr < plane.shape[0] and 0 <= c + dc < plane.shape[1]:
                    weight = self.weights(weights + slot * row[5] * row[10], row[5], row[10])
                    total = self.joined(total, plane[r + dr, c + dc], weight)
            target[image, 0, 0] = self.unary_function(total, function, slope)

    def window(self, row: list[int]) -> None:
        plane, target = self.source(row, 1)[0], self.target(row)
        target[...] = 0
        if row[13] and not self.context_read:
            return
        for image, (r, c) in enumerate(zip(self.rows, self.cols, strict=True)):
            for place, dr, dc in self.taps(row):
                if 0 <= r + dr < plane.shape[0] and 0 <= c + dc < plane.shape[1]:
                    target[image, place // row[9], place % row[9]] = plane[r + dr, c + dc]

    def depthwise(self, row: list[int]) -> None:
        source, target = self.source(row), self.target(row)
        up, down, weights, bias, function, slope = row[13:19]
        total = np.broadcast_to(self.weights(bias, row[10]), target.shape).copy()
        for slot, dr, dc in self.taps(row):
            (to_r, r), (to_c, c) = (
                _present(to, size, up, down, shift)
                for to, size, shift in zip(target.shape[1:3], source.shape[1:3], (dr, dc), strict=True)
            )
            at, x = np.ix_(range(self.n), to_r, to_c), source[np.ix_(range(self.n), r, c)]
            total[at] = fma(x, self.weights(weights + slot * row[10], row[10]), total[at])
        target[...] = self.unary_function(total, function, slope)

    def unary(self, row: list[int]) -> None:
        self.target(row)[...] = self.unary_function(self.source(row), *row[11:13])

    def other(self, row: list[int]) -> FloatArray:
        return _view(self.memory, self.n, *row[11:13], *row[8:11])

    def add(self, row: list[int]) -> None:
        self.target(row)[...] = self.source(row) + self.other(row)

    def multiply(self, row: list[int]) -> None:
        self.target(row)[...] = self.source(row) * self.other(row)

    def layer_norm(self, row: list[int]) -> None:
        gamma, beta = (self.weights(offset, row[10]) for offset in row[11:13])
        x = np.ascontiguousarray(self.source(row))
        self.target(row)[...] = functions.layer_norm(x, gamma, beta, number(row[13]))

    def attention(self, row: list[int]) -> None:
        queries, keys, heads, width, scale, bias, masks, numbers, shared = row[15:24]
        channels = heads * width
        sequences = self.n * row[3] * row[4] // queries
        q = self.source(row).reshape(sequences, queries, channels)
        k, v = (
            _view(self.memory, 1, offset, pitch, 1 if shared else sequences, keys, channels)[0]
            for offset, pitch in (row[11:13], row[13:15])
        )
        one = None if bias < 0 else self.weights(bias, heads, queries, keys)
        out = np.empty_like(q)
        for s in range(sequences):
            mask = None
            if masks >= 0:
                place = numbers + s % (sequences // self.n)
                assert 0 <= numbers <= place < len(self.ints)
                mask = self.weights(masks + int(self.ints[place]) * queries * keys, queries, keys)
            at = 0 if shared else s
            out[s] = functions.attention(q[s], k[at], v[at], heads, number(scale), one, mask)
        self.target(row)[...] = out.reshape(self.target(row).shape)

    def shuffle(self, row: list[int]) -> None:
        f, x = row[11], self.source(row)
        n, h, w, _ = x.shape
        y = x.reshape(n, h, w, row[10], f, f).transpose(0, 1, 4, 2, 5, 3)
        self.target(row)[...] = y.reshape(self.target(row).shape)

    def unshuffle(self, row: list[int]) -> None:
        f, x = row[11], self.source(row)
        n, h, w, c = x.shape
        y = x.reshape(n, h // f, f, w // f, f, c).transpose(0, 1, 3, 5, 2, 4)
        self.target(row)[...] = y.reshape(self.target(row).shape)

    def gather(self, row: list[int]) -> None:
        count = row[8] * row[9]
        assert 0 <= row[11] <= row[11] + count <= len(self.ints)
        places = self.ints[row[11] : row[11] + count]
        x = self.source(row).reshape(self.n, -1, row[5])
        got = np.where(places[:, None] < 0, np.float32(0), x[:, places])
        self.target(row)[...] = got.reshape(self.target(row).shape)

    def copy(self, row: list[int]) -> None:
        self.target(row)[...] = self.source(row)

    def constant(self, row: list[int]) -> None:
        self.target(row)[...] = self.weights(row[11], *row[8:11])


def _present(
    targets: int, sources: int, up: int, down: int, shift: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Target rows whose tap is a whole row inside the source, and that row; columns alike."""
    to = np.arange(targets)
    numbers = to * up + shift
    here = (numbers % down == 0) & (numbers >= 0) & (numbers // down < sources)
    return to[here], numbers[here] // down
