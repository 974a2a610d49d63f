"""Latents on NVIDIA GPUs: the loop over a coding order's steps, without leaving the device.

    y_hat = encode_latent(encoder, y, features, model, order)      # with an `encoder.Encoder`
    y_hat = decode_latent(decoder, features, model, order)         # with a `decoder.Decoder`

What `kernels.latent` does on a CPU, equal to the bit: all steps of a model of positions are one cooperative
launch, as is each step of a `StepModel`. Arrays are CuPy's or torch CUDA tensors, read where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..builder import Builder
from ..models import LATENT_LIMIT, Model, PositionModel, StepModel, own_steps, position_steps
from ..orders import Order, Steps
from ..program import IntArray, Op, Program, WeightStore
from ._module import at, device_array, import_cupy
from .decoder import Decoder, Loan
from .encoder import Encoder
from .network import PerDevice, finite, launch, launch_shape, like, load, shared_room
from .table import pack, shared_bytes

CHUNK = 8192
"""Positions of a step that are worked on together, so that memory grows little with the image."""

PIECE = 8192
"""Elements of a step that the coder has in shared memory at once, at most."""

MAX_STEP = 2**31 - 1 - PIECE
"""Elements of a step, positions x width: the kernel counts them in int, up to a piece beyond the last."""

PARTS = ("index", "coder", "context", "nets")
"""Where time goes, as in `kernels.latent`."""

PROGRAM_SHARE = 16
"""Blocks that run the program for each of the coder's, at least."""

DECODE, QUANTIZE, PARAMETERS = range(3)

JOB = """
    task ticking
    table instructions ints floats memory images program_blocks
    steps starts context rows cols first width
    scales means pitch by_channel
    plane plane_width plane_pitch y y_pitch thresholds threshold_count bits
    first_element offsets indexes symbols
    coder_blocks room near_room table_rows table_cells row_count precision cell_count lanes groups
    first_number
    states progress words
""".split()
"""The fields of serial.cuh's Job, 8 bytes each, that are given: integers, and addresses of arrays."""

