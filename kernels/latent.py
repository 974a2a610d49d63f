"""Coding latents: the loop over a coding order's steps, for every model, both ways.

    y_hat = encode_latent(encoder, y, features, model, order)
    y_hat = decode_latent(decoder, features, model, order)

With a `quadrans.entropy.Decoder` and a model of positions, all steps of a latent run in one compiled call;
with other coders of the same contract there is a call for each step.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..entropy._lanes import check_threads
from ..entropy.errors import CorruptStream
from ..entropy.rans import Decoder
from . import _fma, _serial, cpu
from ._quantize import LATENT_LIMIT, RESIDUAL, quantize, store, to_indexes
from ._team import together
from .arrays import ready
from .builder import Builder
from .models import Model, PositionModel, StepModel, own_steps, position_steps
from .orders import Order, Step, Steps
from .program import FloatArray, IntArray, Op

Int32Array = NDArray[np.int32]

CHUNK = 768
"""Positions of a step that are worked on together, so that memory grows little with the image."""

PARTS = ("index", "coder", "context", "nets")
"""Where time goes: making table rows; symbols and write-back; windows and convolutions of what is decoded;
the layers behind them."""


class SymbolEncoder(Protocol):
    """What `encode_latent` needs of `quadrans.entropy.Encoder`."""

    def put(self, symbols: Int32Array, indexes: Int32Array) -> Any: ...


class SymbolDecoder(Protocol):
    """What `decode_latent` needs of `quadrans.entropy.Decoder`."""

    def get(self, indexes: Int32Array) -> Int32Array: ...


def decode_latent(
    decoder: SymbolDecoder,
    features: FloatArray,
    model: Model,
    order: Order,
    *,
    threads: int = 1,
    ticks: dict[str, int] | None = None,
) -> FloatArray:
    """The latent, (H, W, M) float32, that `encode_latent` put under the same features and order.

    features: (H, W, F) float32, finite. threads: how many may work; the result doesn't depend on it. ticks:
    gets the time of each of PARTS added, in ticks of the CPU's counter; only for a `quadrans.entropy.Decoder`
    and a model of positions. Raises ValueError for arrays that don't fit, CorruptStream for latents beyond
    +-2^24, and whatever the decoder raises.
    """
    features = _checked(features, model, order)
    if isinstance(model, StepModel):
        planes = _planes(features, model)
        for number, step in enumerate(own_steps(order)):
            offsets, indexes = _step_parameters(planes, model, order, number, step, threads)
            _write(planes, model, step, _get(decoder, indexes), offsets)
        return np.ascontiguousarray(planes[:, :, : model.channels])
    latent = _Latent(model, features, order, position_steps(order))
    # A subclass may have a `get` of its own.
    if type(decoder) is Decoder:
        latent.decode(decoder, threads, ticks)
    else:
        latent.decode_by_steps(decoder, threads)
    return latent.y_hat.copy()


def encode_latent(
    encoder: SymbolEncoder,
    y: ArrayLike,
    features: FloatArray,
    model: Model,
    order: Order,
    *,
    threads: int = 1,
) -> FloatArray:
    """Put a latent (H, W, M) into `encoder`, in coding order; gives what the decoder will find.

    In integer mode y holds integers within +-2^24, and is y_hat itself; in residual mode it holds any finite
    numbers. features, threads: as `decode_latent`. ValueError if sizes, or a value, don't fit.
    """
    symbols, indexes, y_hat = _code(y, features, model, order, threads)
    encoder.put(symbols, indexes)
    return y_hat


def latent_symbols(
    y: ArrayLike, features: FloatArray, model: Model, order: Order, *, threads: int = 1
) -> tuple[Int32Array, Int32Array]:
    """(symbols, indexes), (H, W, M) int32 each: what `encode_latent` puts, at its place in the latent."""
    symbols, indexes, y_hat = _code(y, features, model, order, threads)
    place = _sequence(order.flat, order.width, model.channels)
    placed = np.empty((2, *y_hat.shape), np.int32)
    placed[0].reshape(-1)[place], placed[1].reshape(-1)[place] = symbols, indexes
    return placed[0], placed[1]


def latent_parameters(
    y_hat: ArrayLike, features: FloatArray, model: PositionModel, order: Order, *, threads: int = 1
) -> tuple[FloatArray, Int32Array]:
    """(offsets float32, indexes int32), (H, W, M) each, of a complete latent in one pass.

    Equal to what `decode_latent` finds step by step. An offset is what symbols are counted from: the mean, or
    in integer mode its integer part. Raises as `encode_latent`.
    """
    # A latent has no -0.
    values = _real(y_hat, "y_hat") + np.float32(0)
    _check_shape("y_hat", values, model, order)
    features = _checked(features, model, order)
    latent = _Latent(model, features, order, position_steps(order, joined=True), values)
    offsets, indexes = latent.parameters(threads)
    place = _sequence(order.flat, order.width, model.channels)
    out = np.empty(latent.y_hat.shape, np.float32), np.empty(latent.y_hat.shape, np.int32)
    out[0].reshape(-1)[place], out[1].reshape(-1)[place] = offsets, indexes
    return out


def _code(
    y: ArrayLike, features: FloatArray, model: Model, order: Order, threads: int
) -> tuple[Int32Array, Int32Array, FloatArray]:
    """(symbols, indexes), 1-D in coding order, and y_hat (H, W, M)."""
    integer = model.quantization.fraction_bits is not None
    values = _integers(y) if integer else _real(y, "y")
    _check_shape("y", values, model, order)
    features = _checked(features, model, order)
    if isinstance(model, StepModel):
        return _code_planes(values, _planes(features, model), model, order, threads)
    if not integer:
        latent = _Latent(model, features, order, position_steps(order))
        return (*latent.quantize(values, threads), latent.y_hat.copy())
    latent = _Latent(model, features, order, position_steps(order, joined=True), values)
    offsets, indexes = latent.parameters(threads)
    place = _sequence(order.flat, order.width, model.channels)
    return values.reshape(-1)[place].astype(np.int32) - offsets.astype(np.int32), indexes, values


def _code_planes(
    y: FloatArray, planes: FloatArray, model: StepModel, order: Order, threads: int
) -> tuple[Int32Array, Int32Array, FloatArray]:
    symbols, indexes = [], []
    plane = y.reshape(-1), 0, order.width, model.channels
    for number, step in enumerate(own_steps(order)):
        offsets, index = _step_parameters(planes, model, order, number, step, threads)
        symbol = np.empty(index.shape, np.int32)
        count = index.shape[1]
        where = step.rows, step.cols, step.first, count
        bad = quantize(*plane, *where, offsets.reshape(-1), _bits(model), symbol.reshape(-1))
        if bad >= 0:
            at = step.rows[bad // count], step.cols[bad // count], step.first[bad // count] + bad % count
            raise _too_large(y[at], at)
        _write(planes, model, step, symbol, offsets)
        symbols.append(symbol.reshape(-1))
        indexes.append(index.reshape(-1))
    y_hat = np.ascontiguousarray(planes[:, :, : model.channels])
    return np.concatenate(symbols), np.concatenate(indexes), y_hat


def _step_parameters(
    planes: FloatArray, model: StepModel, order: Order, number: int, step: Step, threads: int
) -> tuple[FloatArray, Int32Array]:
    """(offsets, indexes), (n, width) each, of an order's step over planes."""
    scales, means = model.parameters(planes, order, number, threads)
    count, width = scales.shape
    if (count, width) != (len(step), step.width or model.channels):
        raise ValueError(f"{order.name}: step {number} changed while it was coded")
    memory = np.stack([scales, means]).reshape(-1)
    offsets, indexes = np.empty((count, width), np.float32), np.empty((count, width), np.int32)
    places = 0, scales.size, width, count, width
    thresholds = model.quantization.thresholds
    to_indexes(memory, *places, thresholds, _bits(model), offsets.reshape(-1), indexes.reshape(-1))
    return offsets, indexes


