"""Latents on NVIDIA GPUs: the loop over a coding order's steps, without leaving the device.

    y_hat = encode_latent(encoder, y, features, model, order)      # with an `encoder.Encoder`
    y_hat = decode_latent(decoder, features, model, order)         # with a `decoder.Decoder`

What `kernels.latent` does on a CPU, equal to the bit: all steps of a model of positions are one cooperative
launch; `plan` says what those of a `StepModel` are. Arrays are CuPy's or torch CUDA tensors, read where they
are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..models import PositionModel
from ..orders import Order
from ..program import IntArray, Op
from ..quantization import LATENT_LIMIT
from ..step_models import Model
from ._module import at, device_array, import_cupy, one_device
from .decoder import Decoder, Loan
from .encoder import Encoder
from .network import finite, launch, launch_shape, like, load, shared_room
from .plan import PIECE, plan, table_quantization
from .table import shared_bytes

PARTS = ("index", "coder", "context", "nets")
"""Where time goes, as in `kernels.latent`."""

PROGRAM_SHARE = 16
"""Blocks that run the program for each of the coder's, at least."""

DECODE, QUANTIZE, PARAMETERS, REFINE = range(4)

JOB = """
    task ticking
    table instructions ints floats memory images program_blocks
    steps starts context rows cols first width
    scales means pitch by_channel
    plane plane_width plane_pitch y y_pitch thresholds threshold_count bits
    first_step first_element offsets indexes symbols
    coder_blocks room near_room table_rows table_cells row_count precision cell_count lanes groups
    first_number
    states progress words
""".split()
"""The fields of serial.cuh's Job, 8 bytes each, that are given: integers, and addresses of arrays."""

