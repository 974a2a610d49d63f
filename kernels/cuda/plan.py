"""How a model's latents are coded in an order on a device: the programs, and the launches that take them.

All steps of a model of positions are one launch. Under a `StepModel` each step is one, whose program first
runs what comes before the step's net; what refines its elements is another, since the coder comes between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..builder import Builder
from ..models import PositionModel, own_steps, position_steps
from ..orders import Order, Steps
from ..placement import Value
from ..program import IntArray, Program, WeightStore
from ..quantization import Quantization
from ..step_models import Model, StepModel
from ._module import import_cupy
from .network import PerDevice
from .table import pack

CHUNK = 8192
"""Positions of a step that are worked on together, so that memory grows little with the image."""

PIECE = 8192
"""Elements of a step that the coder has in shared memory at once, at most."""

MAX_STEP = 2**31 - 1 - PIECE
"""Elements of a step, positions x width: the kernel counts them in int, up to a piece beyond the last."""

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Part:
    """Steps that one launch takes, with their program."""

    program: Program
    starts: IntArray
    context: IntArray
    width: int
    images: int
    given: int
    """Channels of which the program gives scales and means, or refinements."""
    input: str
    """The place of y_hat in the program."""
    begin: int = 0
    """Number of its first element, in coding order."""
    refines: bool = False
    """Whether what it gives is added to elements that another part has coded."""

    @property
    def elements(self) -> int:
        return int(self.starts[-1] - self.starts[0]) * self.width

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
            "first_element": self.begin,
        }


@dataclass(frozen=True)
class Plan:
    """How a model's latents are coded in an order: made once for both, on a device."""

    model: Model
    quantization: Quantization
    steps: Steps
    parts: tuple[Part, ...]
    positions: tuple[Any, ...]
    """rows, cols, first on the device."""
    thresholds: Any
    bounds: tuple[tuple[Any, Any], ...]
    """starts and context of each part on the device."""

    @property
    def elements(self) -> int:
        return self.parts[-1].begin + self.parts[-1].elements

    def place(self, element: int) -> Shape:
        """(row, column, channel) of an element, by its number in coding order."""
        part = [one for one in self.parts if one.begin <= element][-1]
        nth, channel = divmod(element - part.begin, part.width)
        at = int(part.starts[0]) + nth
        return int(self.steps.rows[at]), int(self.steps.cols[at]), int(self.steps.first[at]) + channel


_stores, _plans = PerDevice(), PerDevice()


def plan(model: Model, order: Order, inputs: Mapping[str, Shape], joined: bool) -> Plan:
    """The plan for inputs of these shapes; joined: of steps that read alike, for a latent that is known."""
    cupy = import_cupy()
    # The plan keeps the model alive, and so its number taken.
    key = id(model), cupy.cuda.Device().id, joined, tuple(sorted(inputs.items()))
    return _plans.get(order, key, lambda: _make_plan(model, order, inputs, joined))


def _make_plan(model: Model, order: Order, inputs: Mapping[str, Shape], joined: bool) -> Plan:
    cupy = import_cupy()
    if isinstance(model, StepModel):
        steps = own_steps(order)
        parts = tuple(_step_parts(model, order, steps, inputs))
    else:
        steps = position_steps(order, joined)
        parts = (_position_part(model, order, steps, inputs),)
    for part in parts:
        _check_step(part)
    positions = tuple(cupy.asarray(axis) for axis in (steps.rows, steps.cols, steps.first))
    bounds = tuple((cupy.asarray(part.starts), cupy.asarray(part.context)) for part in parts)
    quantization = table_quantization(model)
    thresholds = cupy.asarray(quantization.thresholds)
    # Others than the current stream may use the arrays later.
    cupy.cuda.get_current_stream().synchronize()
    return Plan(model, quantization, steps, parts, positions, thresholds, bounds)


def table_quantization(model: Model) -> Quantization:
    """The model's quantization. TypeError if it isn't for a table's coder, the only one that devices have."""
    if isinstance(model.quantization, Quantization):
        return model.quantization
    raise TypeError("mixtures are coded on the CPU")


def _check_step(part: Part) -> None:
    positions = int(np.diff(part.starts).max(initial=0))
    if positions * part.width > MAX_STEP:
        raise ValueError(
            f"a step of {positions} positions and {part.width} channels each, {MAX_STEP} elements are coded "
            f"at once at most"
        )


def _position_part(model: PositionModel, order: Order, steps: Steps, inputs: Mapping[str, Shape]) -> Part:
    model.check_taps(order.taps)
    counts = -(-np.diff(steps.starts) // CHUNK)
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.append(np.repeat(steps.starts[:-1], counts) + CHUNK * nth, steps.starts[-1])
    builder = Builder(_stores.get(model, None, lambda: model.stored(pack)), int(np.diff(starts).max()))
    y_hat = builder.plane("y_hat", order.height, order.width, model.channels)
    features = builder.plane("features", order.height, order.width, model.features)
    for name, shape in inputs.items():
        builder.plane(name, *shape)
    builder.output("result", model.emit(builder, features, y_hat, order.taps))
    context = np.repeat(steps.context, counts).astype(np.int64)
    return Part(builder.build(), starts, context, model.channels, 0, model.channels, "y_hat")


def _step_parts(model: StepModel, order: Order, steps: Steps, inputs: Mapping[str, Shape]) -> Iterator[Part]:
    store = _stores.get(model, None, lambda: WeightStore(pack))
    begin = 0
    for number, width in enumerate(steps.width.tolist()):
        starts, width = steps.starts[number : number + 2], width or model.channels
        before, net, after = model.layers(order, number)
        for what, layer, arrays in (("net", net, 2), ("after", after, 1)):
            if layer is None:
                continue
            builder = Builder(store, 1)
            size = order.height, order.width
            planes = builder.input("planes", *size, model.width)
            for name, shape in inputs.items():
                builder.input(name, *shape)
            for first in before if what == "net" else ():
                _remember(builder, planes, _own(builder, first.emit(builder, planes)), model, number)
            out = _own(builder, layer.emit(builder, planes))
            given, odd = divmod(out.channels, arrays)
            if (out.height, out.width) != size or odd or given not in (model.channels, width):
                times = f"{arrays} x " if arrays > 1 else ""
                raise ValueError(
                    f"{what} {number} gives {out.height}x{out.width} positions of {out.channels} channels; "
                    f"it must give {times}{model.channels} channels of each of {size[0]}x{size[1]}, or "
                    f"{times}{width}"
                )
            builder.output("result", out)
            none = np.zeros(1, np.int64)
            yield Part(builder.build(), starts, none, width, 1, given, "planes", begin, what == "after")
        begin += int(starts[1] - starts[0]) * width


def _own(builder: Builder, value: Value) -> Value:
    """The value, copied if it is a part of what is written to while others read it."""
    return builder.concatenate([value]) if value.buffer.kept else value


def _remember(builder: Builder, planes: Value, value: Value, model: StepModel, number: int) -> None:
    """The value in place of the first channels of the memory."""
    if (value.height, value.width) != (planes.height, planes.width) or value.channels > model.memory:
        raise ValueError(
            f"before {number} gives {value.height}x{value.width} positions of {value.channels} channels; it "
            f"must give up to {model.memory} channels of each of {planes.height}x{planes.width}"
        )
    first = model.channels + model.features
    builder.copy(value, planes.part(first, first + value.channels))
