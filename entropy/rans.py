"""The lanes coder: interleaved rANS, last in first out inside, so its encoder writes when all is known.

State: one integer in [2^16, 2^32) for each lane of each group. FORMAT.md is the definition,
`reference.py` the same in plain Python.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._lanes import LanesEncoder, LanesReader, Layout, check_threads, decoding_loop, specialized
from ._lookup import Lookup
from ._passes import KIND_LANES, LendingDecoder, PassDecoder, Stream, check_stream, to_codes
from .table import CdfTable


def encode(
    symbols: ArrayLike,
    indexes: ArrayLike,
    table: CdfTable,
    lanes: int | None = None,
    groups: int | None = None,
    *,
    compact: bool = False,
    threads: int = 1,
) -> bytes:
    """Stream of `symbols` under the rows `indexes` of the table.

    symbols, indexes: integer arrays of one shape, any strides; every int32 symbol is legal, 0 <= index
    < rows. lanes, groups, compact: the layout, as `Encoder` takes it. threads: how many may work on
    groups at once; it doesn't change the stream. Raises ValueError (shapes, values) or TypeError (not
    integers).
    """
    encoder = Encoder(table, lanes, groups, compact=compact, threads=threads)
    encoder.put(symbols, indexes)
    return encoder.finish()


def decode(stream: Stream, indexes: ArrayLike, table: CdfTable, *, threads: int = 1) -> NDArray[np.int32]:
    """The symbols of a whole stream: int32 of indexes' shape.

    threads: how many may work on the stream's groups at once. Raises CorruptStream, TableMismatch, or
    ValueError/TypeError for illegal indexes.
    """
    decoder = Decoder(stream, table, threads=threads)
    symbols = decoder.get(indexes)
    decoder.close()
    return symbols


class Encoder(LanesEncoder):
    """Collects passes; the stream depends on the symbols and their order, not on how `put` cuts them.

    One thread at a time may use it.
    """

    def __init__(
        self,
        table: CdfTable,
        lanes: int | None = None,
        groups: int | None = None,
        *,
        compact: bool = False,
        threads: int = 1,
    ) -> None:
        """lanes: power of two 1..64; groups: 1..4096; None to choose from the payload. threads: at least 1.

        More lanes code faster (the full speed takes 64) and cost some 0.6 bytes each; each group lets one
        more thread, or GPU warp, work. The default adds some 6 bytes and 0.2 % to the stream at most, compact
        6 bytes and 0.05 %. Raises ValueError, TypeError.
        """
        super().__init__(KIND_LANES, table.precision, Layout(lanes, groups, compact, threads))
        self._table = table

    def put(self, symbols: ArrayLike, indexes: ArrayLike) -> None:
        """Adds one pass, and keeps no reference to the arrays. Arguments and errors as `encode`."""
        self._check_open()
        self._passes.append(to_codes(self._table, symbols, indexes))


class Loan(NamedTuple):
    """A decoder's state, lent to a compiled loop."""

    states: NDArray[np.int64]
    progress: NDArray[np.int64]
    saved: tuple[NDArray[np.int64], NDArray[np.int64]]
    words: NDArray[np.uint16]
    lookup: Lookup
    first: int
    """The stream-wide number of the next symbol."""

    @property
    def vector(self) -> tuple[int, int]:
        """(level, lanes) of the loops to compile, as `_simd.block` takes them."""
        return specialized(self.states.shape[1])


class Decoder(LendingDecoder, PassDecoder):
    """Decodes a stream pass by pass, in the encoder's order; its cuts may differ from the encoder's.

    One thread at a time may use it; decoders of their own don't disturb each other.
    """

    def __init__(self, stream: Stream, table: CdfTable, *, threads: int = 1) -> None:
        """Reads the header. Raises CorruptStream, TableMismatch, or TypeError if `stream` isn't bytes."""
        self._reader = LanesReader(check_stream(stream, KIND_LANES), table.precision)
        self._start(table)
        self._threads = check_threads(threads)
        self._loop = decoding_loop(self._reader.shape[1])

    def lend(self, rows: int) -> Loan:
        """What a compiled loop of another layer needs to decode passes itself (`_lanes_loops.decode_groups`).

        rows: the loop's indexes lie below. `take_back` says how far it came; until then the decoder can't be
        used, and so never again after a loop that raised an error. Raises ValueError if the table has fewer
        rows, or once closed.
        """
        self._check_open()
        if self._rows < rows:
            raise ValueError(f"a table of {self._rows} rows, where indexes need {rows}")
        self._lend()
        return Loan(*self._reader.loan(), self._lookup, self._symbol_count)

    def _decode_pass(self, indexes: NDArray[np.int32], symbols: NDArray[np.int32]) -> tuple[int, int]:
        return self._reader.decode(
            self._loop, (indexes, *self._lookup), self._symbol_count, symbols, self._threads
        )

    def _left_over(self) -> str:
        return self._reader.left_over(self._symbol_count)
