"""Latents in plain NumPy, one element after the other: slow, literal, the oracle of `latent`.

Models by the reference's functions, straight from their layers; ARITHMETIC.md, sections 7 to 9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from . import reference
from .models import ContextModel, Model, StepModel, WindowModel
from .orders import Order
from .program import FloatArray
from .reference_network import run
from .steps import Step
from .taps import Taps, mask_taps

Element = tuple[int, int, int]
"""Row, column, channel."""
Distribution = tuple[np.float32, int]
"""What the symbol is counted from, and the table's row."""


def step_parameters(
    model: Model, features: FloatArray, y_hat: FloatArray, order: Order, number: int
) -> tuple[FloatArray, FloatArray]:
    """(scales, means), (n, width) each, of an order's step, from y_hat (H, W, M) as it is by then."""
    step = order.steps[number]
    if isinstance(model, StepModel):
        out = run(model.net(order, number), np.concatenate([y_hat, features], axis=2))
        scales, means = np.split(out, 2, axis=2)
        rows, cols, channels = step.elements(model.channels)
        if scales.shape[2] != model.channels:
            # The net gives only what the step codes: the same channels for every position.
            channels = channels - channels[:, :1]
        return scales[rows, cols, channels], means[rows, cols, channels]
    if isinstance(model, ContextModel):
        out = run(model.head, _context_input(model, features, y_hat, order, step))
    elif isinstance(model, WindowModel):
        out = run(model.estimator, _window_input(model, features, y_hat, order, step))
    else:
        raise TypeError(f"the reference has no {type(model).__name__}")
    scales, means = np.split(out.reshape(len(step), 2 * model.channels), 2, axis=1)
    return scales, means


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
    model: Model, features: FloatArray, y_hat: FloatArray, order: Order, number: int
) -> Iterator[tuple[Element, Distribution]]:
    """The elements of an order's step, in coding order."""
    scales, means = step_parameters(model, features, y_hat, order, number)
    step, quantization = order.steps[number], model.quantization
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
) -> FloatArray:
    """y_hat, for a function that gives the symbol of each element."""
    y_hat = np.full((order.height, order.width, model.channels), undecoded, np.float32)
    for number in range(len(order)):
        symbols = {}
        for element, distribution in distributions(model, features, y_hat, order, number):
            symbols[element] = code(element, distribution), distribution[0]
        for element, (symbol, offset) in symbols.items():
            if model.quantization.fraction_bits is None:
                y_hat[element] = reference.dequantize(np.array(symbol, np.int32), np.array(offset))
            else:
                value = symbol + int(offset)
                if abs(value) > reference.LATENT_LIMIT:
                    raise ValueError(f"a latent is beyond +-{reference.LATENT_LIMIT}")
                y_hat[element] = value
    return y_hat


def encode(
    y: FloatArray, features: FloatArray, model: Model, order: Order, undecoded: float = 0
) -> tuple[list[int], list[int], FloatArray]:
    """(symbols, indexes, y_hat), the lists in coding order, of a latent (H, W, M).

    undecoded: what y_hat holds where nothing is decoded. A model of positions doesn't see it.
    """
    symbols, indexes = [], []

    def code(element: Element, distribution: Distribution) -> int:
        offset, index = distribution
        if model.quantization.fraction_bits is None:
            symbol = int(reference.quantize(np.array(y[element]), np.array(offset)))
        else:
            symbol = int(y[element]) - int(offset)
        symbols.append(symbol)
        indexes.append(index)
        return symbol

    return symbols, indexes, _loop(code, features, model, order, undecoded)


def decode(
    get: Callable[[int], int], features: FloatArray, model: Model, order: Order, undecoded: float = 0
) -> FloatArray:
    """The latent of the symbols that get(index) gives, one after the other. ValueError beyond +-2^24."""
    return _loop(lambda _, distribution: get(distribution[1]), features, model, order, undecoded)
