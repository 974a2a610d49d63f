"""Small models whose steps remember, refine and read other inputs, for the tests of latents on GPUs."""

from __future__ import annotations

import numpy as np
from latent_cases import THRESHOLDS, FloatArray, head
from random_layers import Grower

from quadrans import kernels
from quadrans.kernels import Layer

TOKENS = {"keys": (1, 3, 12), "tokens": (2, 2, 5)}
"""Shapes of the inputs: three keys of 6 channels with their values, and four tokens."""

MASK = kernels.checkerboard_mask(3)


def inputs(rng: np.random.Generator, *names: str) -> dict[str, FloatArray]:
    return {name: rng.standard_normal(TOKENS[name]).astype(np.float32) for name in names}


def channels_of(names: tuple[str, ...]) -> dict[str, int]:
    return {name: TOKENS[name][2] for name in names}


def attention(weights: Grower, given: int, outputs: int, name: str) -> Layer:
    """Of `given` channels to an input: two heads, three channels each."""
    keys: Layer = kernels.Input(name)
    if name == "tokens":
        keys = kernels.Sequential([keys, kernels.Linear(weights.weights(12, 5), weights.weights(12))])
    query = kernels.Linear(weights.weights(6, given), weights.weights(6))
    return kernels.CrossAttention(query, keys, kernels.Linear(weights.weights(outputs, 6)), 2)


def conv(weights: Grower, given: int, outputs: int) -> Layer:
    weight = weights.weights(outputs, given, 3, 3)
    return kernels.Sequential([kernels.Conv2d(weight, weights.weights(outputs), padding=1), kernels.Tanh()])


def remembering_model(
    rng: np.random.Generator,
    bits: int | None,
    order: kernels.Order,
    channels: int,
    features: int = 4,
    memory: int = 3,
    names: tuple[str, ...] = (),
) -> kernels.StepModel:
    """Of three steps, one has neither what comes before it nor after, and one reads the inputs.

    What comes before gives memory or memory - 1 channels; what comes after refines all channels, or those
    that the step codes.
    """
    weights = Grower(int(rng.integers(2**31)))
    given = channels + features + memory
    before: list[Layer | None] = []
    nets: list[Layer] = []
    after: list[Layer | None] = []
    for number, step in enumerate(order):
        width = channels if number % 2 == 0 else step.width or channels
        first = conv(weights, given, 5)
        if names and number % 3 == 1:
            first = attention(weights, given, 5, names[number % len(names)])
        nets.append(kernels.Sequential([first, kernels.LeakyReLU(), head(weights, 5, 2 * width)]))
        skipped = number % 3 == 2
        before.append(None if skipped else conv(weights, given, memory - number % 2))
        after.append(None if skipped or bits is not None else conv(weights, given, width))
    return kernels.StepModel(
        nets,
        channels,
        features,
        kernels.Quantization(THRESHOLDS, bits),
        inputs=channels_of(names),
        memory=memory,
        before=before,
        after=after if bits is None else (),
    )


def attending_model(
    rng: np.random.Generator, bits: int | None, sizes: tuple[int, int, int] = (3, 6, 7)
) -> kernels.ContextModel:
    """Minnen 2018's, of sizes (M, F, D), whose head attends to the input "keys"."""
    m, f, d = sizes
    weights = Grower(int(rng.integers(2**31)))
    heads = kernels.Concat([attention(weights, f + d, 9, "keys"), head(weights, f + d, 9)])
    return kernels.ContextModel(
        weights.weights(d, m, 5, 5),
        weights.weights(d),
        kernels.Sequential([heads, kernels.LeakyReLU(), head(weights, 18, 2 * m)]),
        kernels.Quantization(THRESHOLDS, bits),
        inputs=channels_of(("keys",)),
    )
