"""torchac's bitstream, byte for byte: its four functions for NumPy arrays, for files and models of torchac's.

    stream = torchac.encode_float_cdf(cdf_float, sym)       # float (..., Lp), int16 (...) -> bytes
    sym = torchac.decode_float_cdf(cdf_float, stream)       # int16 (...)

Each symbol has a CDF of its own: Lp values, of which symbol s has those from s to s + 1; it is 0 .. Lp - 2.
The last symbol's cell ends at 2^16 whatever the last value is. FORMAT.md is the definition,
`reference_torchac.py` the same bit by bit. Only the values that coding needs are converted or looked at.
`quadrans.nets.adapters.torchac` is the same for torch tensors.

Source: github.com/fab-jul/torchac, version 0.9.3.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._compiled import import_compiled
from .errors import CorruptStream

PRECISION = 16
_MOST_COLUMNS = 1 << PRECISION

Stream = bytes | bytearray | memoryview


@cache
def _loops() -> ModuleType:
    return import_compiled("._torchac_loops", __package__)


def encode_float_cdf(
    cdf_float: ArrayLike, sym: ArrayLike, needs_normalization: bool = True, check_input_bounds: bool = False
) -> bytes:
    """The stream of `sym` under float CDFs, equal to torchac's.

    cdf_float: float (..., Lp), 2 <= Lp <= 65536, in 0..1; sym: int16 (...), in 0 .. Lp - 2.
    needs_normalization: scale to 2^16 - (Lp - 1) and add 0, 1, 2 ... to each row, so that every symbol has a
    cell; else scale to 2^16 only. check_input_bounds: look at all of `cdf_float` and `sym` first.

    Raises ValueError for a symbol outside its row and for one whose cell is empty or holds no number, for
    shapes that don't fit, other types, and what check_input_bounds finds.
    """
    cdf, symbols = np.asarray(cdf_float), np.asarray(sym)
    if check_input_bounds:
        check_bounds(cdf, symbols)
    return _encode(cdf, symbols, *_scaled(cdf, needs_normalization))


def check_bounds(cdf: NDArray[Any], symbols: NDArray[Any]) -> None:
    """Raises ValueError unless all of a float CDF is in 0..1 and no symbol is above Lp - 2."""
    columns = _check_columns(cdf)
    if cdf.size and not (cdf.min() >= 0 and cdf.max() <= 1):
        raise ValueError(f"cdf_float is in {cdf.min()}..{cdf.max()}, must be in 0..1")
    if symbols.size and symbols.max() > columns - 2:
        raise ValueError(f"sym.max() is {symbols.max()}, must be <= Lp - 2 = {columns - 2}")


def decode_float_cdf(
    cdf_float: ArrayLike, byte_stream: Stream, needs_normalization: bool = True
) -> NDArray[np.int16]:
    """The symbols of a stream: int16 of cdf_float's shape without its last dimension.

    Arguments as `encode_float_cdf`. A stream of more symbols is decoded as far as there are rows. Raises
    CorruptStream where the stream is no encoding of any symbols under these CDFs, ValueError as the encoder.
    """
    cdf = np.asarray(cdf_float)
    return _decode(cdf, byte_stream, *_scaled(cdf, needs_normalization))


def encode_int16_normalized_cdf(cdf_int: ArrayLike, sym: ArrayLike) -> bytes:
    """The stream of `sym` under integer CDFs, equal to torchac's.

    cdf_int: int16 or uint16 (..., Lp), 2 <= Lp <= 65536; the 16 bits are read as unsigned. Else, and the
    errors, as `encode_float_cdf`. A row must ascend from a coded symbol's value to the next; elsewhere it
    need not, but then it is the caller's to know that the search in FORMAT.md finds the symbol again.
    """
    cdf = np.asarray(cdf_int)
    return _encode(cdf, np.asarray(sym), *_as_uint16(cdf))


def decode_int16_normalized_cdf(cdf_int: ArrayLike, byte_stream: Stream) -> NDArray[np.int16]:
    """The symbols of a stream; `cdf_int` as in `encode_int16_normalized_cdf`, else as `decode_float_cdf`."""
    cdf = np.asarray(cdf_int)
    return _decode(cdf, byte_stream, *_as_uint16(cdf))


# What the loops get: the CDF's values, what to multiply them by, and what to add for each column.
Values = tuple[NDArray[Any], np.floating[Any], int]


def _as_uint16(cdf: NDArray[Any]) -> Values:
    _check_columns(cdf)
    if cdf.dtype not in (np.int16, np.uint16):
        raise ValueError(f"cdf_int must be int16 or uint16, not {cdf.dtype}")
    return cdf.view(np.uint16), np.float32(1), 0


def _scaled(cdf: NDArray[Any], needs_normalization: bool) -> Values:
    """The conversion that torchac does with the whole tensor, in its type: see FORMAT.md."""
    columns = _check_columns(cdf)
    slope = int(bool(needs_normalization))
    factor = (1 << PRECISION) - slope * (columns - 1)
    if cdf.dtype == np.float32:
        return cdf, np.float32(factor), slope
    if cdf.dtype == np.float64:
        return cdf, np.float64(factor), slope
    if cdf.dtype == np.float16:
        # torch multiplies in float32 and rounds the product to float16, where 2^16 is infinite; as an int16
        # it is 0 nevertheless.
        with np.errstate(over="ignore"):
            scaled = (cdf.astype(np.float32) * np.float32(factor)).astype(np.float16)
        scaled[np.isinf(scaled) & np.isfinite(cdf)] = 0
        return scaled.astype(np.float32), np.float32(1), slope
    raise ValueError(f"cdf_float must be float16, float32 or float64, not {cdf.dtype}")


def _check_columns(cdf: NDArray[Any]) -> int:
    columns = cdf.shape[-1] if cdf.ndim else 0
    if not 2 <= columns <= _MOST_COLUMNS:
        raise ValueError(f"CDF of shape {cdf.shape}, its last dimension must be 2..{_MOST_COLUMNS}")
    return columns


def _rows(values: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """(flat values, distance of two rows in them): 0 if all rows are one that was broadcast."""
    columns = values.shape[-1]
    if values.size and not any(values.strides[:-1]) and values.ndim > 1:
        return np.ascontiguousarray(values[(0,) * (values.ndim - 1)]), 0
    return np.ascontiguousarray(values).reshape(-1), columns


def _encode(
    cdf: NDArray[Any], symbols: NDArray[Any], values: NDArray[Any], factor: np.floating[Any], slope: int
) -> bytes:
    if symbols.dtype != np.int16:
        raise ValueError(f"sym must be int16, not {symbols.dtype}")
    if cdf.shape[:-1] != symbols.shape:
        raise ValueError(f"shapes {cdf.shape} of the CDF and {symbols.shape} of sym: (..., Lp) and (...) fit")
    rows, step = _rows(values)
    flat = np.ascontiguousarray(symbols).reshape(-1)
    words = np.empty((_loops().MOST_BITS * flat.size + 2) // 32 + 2, np.uint32)
    bad, size = _loops().encode(rows, step, cdf.shape[-1], factor, slope, flat, words)
    if bad >= 0:
        raise ValueError(_why(rows[bad * step :][: cdf.shape[-1]], int(flat[bad]), bad, factor, slope))
    return words[: (size + 3) // 4].astype(">u4").tobytes()[:size]


def _why(row: NDArray[Any], symbol: int, position: int, factor: np.floating[Any], slope: int) -> str:
    """Why a symbol can't be coded under its row."""
    if not 0 <= symbol <= row.size - 2:
        return f"symbol {symbol} at {position}, legal are 0..{row.size - 2}"
    start, end = (_entry(row, column, factor, slope) for column in (symbol, symbol + 1))
    if start is None or end is None:
        return f"symbol {symbol} at {position} has a cell from {row[symbol]} to {row[symbol + 1]}"
    return f"symbol {symbol} at {position} has an empty cell, from {start} to {end}"


