"""The range coder: first in first out, so that both ends can work while the stream is under way.

State: `low` < 2^32 and `width` in [2^24, 2^32] of the interval. FORMAT.md is the definition,
`reference.py` the same in plain Python. For files, prefer the lanes coder of `quadrans.entropy`, which
is faster.

    encoder = Encoder(table)                        decoder = Decoder(b"", table, final=False)
    encoder.put(symbols, indexes)                   decoder.feed(data)
    send(encoder.take())                            symbols = decoder.get(indexes)
    ...                                             ...
    send(encoder.finish())                          decoder.feed(data, final=True); ...; decoder.close()

`take` gives every byte that is the same whatever follows, and `get` every symbol that is (FORMAT.md derives
both). On latents a symbol can be decoded once some 8 bits more have been put, 99 of 100 within 18 bits. It
needs byte b / 8 + 4 of the code at most, where b is what all symbols up to it cost in bits. But a byte waits
in the encoder while a carry may reach it, for n bytes more about once in 2^8n times, and no rule bounds
that. So where the other end must know all that was put before it answers, finish the stream and begin
another: that costs the 2 bytes of a header and at most 1 of the code.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arrays import as_int32, raise_bad_index
from ._compiled import import_compiled
from ._passes import KIND_RANGE, VERSION, PassDecoder, PassEncoder, Stream, check_stream, loops
from .errors import CorruptStream, IncompleteStream, TableMismatch
from .table import MIN_PRECISION, CdfTable

# Zeros that the decoder reads beyond the end of the stream, and with those that its loop may look at.
_VIRTUAL = 3
_ZEROS = _VIRTUAL + 8


@cache
def _range_loops() -> ModuleType:
    return import_compiled("._range_loops", __package__)


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


class Encoder(PassEncoder):
    """Encodes pass by pass; the stream doesn't depend on how `put` and `take` cut it."""

    def __init__(self, table: CdfTable) -> None:
        self._table = table
        self._low, self._width = 0, 1 << 32
        # What no `take` returned. Where the interval ends above 2^32, a carry may yet reach its last bytes.
        self._out = bytearray((VERSION << 4 | KIND_RANGE, table.precision - 1))

    def put(self, symbols: ArrayLike, indexes: ArrayLike) -> None:
        """Encodes one pass. Arguments and errors as `quadrans.entropy.encode`; on error nothing is coded."""
        self._check_open()
        symbol, index = as_int32("symbols", symbols), as_int32("indexes", indexes)
        if symbol.shape != index.shape:
            raise ValueError(f"symbols have shape {symbol.shape}, indexes {index.shape}")
        symbol, index = symbol.reshape(-1), index.reshape(-1)
        rows, cells, _, precision = self._table.lookup
        loops = _range_loops()
        # Enough but for many escapes, and then the pass is coded again.
        room = 2 * symbol.size + 16 * loops.SYMBOL_BYTES
        while True:
            out = np.empty(room, np.uint8)
            bad, low, width, size, carry = loops.encode(
                symbol, index, rows, cells, precision, self._low, self._width, out
            )
            if bad >= 0:
                raise_bad_index(index, bad, self._table.rows)
            if size >= 0:
                break
            room = loops.SYMBOL_BYTES * (symbol.size + 1)
        self._extend(out[:size].data, carry)
        self._low, self._width = low, width

    def take(self) -> bytes:
        """The settled bytes that no earlier `take` returned; with `finish`'s they make the stream."""
        self._check_open()
        settled = len(self._out)
        if self._low + self._width > 1 << 32:
            settled = len(self._out.rstrip(b"\xff")) - 1
        taken = bytes(self._out[:settled])
        del self._out[:settled]
        return taken

    def finish(self) -> bytes:
        """The stream, or what of it `take` didn't return. The encoder can't be used afterwards."""
        self._finish()
        carry, byte = divmod(-(-self._low >> 24), 256)
        self._extend(bytes((byte,)), carry)
        return bytes(self._out)

    def _extend(self, data: bytes | memoryview, carry: int) -> None:
        if carry:
            place = len(self._out) - 1
            while self._out[place] == 0xFF:
                self._out[place] = 0
                place -= 1
            self._out[place] += 1
        self._out += data


