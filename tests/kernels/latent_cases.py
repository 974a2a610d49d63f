"""Small models, orders, tables and coders for the tests of latents."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from random_layers import Grower

from quadrans import entropy, kernels
from quadrans.kernels import Layer
from quadrans.kernels.builder import Builder
from quadrans.kernels.placement import Value

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

CAUSAL, CHECKERBOARD = kernels.causal_mask(5), kernels.checkerboard_mask(5)
THRESHOLDS = np.geomspace(0.11, 256, 64)[:-1].astype(np.float32)


@cache
def table(bits: int | None) -> entropy.CdfTable:
    """The one that models with THRESHOLDS need."""
    scales = entropy.default_scales()
    if bits is None:
        return entropy.gaussian_table(scales)
    half = 2**bits // 2
    return entropy.gaussian_table(scales[:, None], np.arange(-half, 2**bits - half) / 2**bits)


def orders(h: int, w: int) -> list[kernels.Order]:
    """Every order of positions for a 5x5 kernel."""
    return [
        kernels.raster(h, w, CAUSAL),
        kernels.wavefront(h, w, CAUSAL),
        kernels.wavefront(h, w, CAUSAL, lag=5),
        kernels.checkerboard(h, w, CHECKERBOARD),
        kernels.checkerboard(h, w, CHECKERBOARD, "odd"),
        kernels.parallel(h, w),
    ]


def head(weights: Grower, *widths: int) -> Layer:
    """1x1 convolutions with LeakyReLUs between."""
    layers: list[Layer] = []
    for number, (c, d) in enumerate(pairwise(widths)):
        layers += [kernels.LeakyReLU(0.01 if number == 1 else 0.2)] if number else []
        layers.append(kernels.Conv2d(weights.weights(d, c, 1, 1), weights.weights(d)))
    return kernels.Sequential(layers)


def context_model(
    rng: np.random.Generator, bits: int | None, extreme: float = 0, sizes: tuple[int, int, int] = (3, 6, 7)
) -> kernels.ContextModel:
    """Minnen 2018's, of sizes (M, F, D)."""
    m, f, d = sizes
    weights = Grower(int(rng.integers(2**31)), extreme)
    return kernels.ContextModel(
        weights.weights(d, m, 5, 5),
        weights.weights(d),
        head(weights, f + d, 18, 5, 2 * m),
        kernels.Quantization(THRESHOLDS, bits),
    )


def lee_model(rng: np.random.Generator, bits: int | None, m: int = 3) -> kernels.WindowModel:
    """Lee 2019's: 3x3, two 3x3 of stride 2, 1x1 on the 4x4 windows; the scales behind an exp."""
    weights = Grower(int(rng.integers(2**31)))

    def conv(given: int, kernel: int, stride: int) -> kernels.Conv2d:
        return kernels.Conv2d(
            weights.weights(2 * m, given, kernel, kernel), weights.weights(2 * m), stride, kernel // 2
        )

    leaky = kernels.LeakyReLU(0.2)
    trunk = [conv(2 * m, 3, 1), leaky, conv(2 * m, 3, 2), leaky, conv(2 * m, 3, 2), leaky, conv(2 * m, 1, 1)]
    # Its means come first, ours last.
    scales = kernels.Sequential([kernels.Slice(m, 2 * m), kernels.Exp()])
    split = kernels.Concat([scales, kernels.Slice(0, m)])
    estimator = kernels.Sequential([*trunk, split])
    return kernels.WindowModel(estimator, (4, 4), (3, 2), m, m, kernels.Quantization(THRESHOLDS, bits))


def step_model(
    rng: np.random.Generator, bits: int | None, order: kernels.Order, channels: int, features: int = 4
) -> kernels.StepModel:
    """A 3x3 convolution and a 1x1 for each step: for all channels, or in odd steps for those it codes."""
    weights = Grower(int(rng.integers(2**31)))
    nets: list[Layer] = []
    for number, step in enumerate(order):
        given = channels if number % 2 == 0 else step.width or channels
        first = kernels.Conv2d(weights.weights(5, channels + features, 3, 3), weights.weights(5), padding=1)
        nets.append(kernels.Sequential([first, kernels.LeakyReLU(), head(weights, 5, 2 * given)]))
    return kernels.StepModel(nets, channels, features, kernels.Quantization(THRESHOLDS, bits))


def latent(
    rng: np.random.Generator, bits: int | None, h: int, w: int, m: int = 3, f: int = 6
) -> tuple[FloatArray, FloatArray]:
    """(y, features)."""
    y = (4 * rng.standard_normal((h, w, m))).astype(np.float32)
    features = rng.standard_normal((h, w, f)).astype(np.float32)
    return y if bits is None else np.rint(y), features


@dataclass(frozen=True, eq=False)
class Copying(kernels.PositionModel):
    """2M features are the M scales, then the M means; with `left`, y_hat on the left is the means instead."""

    channels: int
    bits: int | None
    left: bool = False

    @property
    def features(self) -> int:  # type: ignore[override]
        return 2 * self.channels

    @property
    def quantization(self) -> kernels.Quantization:  # type: ignore[override]
        return kernels.Quantization(THRESHOLDS, self.bits)

    def _emit(self, builder: Builder, features: Value, y_hat: Value, taps: kernels.Taps) -> Value:
        here, left = (np.array([[0, 0, dc]], np.int64) for dc in (0, -1))
        out = builder.window(features, here, (1, 1), context=False)
        if not self.left:
            return out
        means = builder.window(y_hat, left, (1, 1), context=True)
        return builder.concatenate([out.part(0, self.channels), means])

    def check_taps(self, taps: kernels.Taps) -> None:
        pass


class Replay:
    """An encoder that keeps what it's given, and the decoder that hands it out again."""

    def put(self, symbols: IntArray, indexes: IntArray) -> None:
        self.symbols, self.indexes = symbols.ravel(), indexes.ravel()
        self.used = 0

    def get(self, indexes: IntArray) -> IntArray:
        part = slice(self.used, self.used + indexes.size)
        np.testing.assert_array_equal(indexes.ravel(), self.indexes[part])
        self.used = part.stop
        return self.symbols[part].reshape(indexes.shape)


class Plain:
    """A decoder with nothing but `get`: it is called for each step."""

    def __init__(self, decoder: entropy.Decoder) -> None:
        self.get = decoder.get
