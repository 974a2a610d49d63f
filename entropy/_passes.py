"""What both coders share around their Numba loops: lazy loading, symbols to codes, status to error."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arrays import as_int32, raise_bad_index
from ._compiled import import_compiled, simd_level
from .errors import CorruptStream
from .table import CdfTable

Stream = bytes | bytearray | memoryview

VERSION = 2
KIND_LANES, KIND_RANGE, KIND_MIXTURE = 0, 1, 2


@cache
def loops() -> ModuleType:
    """What all loops share; Numba takes longest of all to import, so it waits for the first use."""
    return import_compiled("._symbols", __package__)


class Codes(NamedTuple):
    """One pass as the coders take it (`_codes.py` says what a code is); shares nothing with its source."""

    codes: NDArray[np.uint32]
    raws: NDArray[np.int64]
    places: NDArray[np.int64]
    """Which symbol of the pass each of `raws` belongs to, ascending."""
    cost: int
    """In units of 2**-10 bit."""

    @staticmethod
    def join(passes: list[Codes]) -> Codes:
        """The passes in a row as one."""
        if len(passes) == 1:
            return passes[0]
        starts = np.cumsum([0] + [one.codes.size for one in passes])
        places = [one.places + start for one, start in zip(passes, starts[:-1], strict=True)]
        return Codes(
            np.concatenate([np.zeros(0, np.uint32), *(one.codes for one in passes)]),
            np.concatenate([np.zeros(0, np.int64), *(one.raws for one in passes)]),
            np.concatenate([np.zeros(0, np.int64), *places]),
            sum(one.cost for one in passes),
        )


def to_codes(table: CdfTable, symbols: ArrayLike, indexes: ArrayLike) -> Codes:
    """Checks the arrays of one pass and returns its codes. Raises as `encode`."""
    symbol, index = as_int32("symbols", symbols), as_int32("indexes", indexes)
    if symbol.shape != index.shape:
        raise ValueError(f"symbols have shape {symbol.shape}, indexes {index.shape}")
    symbol, index = symbol.reshape(-1), index.reshape(-1)
    codes = np.empty(symbol.size, np.uint32)
    rows, cells, _, _ = table.lookup
    loop = _codes().coding_loop(simd_level())
    room = symbol.size // 16 + 16
    while True:
        raws, places = np.empty((2, room), np.int64)
        bad, escapes, cost = loop(symbol, index, rows, cells, codes, raws, places)
        if bad >= 0:
            raise_bad_index(index, bad, table.rows)
        if escapes <= room:
            return Codes(codes, raws[:escapes], places[:escapes], cost)
        room = escapes


@cache
def _codes() -> ModuleType:
    return import_compiled("._codes", __package__)


def check_stream(stream: Stream, kind: int) -> bytes:
    """The stream as bytes, once its first byte names this version and coder."""
    return read_kind(stream, (kind,))[0]


def read_kind(stream: Stream, legal: tuple[int, ...]) -> tuple[bytes, int]:
    """(the stream as bytes, its coder), once its first byte names this version and a coder of these."""
    if not isinstance(stream, bytes | bytearray | memoryview):
        raise TypeError(f"stream must be bytes, bytearray or memoryview, not {type(stream).__name__}")
    data = bytes(stream)
    if len(data) < 2:
        raise CorruptStream(f"stream of {len(data)} bytes, the header alone has 2")
    version, kind = data[0] >> 4, data[0] & 15
    if version != VERSION or kind not in legal:
        expected = ", ".join(f"0x{VERSION << 4 | one:02x}" for one in legal)
        raise CorruptStream(f"stream starts with 0x{data[0]:02x}, not {expected}")
    return data, kind


class PassEncoder:
    """What the encoders of all formats share: once finished, an encoder takes no more."""

    _finished = False

    def _check_open(self) -> None:
        if self._finished:
            raise ValueError("the encoder is finished")

    def _finish(self) -> None:
        self._check_open()
        self._finished = True


_CORRUPT, _LENT = "at the end of a corrupt stream", "lent"


class StreamDecoder:
    """What the decoders of all formats share: an exact end, and no answers after it."""

    _symbol_count = 0
    _closed = ""

    def _left_over(self) -> str:
        """What of the stream isn't as it must be after the last symbol, or nothing."""
        raise NotImplementedError

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"the decoder is {self._closed}")

    def _fail(self, status: int, detail: int) -> NoReturn:
        self._closed = _CORRUPT
        raise_status(status, detail)

    def close(self) -> None:
        """Ends the decoder. Raises CorruptStream unless the stream was used up exactly."""
        self._check_open()
        self._closed = "closed"
        if left_over := self._left_over():
            raise CorruptStream(f"after {self._symbol_count} symbols {left_over}")