class Decoder(PassDecoder):
    """Decodes a stream pass by pass, in the encoder's order; its cuts may differ from the encoder's.

    With `final=False` the stream may arrive in pieces of any size, its header included: `stream` is the
    first (it may be empty), `feed` takes the others. Memory is bounded by the bytes fed and not yet used.
    Where they don't settle a pass yet, `get` raises IncompleteStream and the state is as before: feed more
    and ask again, or ask for the first `ready` symbols, a number that the exception has.
    """

    def __init__(self, stream: Stream, table: CdfTable, *, final: bool = True) -> None:
        """Reads the header. Raises CorruptStream, TableMismatch, or TypeError if `stream` isn't bytes."""
        self._start(table)
        self._precision = table.precision
        self._decode = _range_loops().decode
        self._header: bytes | None = b""
        self._final = False
        # `_known` bytes, then zeros. The decoder has read up to `_position`; where that is beyond `_known`,
        # `_code` has zeros for the bytes between: at first for all of its four.
        self._buffer = np.zeros(_ZEROS, np.uint8)
        self._size = self._known = 0
        self._position = 4
        self._code, self._width = 0, 1 << 32
        self.feed(stream, final)

    def feed(self, data: Stream, final: bool = False) -> None:
        """Takes the next bytes of the stream; `final` says that they are the last.

        Raises CorruptStream or TableMismatch as soon as the header is known to be wrong, which also ends
        the decoder; ValueError after the final bytes; TypeError if `data` isn't bytes.
        """
        self._check_open()
        if self._final:
            raise ValueError("the decoder has had the final bytes")
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"stream must be bytes, bytearray or memoryview, not {type(data).__name__}")
        data = bytes(data)
        try:
            if self._header is not None:
                self._header += data
                if len(self._header) < 2 and not final:
                    return
                self._check_header(self._header)
                data, self._header = self._header[2:], None
            if final and not self._size + len(data):
                raise CorruptStream("stream of 2 bytes, the least has 3")
        except (CorruptStream, TableMismatch):
            self._closed = "at the end of a corrupt stream"
            raise
        self._append(data, final)

    def close(self) -> None:
        """Ends the stream and the decoder. Raises CorruptStream unless the stream was used up exactly."""
        if not self._final and not self._closed:
            self.feed(b"", final=True)
        super().close()

    def _check_header(self, header: bytes) -> None:
        check_stream(header, KIND_RANGE)
        precision = (header[1] & 15) + 1
        if precision < MIN_PRECISION or header[1] >> 4:
            raise CorruptStream(f"second byte of the header is 0x{header[1]:02x}")
        if precision != self._precision:
            raise TableMismatch(f"stream of precision {precision}, table of precision {self._precision}")

    def _append(self, data: bytes, final: bool) -> None:
        if self._known + len(data) + _ZEROS > self._buffer.size:
            # Twice the room, so that bytes are seldom moved; those that were read stay behind.
            start = min(self._position, self._known)
            room = self._known - start + len(data)
            buffer = np.zeros((room if final else 2 * room) + _ZEROS, np.uint8)
            buffer[: self._known - start] = self._buffer[start : self._known]
            self._buffer = buffer
            self._position -= start
            self._known -= start
        if (missing := self._position - self._known) > 0:
            late = data[:missing]
            self._code += int.from_bytes(late, "big") << 8 * (missing - len(late))
        self._buffer[self._known : self._known + len(data)] = np.frombuffer(data, np.uint8)
        self._final = final
        self._size += len(data)
        self._known += len(data) + (_VIRTUAL if final else 0)

    def _decode_pass(self, indexes: NDArray[np.int32], symbols: NDArray[np.int32]) -> tuple[int, int]:
        state = self._code, self._width, self._position
        status, detail, ready, *state = self._decode(
            indexes, *self._lookup, *state, self._buffer, self._known, symbols
        )
        codes = loops()
        if status == codes.TRUNCATED and not self._final and codes.first_bad_index(indexes, self._rows) < 0:
            raise IncompleteStream(
                f"{ready} of {indexes.size} symbols can be decoded from the {self._size} bytes fed", ready
            )
        if status == codes.OK:
            if self._final and state[2] > self._known:
                return codes.TRUNCATED, 0
            self._code, self._width, self._position = state
        return status, detail

    def _left_over(self) -> str:
        left = self._known - self._position
        # The flush took the least multiple of 2^24 at or above low, and code is its distance from low.
        if not left and self._code < 1 << 24:
            return ""
        return (
            f"{left} of {self._size} bytes are left and the code ends in {self._code}, legal is below 2**24"
        )
