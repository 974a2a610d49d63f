"""From features and what is decoded to each symbol's offset and table row, and the loop around it.

`ContextModel` is Minnen 2018's: a context convolution, usable under any mask, and a head of 1x1
convolutions that gives scales and means. Integers leave this module, computed exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..entropy.errors import CorruptStream
from . import compiled
from .conv import Conv2d, Layer, LeakyReLU, Sequential, by_tap, float_array, layer_arrays, ready
from .orders import Order, Taps

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

FRACTION_BITS = 4
FRACTIONS = 1 << FRACTION_BITS
"""Table rows for each scale: means of -FRACTIONS/2 .. FRACTIONS/2 - 1 in units of 1/FRACTIONS."""

LATENT_LIMIT = 1 << 24
"""Latents up to here are exact in float32."""


class SymbolEncoder(Protocol):
    """What `encode_latent` needs of `quadrans.entropy.Encoder`."""

    def put(self, symbols: IntArray, indexes: IntArray) -> Any: ...


class SymbolDecoder(Protocol):
    """What `decode_latent` needs of `quadrans.entropy.Decoder`."""

    def get(self, indexes: IntArray) -> IntArray: ...


def _pointwise(layers: tuple[Layer, ...]) -> tuple[list[Conv2d], list[float]]:
    """The convolutions and slopes of 1x1 convolutions with LeakyReLUs between."""
    convs = [
        layer
        for layer in layers[0::2]
        if isinstance(layer, Conv2d)
        and layer.weight.shape[2:] == (1, 1)
        and (layer.stride, layer.padding, layer.mask) == (1, 0, None)
    ]
    slopes = [layer.slope for layer in layers[1::2] if isinstance(layer, LeakyReLU)]
    if len(convs) != len(slopes) + 1 or len(convs) + len(slopes) != len(layers):
        raise ValueError(f"a head is 1x1 convolutions with LeakyReLUs between, not {layers}")
    return convs, slopes


def _positions(rows: ArrayLike, cols: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    r, c = ready(rows, np.int64), ready(cols, np.int64)
    if r.ndim != 1 or r.shape != c.shape:
        raise ValueError(f"rows {r.shape} and cols {c.shape} must be 1-D and of one length")
    return r, c


@dataclass(frozen=True, eq=False)
class ContextModel:
    """Minnen 2018's context convolution and head, with what makes integers of their output.

    weight (D, M, kh, kw), bias (D,): the context convolution, all its taps; a mask chooses among
    them later. head: 1x1 convolutions with LeakyReLUs between, from (F hyper features, D context)
    to (M scales, M means) channels. thresholds: ascending float32; a scale's index is the number
    of thresholds below it. fraction_bits: bits of the means' fixed point.
    Raises ValueError, TypeError with the numbers if something doesn't fit.
    """

    weight: FloatArray = field(repr=False)
    bias: FloatArray = field(repr=False)
    head: Sequential = field(repr=False)
    thresholds: FloatArray = field(repr=False)
    fraction_bits: int = FRACTION_BITS
    channels: int = field(init=False)
    features: int = field(init=False)
    _context: tuple[FloatArray, FloatArray] = field(init=False, repr=False)
    _head: tuple[Any, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        weight, bias = layer_arrays(self.weight, self.bias, 0)
        thresholds = float_array(self.thresholds, "thresholds", 1).copy()
        if not (np.isfinite(thresholds).all() and (np.diff(thresholds) > 0).all()):
            raise ValueError("thresholds must be finite and ascending")
        if not 0 <= self.fraction_bits <= 8:
            raise ValueError(f"fraction_bits must be in 0..8, not {self.fraction_bits}")
        convs, slopes = _pointwise(self.head.layers)
        depth, channels = weight.shape[:2]
        widths = [convs[0].weight.shape[1], *(conv.weight.shape[0] for conv in convs)]
        inputs = [conv.weight.shape[1] for conv in convs]
        if inputs != widths[:-1] or widths[0] <= depth or widths[-1] != 2 * channels:
            raise ValueError(
                f"the head has {inputs} inputs and {widths[1:]} outputs; it must take features and "
                f"{depth} context channels and give 2 x {channels}"
            )
        packed = [compiled.pack(by_tap(conv.weight), conv.bias) for conv in convs]
        head = (
            np.concatenate([weights for weights, _ in packed]),
            np.concatenate([biases for _, biases in packed]),
            np.array(widths, np.int64),
            np.array(slopes, np.float32),
            thresholds,
            self.fraction_bits,
        )
        values = {
            "weight": weight,
            "bias": bias,
            "thresholds": thresholds,
            "channels": channels,
            "features": widths[0] - depth,
            "_context": compiled.pack(by_tap(weight), bias),
            "_head": head,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def step(
        self,
        features: FloatArray,
        y_hat: FloatArray,
        rows: NDArray[np.int64],
        cols: NDArray[np.int64],
        taps: Taps,
        read_context: bool,
    ) -> tuple[IntArray, IntArray]:
        """(means, indexes), (n, M) int32 each, of n positions: code y_hat - means with row indexes.

        features (H, W, F), y_hat (H, W, M) float32; rows, cols (n,) integers. y_hat is read at the
        taps only, and not at all unless `read_context`: then the context features are zero.
        ValueError for shapes that don't fit and positions outside; TypeError for other dtypes.
        """
        features, y_hat = float_array(features, "features", 3), float_array(y_hat, "y_hat", 3)
        size = y_hat.shape[:2]
        if features.shape != (*size, self.features) or y_hat.shape[2] != self.channels:
            raise ValueError(
                f"features {features.shape} and y_hat {y_hat.shape} don't fit "
                f"{self.features} features and {self.channels} latent channels"
            )
        kernel = self.weight.shape[2:]
        if len(taps) and taps.shape != kernel:
            raise ValueError(f"a {taps.shape} mask doesn't fit the {kernel} kernel")
        rows, cols = _positions(rows, cols)
        compiled.check_arithmetic()
        means = np.empty((len(rows), self.channels), np.int32)
        indexes = np.empty((len(rows), self.channels), np.int32)
        where = (rows, cols, taps.index, taps.dr, taps.dc, bool(read_context))
        arguments: tuple[Any, ...] = (features, y_hat, *where, *self._context, *self._head, means, indexes)
        if not compiled.parameters(*arguments):
            raise ValueError(f"a position is outside {size}, or a tap outside the {kernel} kernel")
        return means, indexes


def _check_size(order: Order, features: NDArray, model: ContextModel) -> None:
    expected = (order.height, order.width, model.features)
    if np.shape(features) != expected:
        raise ValueError(
            f"features of shape {np.shape(features)} must be {expected} for this order and model"
        )


def _integers(y_hat: ArrayLike) -> NDArray[np.int32]:
    """y_hat as int32; ValueError, naming the first, for values that aren't integers within 2^24."""
    values = np.asarray(y_hat)
    with np.errstate(invalid="ignore"):
        bad = ~((values == np.rint(values)) & (values >= -LATENT_LIMIT) & (values <= LATENT_LIMIT))
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"y_hat holds {values[where]} at {where}, no integer within +-{LATENT_LIMIT}")
    return values.astype(np.int32)