JOB_BYTES = -(-8 * (len(JOB) + 4) // 16) * 16

_TICKS, _COUNTERS, _NEVER = 2, 2, 2**62


def decode_latent(
    decoder: Decoder,
    features: Any,
    model: Model,
    order: Order,
    *,
    inputs: Mapping[str, Any] | None = None,
    ticks: dict[str, int] | None = None,
) -> Any:
    """The latent, (H, W, M) float32, that `encode_latent` put under the same features and order.

    features: (H, W, F) float32, finite, on the decoder's device; the latent is an array of the same kind.
    inputs: those that the model names, (H', W', C) float32 each, finite, on the same device. ticks: gets the
    time of each of PARTS added, in clock cycles of a multiprocessor. Raises TypeError and ValueError for
    arrays that don't fit, TypeError for a model of mixtures, CorruptStream for latents beyond +-2^24, and
    what the decoder raises. CorruptStream ends the decoder, as does a launch that fails.
    """
    array, others = _on_device(features, inputs, model)
    with at(one_device([array, *others.values()])):
        latent = _Latent(model, order, array, others)
        latent.decode(decoder, ticks)
        return like(latent.y_hat.copy(), features)


def encode_latent(
    encoder: Encoder,
    y: Any,
    features: Any,
    model: Model,
    order: Order,
    *,
    inputs: Mapping[str, Any] | None = None,
) -> Any:
    """Put a latent (H, W, M) into `encoder`, in coding order; gives what the decoder will find.

    In integer mode y holds integers within +-2^24, and is y_hat itself; in residual mode it holds any finite
    numbers. Arrays and errors else as `decode_latent`; ValueError for a value that doesn't fit.
    """
    (array, others), numbers = _on_device(features, inputs, model), device_array("y", y)
    with at(one_device([array, *others.values(), numbers])):
        numbers = _latent_numbers(numbers, model, order)
        # What positions read of integers is known, so steps that read alike are taken together.
        known = table_quantization(model).fraction_bits is not None and isinstance(model, PositionModel)
        latent = _Latent(model, order, array, others, numbers if known else None, joined=known)
        symbols, indexes = latent.quantize(numbers)
        encoder.put(symbols, indexes)
        return like(latent.y_hat.copy(), y)


def latent_parameters(
    y_hat: Any,
    features: Any,
    model: PositionModel,
    order: Order,
    *,
    inputs: Mapping[str, Any] | None = None,
) -> tuple[Any, Any]:
    """(offsets float32, indexes int32), (H, W, M) each, of a complete latent in one pass.

    Equal to what `decode_latent` finds step by step. An offset is what symbols are counted from: the mean, or
    in integer mode its integer part. Arrays and errors as `encode_latent`.
    """
    cupy = import_cupy()
    (array, others), numbers = _on_device(features, inputs, model), device_array("y_hat", y_hat)
    with at(one_device([array, *others.values(), numbers])):
        _check_shape("y_hat", numbers, (order.height, order.width, model.channels))
        numbers = finite("y_hat", numbers.astype(np.float32))
        latent = _Latent(model, order, array, others, numbers, joined=True)
        offsets, indexes = latent.parameters()
        steps = latent.plan.steps
        place = cupy.asarray(steps.rows * order.width + steps.cols)
        out = []
        for values in (offsets, indexes):
            placed = cupy.empty((order.height * order.width, model.channels), values.dtype)
            placed[place] = values.reshape(-1, model.channels)
            out.append(like(placed.reshape(numbers.shape), y_hat))
        return out[0], out[1]


class _Latent:
    """A latent, a model and an order, in the memory of the current device."""

    def __init__(
        self,
        model: Model,
        order: Order,
        features: Any,
        inputs: Mapping[str, Any],
        y_hat: Any = None,
        joined: bool = False,
    ) -> None:
        cupy = import_cupy()
        _check_features(features, model, order)
        _check_inputs(inputs, model)
        if order.channels not in (None, model.channels):
            raise ValueError(f"{order.name} codes {order.channels} channels, the model {model.channels}")
        shapes = {name: array.shape for name, array in inputs.items()}
        self.plan = plan(model, order, shapes, joined)
        self._inputs = inputs
        self._memory = cupy.empty(max(part.program.size for part in self.plan.parts), np.float32)
        self._channels = model.channels
        if isinstance(model, PositionModel):
            self._plane(0, "features")[...] = features
        else:
            decoded = model.channels + model.features
            self._plane(0)[:, :, model.channels : decoded] = features
            self._plane(0)[:, :, decoded:] = 0
        for name, values in inputs.items():
            self._plane(0, name)[...] = values
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
        thresholds, bits = self.plan.thresholds, self.plan.quantization.bits
        fields = fields | {"task": task, "groups": groups, "memory": self._memory, "bits": bits}
        fields |= {"thresholds": thresholds, "threshold_count": thresholds.size}
        fields |= dict(zip(("rows", "cols", "first"), self.plan.positions, strict=True))
        counts = [len(part.program.table) + _TICKS for part in parts]
        # One array of 8-byte words has everything that goes to the device and comes back.
        sizes = [len(JOB) * len(parts), _COUNTERS * len(parts), 2, 2 * groups, *counts]
        ends = np.cumsum([0, *sizes]).tolist()
        failure, results = slice(*ends[2:4]), slice(*ends[3:5])
        host = np.zeros(ends[-1], np.int64)
        host[failure] = _NEVER
        blocks = fields["program_blocks"] + fields.get("coder_blocks", 0)
        launches, first_step = [], 0
        for number, (part, one) in enumerate(zip(parts, loaded, strict=True)):
            job = fields | part.fields(self._channels) | one._asdict()
            job |= dict(zip(("starts", "context"), bounds[number], strict=True))
            job |= {"first_step": first_step, "ticking": int(ticks is not None)}
            if part.refines:
                job |= {"task": REFINE, "program_blocks": blocks}
            first_step += len(part.context)
            own = slice(number * len(JOB), (number + 1) * len(JOB))
            counters = slice(ends[1] + number * _COUNTERS, ends[1] + (number + 1) * _COUNTERS)
            host[own] = [_number(job.get(name, 0)) for name in JOB]
            launches.append((own, counters, failure, results, slice(*ends[4 + number : 6 + number])))
        words = cupy.asarray(host)
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
        """What the programs share to where the next part's has it, unless the one before left it there."""
        last, own = (self.plan.parts[at].program.places for at in (number - 1, number))
        if last["planes"] != own["planes"]:
            self._plane(number)[...] = self._plane(number - 1).copy()
        for name, values in self._inputs.items():
            if last[name] != own[name]:
                self._plane(number, name)[...] = values

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
        loan = decoder.lend(self.plan.quantization.rows)
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
            decoder.refuse(f"the latent at {self.plan.place(element)} lies beyond +-{LATENT_LIMIT}")
        decoder.take_back(self.plan.elements)

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
        count = self.plan.elements
        blocks, threads = launch_shape(JOB_BYTES)
        out = [cupy.empty(count, dtype) for dtype in (np.float32, np.int32, np.int32)]
        fields = dict(zip(("offsets", "indexes", "symbols"), out, strict=True))
        fields |= {"program_blocks": blocks, "threads": threads, "shared": JOB_BYTES + shared_bytes(threads)}
        if y is not None:
            fields |= {"y": y, "y_pitch": self._channels}
        element, _ = self._walk(task, fields)
        if element != _NEVER:
            at = self.plan.place(element)
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


def _number(value: Any) -> int:
    """What a job's field holds: an address for an array."""
    return int(value.data.ptr if isinstance(value, import_cupy().ndarray) else value)


def _on_device(features: Any, inputs: Mapping[str, Any] | None, model: Model) -> tuple[Any, dict[str, Any]]:
    """The features and the inputs as CuPy arrays. TypeError for others, and for a model of mixtures."""
    table_quantization(model)
    arrays = {name: device_array(f"the input {name!r}", values) for name, values in (inputs or {}).items()}
    return device_array("features", features), arrays


def _check_features(features: Any, model: Model, order: Order) -> None:
    _check_shape("features", features, (order.height, order.width, model.features))
    if features.dtype != np.float32:
        raise TypeError(f"features must be float32, not {features.dtype}")
    finite("features", features)


def _check_inputs(inputs: Mapping[str, Any], model: Model) -> None:
    if set(inputs) != set(model.inputs):
        raise ValueError(f"inputs {sorted(inputs)}, the model reads {sorted(model.inputs)}")
    for name, array in inputs.items():
        what, channels = f"the input {name!r}", model.inputs[name]
        if array.ndim != 3 or array.shape[2] != channels or not array.size:
            raise ValueError(f"{what} of shape {array.shape} must be (H, W, {channels})")
        if array.dtype != np.float32:
            raise TypeError(f"{what} must be float32, not {array.dtype}")
        finite(what, array)


def _check_shape(name: str, array: Any, expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise ValueError(f"{name} of shape {array.shape} must be {expected} for this order and model")


def _latent_numbers(y: Any, model: Model, order: Order) -> Any:
    """y as contiguous float32; TypeError, ValueError for what can't be a latent."""
    cupy = import_cupy()
    if y.dtype.kind not in "iuf":
        raise TypeError(f"y must be numbers, not {y.dtype}")
    _check_shape("y", y, (order.height, order.width, model.channels))
    if table_quantization(model).fraction_bits is not None:
        wide = y.astype(np.float64)
        bad = ~((wide == np.rint(wide)) & (abs(wide) <= LATENT_LIMIT))
        if bool(bad.any()):
            at = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), y.shape))
            raise ValueError(f"y holds {float(wide[at])} at {at}, no integer within +-{LATENT_LIMIT}")
    return finite("y", cupy.ascontiguousarray(y.astype(np.float32)))
