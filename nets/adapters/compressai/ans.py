"""The classes and the function of CompressAI's two C++ modules, with their names, arguments and bytes.

    stream = RansEncoder().encode_with_indexes(symbols, indexes, cdfs, cdfs_sizes, offsets)
    symbols = RansDecoder().decode_with_indexes(stream, indexes, cdfs, cdfs_sizes, offsets)

They take lists as those do, and tuples, NumPy arrays and tensors as well; they give lists and bytes. What
works there gives the same here, and what crashes, hangs or reads beyond its stream there gives a result or
an error here: ValueError for symbols, indexes and rows that can't be coded, `CorruptStream` for streams
that end too early, TypeError for what isn't an integer. As there, a stream may hold more than is asked of
it, and rows that no index names may hold anything.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import starmap
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ....entropy import rans64
from ....entropy._arrays import as_int32, check_indexes
from ....entropy.errors import CorruptStream
from ....entropy.rans64 import Rows

__all__ = ["BufferedRansEncoder", "RansDecoder", "RansEncoder", "pmf_to_quantized_cdf"]

# struct takes its numbers as arguments: so many at a time stay in the cache.
_CHUNK = 4096


class RansEncoder:
    """Encodes whole lists at once."""

    __slots__ = ()

    def encode_with_indexes(
        self,
        symbols: ArrayLike,
        indexes: ArrayLike,
        cdfs: Sequence[Sequence[int]],
        cdfs_sizes: ArrayLike,
        offsets: ArrayLike,
    ) -> bytes:
        """The stream of symbols; symbols[i] under row indexes[i]. `Rows` says what rows are.

        symbols, indexes: (n,); cdfs: rows of any widths; cdfs_sizes, offsets: one for each row. All int32.
        """
        encoder = BufferedRansEncoder()
        encoder.encode_with_indexes(symbols, indexes, cdfs, cdfs_sizes, offsets)
        return encoder.flush()


class BufferedRansEncoder:
    """Collects lists, and encodes them all at `flush`."""

    __slots__ = ("_encoder", "_kept")

    def __init__(self) -> None:
        self._encoder = rans64.Encoder()
        self._kept = _KeptRows()

    def encode_with_indexes(
        self,
        symbols: ArrayLike,
        indexes: ArrayLike,
        cdfs: Sequence[Sequence[int]],
        cdfs_sizes: ArrayLike,
        offsets: ArrayLike,
    ) -> None:
        """Takes symbols, as `RansEncoder.encode_with_indexes`; on error, none of them.

        A list `cdfs` that comes again isn't read again, but for rows that changed.
        """
        symbol, index = _integers("symbols", symbols), _indexes(indexes, cdfs)
        if symbol.size != index.size:
            raise ValueError(f"{symbol.size} symbols, but {index.size} indexes")
        self._encoder.put(symbol, index, self._kept.rows(index, cdfs, cdfs_sizes, offsets))

    def flush(self) -> bytes:
        """The stream of all symbols since the last call."""
        encoder, self._encoder, self._kept = self._encoder, rans64.Encoder(), _KeptRows()
        return encoder.finish()


class RansDecoder:
    """Decodes a whole stream at once, or one stream pass by pass."""

    __slots__ = ("_decoder", "_kept")

    def __init__(self) -> None:
        self._decoder: rans64.Decoder | None = None
        self._kept = _KeptRows()

    def decode_with_indexes(
        self,
        encoded: bytes | bytearray,
        indexes: ArrayLike,
        cdfs: Sequence[Sequence[int]],
        cdfs_sizes: ArrayLike,
        offsets: ArrayLike,
    ) -> list[int]:
        """The symbols of a stream, one for each index; independent of `set_stream`."""
        decoder = _open(encoded)
        index = _indexes(indexes, cdfs)
        return decoder.get(index, _rows(index, cdfs, cdfs_sizes, offsets)).tolist()

    def set_stream(self, encoded: bytes | bytearray) -> None:
        """Names the stream that `decode_stream` reads from now on."""
        self._decoder = None
        self._kept = _KeptRows()
        self._decoder = _open(encoded)

    def decode_stream(
        self,
        indexes: ArrayLike,
        cdfs: Sequence[Sequence[int]],
        cdfs_sizes: ArrayLike,
        offsets: ArrayLike,
    ) -> list[int]:
        """The next symbols of the stream, one for each index.

        A list `cdfs` that comes again isn't read again, but for rows that changed.
        """
        if self._decoder is None:
            raise ValueError("no stream to decode: call set_stream first")
        index = _indexes(indexes, cdfs)
        return self._decoder.get(index, self._kept.rows(index, cdfs, cdfs_sizes, offsets)).tolist()


def pmf_to_quantized_cdf(pmf: ArrayLike, precision: int) -> list[int]:
    """CompressAI's quantization of one probability vector; `rans64.pmf_to_quantized_cdf` has the rules."""
    return rans64.pmf_to_quantized_cdf(pmf if isinstance(pmf, list) else _host(pmf), precision).tolist()


def _open(encoded: bytes | bytearray) -> rans64.Decoder:
    if not isinstance(encoded, bytes | bytearray | memoryview):
        raise TypeError(f"the stream must be bytes, not {type(encoded).__name__}")
    data = bytes(encoded)
    if len(data) < 8:
        raise CorruptStream(f"stream of {len(data)} bytes, the least is 8")
    # Words are read where they are needed, so a torn one behind the last is none of the stream's.
    return rans64.Decoder(data[: len(data) & ~3])


