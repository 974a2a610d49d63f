"""Coding latents: the loop over a coding order's steps, for every model, both ways.

    y_hat = encode_latent(encoder, y, features, model, order)
    y_hat = decode_latent(decoder, features, model, order)

With a `quadrans.entropy.Decoder` and a model of positions, all steps of a latent run in one compiled call;
with other coders of the same contract there is a call for each step. The latents of a `MixtureQuantization`
are coded by `quadrans.entropy.mixture`, or what has the same `put` and `get`.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..entropy.mixture import Mixtures
from ..entropy.rans import Decoder
from ._coders import (
    PARTS,
    Int32Array,
    MixtureDecoder,
    MixtureEncoder,
    SymbolDecoder,
    SymbolEncoder,
    check_coder,
)
from ._planes import StepLatent
from ._positions import PositionLatent, trusted_mixtures
from .arrays import float_array, ready
from .models import Inputs, PositionModel, position_steps
from .orders import Order, Steps
from .program import FloatArray, IntArray
from .quantization import LATENT_LIMIT, MixtureQuantization
from .step_models import Model, StepModel, table_quantization

__all__ = [
    "PARTS",
    "MixtureDecoder",
    "MixtureEncoder",
    "SymbolDecoder",
    "SymbolEncoder",
    "decode_latent",
    "encode_latent",
    "latent_mixtures",
    "latent_parameters",
    "latent_symbols",
]


def decode_latent(
    decoder: SymbolDecoder | MixtureDecoder,
    features: FloatArray,
    model: Model,
    order: Order,
    *,
    inputs: Inputs | None = None,
    threads: int = 1,
    ticks: dict[str, int] | None = None,
) -> FloatArray:
    """The latent, (H, W, M) float32, that `encode_latent` put under the same features and order.

    features: (H, W, F) float32, finite. inputs: (H', W', C) float32, finite, those that the model names, of
    C channels each. threads: how many may work; the result doesn't depend on it. ticks:
    gets the time of each of PARTS added, in ticks of the CPU's counter; for a model of positions and a table
    only with a `quadrans.entropy.Decoder`. Raises ValueError for arrays that don't fit, CorruptStream for
    latents beyond +-2^24 and mixtures whose numbers aren't finite, TypeError for a decoder of another kind
    than the model's `quantization` needs, and whatever the decoder raises.
    """
    check_coder(decoder, model.quantization)
    features, others = _checked(features, model, order), _checked_inputs(inputs, model)
    if isinstance(model, StepModel):
        stepped = StepLatent(model, features, order, threads, ticks, inputs=others)
        stepped.decode(cast(SymbolDecoder, decoder))
        return stepped.y_hat
    latent = PositionLatent(model, features, order, position_steps(order), inputs=others)
    if isinstance(model.quantization, MixtureQuantization):
        latent.decode_mixtures(cast(MixtureDecoder, decoder), threads, ticks)
    # A subclass may have a `get` of its own.
    elif type(decoder) is Decoder:
        latent.decode(decoder, threads, ticks)
    else:
        latent.decode_by_steps(cast(SymbolDecoder, decoder), threads)
    return latent.y_hat.copy()


def encode_latent(
    encoder: SymbolEncoder | MixtureEncoder,
    y: ArrayLike,
    features: FloatArray,
    model: Model,
    order: Order,
    *,
    inputs: Inputs | None = None,
    threads: int = 1,
) -> FloatArray:
    """Put a latent (H, W, M) into `encoder`, in coding order; gives what the decoder will find.

    In integer mode and under mixtures y holds integers within +-2^24, and is y_hat itself; in residual mode
    it holds any finite numbers. features, inputs, threads: as `decode_latent`. ValueError if sizes, or a
    value, don't fit, or a mixture's numbers aren't finite; TypeError as `decode_latent`.
    """
    check_coder(encoder, model.quantization)
    if isinstance(model, PositionModel) and isinstance(model.quantization, MixtureQuantization):
        y_hat, mixtures = _mixtures("y", y, features, model, order, inputs, threads)
        place = _sequence(order.flat, order.width, model.channels)
        cast(MixtureEncoder, encoder).put(y_hat.reshape(-1)[place].astype(np.int32), mixtures)
        return y_hat
    symbols, indexes, y_hat = _code(y, features, model, order, inputs, threads)
    cast(SymbolEncoder, encoder).put(symbols, indexes)
    return y_hat


def latent_symbols(
    y: ArrayLike,
    features: FloatArray,
    model: Model,
    order: Order,
    *,
    inputs: Inputs | None = None,
    threads: int = 1,
) -> tuple[Int32Array, Int32Array]:
    """(symbols, indexes), (H, W, M) int32 each: what `encode_latent` puts, at its place in the latent.

    TypeError for a model of mixtures, whose symbols are the latent.
    """
    symbols, indexes, y_hat = _code(y, features, model, order, inputs, threads)
    place = _sequence(order.flat, order.width, model.channels)
    placed = np.empty((2, *y_hat.shape), np.int32)
    placed[0].reshape(-1)[place], placed[1].reshape(-1)[place] = symbols, indexes
    return placed[0], placed[1]


def latent_parameters(
    y_hat: ArrayLike,
    features: FloatArray,
    model: PositionModel,
    order: Order,
    *,
    inputs: Inputs | None = None,
    threads: int = 1,
) -> tuple[FloatArray, Int32Array]:
    """(offsets float32, indexes int32), (H, W, M) each, of a complete latent in one pass.

    Equal to what `decode_latent` finds step by step. An offset is what symbols are counted from: the mean, or
    in integer mode its integer part. Raises as `encode_latent`, and TypeError for a model of mixtures.
    """
    table_quantization(model)
    # A latent has no -0.
    values = _real(y_hat, "y_hat") + np.float32(0)
    _check_shape("y_hat", values, model, order)
    features, others = _checked(features, model, order), _checked_inputs(inputs, model)
    steps = position_steps(order, joined=True)
    latent = PositionLatent(model, features, order, steps, values, inputs=others)
    offsets, indexes = latent.parameters(threads)
    place = _sequence(order.flat, order.width, model.channels)
    out = np.empty(latent.y_hat.shape, np.float32), np.empty(latent.y_hat.shape, np.int32)
    out[0].reshape(-1)[place], out[1].reshape(-1)[place] = offsets, indexes
    return out


def latent_mixtures(
    y_hat: ArrayLike,
    features: FloatArray,
    model: PositionModel,
    order: Order,
    *,
    inputs: Inputs | None = None,
    threads: int = 1,
) -> Mixtures:
    """The mixtures, of shape (H, W, M), of a complete latent in one pass.

    Equal to what `decode_latent` finds step by step. Raises as `encode_latent`, and TypeError for a model
    that isn't one of mixtures.
    """
    values, mixtures = _mixtures("y_hat", y_hat, features, model, order, inputs, threads)
    place = _sequence(order.flat, order.width, model.channels)
    placed: list[NDArray[Any]] = []
    for array in (mixtures.weights, mixtures.means, mixtures.inverse_scales):
        placed.append(np.empty_like(array))
        placed[-1][:, place] = array
    return trusted_mixtures(placed, values.shape)


def _mixtures(
    what: str,
    y: ArrayLike,
    features: FloatArray,
    model: Model,
    order: Order,
    inputs: Inputs | None,
    threads: int,
) -> tuple[FloatArray, Mixtures]:
    """y (H, W, M) as the decoder will find it, and its mixtures, 1-D in coding order."""
    if not isinstance(model, PositionModel) or not isinstance(model.quantization, MixtureQuantization):
        raise TypeError("the model isn't one of mixtures: its quantization has table rows")
    values = _integers(y, what)
    _check_shape(what, values, model, order)
    features, others = _checked(features, model, order), _checked_inputs(inputs, model)
    steps = position_steps(order, joined=True)
    latent = PositionLatent(model, features, order, steps, values, inputs=others)
    return values, latent.mixtures(threads)


def _code(
    y: ArrayLike, features: FloatArray, model: Model, order: Order, inputs: Inputs | None, threads: int
) -> tuple[Int32Array, Int32Array, FloatArray]:
    """(symbols, indexes), 1-D in coding order, and y_hat (H, W, M)."""
    integer = table_quantization(model).fraction_bits is not None
    values = _integers(y, "y") if integer else _real(y, "y")
    _check_shape("y", values, model, order)
    features, others = _checked(features, model, order), _checked_inputs(inputs, model)
    if isinstance(model, StepModel):
        stepped = StepLatent(model, features, order, threads, inputs=others)
        return (*stepped.quantize(values), stepped.y_hat)
    if not integer:
        latent = PositionLatent(model, features, order, position_steps(order), inputs=others)
        return (*latent.quantize(values, threads), latent.y_hat.copy())
    steps = position_steps(order, joined=True)
    latent = PositionLatent(model, features, order, steps, values, inputs=others)
    offsets, indexes = latent.parameters(threads)
    place = _sequence(order.flat, order.width, model.channels)
    return values.reshape(-1)[place].astype(np.int32) - offsets.astype(np.int32), indexes, values


def _sequence(flat: Steps, width: int, channels: int) -> IntArray:
    """Where in a latent (H, width, channels), flattened, the elements lie, in coding order."""
    origins = (flat.rows * width + flat.cols) * channels + flat.first
    counts = np.repeat(np.where(flat.width == 0, channels, flat.width), np.diff(flat.starts))
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(origins, counts) + nth


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


def _checked_inputs(inputs: Inputs | None, model: Model) -> dict[str, FloatArray]:
    """The inputs. TypeError, ValueError if they aren't what the model states or a value isn't finite."""
    given = dict(inputs or {})
    if set(given) != set(model.inputs):
        raise ValueError(f"inputs {sorted(given)}, the model reads {sorted(model.inputs)}")
    for name, values in given.items():
        array, channels = float_array(values, f"the input {name!r}", 3), model.inputs[name]
        if array.shape[2] != channels or not array.size:
            raise ValueError(f"the input {name!r} of shape {array.shape} must be (H, W, {channels})")
        given[name] = _finite(array, f"the input {name!r}")
    return given


def _check_shape(what: str, values: FloatArray, model: Model, order: Order) -> None:
    expected = (order.height, order.width, model.channels)
    if values.shape != expected:
        raise ValueError(f"{what} of shape {values.shape} must be {expected} for this order and model")


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


def _integers(y: ArrayLike, what: str) -> FloatArray:
    """y as float32; ValueError, naming the first, for values that aren't integers within 2^24."""
    values = _numbers(y, what)
    # A limit of binary64, since to one of the values' own dtype 2^24 may be an infinity.
    limit = np.float64(LATENT_LIMIT)
    with np.errstate(invalid="ignore"):
        bad = ~((values == np.rint(values)) & (values >= -limit) & (values <= limit))
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"{what} holds {values[where]} at {where}, no integer within +-{LATENT_LIMIT}")
    # Through int32, so that a -0.0 becomes the +0.0 that the decoder will see.
    return values.astype(np.int32).astype(np.float32)