JOB_BYTES = -(-8 * (len(JOB) + 4) // 16) * 16

_TICKS, _COUNTERS, _NEVER = 2, 2, 2**62


def decode_latent(
    decoder: Decoder, features: Any, model: Model, order: Order, *, ticks: dict[str, int] | None = None
) -> Any:
    """The latent, (H, W, M) float32, that `encode_latent` put under the same features and order.

    features: (H, W, F) float32, finite, on the decoder's device; the latent is an array of the same kind.
    ticks: gets the time of each of PARTS added, in clock cycles of a multiprocessor. Raises TypeError and
    ValueError for arrays that don't fit, CorruptStream for latents beyond +-2^24, and what the decoder
    raises. CorruptStream ends the decoder, as does a launch that fails.
    """
    array = device_array("features", features)
    with at(array.device.id):
        latent = _Latent(model, order, array)
        latent.decode(decoder, ticks)
        return like(latent.y_hat.copy(), features)


def encode_latent(encoder: Encoder, y: Any, features: Any, model: Model, order: Order) -> Any:
    """Put a latent (H, W, M) into `encoder`, in coding order; gives what the decoder will find.

    In integer mode y holds integers within +-2^24, and is y_hat itself; in residual mode it holds any finite
    numbers. Arrays and errors else as `decode_latent`; ValueError for a value that doesn't fit.
    """
    array, numbers = device_array("features", features), device_array("y", y)
    with at(array.device.id):
        numbers = _latent_numbers(numbers, model, order)
        # What positions read of integers is known, so steps that read alike are taken together.
        known = model.quantization.fraction_bits is not None and isinstance(model, PositionModel)
        latent = _Latent(model, order, array, numbers if known else None, joined=known)
        symbols, indexes = latent.quantize(numbers)
        encoder.put(symbols, indexes)
        return like(latent.y_hat.copy(), y)


def latent_parameters(y_hat: Any, features: Any, model: PositionModel, order: Order) -> tuple[Any, Any]:
    """(offsets float32, indexes int32), (H, W, M) each, of a complete latent in one pass.

    Equal to what `decode_latent` finds step by step. An offset is what symbols are counted from: the mean, or
    in integer mode its integer part. Arrays and errors as `encode_latent`.
    """
    cupy = import_cupy()
    array, numbers = device_array("features", features), device_array("y_hat", y_hat)
    with at(array.device.id):
        _check_shape("y_hat", numbers, (order.height, order.width, model.channels))
        latent = _Latent(model, order, array, finite("y_hat", numbers.astype(np.float32)), joined=True)
        offsets, indexes = latent.parameters()
        steps = latent.plan.steps
        place = cupy.asarray(steps.rows * order.width + steps.cols)
        out = []
        for values in (offsets, indexes):
            placed = cupy.empty((order.height * order.width, model.channels), values.dtype)
            placed[place] = values.reshape(-1, model.channels)
            out.append(like(placed.reshape(numbers.shape), y_hat))
        return out[0], out[1]


@dataclass(frozen=True)
class _Part:
    """Steps that one launch takes, with their program."""

    program: Program
    starts: IntArray
    context: IntArray
    width: int
    images: int
    given: int
    """Channels of which the program gives scales and means."""
    input: str
    """The place of y_hat in the program."""

    def fields(self, channels: int) -> dict[str, int]:
        """What a job says of it, but for addresses."""
        result, pitch, *_ = self.program.places["result"]
        plane, plane_pitch, _, plane_width, _ = self.program.places[self.input]
        return {
            "instructions": len(self.program.table),
            "images": self.images,
            "steps": len(self.context),
            "width": self.width,
            "scales": result,
            "means": result + self.given,
            "pitch": pitch,
            "by_channel": int(self.images and self.given == channels),
            "plane": plane,
            "plane_width": plane_width,
            "plane_pitch": plane_pitch,
        }


@dataclass(frozen=True)
class _Plan:
    """How a model's latents are coded in an order: made once for both, on a device."""

    model: Model
    steps: Steps
    parts: tuple[_Part, ...]
    positions: tuple[Any, ...]
    """rows, cols, first on the device."""
    thresholds: Any
    bounds: tuple[tuple[Any, Any], ...]
    """starts and context of each part on the device."""


_stores, _plans = PerDevice(), PerDevice()


def _plan(model: Model, order: Order, joined: bool) -> _Plan:
    cupy = import_cupy()
    # The plan keeps the model alive, and so its number taken.
    key = id(model), cupy.cuda.Device().id, joined
    return _plans.get(order, key, lambda: _make_plan(model, order, joined))


def _make_plan(model: Model, order: Order, joined: bool) -> _Plan:
    cupy = import_cupy()
    if isinstance(model, StepModel):
        steps = own_steps(order)
        parts = _step_parts(model, order, steps)
    else:
        steps = position_steps(order, joined)
        parts = (_position_part(model, order, steps),)
    for part in parts:
        _check_step(part)
    positions = tuple(cupy.asarray(axis) for axis in (steps.rows, steps.cols, steps.first))
    bounds = tuple((cupy.asarray(part.starts), cupy.asarray(part.context)) for part in parts)
    thresholds = cupy.asarray(model.quantization.thresholds)
    # Others than the current stream may use the arrays later.
    cupy.cuda.get_current_stream().synchronize()
    return _Plan(model, steps, parts, positions, thresholds, bounds)


def _check_step(part: _Part) -> None:
    positions = int(np.diff(part.starts).max(initial=0))
    if positions * part.width > MAX_STEP:
        raise ValueError(
            f"a step of {positions} positions and {part.width} channels each, {MAX_STEP} elements are coded "
            f"at once at most"
        )


def _position_part(model: PositionModel, order: Order, steps: Steps) -> _Part:
    model.check_taps(order.taps)
    counts = -(-np.diff(steps.starts) // CHUNK)
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.append(np.repeat(steps.starts[:-1], counts) + CHUNK * nth, steps.starts[-1])
    builder = Builder(_stores.get(model, None, lambda: model.stored(pack)), int(np.diff(starts).max()))
    y_hat = builder.plane("y_hat", order.height, order.width, model.channels)
    features = builder.plane("features", order.height, order.width, model.features)
    builder.output("result", model.emit(builder, features, y_hat, order.taps))
    context = np.repeat(steps.context, counts).astype(np.int64)
    return _Part(builder.build(), starts, context, model.channels, 0, model.channels, "y_hat")


def _step_parts(model: StepModel, order: Order, steps: Steps) -> tuple[_Part, ...]:
    store = _stores.get(model, None, lambda: WeightStore(pack))
    parts = []
    for number, width in enumerate(steps.width.tolist()):
        width = width or model.channels
        builder = Builder(store, 1)
        planes = builder.input("planes", order.height, order.width, model.channels + model.features)
        out = model.net(order, number).emit(builder, planes)
        given, odd = divmod(out.channels, 2)
        size = order.height, order.width
        if (out.height, out.width) != size or odd or given not in (model.channels, width):
            raise ValueError(
                f"net {number} gives {out.height}x{out.width} positions of {out.channels} channels; it must "
                f"give 2 x {model.channels} channels of each of {size[0]}x{size[1]}, or 2 x {width}"
            )
        builder.output("result", out)
        starts, none = steps.starts[number : number + 2], np.zeros(1, np.int64)
        parts.append(_Part(builder.build(), starts, none, width, 1, given, "planes"))
    return tuple(parts)


class _Latent:
    """A latent, a model and an order, in the memory of the current device."""

    def __init__(
        self, model: Model, order: Order, features: Any, y_hat: Any = None, joined: bool = False
    ) -> None:
        cupy = import_cupy()
        size = order.height, order.width
        _check_shape("features", features, (*size, model.features))
        if features.dtype != np.float32:
            raise TypeError(f"features must be float32, not {features.dtype}")
        if order.channels not in (None, model.channels):
            raise ValueError(f"{order.name} codes {order.channels} channels, the model {model.channels}")
        self.plan = _plan(model, order, joined)
        self._model, self._order = model, order
        self._memory = cupy.empty(max(part.program.size for part in self.plan.parts), np.float32)
        self._channels = model.channels
        if isinstance(model, PositionModel):
            self._plane(0, "features")[...] = finite("features", features)
        else:
            self._plane(0)[:, :, model.channels :] = finite("features", features)
        # A latent has no -0.
        self._plane(0)[:, :, : model.channels] = 0 if y_hat is None else y_hat + np.float32(0)

    def _plane(self, number: int, name: str = "") -> Any:
        part = self.plan.parts[number]
        offset, pitch, height, width, _ = part.program.places[name or part.input]
        return self._memory[offset : offset + height * width * pitch].reshape(height, width, pitch)

    @property
    def y_hat(self) -> Any:
        """View of (H, W, M), as the last part leaves it."""
        return self._plane(len(self.plan.parts) - 1)[:, :, : self._channels]

    def _elements(self) -> IntArray:
        """(parts + 1,): where each part's elements begin, in coding order."""
        counts = [(part.starts[-1] - part.starts[0]) * part.width for part in self.plan.parts]
        return np.cumsum([0, *counts], dtype=np.int64)

    def _walk(
        self, task: int, fields: dict[str, Any], groups: int = 0, ticks: dict[str, int] | None = None
    ) -> tuple[int, tuple[int, int] | None]:
        """Launches all parts.

        fields: of the job, beside those that parts and plan say. Returns the least element that is no legal
        latent, or _NEVER, and (status, detail) of the first group that failed.
        """
        cupy = import_cupy()
        parts, bounds = self.plan.parts, self.plan.bounds
        loaded = [load(part.program) for part in parts]
        thresholds = self.plan.thresholds
        fields = fields | {"task": task, "groups": groups, "memory": self._memory, "bits": _bits(self._model)}
        fields |= {"thresholds": thresholds, "threshold_count": thresholds.size}
        fields |= dict(zip(("rows", "cols", "first"), self.plan.positions, strict=True))
        counts = [len(part.program.table) + _TICKS for part in parts]
        # One array of 8-byte words has everything that goes to the device and comes back.
        sizes = [len(JOB) * len(parts), _COUNTERS * len(parts), 2, 2 * groups, *counts]
        ends = np.cumsum([0, *sizes]).tolist()
        failure, results = slice(*ends[2:4]), slice(*ends[3:5])
        host = np.zeros(ends[-1], np.int64)
        host[failure] = _NEVER
        launches = []
        for number, (part, one) in enumerate(zip(parts, loaded, strict=True)):
            job = fields | part.fields(self._channels) | one._asdict()
            job |= dict(zip(("starts", "context"), bounds[number], strict=True))
            job |= {"first_element": int(self._elements()[number]), "ticking": int(ticks is not None)}
            own = slice(number * len(JOB), (number + 1) * len(JOB))
            counters = slice(ends[1] + number * _COUNTERS, ends[1] + (number + 1) * _COUNTERS)
            host[own] = [_number(job.get(name, 0)) for name in JOB]
            launches.append((own, counters, failure, results, slice(*ends[4 + number : 6 + number])))
        words = cupy.asarray(host)
        blocks = fields["program_blocks"] + fields.get("coder_blocks", 0)
        for number, arrays in enumerate(launches):
            if number:
                self._carry(number)
            arguments = tuple(words[one] for one in arrays)
            launch("serial.cu", "walk_latent", blocks, fields["threads"], fields["shared"], arguments)
        found = words.get()
        if ticks is not None:
            self._count(ticks, [found[one[-1]] for one in launches])
        status = found[results].reshape(-1, 2)
        failed = np.flatnonzero(status[:, 0])
        group = tuple(status[failed[0]].tolist()) if failed.size else None
        return int(found[failure][1]), group

    def _carry(self, number: int) -> None:
        """The planes to where the next part's program has them, if that is elsewhere."""
        places = [self.plan.parts[at].program.places["planes"] for at in (number - 1, number)]
        if places[0] != places[1]:
            self._plane(number)[...] = self._plane(number - 1).copy()

    def _count(self, ticks: dict[str, int], counted: list[IntArray]) -> None:
        for part, own in zip(self.plan.parts, counted, strict=True):
            operations = part.program.table[:, 0]
            kinds = ["context" if op in (Op.CONTEXT, Op.WINDOW) else "nets" for op in operations]
            for kind, count in zip([*PARTS[:_TICKS], *kinds], own.tolist(), strict=True):
                ticks[kind] = ticks.get(kind, 0) + count

    def _longest(self) -> int:
        return max(int(np.diff(part.starts).max()) * part.width for part in self.plan.parts)

    def decode(self, decoder: Decoder, ticks: dict[str, int] | None) -> None:
        """Fill y_hat. Raises as `decode_latent`."""
        # What can fail without the decoder must do so before it is lent.
        for part in self.plan.parts:
            load(part.program)
        loan = decoder.lend(self._model.quantization.rows)
        try:
            fields = self._coder_fields(loan)
        except BaseException:
            # Nothing has been launched.
            decoder.take_back(0)
            raise
        element, failed = self._walk(DECODE, fields, loan.groups, ticks)
        if failed is not None:
            decoder.take_back(0, *failed)
        if element != _NEVER:
            # The states are where the launch's last step left them.
            decoder.refuse(f"the latent at {self._place(element)} lies beyond +-{LATENT_LIMIT}")
        decoder.take_back(int(self._elements()[-1]))

    def _coder_fields(self, loan: Loan) -> dict[str, Any]:
        """What a job says of the coder and the launch. RuntimeError for a device that is too small."""
        table_rows, cells = loan.table.decoder_rows, loan.table.decoder_cells
        blocks, threads = launch_shape(JOB_BYTES)
        coders = min(loan.groups, max(1, blocks // (PROGRAM_SHARE + 1)))
        if blocks < 2:
            raise RuntimeError("one multiprocessor has no room for the coder beside the networks")
        piece = min(PIECE, self._longest())
        own = JOB_BYTES + table_rows.nbytes + 8 * piece
        near = min(cells.size, (shared_room() - own) // 4)
        if near < 0:
            raise RuntimeError(f"a table of {loan.table.rows} rows needs {own} bytes of shared memory")
        return {
            "program_blocks": blocks - coders,
            "coder_blocks": coders,
            "threads": threads,
            "shared": max(JOB_BYTES + shared_bytes(threads), own + 4 * near),
            "room": piece,
            "near_room": near,
            "table_rows": table_rows,
            "table_cells": cells,
            "row_count": loan.table.rows,
            "precision": loan.table.precision,
            "cell_count": cells.size,
            "lanes": loan.lanes,
            "first_number": loan.first,
            "states": loan.states,
            "progress": loan.progress,
            "words": loan.words,
        }

    def _all(self, task: int, y: Any = None) -> tuple[Any, Any, Any]:
        """(offsets, indexes, symbols) in coding order."""
        cupy = import_cupy()
        count = int(self._elements()[-1])
        blocks, threads = launch_shape(JOB_BYTES)
        out = [cupy.empty(count, dtype) for dtype in (np.float32, np.int32, np.int32)]
        fields = dict(zip(("offsets", "indexes", "symbols"), out, strict=True))
        fields |= {"program_blocks": blocks, "threads": threads, "shared": JOB_BYTES + shared_bytes(threads)}
        if y is not None:
            fields |= {"y": y, "y_pitch": self._channels}
        element, _ = self._walk(task, fields)
        if element != _NEVER:
            at = self._place(element)
            raise ValueError(
                f"y is {float(y[at])} at {at}: a latent or its symbol would lie beyond +-{LATENT_LIMIT}"
            )
        return out[0], out[1], out[2]

    def parameters(self) -> tuple[Any, Any]:
        """(offsets, indexes) in coding order, of a latent that is complete."""
        return self._all(PARAMETERS)[:2]

    def quantize(self, y: Any) -> tuple[Any, Any]:
        """(symbols, indexes), in coding order, of a contiguous float32 y; fills y_hat. Raises as encoding."""
        _, indexes, symbols = self._all(QUANTIZE, y)
        return symbols, indexes

    def _place(self, element: int) -> tuple[int, int, int]:
        """(row, column, channel) of an element in coding order."""
        begins, steps = self._elements(), self.plan.steps
        number = int(np.searchsorted(begins, element, side="right")) - 1
        part = self.plan.parts[number]
        nth, channel = divmod(element - int(begins[number]), part.width)
        at = int(part.starts[0]) + nth
        return int(steps.rows[at]), int(steps.cols[at]), int(steps.first[at]) + channel


def _number(value: Any) -> int:
    """What a job's field holds: an address for an array."""
    return int(value.data.ptr if isinstance(value, import_cupy().ndarray) else value)


def _bits(model: Model) -> int:
    bits = model.quantization.fraction_bits
    return -1 if bits is None else bits


def _check_shape(name: str, array: Any, expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise ValueError(f"{name} of shape {array.shape} must be {expected} for this order and model")


def _latent_numbers(y: Any, model: Model, order: Order) -> Any:
    """y as contiguous float32; TypeError, ValueError for what can't be a latent."""
    cupy = import_cupy()
    if y.dtype.kind not in "iuf":
        raise TypeError(f"y must be numbers, not {y.dtype}")
    _check_shape("y", y, (order.height, order.width, model.channels))
    if model.quantization.fraction_bits is not None:
        wide = y.astype(np.float64)
        bad = ~((wide == np.rint(wide)) & (abs(wide) <= LATENT_LIMIT))
        if bool(bad.any()):
            at = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), y.shape))
            raise ValueError(f"y holds {float(wide[at])} at {at}, no integer within +-{LATENT_LIMIT}")
    return finite("y", cupy.ascontiguousarray(y.astype(np.float32)))