def latent_parameters(
    y_hat: FloatArray, features: FloatArray, model: ContextModel, order: Order
) -> tuple[IntArray, IntArray]:
    """(means, indexes), (H, W, M) int32 each, of a complete latent y_hat (H, W, M) in one pass.

    Equal to what `decode_latent` finds step by step.
    """
    _check_size(order, features, model)
    means = np.empty(y_hat.shape, np.int32)
    indexes = np.empty(y_hat.shape, np.int32)
    for run in order.runs():
        at = run.rows, run.cols
        means[at], indexes[at] = model.step(features, y_hat, *at, order.taps, run.context)
    return means, indexes


def latent_symbols(
    y_hat: ArrayLike, features: FloatArray, model: ContextModel, order: Order
) -> tuple[IntArray, IntArray]:
    """(symbols, indexes), (H, W, M) int32 each, of a latent of integers within +-2^24."""
    integers = _integers(y_hat)
    # Through int32, so that a -0.0 becomes the +0.0 that the decoder will see.
    means, indexes = latent_parameters(integers.astype(np.float32), features, model, order)
    return integers - means, indexes


def encode_latent(
    encoder: SymbolEncoder, y_hat: ArrayLike, features: FloatArray, model: ContextModel, order: Order
) -> None:
    """Put a latent (H, W, M) of integers within +-2^24 into `encoder`, in coding order.

    features: (H, W, F) float32. ValueError if sizes, or a value of y_hat, don't fit.
    """
    symbols, indexes = latent_symbols(y_hat, features, model, order)
    at = order.positions()
    encoder.put(symbols[at], indexes[at])


def decode_latent(
    decoder: SymbolDecoder, features: FloatArray, model: ContextModel, order: Order
) -> FloatArray:
    """The latent, (H, W, M) float32, that `encode_latent` put under the same features and order.

    Raises CorruptStream for values beyond +-2^24, and whatever the decoder raises.
    """
    _check_size(order, features, model)
    features = float_array(features, "features", 3)
    y_hat = np.zeros((order.height, order.width, model.channels), np.float32)
    for step in order:
        means, indexes = model.step(features, y_hat, step.rows, step.cols, order.taps, step.context)
        symbols = ready(decoder.get(indexes), np.int32)
        if symbols.shape != means.shape:
            raise ValueError(f"the decoder gave symbols of shape {symbols.shape}, not {means.shape}")
        if not compiled.store(symbols, means, step.rows, step.cols, y_hat, LATENT_LIMIT):
            raise CorruptStream(f"a latent lies beyond +-{LATENT_LIMIT}")
    return y_hat
