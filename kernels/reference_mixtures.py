"""Latents under mixtures in plain NumPy and Python: the oracle of `latent` for a `MixtureQuantization`.

ARITHMETIC.md, section 9, up to the floats; `quadrans.entropy.reference_mixture` from there on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..entropy.reference_mixture import Mixture, quantize
from .models import Inputs, PositionModel
from .orders import Order
from .program import FloatArray
from .quantization import MixtureQuantization
from .reference import LATENT_LIMIT
from .reference_functions import exp
from .reference_latent import Element, position_numbers


def mixtures(
    model: PositionModel,
    features: FloatArray,
    y_hat: FloatArray,
    order: Order,
    number: int,
    inputs: Inputs | None = None,
) -> Iterator[tuple[Element, Mixture]]:
    """The elements of an order's step, in coding order. ValueError if a number of theirs isn't finite."""
    rule, step = model.quantization, order.steps[number]
    if not isinstance(rule, MixtureQuantization):
        raise TypeError("the model isn't one of mixtures")
    numbers = position_numbers(model, features, y_hat, order, step, inputs)
    if not np.isfinite(numbers).all():
        raise ValueError("a logit, mean or scale isn't finite")
    least = np.float32(rule.scale_min)
    for n, of_position in enumerate(numbers.reshape(len(step), rule.components, 3, model.channels)):
        for c in range(model.channels):
            logits, means, scales = of_position[:, :, c].T
            with np.errstate(over="ignore"):
                weights = exp(logits - logits.max())
            scales = np.where(scales > least, scales, least)
            mixture = quantize(weights.tolist(), means.tolist(), scales.tolist())
            yield (int(step.rows[n]), int(step.cols[n]), c), mixture


def _loop(
    code: Callable[[Element, Mixture], int],
    features: FloatArray,
    model: PositionModel,
    order: Order,
    undecoded: float,
    inputs: Inputs | None,
) -> FloatArray:
    """The latent, for a function that gives the symbol of each element."""
    y_hat = np.full((order.height, order.width, model.channels), undecoded, np.float32)
    for number in range(len(order)):
        coded = mixtures(model, features, y_hat, order, number, inputs)
        for element, symbol in [(element, code(element, mixture)) for element, mixture in coded]:
            if abs(symbol) > LATENT_LIMIT:
                raise ValueError(f"a latent is beyond +-{LATENT_LIMIT}")
            y_hat[element] = symbol
    return y_hat


def encode(
    y: FloatArray,
    features: FloatArray,
    model: PositionModel,
    order: Order,
    undecoded: float = 0,
    inputs: Inputs | None = None,
) -> tuple[list[int], list[Mixture]]:
    """(symbols, mixtures), in coding order, of a latent (H, W, M) of integers.

    undecoded: what is found where nothing is decoded, which no model may see.
    """
    coded: list[tuple[int, Mixture]] = []

    def code(element: Element, mixture: Mixture) -> int:
        coded.append((int(y[element]), mixture))
        return coded[-1][0]

    _loop(code, features, model, order, undecoded, inputs)
    return [symbol for symbol, _ in coded], [mixture for _, mixture in coded]


def decode(
    get: Callable[[Mixture], int],
    features: FloatArray,
    model: PositionModel,
    order: Order,
    undecoded: float = 0,
    inputs: Inputs | None = None,
) -> FloatArray:
    """The latent of the symbols that get(mixture) gives, one after the other. ValueError beyond +-2^24."""
    return _loop(lambda _, mixture: get(mixture), features, model, order, undecoded, inputs)
