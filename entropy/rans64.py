"""CompressAI's rANS bitstream, byte for byte: for its files, not for new ones.

    table = CdfTable.from_cdf(quantized_cdf, cdf_length, offset)     # a model's three buffers
    stream = rans64.encode(symbols, indexes, table)                  # == RansEncoder().encode_with_indexes
    symbols = rans64.decode(stream, indexes, table)

Where a table would serve few symbols a row, `Rows(cdf, sizes, offsets)` takes its place everywhere here.

State: x in [2^31, 2^63), one for all symbols, words of 32 bits, a precision of 16. FORMAT.md is the
definition, `reference_rans64.py` the same in plain Python. One state is one chain of dependent steps: the
lanes coder of `quadrans.entropy` is several times faster.

Source: github.com/InterDigitalInc/CompressAI, `cpp_exts/rans`, which builds on Fabian Giesen's `rans64.h`.
"""

from __future__ import annotations

import operator
from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._compiled import import_compiled
from ._passes import PassDecoder, PassEncoder, Stream, to_codes
from ._rans64_rows import Rows as Rows
from ._rans64_rows import loops as _row_loops
from ._rans64_rows import table_loops as _loops
from .errors import CorruptStream
from .table import CdfTable

PRECISION = 16
_LOW = 1 << 31


@cache
def _quantization() -> ModuleType:
    return import_compiled("._rans64_quantize", __package__)


def encode(symbols: ArrayLike, indexes: ArrayLike, table: CdfTable | Rows) -> bytes:
    """Stream of `symbols` under the rows `indexes` of the table; as `quadrans.entropy.encode`.

    The table's precision must be 16, else ValueError. CompressAI's own decoder reads any int32 symbol
    nearer than 2^30 to its row's offset.
    """
    encoder = Encoder(table)
    encoder.put(symbols, indexes)
    return encoder.finish()


def decode(stream: Stream, indexes: ArrayLike, table: CdfTable | Rows) -> NDArray[np.int32]:
    """The symbols of a whole stream: int32 of indexes' shape; as `quadrans.entropy.decode`.

    The table's precision must be 16, else ValueError.
    """
    decoder = Decoder(stream, table)
    symbols = decoder.get(indexes)
    decoder.close()
    return symbols


class Encoder(PassEncoder):
    """Collects passes and encodes them at the end; the stream doesn't depend on how `put` cuts it."""

    def __init__(self, table: CdfTable | Rows | None = None) -> None:
        """table: of all passes that name no other. Raises ValueError unless its precision is 16."""
        self._table = _checked(table) if table is not None else None
        # Arrays of one pass each, as `encode` of the loops or of the loops of rows takes them.
        self._passes: list[tuple[NDArray[np.uint32], NDArray[np.int64]] | NDArray[np.uint32]] = []

    def put(self, symbols: ArrayLike, indexes: ArrayLike, table: CdfTable | Rows | None = None) -> None:
        """Takes one pass, under `table` if one is given.

        Arguments and errors as `quadrans.entropy.encode`; on error nothing is taken.
        """
        self._check_open()
        table = _checked(table) if table is not None else self._table
        if table is None:
            raise ValueError("neither the encoder nor this pass has a table")
        if isinstance(table, Rows):
            self._passes.append(table.intervals(symbols, indexes))
            return
        codes, raws, places, _ = to_codes(table, symbols, indexes)
        if raws.max(initial=0) >= 1 << 31:
            rows = np.asarray(indexes).reshape(-1)[places]
            regular = np.diff(table.row_starts)[rows].astype(np.int64) - 1
            raws = _wrapped(raws, regular)
        self._passes.append((codes, raws))

    def finish(self) -> bytes:
        """The stream. The encoder can't be used afterwards."""
        self._finish()
        room = (
            one.size if isinstance(one, np.ndarray) else one[0].size + 10 * one[1].size
            for one in self._passes
        )
        words = np.empty(sum(room), np.uint32)
        x, position = _LOW, words.size
        for one in reversed(self._passes):
            if isinstance(one, np.ndarray):
                x, position = _row_loops().encode(one, *_reciprocals(), x, words, position)
            else:
                x, position = _loops().encode(*one, *_reciprocals(), x, words, position)
        return x.to_bytes(8, "little") + words[position:].astype("<u4", copy=False).tobytes()


