"""What both coders share around their Numba loops: lazy loading, symbols to ops, status to error."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arrays import as_int32, raise_bad_index
from ._compiled import import_compiled
from .errors import CorruptStream
from .table import CdfTable

Stream = bytes | bytearray | memoryview

VERSION = 1
KIND_LANES, KIND_RANGE = 0, 1


@cache
def loops() -> ModuleType:
    """The Numba loops; Numba takes longer to import than all else, so it waits for the first use."""
    return import_compiled("._loops", __package__)


def decoding_arrays(table: CdfTable) -> tuple[Any, ...]:
    """The table's part of the arguments of the decoding loops."""
    return table.cells, table.buckets, table.row_starts, table.offsets, table.precision


def to_ops(table: CdfTable, symbols: ArrayLike, indexes: ArrayLike) -> tuple[NDArray[np.uint32], int, int]:
    """Checks one pass and returns (ops, number of symbols, cost in 2**-16 bit), nothing shared."""
    symbol, index = as_int32("symbols", symbols), as_int32("indexes", indexes)
    if symbol.shape != index.shape:
        raise ValueError(f"symbols have shape {symbol.shape}, indexes {index.shape}")
    symbol, index = symbol.reshape(-1), index.reshape(-1)
    args = (symbol, index, table.cells, table.row_starts, table.offsets, table.costs)
    ops = np.empty(symbol.size + symbol.size // 16 + 16, np.uint32)
    status, count, cost = loops().expand(*args, ops)
    if status != loops().OK:
        raise_bad_index(index, count, table.rows)
    if count > ops.size:
        ops = np.empty(count, np.uint32)
        loops().expand(*args, ops)
    return ops[:count], symbol.size, cost


def check_stream(stream: Stream, kind: int) -> bytes:
    """The stream as bytes, once its first byte names this version and coder."""
    if not isinstance(stream, bytes | bytearray | memoryview):
        raise TypeError(f"stream must be bytes, bytearray or memoryview, not {type(stream).__name__}")
    data = bytes(stream)
    if len(data) < 2:
        raise CorruptStream(f"stream of {len(data)} bytes, the header alone has 2")
    if data[0] != VERSION << 4 | kind:
        raise CorruptStream(f"stream starts with 0x{data[0]:02x}, not 0x{VERSION << 4 | kind:02x}")
    return data


class PassDecoder:
    """What the decoders of all formats share: passes of indexes in, symbols out, an exact end.

    A format reads its header, calls `_start`, and gives `_decode_pass` and `_left_over`.
    """

    def _start(self, table: CdfTable) -> None:
        self._rows = table.rows
        self._table_arrays = decoding_arrays(table)
        self._symbol_count = 0
        self._closed = ""

    def _decode_pass(self, indexes: NDArray[np.int32], symbols: NDArray[np.int32]) -> tuple[int, int]:
        """Fills the 1-D `symbols`; (status, detail) for `raise_status`, the state unchanged by BAD_INDEX."""
        raise NotImplementedError

    def _left_over(self) -> str:
        """What of the stream isn't as it must be after the last symbol, or nothing."""
        raise NotImplementedError

    def get(self, indexes: ArrayLike) -> NDArray[np.int32]:
        """Symbols of the next pass: int32 of indexes' shape (integer array, any strides).

        Raises ValueError or TypeError for illegal indexes, with nothing decoded; CorruptStream if the
        stream can't hold these symbols, which also ends the decoder.
        """
        if self._closed:
            raise ValueError(f"the decoder is {self._closed}")
        index = as_int32("indexes", indexes)
        symbols = np.empty(index.shape, np.int32)
        flat = index.reshape(-1)
        status, detail = self._decode_pass(flat, symbols.reshape(-1))
        if status:
            if status != loops().BAD_INDEX:
                self._closed = "at the end of a corrupt stream"
            raise_status(status, detail, flat, self._rows)
        self._symbol_count += flat.size
        return symbols

    def close(self) -> None:
        """Ends the decoder. Raises CorruptStream unless the stream was used up exactly."""
        if self._closed:
            raise ValueError(f"the decoder is {self._closed}")
        self._closed = "closed"
        if left_over := self._left_over():
            raise CorruptStream(f"after {self._symbol_count} symbols {left_over}")


def raise_status(status: int, detail: int, indexes: NDArray[np.int32], rows: int) -> NoReturn:
    """Raises what a decoding loop reported."""
    codes = loops()
    if status == codes.BAD_INDEX:
        raise_bad_index(indexes, detail, rows)
    if status == codes.BAD_NIBBLES:
        raise CorruptStream(f"escape of {detail} nibbles, the most is 9")
    if status == codes.BAD_ESCAPE:
        raise CorruptStream(f"escape to {detail}, outside int32 or with a zero as last nibble")
    if status == codes.BAD_CODE:
        raise CorruptStream("code outside the interval of all symbols")
    raise CorruptStream("stream ends before its symbols do")
