"""Latents in plain NumPy, one element after the other: slow, literal, the oracle of `latent`.

Models by the reference's functions, straight from their layers; ARITHMETIC.md, sections 7 to 9.
`reference_mixtures` has those of mixtures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from . import reference
from .models import ContextModel, Inputs, WindowModel
from .orders import Order
from .program import FloatArray
from .reference_network import run
from .step_models import Model, StepModel, table_quantization
from .steps import Step
from .taps import Taps, mask_taps

Element = tuple[int, int, int]
"""Row, column, channel."""
Distribution = tuple[np.float32, int]
"""What the symbol is counted from, and the table's row."""


def step_parameters(
    model: Model,
    features: FloatArray,
    y_hat: FloatArray,
    order: Order,
    number: int,
    inputs: Inputs | None = None,
    memory: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """(scales, means), (n, width) each, of an order's step, from y_hat (H, W, M) as it is by then.

    memory: (H, W, S), as it is by then; a `StepModel`'s alone.
    """
    step = order.steps[number]
    if isinstance(model, StepModel):
        planes = _planes(model, features, y_hat, memory)
        scales, means = np.split(run(model.net(order, number), planes, inputs), 2, axis=2)
        return _of_elements(model, scales, step), _of_elements(model, means, step)
    out = position_numbers(model, features, y_hat, order, step, inputs)
    scales, means = np.split(out, 2, axis=1)
    return scales, means


def position_numbers(
    model: Model,
    features: FloatArray,
    y_hat: FloatArray,
    order: Order,
    step: Step,
    inputs: Inputs | None = None,
) -> FloatArray:
    """(n, numbers of a position): what a model of positions gives at a step's."""
    # The same for all positions, which are the images of a batch.
    others = {name: np.stack([array] * len(step)) for name, array in (inputs or {}).items()}
    if isinstance(model, ContextModel):
        out = run(model.head, _context_input(model, features, y_hat, order, step), others)
    elif isinstance(model, WindowModel):
        out = run(model.estimator, _window_input(model, features, y_hat, order, step), others)
    else:
        raise TypeError(f"the reference has no {type(model).__name__}")
    return out.reshape(len(step), model.quantization.parameters_per_channel * model.channels)


def _planes(
    model: StepModel, features: FloatArray, y_hat: FloatArray, memory: FloatArray | None
) -> FloatArray:
    """(H, W, M + F + S)."""
    if memory is None:
        memory = np.zeros((*features.shape[:2], model.memory), np.float32)
    return np.concatenate([y_hat, features, memory], axis=2)


def _of_elements(model: StepModel, plane: FloatArray, step: Step) -> FloatArray:
    """(n, width) of a plane of all channels, or of those alone that the step codes."""
    rows, cols, channels = step.elements(model.channels)
    if plane.shape[2] != model.channels:
        # The same channels for every position.
        channels = channels - channels[:, :1]
    return plane[rows, cols, channels]


def remembered(
    model: StepModel,
    features: FloatArray,
    y_hat: FloatArray,
    order: Order,
    number: int,
    inputs: Inputs | None,
    memory: FloatArray,
) -> FloatArray:
    """The memory (H, W, S) that an order's step finds, from what the step before has left."""
    for layer in model.layers(order, number)[0]:
        out = run(layer, _planes(model, features, y_hat, memory), inputs)
        memory = np.concatenate([out, memory[:, :, out.shape[2] :]], axis=2)
    return memory


def refined(
    model: StepModel,
    features: FloatArray,
    y_hat: FloatArray,
    order: Order,
    number: int,
    inputs: Inputs | None,
    memory: FloatArray,
) -> FloatArray:
    """y_hat (H, W, M) behind an order's step, from what its symbols gave. ValueError beyond +-2^24."""
    layer, step, y_hat = model.layers(order, number)[2], order.steps[number], y_hat.copy()
    if layer is not None:
        added = _of_elements(model, run(layer, _planes(model, features, y_hat, memory), inputs), step)
        for n, c in np.ndindex(*added.shape):
            element = int(step.rows[n]), int(step.cols[n]), int(step.first[n]) + c
            with np.errstate(all="ignore"):
                y_hat[element] = y_hat[element] + added[n, c] + np.float32(0)
            if not abs(y_hat[element]) <= reference.LATENT_LIMIT:
                raise ValueError(f"a latent is beyond +-{reference.LATENT_LIMIT}")
    return y_hat


def _context_input(
    model: ContextModel, features: FloatArray, y_hat: FloatArray, order: Order, step: Step
) -> FloatArray:
    """(n, 1, 1, F + D): the features, then the context feature."""
    at = step.rows, step.cols
    context = np.zeros((len(step), len(model.bias)), np.float32)
    if step.context:
        context = reference.context_at(y_hat, model.weight, model.bias, order.taps, *at)
    return np.concatenate([features[at], context], axis=1)[:, None, None]


def _window_input(
    model: WindowModel, features: FloatArray, y_hat: FloatArray, order: Order, step: Step
) -> FloatArray:
    """(n, rows, columns, M + F): the window of y_hat, then that of the features."""
    at = step.rows, step.cols
    whole = mask_taps(np.ones(model.size, np.bool_), model.center)
    none = np.zeros(0, np.int64)
    taps = order.taps if step.context and len(order.taps) else Taps(none, none, none, model.size)
    return np.concatenate(
        [reference.window_at(y_hat, taps, *at), reference.window_at(features, whole, *at)], axis=3
    )


def distributions(
    model: Model,
    features: FloatArray,
    y_hat: FloatArray,
    order: Order,
    number: int,
    inputs: Inputs | None = None,
    memory: FloatArray | None = None,
) -> Iterator[tuple[Element, Distribution]]:
    """The elements of an order's step, in coding order."""
    scales, means = step_parameters(model, features, y_hat, order, number, inputs, memory)
    step, quantization = order.steps[number], table_quantization(model)
    bits = quantization.fraction_bits
    for n in range(len(step)):
        for c in range(scales.shape[1]):
            index = int(reference.scale_index(scales[n, c], quantization.thresholds))
            offset = np.float32(reference.clamped_mean(means[n, c]))
            if bits is not None:
                k, f = reference.fixed_point_mean(means[n, c], bits)
                offset, index = np.float32(k), index * 2**bits + int(f) + 2**bits // 2
            yield (int(step.rows[n]), int(step.cols[n]), int(step.first[n]) + c), (offset, index)


def _loop(
    code: Callable[[Element, Distribution], int],
    features: FloatArray,
    model: Model,
    order: Order,
    undecoded: float,
    inputs: Inputs | None,
) -> FloatArray:
    """y_hat, for a function that gives the symbol of each element."""
    y_hat = np.full((order.height, order.width, model.channels), undecoded, np.float32)
    size = model.memory if isinstance(model, StepModel) else 0
    memory = np.zeros((order.height, order.width, size), np.float32)
    residual = table_quantization(model).fraction_bits is None
    for number in range(len(order)):
        symbols = {}
        if isinstance(model, StepModel):
            memory = remembered(model, features, y_hat, order, number, inputs, memory)
        for element, distribution in distributions(model, features, y_hat, order, number, inputs, memory):
            symbols[element] = code(element, distribution), distribution[0]
        for element, (symbol, offset) in symbols.items():
            if residual:
                y_hat[element] = reference.dequantize(np.array(symbol, np.int32), np.array(offset))
            else:
                value = symbol + int(offset)
                if abs(value) > reference.LATENT_LIMIT:
                    raise ValueError(f"a latent is beyond +-{reference.LATENT_LIMIT}")
                y_hat[element] = value
        if isinstance(model, StepModel):
            y_hat = refined(model, features, y_hat, order, number, inputs, memory)
    return y_hat


def encode(
    y: FloatArray,
    features: FloatArray,
    model: Model,
    order: Order,
    undecoded: float = 0,
    inputs: Inputs | None = None,
) -> tuple[list[int], list[int], FloatArray]:
    """(symbols, indexes, y_hat), the lists in coding order, of a latent (H, W, M).

    undecoded: what y_hat holds where nothing is decoded. A model of positions doesn't see it.
    """
    symbols, indexes = [], []
    residual = table_quantization(model).fraction_bits is None

    def code(element: Element, distribution: Distribution) -> int:
        offset, index = distribution
        if residual:
            symbol = int(reference.quantize(np.array(y[element]), np.array(offset)))
        else:
            symbol = int(y[element]) - int(offset)
        symbols.append(symbol)
        indexes.append(index)
        return symbol

    return symbols, indexes, _loop(code, features, model, order, undecoded, inputs)


def decode(
    get: Callable[[int], int],
    features: FloatArray,
    model: Model,
    order: Order,
    undecoded: float = 0,
    inputs: Inputs | None = None,
) -> FloatArray:
    """The latent of the symbols that get(index) gives, one after the other. ValueError beyond +-2^24."""
    return _loop(lambda _, distribution: get(distribution[1]), features, model, order, undecoded, inputs)
