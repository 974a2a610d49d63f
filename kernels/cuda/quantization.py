"""Between floats and the coder's integers on NVIDIA GPUs, a kernel each: ARITHMETIC.md's last section.

Arrays are CuPy's, float32 and int32, contiguous, on one device; `encode` takes what comes out. `bits`:
fraction bits of the means, 0..8 (integer mode), or RESIDUAL. Positions are in coding order: `places`, int64
(n,), says where in a plane (.., M) each begins, counted in floats; without it the plane has n positions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..quantization import RESIDUAL
from ._module import at, function, import_cupy

_THREADS, _MOST_BLOCKS = 256, 1 << 16
_NONE = np.iinfo(np.uint64).max


def quantize(y: Any, parameters: Any, thresholds: Any, bits: int, places: Any = None) -> tuple[Any, Any, Any]:
    """(symbols, indexes, y_hat) of a latent: int32 (n, M) in coding order, twice, and float32 of y's shape.

    y: float32 (.., M), whole numbers unless `bits` is RESIDUAL; parameters: float32 (n, 2M), scales and
    then means; thresholds: float32, ascending. y_hat is 0 where no position is. Raises ValueError for a value
    beyond +-2**24, NaN, or in integer mode not whole; for shapes that don't fit; TypeError for other dtypes.
    """
    cupy = import_cupy()
    n, channels = _check(parameters, thresholds, bits)
    _check_plane("y", y, n, channels, places)
    with at(y.device.id):
        symbols, indexes = cupy.empty((n, channels), np.int32), cupy.empty((n, channels), np.int32)
        y_hat = cupy.zeros(y.shape, np.float32)
        bad = cupy.asarray(np.array([_NONE], np.uint64))
        arguments = (*_spans(n, channels), np.int64(2 * channels), _pointer(places))
        parts = _parts(parameters, channels, thresholds, bits)
        _launch("quantize_latent", n * channels, (*arguments, *parts, y, symbols, indexes, y_hat, bad))
        _raise_bad(bad, "y is no legal latent", channels)
    return symbols, indexes, y_hat


def to_indexes(parameters: Any, thresholds: Any, bits: int) -> tuple[Any, Any]:
    """(offsets, indexes), float32 and int32 (n, M): what a decoder needs first. Arguments as `quantize`."""
    cupy = import_cupy()
    n, channels = _check(parameters, thresholds, bits)
    with at(parameters.device.id):
        offsets, indexes = cupy.empty((n, channels), np.float32), cupy.empty((n, channels), np.int32)
        arguments = (*_spans(n, channels), np.int64(2 * channels))
        parts = _parts(parameters, channels, thresholds, bits)
        _launch("index_latent", n * channels, (*arguments, *parts, offsets, indexes))
    return offsets, indexes


def dequantize(symbols: Any, offsets: Any, bits: int, y_hat: Any, places: Any = None) -> None:
    """Writes y_hat of int32 symbols (n, M) and `to_indexes`'s offsets into a float32 plane (.., M).

    Raises ValueError for a latent beyond +-2**24, with what is legal written. Other errors as `quantize`.
    """
    cupy = import_cupy()
    if symbols.ndim != 2 or symbols.shape != offsets.shape:
        raise ValueError(f"symbols {symbols.shape} and offsets {offsets.shape} must be (n, M)")
    _check_array("symbols", symbols, np.int32)
    _check_array("offsets", offsets, np.float32)
    n, channels = symbols.shape
    _check_plane("y_hat", y_hat, n, channels, places)
    with at(y_hat.device.id):
        bad = cupy.asarray(np.array([_NONE], np.uint64))
        arguments = (*_spans(n, channels), _pointer(places), symbols, offsets, np.int32(bits), y_hat, bad)
        _launch("dequantize_latent", n * channels, arguments)
        _raise_bad(bad, "a latent lies beyond +-2**24", channels)


def _check_array(name: str, array: Any, dtype: Any) -> None:
    if not isinstance(array, import_cupy().ndarray) or array.dtype != dtype:
        raise TypeError(f"{name} must be a CuPy array of {np.dtype(dtype)}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} must be contiguous")


def _check(parameters: Any, thresholds: Any, bits: int) -> tuple[int, int]:
    _check_array("parameters", parameters, np.float32)
    _check_array("thresholds", thresholds, np.float32)
    if parameters.ndim != 2 or parameters.shape[1] % 2 or thresholds.ndim != 1:
        raise ValueError(
            f"parameters {parameters.shape} and thresholds {thresholds.shape}: not (n, 2M), (t,)"
        )
    if not RESIDUAL <= bits <= 8:
        raise ValueError(f"bits {bits}, legal are 0..8 and {RESIDUAL}")
    if parameters.size >= 1 << 31:
        raise ValueError(f"{parameters.size} parameters, at most 2**31 - 1 are taken at once")
    return parameters.shape[0], parameters.shape[1] // 2


def _check_plane(name: str, plane: Any, n: int, channels: int, places: Any) -> None:
    _check_array(name, plane, np.float32)
    if plane.ndim < 1 or plane.shape[-1] < channels:
        raise ValueError(f"{name} of shape {plane.shape} for {channels} channels")
    if places is None:
        if plane.size != n * channels:
            raise ValueError(f"{name} of shape {plane.shape} for {n} positions of {channels} channels")
        return
    _check_array("places", places, np.int64)
    if places.shape != (n,):
        raise ValueError(f"places of shape {places.shape} for {n} positions")
    if n:
        least, most = int(places.min()), int(places.max())
        if least < 0 or most + channels > plane.size:
            raise ValueError(f"places {least}..{most} of {channels} floats in a {name} of {plane.size}")


def _spans(n: int, channels: int) -> tuple[Any, Any]:
    return np.int32(n * channels), np.int32(channels)


def _pointer(array: Any) -> Any:
    return np.uint64(0) if array is None else array


def _parts(parameters: Any, channels: int, thresholds: Any, bits: int) -> tuple[Any, ...]:
    # The means of a position follow its scales.
    first = np.uint64(parameters.data.ptr)
    means = np.uint64(parameters.data.ptr + 4 * channels)
    return first, means, thresholds, np.int32(thresholds.size), np.int32(bits)


def _launch(name: str, size: int, arguments: tuple[Any, ...]) -> None:
    if size:
        blocks = min(-(-size // _THREADS), _MOST_BLOCKS)
        function("quantize.cu", name)((blocks,), (_THREADS,), arguments)


def _raise_bad(bad: Any, message: str, channels: int) -> None:
    place = int(bad.get()[0])
    if place != _NONE:
        raise ValueError(f"{message}: position {place // channels}, channel {place % channels}")