def _rows(
    index: NDArray[np.int32], cdfs: Sequence[Sequence[int]], cdfs_sizes: ArrayLike, offsets: ArrayLike
) -> Rows:
    """Rows that hold at least those of the indexes. Raises ValueError for indexes that name none."""
    size, offset = _integers("cdfs_sizes", cdfs_sizes), _integers("offsets", offsets)
    if not isinstance(cdfs, list | tuple):
        matrix = np.asarray(_host(cdfs))
        count = min(len(matrix) if matrix.ndim else 0, size.size, offset.size)
        return Rows(matrix[:count], size[:count], offset[:count])
    # As in C++, lists of more sizes or offsets than rows do no harm.
    count = min(len(cdfs), size.size, offset.size)
    named = _named(index, count)
    rows = cdfs if len(named) == len(cdfs) else [cdfs[r] for r in named.tolist()]
    width = np.fromiter(map(len, rows), np.int32, len(rows))
    widths = np.zeros(count, np.int32)
    widths[named] = width
    return Rows.from_flat(_flat(rows, width, named), widths, size[:count], offset[:count])


def _named(index: NDArray[np.int32], count: int) -> NDArray[np.intp]:
    """The rows that indexes name, ascending. Raises ValueError unless all are below count."""
    if index.min(initial=0) < 0 or index.max(initial=-1) >= count:
        check_indexes(index, count)
    used = np.zeros(count, np.bool_)
    used[index] = True
    return np.flatnonzero(used)


def _flat(
    rows: Sequence[Sequence[int]], widths: NDArray[np.int32], numbers: NDArray[np.intp]
) -> NDArray[np.int32]:
    """The rows, which have these widths and numbers, one after another."""
    try:
        if widths.size and (widths == widths[0]).all():
            packed = bytearray().join(starmap(struct.Struct(f"{widths[0]}i").pack, rows))
        else:
            packed = bytearray().join([struct.pack(f"{len(row)}i", *row) for row in rows])
        return np.frombuffer(packed, np.int32)
    except struct.error:
        parts = [_integers(f"cdfs[{r}]", row) for r, row in zip(numbers.tolist(), rows, strict=True)]
        return np.concatenate(parts)


class _KeptRows:
    """`_rows` of lists that come again: from the second time on, only rows that changed are converted.

    Comparing a row with its copy takes a tenth of converting it, as the numbers are the same objects.
    """

    __slots__ = ("_copies", "_key", "_rows", "_source", "_values")

    def __init__(self) -> None:
        self._source: object = None
        self._copies: dict[int, Sequence[int]] = {}
        self._values: dict[int, NDArray[np.int32]] = {}
        self._key = b""
        self._rows: Rows | None = None

    def rows(
        self,
        index: NDArray[np.int32],
        cdfs: Sequence[Sequence[int]],
        cdfs_sizes: ArrayLike,
        offsets: ArrayLike,
    ) -> Rows:
        """As `_rows`."""
        if cdfs is not self._source or not isinstance(cdfs, list | tuple):
            self._source, self._copies, self._values, self._rows = cdfs, {}, {}, None
            return _rows(index, cdfs, cdfs_sizes, offsets)
        size, offset = _integers("cdfs_sizes", cdfs_sizes), _integers("offsets", offsets)
        count = min(len(cdfs), size.size, offset.size)
        copies, key = self._copies, size.tobytes() + offset.tobytes()
        changed = [
            r for r in _named(index, count).tolist() if type(cdfs[r]) is not list or copies.get(r) != cdfs[r]
        ]
        if self._rows is None or changed or key != self._key or count != self._rows.rows:
            for r in changed:
                copy = cdfs[r][:]
                # First, as it may raise: of what was kept, copies and values agree.
                self._values[r] = _integers(f"cdfs[{r}]", copy)
                copies[r] = copy
            kept = [r for r in sorted(self._values) if r < count]
            widths = np.zeros(count, np.int32)
            widths[kept] = [self._values[r].size for r in kept]
            flat = np.concatenate([self._values[r] for r in kept]) if kept else np.zeros(0, np.int32)
            self._rows, self._key = Rows.from_flat(flat, widths, size[:count], offset[:count]), key
        return self._rows


def _indexes(values: Any, cdfs: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    if isinstance(values, list | tuple) and len(cdfs) <= 256:
        try:  # Takes half the time.
            return np.frombuffer(bytes(values), np.uint8).astype(np.int32)
        except (TypeError, ValueError):
            pass  # None of the rows; what is wrong with them comes to light below.
    return _integers("indexes", values)


def _integers(name: str, values: Any) -> NDArray[np.int32]:
    """A 1-D int32 array of its own. Raises TypeError, or ValueError for numbers outside int32."""
    if isinstance(values, list | tuple):
        array = np.empty(len(values), np.int32)
        try:
            for begin in range(0, array.size, _CHUNK):
                part = values[begin : begin + _CHUNK]
                struct.pack_into(f"{len(part)}i", array.data, 4 * begin, *part)
            return array
        except struct.error:
            pass  # np.asarray takes more, and its errors say where.
    array = np.asarray(_host(values))
    if array.dtype == np.bool_:
        array = array.astype(np.int32)
    if array.dtype.kind in "iu" and array.ndim != 1:
        raise ValueError(f"{name} must be one list of integers, not of shape {array.shape}")
    return as_int32(name, array)


def _host(values: Any) -> Any:
    """Tensors of any device as NumPy arrays; anything else as it is."""
    return values.detach().cpu().numpy() if hasattr(values, "detach") else values