def _entry(row: NDArray[Any], column: int, factor: np.floating[Any], slope: int) -> int | None:
    """As the loops convert it; None for what is no number of 32 bits."""
    if row.dtype == np.uint16:
        return int(row[column])
    scaled = float(np.rint(row[column] * factor))
    return int(scaled) + slope * column & 0xFFFF if abs(scaled) < 1 << 31 else None


def _decode(
    cdf: NDArray[Any], stream: Stream, values: NDArray[Any], factor: np.floating[Any], slope: int
) -> NDArray[np.int16]:
    if not isinstance(stream, bytes | bytearray | memoryview):
        raise TypeError(f"byte_stream must be bytes, bytearray or memoryview, not {type(stream).__name__}")
    data = bytes(stream)
    loops = _loops()
    rows, step = _rows(values)
    symbols = np.empty(cdf.shape[:-1], np.int16)
    # At least one word of zeros follows, which the loop takes for all beyond.
    words = np.frombuffer(data + bytes(-len(data) % 4 + 4), ">u4").astype(np.uint32)
    flat = symbols.reshape(-1)
    status, position = loops.decode(rows, step, cdf.shape[-1], factor, slope, words, 8 * len(data), flat)
    if status == loops.TRUNCATED:
        raise CorruptStream(f"stream of {len(data)} bytes, its {flat.size} symbols take {position} bits")
    if status == loops.BAD_ENTRY:
        raise ValueError(f"CDF row {position} holds values that are no numbers of 32 bits")
    if status == loops.ASTRAY:
        raise CorruptStream(f"symbol {position} of the stream is in no cell of its CDF")
    return symbols