def _write(
    planes: FloatArray, model: StepModel, step: Step, symbols: Int32Array, offsets: FloatArray
) -> None:
    where = step.rows, step.cols, step.first, symbols.shape[1]
    pitch = planes.shape[2]
    flat = symbols.reshape(-1), offsets.reshape(-1)
    if store(planes.reshape(-1), 0, planes.shape[1], pitch, *where, *flat, _bits(model)) >= 0:
        raise CorruptStream(f"a latent lies beyond +-{LATENT_LIMIT}")


def _get(decoder: SymbolDecoder, indexes: Int32Array) -> Int32Array:
    symbols = ready(decoder.get(indexes), np.int32)
    if symbols.shape != indexes.shape:
        raise ValueError(f"the decoder gave symbols of shape {symbols.shape}, not {indexes.shape}")
    return symbols


class _Latent:
    """A latent, a model of positions and an order, in one memory that the compiled loops work in."""

    def __init__(
        self,
        model: PositionModel,
        features: FloatArray,
        order: Order,
        steps: Steps,
        y_hat: FloatArray | None = None,
    ) -> None:
        """steps: the order's `position_steps`; joined if there is a y_hat, the complete latent (H, W, M)."""
        model.check_taps(order.taps)
        self.model = model
        self._starts, self._context = _parts(steps)
        longest = int(np.diff(self._starts).max())
        builder = Builder(model.store, longest)
        sizes = ("y_hat", model.channels), ("features", model.features)
        planes = [builder.plane(name, order.height, order.width, count) for name, count in sizes]
        builder.output("result", model.emit(builder, planes[1], planes[0], order.taps))
        self._program = builder.build()
        self._longest = longest * model.channels
        self._memory = cpu.new_memory(self._program.size)
        self._plane("features")[...] = features
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
            operations = self._program.table[:, 0]
            parts = ["context" if op in (Op.CONTEXT, Op.WINDOW) else "nets" for op in operations]
            for part, count in zip([*PARTS[: _serial.TASKS], *parts], counted.tolist(), strict=True):
                ticks[part] = ticks.get(part, 0) + count
        return results[0]

    def _walk(self, task: int, y: FloatArray, threads: int) -> tuple[FloatArray, Int32Array, Int32Array]:
        """(offsets, indexes, symbols) in coding order."""
        count = len(self._positions[0]) * self.model.channels
        offsets, indexes = np.empty(count, np.float32), np.empty(count, np.int32)
        symbols = np.empty(count if task == _serial.QUANTIZE else 0, np.int32)
        quantization = self.model.quantization.thresholds, _bits(self.model)
        out = offsets, indexes, symbols
        steps = self._starts, self._context, *self._positions, self._places
        arguments = task, *self._arguments, *steps, *quantization, y.reshape(-1), *out
        status, element = self._run(_serial.walk, threads, *arguments)
        if status:
            position, channel = divmod(element, self.model.channels)
            at = self._positions[0][position], self._positions[1][position], channel
            raise _too_large(y[at], at)
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
        numbers = self.model.quantization.thresholds, _bits(self.model)
        loan = decoder.lend(self.model.quantization.rows)
        state = loan.lookup, loan.states, loan.progress, loan.saved, loan.words, loan.first
        arguments = _serial.coder(*loan.vector), *self._arguments, *steps, *numbers, *room, *state
        status, detail, done = self._run(_serial.decode, threads, *arguments, ticks=ticks)
        if status == _serial.TOO_LARGE:
            decoder.take_back(done)
            raise CorruptStream(f"a symbol {detail} makes a latent beyond +-{LATENT_LIMIT}")
        decoder.take_back(done, status, detail)

    def decode_by_steps(self, decoder: SymbolDecoder, threads: int) -> None:
        """Fill y_hat from any decoder, with a call for each part of a step. Raises as `decode_latent`."""
        channels, bits = self.model.channels, _bits(self.model)
        result, pitch, plane, width, _ = self._places
        thresholds = self.model.quantization.thresholds
        for s, context in enumerate(self._context):
            part = slice(self._starts[s], self._starts[s + 1])
            rows, cols = (axis[part] for axis in self._positions)
            count = len(rows)
            cpu.execute(self._program, self._memory, count, threads, (rows, cols, bool(context)))
            offsets = np.empty(count * channels, np.float32)
            indexes = np.empty((count, channels), np.int32)
            places = result, result + channels, pitch, count, channels
            to_indexes(self._memory, *places, thresholds, bits, offsets, indexes.reshape(-1))
            symbols = _get(decoder, indexes).reshape(-1)
            where = plane, width, channels, rows, cols, np.zeros(count, np.int64), channels
            if store(self._memory, *where, symbols, offsets, bits) >= 0:
                raise CorruptStream(f"a latent lies beyond +-{LATENT_LIMIT}")