class LendingDecoder(StreamDecoder):
    """A decoder whose state a loop or kernel of another layer may borrow, to decode passes in place.

    Lent, it can't be used; so never again where the borrower failed and didn't end the loan.
    """

    def _lend(self) -> None:
        self._check_open()
        self._closed = _LENT

    def _check_lent(self) -> None:
        if self._closed != _LENT:
            raise ValueError("the decoder is not lent")

    def take_back(self, symbols: int, status: int = 0, detail: int = 0) -> None:
        """Ends a loan after so many decoded symbols; raises as `get` for the status of a pass that failed."""
        self._check_lent()
        self._closed = ""
        self._symbol_count += symbols
        if status:
            self._fail(status, detail)

    def refuse(self, reason: str) -> NoReturn:
        """Ends a loan, and the decoder, with CorruptStream: its symbols can't be what was encoded."""
        self._check_lent()
        self._closed = _CORRUPT
        raise CorruptStream(reason)


class PassDecoder(StreamDecoder):
    """What the decoders under tables share: passes of indexes in, symbols out.

    A format reads its header, calls `_start`, and gives `_decode_pass` and `_left_over`.
    """

    def _start(self, table: CdfTable) -> None:
        self._rows = table.rows
        self._lookup = table.lookup

    def _decode_pass(self, indexes: NDArray[np.int32], symbols: NDArray[np.int32]) -> tuple[int, int]:
        """Fills the 1-D `symbols`; (status, detail) for `raise_status`, the state as before unless OK."""
        raise NotImplementedError

    def get(self, indexes: ArrayLike) -> NDArray[np.int32]:
        """Symbols of the next pass: int32 of indexes' shape (integer array, any strides).

        Raises ValueError or TypeError for illegal indexes, with nothing decoded; CorruptStream if the
        stream can't hold these symbols, which also ends the decoder.
        """
        self._check_open()
        index = as_int32("indexes", indexes)
        symbols = np.empty(index.shape, np.int32)
        flat = index.reshape(-1)
        status, detail = self._decode_pass(flat, symbols.reshape(-1))
        if status:
            # A bad index is the caller's error, wherever the stream fails.
            bad = loops().first_bad_index(flat, self._rows)
            if bad >= 0:
                raise_bad_index(flat, bad, self._rows)
            if status == loops().BAD_INDEX:
                raise ValueError(f"index {detail} changed while it was read")
            self._fail(status, detail)
        self._symbol_count += flat.size
        return symbols


def raise_status(status: int, detail: int) -> NoReturn:
    """Raises what a decoding loop reported of its stream."""
    codes = loops()
    if status == codes.BAD_NIBBLES:
        raise CorruptStream(f"escape of {detail} nibbles, too many for a 32-bit symbol")
    if status == codes.BAD_ESCAPE:
        raise CorruptStream(f"escape to {detail}, outside int32 or with a zero as last nibble")
    if status == codes.BAD_STATE:
        raise CorruptStream("a lane ends its rounds in a state of 2**17 or more")
    if status == codes.BAD_CODE:
        raise CorruptStream("code outside the interval of all symbols")
    raise CorruptStream("stream ends before its symbols do")
