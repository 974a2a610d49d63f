"""Latents under models of positions: all steps in one compiled call, or a call for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..entropy._lanes import check_threads
from ..entropy.errors import CorruptStream
from ..entropy.mixture import Mixtures
from ..entropy.rans import Decoder
from . import _fma, _serial, cpu
from ._coders import PARTS, Int32Array, MixtureDecoder, SymbolDecoder, get_symbols, too_large
from ._quantize import mixture_loop, store, to_indexes
from ._team import together
from .builder import Builder
from .models import Inputs, PositionModel
from .orders import Order, Steps
from .program import FloatArray, IntArray, Op
from .quantization import LATENT_LIMIT, MixtureQuantization
from .step_models import table_quantization

CHUNK = 768
"""Positions of a step that are worked on together, so that memory grows little with the image."""


class PositionLatent:
    """A latent, a model of positions and an order, in one memory that the compiled loops work in."""

    def __init__(
        self,
        model: PositionModel,
        features: FloatArray,
        order: Order,
        steps: Steps,
        y_hat: FloatArray | None = None,
        *,
        inputs: Inputs | None = None,
    ) -> None:
        """steps: the order's `position_steps`; joined if there is a y_hat, the complete latent (H, W, M).

        inputs: arrays of the names and channels that the model states.
        """
        model.check_taps(order.taps)
        self.model = model
        self._starts, self._context = _parts(steps)
        longest = int(np.diff(self._starts).max())
        builder = Builder(model.store, longest)
        sizes = ("y_hat", model.channels), ("features", model.features)
        planes = [builder.plane(name, order.height, order.width, count) for name, count in sizes]
        for name, array in (inputs or {}).items():
            builder.plane(name, *array.shape)
        builder.output("result", model.emit(builder, planes[1], planes[0], order.taps))
        self._program = builder.build()
        self._longest = longest * model.channels
        self._memory = cpu.new_memory(self._program.size)
        for name, array in {"features": features, **(inputs or {})}.items():
            self._plane(name)[...] = array
        # Whatever isn't decoded yet is +0, as new memory is.
        if y_hat is not None:
            self.y_hat[...] = y_hat
        self._positions = steps.rows, steps.cols

    @property
    def y_hat(self) -> FloatArray:
        """View of (H, W, M)."""
        return self._plane("y_hat")

    def _plane(self, name: str) -> FloatArray:
        offset, pitch, height, width, _ = self._program.places[name]
        return self._memory[offset : offset + height * width * pitch].reshape(height, width, pitch)

    @property
    def _arguments(self) -> tuple[Any, ...]:
        program = self._program
        return program.table, program.ints, program.store.floats, self._memory

    @property
    def _places(self) -> tuple[int, ...]:
        """Offset and pitch of the result; offset and width of y_hat; channels."""
        result, plane = self._program.places["result"], self._program.places["y_hat"]
        return result[0], result[1], plane[0], plane[3], self.model.channels

    def _run(self, loop: Any, threads: int, *arguments: Any, ticks: dict[str, int] | None = None) -> Any:
        """What the compiled loop gives member 0, which shares its status with the others."""
        shared = np.zeros(2, np.int64)
        counted = np.zeros(_serial.TASKS + len(self._program.table) if ticks is not None else 0, np.int64)
        results: dict[int, Any] = {}
        runner = _serial.runner(_fma.machine_number())

        def member(team: IntArray, thread: int) -> None:
            cpu.check_arithmetic()
            results[thread] = loop(runner, *arguments, shared, team, thread, counted)

        together(threads, member)
        if ticks is not None:
            self._add(ticks, counted)
        return results[0]

    def _add(self, ticks: dict[str, int], counted: IntArray) -> None:
        """Adds the tasks' ticks, then the instructions', to those of their parts."""
        operations = self._program.table[:, 0]
        parts = ["context" if op in (Op.CONTEXT, Op.WINDOW) else "nets" for op in operations]
        for part, count in zip([*PARTS[: _serial.TASKS], *parts], counted.tolist(), strict=True):
            ticks[part] = ticks.get(part, 0) + count

    def _walk(self, task: int, y: FloatArray, threads: int) -> tuple[FloatArray, Int32Array, Int32Array]:
        """(offsets, indexes, symbols) in coding order."""
        count = len(self._positions[0]) * self.model.channels
        offsets, indexes = np.empty(count, np.float32), np.empty(count, np.int32)
        symbols = np.empty(count if task == _serial.QUANTIZE else 0, np.int32)
        rule = table_quantization(self.model)
        quantization = rule.thresholds, rule.bits
        out = offsets, indexes, symbols
        steps = self._starts, self._context, *self._positions, self._places
        arguments = task, *self._arguments, *steps, *quantization, y.reshape(-1), *out
        status, element = self._run(_serial.walk, threads, *arguments)
        if status:
            position, channel = divmod(element, self.model.channels)
            at = self._positions[0][position], self._positions[1][position], channel
            raise too_large(y[at], at)
        return out

    def parameters(self, threads: int) -> tuple[FloatArray, Int32Array]:
        """(offsets, indexes) in coding order, of a latent that is complete."""
        return self._walk(_serial.PARAMETERS, np.zeros(0, np.float32), threads)[:2]

    def quantize(self, y: FloatArray, threads: int) -> tuple[Int32Array, Int32Array]:
        """(symbols, indexes) in coding order of y; fills y_hat. ValueError for values that are too large."""
        _, indexes, symbols = self._walk(_serial.QUANTIZE, y, threads)
        return symbols, indexes

    def decode(self, decoder: Decoder, threads: int, ticks: dict[str, int] | None) -> None:
        """Fill y_hat in one compiled call. Raises as `decode_latent`."""
        # What can fail without the decoder must do so before it is lent.
        check_threads(threads)
        cpu.check_arithmetic()
        room = [np.empty(self._longest, dtype) for dtype in (np.float32, np.int32, np.int32)]
        steps = self._starts, self._context, *self._positions, self._places
        rule = table_quantization(self.model)
        numbers = rule.thresholds, rule.bits
        loan = decoder.lend(rule.rows)
        state = loan.lookup, loan.states, loan.progress, loan.saved, loan.words, loan.first
        arguments = _serial.coder(*loan.vector), *self._arguments, *steps, *numbers, *room, *state
        status, detail, done = self._run(_serial.decode, threads, *arguments, ticks=ticks)
        if status == _serial.TOO_LARGE:
            decoder.refuse(f"a symbol {detail} makes a latent beyond +-{LATENT_LIMIT}")
        decoder.take_back(done, status, detail)

    def decode_by_steps(self, decoder: SymbolDecoder, threads: int) -> None:
        """Fill y_hat from any decoder, with a call for each part of a step. Raises as `decode_latent`."""
        rule = table_quantization(self.model)
        thresholds, bits = rule.thresholds, rule.bits
        result, pitch, _, _, channels = self._places
        for rows, cols in self._executed(threads):
            count = len(rows)
            offsets = np.empty(count * channels, np.float32)
            indexes = np.empty((count, channels), np.int32)
            places = result, result + channels, pitch, count, channels
            to_indexes(self._memory, *places, thresholds, bits, offsets, indexes.reshape(-1))
            self._write(rows, cols, get_symbols(decoder, indexes), offsets, bits)

    def mixtures(self, threads: int) -> Mixtures:
        """Of a latent that is complete, 1-D in coding order. ValueError if a number isn't finite."""
        parts = [self._mixtures(*part, ValueError) for part in self._executed(threads)]
        arrays = (np.concatenate([getattr(part, name) for part in parts], axis=1) for name in _INTEGERS)
        return trusted_mixtures(arrays, (-1,))

    def decode_mixtures(self, decoder: MixtureDecoder, threads: int, ticks: dict[str, int] | None) -> None:
        """Fill y_hat, with calls for each part of a step. Raises as `decode_latent`."""
        counted = None if ticks is None else np.zeros(_serial.TASKS + len(self._program.table), np.int64)
        nothing = np.zeros(self._longest, np.float32)
        for rows, cols in self._executed(threads, None if counted is None else counted[_serial.TASKS :]):
            times = [cpu.ticks()]
            mixtures = self._mixtures(rows, cols, CorruptStream)
            times.append(cpu.ticks())
            self._write(rows, cols, get_symbols(decoder, mixtures), nothing, 0)
            times.append(cpu.ticks())
            if counted is not None:
                counted[: _serial.TASKS] += np.diff(times)
        if ticks is not None and counted is not None:
            self._add(ticks, counted)

    def _mixtures(self, rows: IntArray, cols: IntArray, error: type[ValueError]) -> Mixtures:
        """(positions, M) of what the program gave. The error if a number isn't finite."""
        rule = self.model.quantization
        assert isinstance(rule, MixtureQuantization)
        source, pitch, _, _, channels = self._places
        shape = rule.components, len(rows) * channels
        integers = [np.empty(shape, kind) for kind in _INTEGERS.values()]
        where, room = (source, pitch, len(rows), channels), np.empty(shape, np.float32)
        loop = mixture_loop(_fma.machine_number())
        bad = loop(self._memory, *where, np.float32(rule.scale_min), room, *integers)
        if bad >= 0:
            position, number = divmod(bad, rule.parameters_per_channel * channels)
            part, channel = divmod(number, channels)
            raise error(
                f"the model gives the {('logit', 'mean', 'scale')[part % 3]} "
                f"{self._memory[source + position * pitch + number]} for component {part // 3} at "
                f"({rows[position]}, {cols[position]}, {channel})"
            )
        return trusted_mixtures(integers, (len(rows), channels))

    def _executed(self, threads: int, ticks: IntArray | None = None) -> Iterator[tuple[IntArray, IntArray]]:
        """Runs the program at one part of a step after the other; the part's (rows, cols) after each."""
        for s, context in enumerate(self._context):
            part = slice(self._starts[s], self._starts[s + 1])
            rows, cols = (axis[part] for axis in self._positions)
            where = rows, cols, bool(context)
            cpu.execute(self._program, self._memory, len(rows), threads, where, ticks)
            yield rows, cols

    def _write(
        self, rows: IntArray, cols: IntArray, symbols: Int32Array, offsets: FloatArray, bits: int
    ) -> None:
        """y_hat at a part's positions. CorruptStream for a latent that is too large."""
        _, _, plane, width, channels = self._places
        where = plane, width, channels, rows, cols, np.zeros(len(rows), np.int64), channels
        if store(self._memory, *where, symbols.reshape(-1), offsets, bits) >= 0:
            raise CorruptStream(f"a latent lies beyond +-{LATENT_LIMIT}")


_INTEGERS = {"weights": np.uint16, "means": np.int32, "inverse_scales": np.uint16}


def trusted_mixtures(integers: Iterable[NDArray[Any]], shape: tuple[int, ...]) -> Mixtures:
    """The mixtures of integers that need no checks: of _INTEGERS, contiguous, (K, *shape) after a reshape."""
    weights, means, scales = (array.reshape(len(array), *shape) for array in integers)
    return Mixtures.__new__(Mixtures)._fill(weights, means, scales)


def _parts(steps: Steps) -> tuple[IntArray, NDArray[np.bool_]]:
    """(starts, context) of the steps, cut where they have more than CHUNK positions."""
    counts = -(-np.diff(steps.starts) // CHUNK)
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(steps.starts[:-1], counts) + CHUNK * nth
    return np.append(starts, steps.starts[-1]).astype(np.int64), np.repeat(steps.context, counts)
