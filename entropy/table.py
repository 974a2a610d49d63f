"""`CdfTable`: the quantized distributions ("rows") that symbols are coded under."""

from __future__ import annotations

import hashlib
import math
import operator
import struct
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arrays import as_int32, check_indexes
from ._lookup import Lookup, lookup
from .quantize import quantize

MIN_PRECISION, MAX_PRECISION = 4, 16
MAX_ROWS = 1 << 16
MAX_CELLS = 1 << 24
_MAGIC = b"QCT\x01"
_HEAD = struct.Struct("<4sIII")
_INT32_MIN, _INT32_MAX = -(1 << 31), (1 << 31) - 1


class CdfTable:
    """Immutable table of integer distributions; equal, hashed and pickled by its canonical bytes.

    Row r has n_r >= 1 regular cells, for the symbols offsets[r] .. offsets[r] + n_r - 1, and one last
    cell, the escape, for all other int32 symbols. Frequencies are >= 1 and sum to 2**precision in
    each row. All arrays are read-only.

    precision: int, 4..16.
    offsets: int32 (rows,), the least regular symbol of each row.
    row_starts: int32 (rows + 1,), row r owns the cells row_starts[r]:row_starts[r + 1].
    freqs: uint16 (cells,), the frequency of each cell.
    """

    precision: int
    offsets: NDArray[np.int32]
    row_starts: NDArray[np.int32]
    freqs: NDArray[np.uint16]

    def __init__(self, freqs: Sequence[ArrayLike], offsets: ArrayLike, precision: int = 14) -> None:
        """freqs: one sequence of n_r + 1 integers for each row, the escape's last; offsets: (rows,).

        Raises ValueError where the invariants of the class don't hold, or for more than 2**16 rows or
        2**24 cells; TypeError for what isn't an integer.
        """
        rows = [_integers(f"freqs[{r}]", row) for r, row in enumerate(freqs)]
        self._fill(*_flatten(rows, np.int64), _integers("offsets", offsets), precision)

    @classmethod
    def from_flat(
        cls, freqs: ArrayLike, row_starts: ArrayLike, offsets: ArrayLike, precision: int = 14
    ) -> CdfTable:
        """The table with these flat arrays, described at the class. Errors as in the constructor."""
        self = cls.__new__(cls)
        self._fill(
            _integers("freqs", freqs),
            _integers("row_starts", row_starts),
            _integers("offsets", offsets),
            precision,
        )
        return self

    @classmethod
    def from_pmf(
        cls,
        pmfs: Sequence[ArrayLike],
        offsets: ArrayLike,
        precision: int = 14,
        *,
        escapes: ArrayLike | None = None,
    ) -> CdfTable:
        """Quantizes one probability vector for each row, near the least expected length.

        pmfs: rows of n_r >= 1 finite floats >= 0; offsets: integers (rows,); escapes: the escape's mass
        in each row, by default max(0, 1 - sum of the row). Rows are normalized with their escape.
        Deterministic: equal floats give equal tables on every machine. Raises ValueError.
        """
        precision = check_precision(precision)
        rows = [np.asarray(row, np.float64) for row in pmfs]
        flat, starts = _flatten([row.reshape(-1) for row in rows], np.float64)
        legal = [row.ndim == 1 and row.size > 0 for row in rows]
        if not all(legal) or not np.all(np.isfinite(flat)) or np.any(flat < 0):
            for r, row in enumerate(rows):
                if not legal[r] or not np.all(np.isfinite(row)) or np.any(row < 0):
                    raise ValueError(f"pmfs[{r}] must be 1-D, not empty, finite and >= 0; shape {row.shape}")
        if escapes is None:
            rest = _escape_masses(flat, starts)
        else:
            rest = np.asarray(escapes, np.float64)
            if rest.shape != (len(rows),) or not np.all(np.isfinite(rest)) or np.any(rest < 0):
                raise ValueError(f"escapes must be {len(rows)} finite values >= 0; shape {rest.shape}")
        row_starts = starts + np.arange(starts.size)
        masses = np.empty(row_starts[-1])
        is_escape = np.zeros(masses.size, np.bool_)
        is_escape[row_starts[1:] - 1] = True
        masses[is_escape], masses[~is_escape] = rest, flat
        return cls.from_flat(quantize(masses, row_starts, precision), row_starts, offsets, precision)

    @classmethod
    def from_cdf(
        cls, cdf: ArrayLike, lengths: ArrayLike, offsets: ArrayLike, precision: int = 16
    ) -> CdfTable:
        """The table of cumulative frequencies in CompressAI's layout, where rows end in their escape.

        cdf: integers (rows, columns); row r rises strictly from cdf[r, 0] = 0 to 2**precision at its last
        place, lengths[r] - 1, and is 0 behind it. Cell i of the row has frequency cdf[r, i + 1] - cdf[r, i];
        the last, number lengths[r] - 2, is the escape. lengths: integers (rows,), 3..columns, so by 2 more
        than the row has regular symbols; offsets: integers (rows,), the symbol of cell 0. `_quantized_cdf`,
        `_cdf_length` and `_offset` of CompressAI's entropy models are such arrays, as NumPy or CPU tensors.

        Raises ValueError with the row, the place and the values where that doesn't hold; TypeError for what
        isn't an integer.
        """
        precision = check_precision(precision)
        matrix, length = np.asarray(cdf), _integers("lengths", lengths)
        if matrix.ndim != 2 or length.shape != matrix.shape[:1]:
            raise ValueError(
                f"cdf {matrix.shape} and lengths {length.shape}: expected (rows, columns) and (rows,)"
            )
        columns = matrix.shape[1]
        _refuse((length < 3) | (length > columns), length, f"as length, legal are 3..{columns}")
        inside = np.arange(columns) < length[:, None]
        flat = _integers("cdf", matrix[inside])
        ends = np.cumsum(length)
        first, last = flat[ends - length], flat[ends - 1]
        _refuse(first != 0, first, "as its first value, not 0")
        freqs = np.diff(flat)
        between = np.ones(freqs.size, np.bool_)
        between[ends[:-1] - 1] = False
        if (wrong := between & (freqs < 1)).any():
            place = int(wrong.argmax())
            r = int(np.searchsorted(ends, place, side="right"))
            i = place - int(ends[r] - length[r])
            raise ValueError(
                f"row {r} has {flat[place]} at {i} and {flat[place + 1]} at {i + 1}, it must rise strictly"
            )
        _refuse(last != 1 << precision, last, f"as its last value, not 2**{precision}")
        if (padding := (matrix != 0) & ~inside).any():
            r, i = np.argwhere(padding)[0].tolist()
            raise ValueError(f"row {r} has {matrix[r, i]} at {i}, after its end at {length[r] - 1}, not 0")
        row_starts = np.append(0, np.cumsum(length - 1))
        return cls.from_flat(freqs[between], row_starts, offsets, precision)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> CdfTable:
        """The table whose `to_bytes` is `data`. Raises ValueError for anything else."""
        data = bytes(data)
        if len(data) < _HEAD.size:
            raise ValueError(f"table of {len(data)} bytes, the header alone has {_HEAD.size}")
        magic, precision, rows, cells = _HEAD.unpack_from(data)
        if magic != _MAGIC:
            raise ValueError(f"table starts with {magic!r}, not {_MAGIC!r}")
        size = _HEAD.size + 8 * rows + 2 * cells
        if len(data) != size:
            raise ValueError(f"table of {len(data)} bytes, {rows} rows and {cells} cells take {size}")
        offsets = np.frombuffer(data, "<i4", rows, _HEAD.size)
        lengths = np.frombuffer(data, "<u4", rows, _HEAD.size + 4 * rows)
        freqs = np.frombuffer(data, "<u2", cells, _HEAD.size + 8 * rows)
        row_starts = np.zeros(rows + 1, np.int64)
        np.cumsum(lengths, out=row_starts[1:])
        self = cls.__new__(cls)
        self._fill(freqs.astype(np.int64), row_starts, offsets.astype(np.int64), precision)
        return self

    def to_bytes(self) -> bytes:
        """The canonical serialization, little-endian (FORMAT.md, "Table")."""
        head = _HEAD.pack(_MAGIC, self.precision, self.rows, self.freqs.size)
        lengths = np.diff(self.row_starts)
        parts = (self.offsets.astype("<i4"), lengths.astype("<u4"), self.freqs.astype("<u2"))
        return head + b"".join(part.tobytes() for part in parts)

    def to_cdf(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """(cdf, lengths, offsets), int32, as `from_cdf` takes them; the longest row has no padding."""
        lengths = np.diff(self.row_starts) + 1
        cdf = np.zeros((self.rows, int(lengths.max())), np.int32)
        column = np.arange(cdf.shape[1])
        ends = np.cumsum(self.freqs, dtype=np.int64)
        base = np.repeat(np.arange(self.rows) << self.precision, lengths - 1)
        cdf[(column > 0) & (column < lengths[:, None])] = ends - base
        return cdf, lengths, self.offsets.copy()

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.offsets.size

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `to_bytes()`, in hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @cached_property
    def lookup(self) -> Lookup:
        """The arrays in which the compiled loops look this table up."""
        return lookup(self.freqs, self.row_starts, self.offsets, self.precision)

    def symbol_bits(self, symbols: ArrayLike, indexes: ArrayLike) -> NDArray[np.float64]:
        """Exact cost in bits of each symbol under its row, escapes included: float64 of their shape.

        symbols, indexes: integer arrays of one shape, int32 values, 0 <= index < rows. Raises as `encode`.
        """
        above, count, first = self._above(symbols, indexes)
        escape = (above < 0) | (above >= count)
        cell_bits = self.precision - np.log2(self.freqs.astype(np.float64))
        cost = np.asarray(cell_bits[first + np.where(escape, count, above)])
        raw = np.where(above >= count, 2 * (above - count), -2 * above - 1)[escape]
        nibbles = sum((raw >> shift > 0).astype(np.int64) for shift in range(0, 36, 4))
        cost[escape] += 4.0 * (1 + nibbles)
        return cost

    def is_escape(self, symbols: ArrayLike, indexes: ArrayLike) -> NDArray[np.bool_]:
        """Which symbols lie outside their row's range: bool of their shape. Arguments as `symbol_bits`."""
        above, count, _ = self._above(symbols, indexes)
        return (above < 0) | (above >= count)

    def _above(
        self, symbols: ArrayLike, indexes: ArrayLike
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
        """Of each symbol (symbol - offset, number of regular cells, first cell) of its row."""
        symbol, index = as_int32("symbols", symbols), as_int32("indexes", indexes)
        if symbol.shape != index.shape:
            raise ValueError(f"symbols have shape {symbol.shape}, indexes {index.shape}")
        check_indexes(index, self.rows)
        first = self.row_starts[index]
        return symbol.astype(np.int64) - self.offsets[index], self.row_starts[index + 1] - 1 - first, first

    def bits(self, symbols: ArrayLike, indexes: ArrayLike) -> float:
        """Exact cost in bits of coding all `symbols`: the sum of `symbol_bits`."""
        return float(self.symbol_bits(symbols, indexes).sum())

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, CdfTable) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return (
            f"CdfTable(rows={self.rows}, cells={self.freqs.size}, precision={self.precision}, "
            f"digest={self.digest[:12]})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return CdfTable.from_bytes, (self.to_bytes(),)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"CdfTable is immutable, cannot set {name}")

    def _fill(
        self,
        freqs: NDArray[np.int64],
        row_starts: NDArray[np.int64],
        offsets: NDArray[np.int64],
        precision: int,
    ) -> None:
        """Checks every invariant of the class, then stores the arrays."""
        precision = check_precision(precision)
        rows = offsets.size
        if freqs.ndim != 1 or offsets.ndim != 1 or row_starts.shape != (rows + 1,):
            raise ValueError(
                f"freqs {freqs.shape}, row_starts {row_starts.shape}, offsets {offsets.shape}: "
                "expected (cells,), (rows + 1,), (rows,)"
            )
        if not 1 <= rows <= MAX_ROWS or freqs.size > MAX_CELLS:
            raise ValueError(f"{rows} rows and {freqs.size} cells, limits are 1..{MAX_ROWS} and {MAX_CELLS}")
        if row_starts[0] != 0 or row_starts[-1] != freqs.size:
            raise ValueError(f"rows span {row_starts[0]}..{row_starts[-1]} of {freqs.size} cells")
        if row_starts.min() < 0 or row_starts.max() > freqs.size:
            raise ValueError(f"row_starts span {row_starts.min()}..{row_starts.max()} of {freqs.size} cells")
        lengths = np.diff(row_starts)
        _refuse(lengths < 2, lengths, "cells, the least is 2 (one regular, one escape)")
        total = 1 << precision
        if not (freqs.min() >= 1 and freqs.max() < total):
            raise ValueError(f"frequencies span {freqs.min()}..{freqs.max()}, legal are 1..{total - 1}")
        sums = np.add.reduceat(freqs, row_starts[:-1])
        _refuse(sums != total, sums, f"as sum of its frequencies, not 2**{precision}")
        _refuse(offsets < _INT32_MIN, offsets, "as offset, below int32")
        _refuse(offsets > _INT32_MAX - (lengths - 2), offsets, "as offset, its last symbol is above int32")
        self.__dict__.update(
            precision=precision,
            offsets=_frozen(offsets.astype(np.int32)),
            row_starts=_frozen(row_starts.astype(np.int32)),
            freqs=_frozen(freqs.astype(np.uint16)),
        )


def _escape_masses(pmfs: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """What each row pmfs[starts[r]:starts[r + 1]] lacks to 1, or 0."""
    # fsum is exactly rounded, so independent of the machine. Huge values would overflow it; 1 says as much.
    values, ends = np.minimum(pmfs, 1.0).tolist(), starts.tolist()
    return np.array([max(0.0, 1.0 - math.fsum(values[a:b])) for a, b in pairwise(ends)])


def _refuse(bad: NDArray[np.bool_], values: NDArray[np.int64], message: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"row {row} has {values[row]} {message}")


def check_precision(precision: int) -> int:
    """The precision as a plain int. Raises ValueError unless it is legal, TypeError if it is no integer."""
    precision = operator.index(precision)
    if not MIN_PRECISION <= precision <= MAX_PRECISION:
        raise ValueError(f"precision {precision}, legal are {MIN_PRECISION}..{MAX_PRECISION}")
    return precision


def _integers(name: str, values: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.size == 0 and not isinstance(values, np.ndarray):
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, not {array.dtype}")
    if array.dtype == np.uint64 and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"{name} has {array.max()}, above int64")
    return array.astype(np.int64)


def _flatten(rows: Sequence[NDArray[Any]], dtype: type) -> tuple[NDArray[Any], NDArray[np.int64]]:
    row_starts = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([row.size for row in rows], out=row_starts[1:])
    flat = np.concatenate(rows) if rows else np.zeros(0, dtype)
    return flat, row_starts


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array