def _parts(steps: Steps) -> tuple[IntArray, NDArray[np.bool_]]:
    """(starts, context) of the steps, cut where they have more than CHUNK positions."""
    counts = -(-np.diff(steps.starts) // CHUNK)
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(steps.starts[:-1], counts) + CHUNK * nth
    return np.append(starts, steps.starts[-1]).astype(np.int64), np.repeat(steps.context, counts)


def _sequence(flat: Steps, width: int, channels: int) -> IntArray:
    """Where in a latent (H, width, channels), flattened, the elements lie, in coding order."""
    origins = (flat.rows * width + flat.cols) * channels + flat.first
    counts = np.repeat(np.where(flat.width == 0, channels, flat.width), np.diff(flat.starts))
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(origins, counts) + nth


def _bits(model: Model) -> int:
    bits = model.quantization.fraction_bits
    return RESIDUAL if bits is None else bits


def _checked(features: Any, model: Model, order: Order) -> FloatArray:
    """The features. ValueError if they, or order and model, don't fit or a value isn't finite."""
    features = np.asarray(features)
    expected = (order.height, order.width, model.features)
    if features.shape != expected or features.dtype != np.float32:
        raise ValueError(
            f"features of shape {features.shape}, {features.dtype}, must be {expected} "
            "float32 for this order and model"
        )
    if order.channels not in (None, model.channels):
        raise ValueError(f"{order.name} codes {order.channels} channels, the model {model.channels}")
    return _finite(features, "features")


def _check_shape(what: str, values: FloatArray, model: Model, order: Order) -> None:
    expected = (order.height, order.width, model.channels)
    if values.shape != expected:
        raise ValueError(f"{what} of shape {values.shape} must be {expected} for this order and model")


def _planes(features: FloatArray, model: StepModel) -> FloatArray:
    """(H, W, M + F): zeros, since nothing is decoded yet, and the features."""
    return np.concatenate([np.zeros((*features.shape[:2], model.channels), np.float32), features], axis=2)


def _real(values: ArrayLike, what: str) -> FloatArray:
    """Finite numbers as float32; TypeError, ValueError for others."""
    array = _numbers(values, what)
    with np.errstate(over="ignore"):
        return _finite(ready(array.astype(np.float32, copy=False), np.float32), what)


def _numbers(values: ArrayLike, what: str) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{what} must be numbers, not {array.dtype}")
    return array


def _finite(values: FloatArray, what: str) -> FloatArray:
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise ValueError(f"{what} of shape {values.shape}: {bad} values aren't finite, the first at {where}")
    return values


def _too_large(value: Any, where: tuple[Any, ...]) -> ValueError:
    at = tuple(int(i) for i in where)
    return ValueError(f"y is {value} at {at}: a latent or its symbol would lie beyond +-{LATENT_LIMIT}")


def _integers(y: ArrayLike) -> FloatArray:
    """y as float32; ValueError, naming the first, for values that aren't integers within 2^24."""
    values = _numbers(y, "y")
    # A limit of binary64, since to one of the values' own dtype 2^24 may be an infinity.
    limit = np.float64(LATENT_LIMIT)
    with np.errstate(invalid="ignore"):
        bad = ~((values == np.rint(values)) & (values >= -limit) & (values <= limit))
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"y holds {values[where]} at {where}, no integer within +-{LATENT_LIMIT}")
    # Through int32, so that a -0.0 becomes the +0.0 that the decoder will see.
    return values.astype(np.int32).astype(np.float32)