class Decoder(PassDecoder):
    """Decodes a stream pass by pass, in the encoder's order; its cuts may differ from the encoder's."""

    def __init__(self, stream: Stream, table: CdfTable | Rows | None = None) -> None:
        """Reads the first state. table: of all passes until one names another.

        Raises CorruptStream, ValueError unless the table's precision is 16, or TypeError if `stream` isn't
        bytes.
        """
        if not isinstance(stream, bytes | bytearray | memoryview):
            raise TypeError(f"stream must be bytes, bytearray or memoryview, not {type(stream).__name__}")
        data = bytes(stream)
        if len(data) < 8 or len(data) % 4:
            raise CorruptStream(f"stream of {len(data)} bytes, legal are 8, 12, 16 ...")
        self._state = int.from_bytes(data[:8], "little")
        if not _LOW <= self._state < 1 << 63:
            raise CorruptStream(f"stream starts in state {self._state}, legal are 2**31 to 2**63 - 1")
        self._table: CdfTable | Rows | None = None
        if table is not None:
            self._use(table)
        self._words = np.frombuffer(data, "<u4", offset=8).astype(np.uint32)
        self._position = 0

    def get(self, indexes: ArrayLike, table: CdfTable | Rows | None = None) -> NDArray[np.int32]:
        """Symbols of the next pass, under `table` if one is given, which then stays in use.

        indexes: integers of any shape, which the int32 result has too. Errors as `quadrans.entropy.Decoder`.
        """
        self._check_open()
        if table is not None:
            self._use(table)
        if self._table is None:
            raise ValueError("neither the decoder nor this pass has a table")
        return super().get(indexes)

    def _use(self, table: CdfTable | Rows) -> None:
        self._table = _checked(table)
        if isinstance(table, CdfTable):
            self._start(table)
        else:
            self._rows = table.rows

    def _decode_pass(self, indexes: NDArray[np.int32], symbols: NDArray[np.int32]) -> tuple[int, int]:
        if isinstance(self._table, Rows):
            status, state, position = self._table.decode(
                indexes, self._state, self._position, self._words, symbols
            )
        else:
            rows, cells, buckets, _ = self._lookup
            status, state, position = _loops().decode(
                indexes, rows, cells, buckets, self._state, self._position, self._words, symbols
            )
        if status == 0:
            self._state, self._position = state, position
        return status, state

    def _left_over(self) -> str:
        left = self._words.size - self._position
        if not left and self._state == _LOW:
            return ""
        return f"{left} of {self._words.size} words are left and the state is {self._state}, not 2**31"


def pmf_to_quantized_cdf(pmf: ArrayLike, precision: int = PRECISION) -> NDArray[np.int32]:
    """CompressAI's quantization of one probability vector, integer for integer.

    pmf: n finite floats >= 0, taken as float32; 1 <= n <= 2**precision, 0 <= precision <= 30. Returns
    int32 (n + 1,), strictly increasing from 0 to 2**precision. Raises ValueError for anything else, for a
    vector whose masses all round to 0, and for one whose sum reaches 2**(32 - precision), where
    CompressAI's integers overflow. `CdfTable.from_pmf` loses fewer bits.

    Source: CompressAI's `cpp_exts/ops/ops.cpp`.
    """
    precision = operator.index(precision)
    if not 0 <= precision <= 30:
        raise ValueError(f"precision {precision}, legal are 0..30")
    total = 1 << precision
    masses = np.array(pmf, np.float64)
    if masses.ndim != 1 or not 1 <= masses.size <= total:
        raise ValueError(f"pmf has shape {masses.shape}, legal is one dimension with 1..{total} values")
    cdf = np.empty(masses.size + 1, np.int32)
    mass = _quantization().quantize(masses, precision, cdf)
    if mass == _quantization().NOT_A_MASS:
        raise ValueError("pmf must be finite and >= 0 as float32")
    if not 1 <= mass < 1 << 32:
        raise ValueError(f"pmf sums to {mass:.0f} / {total}, legal are 1 to 2**32 - 1")
    return cdf


def _checked(table: CdfTable | Rows) -> CdfTable | Rows:
    if isinstance(table, CdfTable) and table.precision != PRECISION:
        raise ValueError(f"table of precision {table.precision}, CompressAI's bitstream has {PRECISION}")
    return table


def _wrapped(raws: NDArray[np.int64], regular: NDArray[np.int64]) -> NDArray[np.int64]:
    """The raw values if symbol - offset is taken modulo 2^32, as int32: it may change sides."""
    beyond = raws >= np.where(raws & 1, 1 << 32, (1 << 32) - 2 * regular)
    return np.where(beyond, (1 << 33) - 1 - 2 * regular - raws, raws)


@cache
def _reciprocals() -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """(r, s) for each frequency f: floor(x / f) = (x * r >> 64) >> s for x < f * 2^47; for f = 1, x - 1.

    s + 1 = ceil(log2(f)) and r = ceil(2^(64 + s) / f) < 2^64. The excess of r over the exact quotient is
    below 1, so x * r exceeds x * 2^(64 + s) / f by less than x < f * 2^47 <= 2^(64 + s) / f, and no
    floor is crossed: x / f lies 1 / f or more below the next integer.
    """
    freqs = np.arange(1, 1 << PRECISION, dtype=np.int64)
    log2 = np.searchsorted(1 << np.arange(PRECISION), freqs)
    # 2^(63 + log2) divided by f, 32 bits at a time.
    high, rest = np.divmod(np.int64(1) << (31 + log2), freqs)
    low = -(-(rest << 32) // freqs)
    reciprocals = (high.astype(np.uint64) << np.uint64(32)) + low.astype(np.uint64)
    reciprocals[0] = ~np.uint64(0)
    return np.append(np.uint64(0), reciprocals), np.append(0, np.maximum(log2 - 1, 0)).astype(np.uint8)
