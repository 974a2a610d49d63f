"""The lanes coder: interleaved rANS, last in first out inside, so its encoder writes when all is known.

State: one integer in [2^16, 2^32) for each lane; symbol j of the stream belongs to lane j mod lanes.
FORMAT.md is the definition, `reference.py` the same in plain Python.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._passes import (
    KIND_LANES,
    VERSION,
    PassDecoder,
    Stream,
    check_stream,
    loops,
    to_ops,
)
from .errors import CorruptStream, TableMismatch
from .table import MIN_PRECISION, CdfTable

MAX_LANES = 64
_INITIAL = 1 << 16
# A lane costs some 3 bytes: its state takes 4 and carries about 1 of payload. Twice the lanes are
# taken while that stays below 0.2 % of the payload.
_PAYLOAD_PER_LANE = 1500


def encode(symbols: ArrayLike, indexes: ArrayLike, table: CdfTable, lanes: int | None = None) -> bytes:
    """Stream of `symbols` under the rows `indexes` of the table.

    symbols, indexes: integer arrays of one shape, any strides; every int32 symbol is legal, 0 <= index
    < rows. lanes: power of two 1..64, by default chosen from the payload. Raises ValueError (shapes,
    values) or TypeError (not integers).
    """
    encoder = Encoder(table, lanes)
    encoder.put(symbols, indexes)
    return encoder.finish()


def decode(stream: Stream, indexes: ArrayLike, table: CdfTable) -> NDArray[np.int32]:
    """The symbols of a whole stream: int32 of indexes' shape.

    Raises CorruptStream, TableMismatch, or ValueError/TypeError for illegal indexes.
    """
    decoder = Decoder(stream, table)
    symbols = decoder.get(indexes)
    decoder.close()
    return symbols


class Encoder:
    """Collects passes; the stream depends on the symbols and their order, not on how `put` cuts them."""

    def __init__(self, table: CdfTable, lanes: int | None = None) -> None:
        """lanes: power of two 1..64, None to choose from the payload. Raises ValueError."""
        if lanes is not None and lanes not in (1, 2, 4, 8, 16, 32, 64):
            raise ValueError(f"lanes {lanes}, legal are the powers of two 1..{MAX_LANES}")
        self._table = table
        self._lanes = None if lanes is None else int(lanes)
        self._passes: list[NDArray[np.uint32]] = []
        self._symbol_count = 0
        self._cost = 0
        self._finished = False

    def put(self, symbols: ArrayLike, indexes: ArrayLike) -> None:
        """Adds one pass, and keeps no reference to the arrays. Arguments and errors as `encode`."""
        self._check_open()
        ops, count, cost = to_ops(self._table, symbols, indexes)
        self._passes.append(ops)
        self._symbol_count += count
        self._cost += cost

    def finish(self) -> bytes:
        """The stream of all passes. The encoder can't be used afterwards."""
        self._check_open()
        self._finished = True
        ops = self._passes[0] if len(self._passes) == 1 else np.concatenate([_NO_OPS, *self._passes])
        self._passes = []
        lanes = choose_lanes(self._cost) if self._lanes is None else self._lanes
        states = np.full(lanes, _INITIAL, np.int64)
        words = np.empty(ops.size, np.uint16)
        precision = self._table.precision
        first = loops().rans_encode(ops, self._symbol_count, precision, states, words)
        header = bytes((VERSION << 4 | KIND_LANES, (lanes.bit_length() - 1) << 4 | precision - 1))
        return header + states.astype("<u4").tobytes() + words[first:].astype("<u2").tobytes()

    def _check_open(self) -> None:
        if self._finished:
            raise ValueError("the encoder is finished")


class Decoder(PassDecoder):
    """Decodes a stream pass by pass, in the encoder's order; its cuts may differ from the encoder's."""

    def __init__(self, stream: Stream, table: CdfTable) -> None:
        """Reads the header. Raises CorruptStream, TableMismatch, or TypeError if `stream` isn't bytes."""
        data = check_stream(stream, KIND_LANES)
        precision, log2_lanes = (data[1] & 15) + 1, data[1] >> 4
        if precision < MIN_PRECISION or 1 << log2_lanes > MAX_LANES:
            raise CorruptStream(f"precision {precision} and 2**{log2_lanes} lanes in the header")
        if precision != table.precision:
            raise TableMismatch(f"stream of precision {precision}, table of precision {table.precision}")
        lanes = 1 << log2_lanes
        start = 2 + 4 * lanes
        if len(data) < start or len(data) % 2:
            raise CorruptStream(
                f"stream of {len(data)} bytes, {lanes} lanes take {start} and an even number more"
            )
        states = struct.unpack_from(f"<{lanes}I", data, 2)
        if min(states) < _INITIAL:
            raise CorruptStream(f"lane {states.index(min(states))} starts in {min(states)}, below 2**16")
        self._start(table)
        self._states = np.array(states, np.int64)
        self._words = np.frombuffer(data, "<u2", offset=start).astype(np.uint16)
        self._position = 0
        self._decode = loops().rans_decode

    def _decode_pass(self, indexes: NDArray[np.int32], symbols: NDArray[np.int32]) -> tuple[int, int]:
        status, position = self._decode(
            indexes,
            *self._table_arrays,
            self._states,
            self._symbol_count,
            self._position,
            self._words,
            symbols,
        )
        if status == 0:
            self._position = position
        return status, position

    def _left_over(self) -> str:
        left = self._words.size - self._position
        wrong = int(np.count_nonzero(self._states != _INITIAL))
        if not left and not wrong:
            return ""
        return (
            f"{left} of {self._words.size} words are left, "
            f"{wrong} of {self._states.size} lanes end in a wrong state"
        )


_NO_OPS = np.zeros(0, np.uint32)


def choose_lanes(cost: int) -> int:
    """The default number of lanes for a payload of `cost` units of 2**-16 bit."""
    lanes = 1
    while lanes < MAX_LANES and (cost >> 19) >= 2 * lanes * _PAYLOAD_PER_LANE:
        lanes *= 2
    return lanes
