"""The range coder: first in first out, so its encoder can hand out bytes as it goes.

State: `low` < 2^32 and `width` in [2^24, 2^32] of the interval, plus the bytes a carry may yet change.
FORMAT.md is the definition, `reference.py` the same in plain Python. For files, prefer the lanes
coder of `quadrans.entropy`, which is faster.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._passes import (
    KIND_RANGE,
    VERSION,
    PassDecoder,
    Stream,
    check_stream,
    loops,
    to_ops,
)
from .errors import CorruptStream, TableMismatch
from .table import MIN_PRECISION, CdfTable

# Bytes that the decoder reads as 0 beyond the end of the stream.
_VIRTUAL = 3


def encode(symbols: ArrayLike, indexes: ArrayLike, table: CdfTable) -> bytes:
    """Stream of `symbols` under the rows `indexes` of the table; as `quadrans.entropy.encode`."""
    encoder = Encoder(table)
    encoder.put(symbols, indexes)
    return encoder.finish()


def decode(stream: Stream, indexes: ArrayLike, table: CdfTable) -> NDArray[np.int32]:
    """The symbols of a whole stream: int32 of indexes' shape; as `quadrans.entropy.decode`."""
    decoder = Decoder(stream, table)
    symbols = decoder.get(indexes)
    decoder.close()
    return symbols


class Encoder:
    """Encodes pass by pass; the stream doesn't depend on how `put` and `take` cut it."""

    def __init__(self, table: CdfTable) -> None:
        self._table = table
        self._out = bytearray((VERSION << 4 | KIND_RANGE, table.precision - 1))
        self._low, self._width = 0, 1 << 32
        self._cache, self._pending = -1, 0
        self._finished = False

    def put(self, symbols: ArrayLike, indexes: ArrayLike) -> None:
        """Encodes one pass. Arguments and errors as `quadrans.entropy.encode`; on error nothing is coded."""
        self._check_open()
        ops, _, _ = to_ops(self._table, symbols, indexes)
        out = np.empty(2 * ops.size + self._pending + 1, np.uint8)
        self._low, self._width, self._cache, self._pending, size = loops().range_encode(
            ops, self._table.precision, self._low, self._width, self._cache, self._pending, out
        )
        self._out += out[:size].tobytes()

    def take(self) -> bytes:
        """The settled bytes that no earlier `take` returned; with `finish`'s they make the stream."""
        self._check_open()
        taken = bytes(self._out)
        self._out.clear()
        return taken

    def finish(self) -> bytes:
        """The stream, or what of it `take` didn't return. The encoder can't be used afterwards."""
        self._check_open()
        self._finished = True
        out = np.empty(self._pending + 3, np.uint8)
        size = loops().range_flush(self._low, self._cache, self._pending, out)
        return bytes(self._out) + out[:size].tobytes()

    def _check_open(self) -> None:
        if self._finished:
            raise ValueError("the encoder is finished")


class Decoder(PassDecoder):
    """Decodes a stream pass by pass, in the encoder's order; its cuts may differ from the encoder's."""

    def __init__(self, stream: Stream, table: CdfTable) -> None:
        """Reads the header. Raises CorruptStream, TableMismatch, or TypeError if `stream` isn't bytes."""
        data = check_stream(stream, KIND_RANGE)
        precision = (data[1] & 15) + 1
        if precision < MIN_PRECISION or data[1] >> 4:
            raise CorruptStream(f"second byte of the header is 0x{data[1]:02x}")
        if precision != table.precision:
            raise TableMismatch(f"stream of precision {precision}, table of precision {table.precision}")
        if len(data) < 3:
            raise CorruptStream("stream of 2 bytes, the least has 3")
        self._start(table)
        self._stream = np.frombuffer(data, np.uint8, offset=2).copy()
        self._code = int.from_bytes((data[2:6] + bytes(_VIRTUAL))[:4], "big")
        self._width = 1 << 32
        self._position = 4
        self._decode = loops().range_decode

    def _decode_pass(self, indexes: NDArray[np.int32], symbols: NDArray[np.int32]) -> tuple[int, int]:
        status, code, width, position = self._decode(
            indexes, *self._table_arrays, self._code, self._width, self._position, self._stream, symbols
        )
        if status == 0:
            self._code, self._width, self._position = code, width, position
        return status, code

    def _left_over(self) -> str:
        left = self._stream.size + _VIRTUAL - self._position
        # The flush took the least multiple of 2^24 at or above low, and code is its distance from low.
        if not left and self._code < 1 << 24:
            return ""
        return (
            f"{left} of {self._stream.size} bytes are left "
            f"and the code ends in {self._code}, legal is below 2**24"
        )
