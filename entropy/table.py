"""`CdfTable`: the quantized distributions ("rows") that symbols are coded under."""

from __future__ import annotations

import hashlib
import math
import operator
import struct
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arrays import as_int32, check_indexes
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
        for r, row in enumerate(rows):
            if row.ndim != 1 or row.size < 1 or not np.all(np.isfinite(row)) or np.any(row < 0):
                raise ValueError(f"pmfs[{r}] must be 1-D, not empty, finite and >= 0; shape {row.shape}")
        if escapes is None:
            rest = np.array([_escape_mass(row) for row in rows])
        else:
            rest = np.asarray(escapes, np.float64)
            if rest.shape != (len(rows),) or not np.all(np.isfinite(rest)) or np.any(rest < 0):
                raise ValueError(f"escapes must be {len(rows)} finite values >= 0; shape {rest.shape}")
        cells = [np.append(row, escape) for row, escape in zip(rows, rest, strict=True)]
        masses, row_starts = _flatten(cells, np.float64)
        return cls.from_flat(quantize(masses, row_starts, precision), row_starts, offsets, precision)

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

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.offsets.size

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `to_bytes()`, in hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @cached_property
    def cells(self) -> NDArray[np.uint32]:
        """uint32 (cells,): start | freq << 16, where start is the sum of the row's earlier frequencies."""
        freqs = self.freqs.astype(np.int64)
        ends = np.cumsum(freqs)
        starts = (ends - freqs) & ((1 << self.precision) - 1)
        return _frozen((starts | freqs << 16).astype(np.uint32))

    @cached_property
    def buckets(self) -> NDArray[np.uint16]:
        """uint16 (rows, 2**min(8, precision)): where in its row the search for a slot begins.

        Entry [r, slot >> (precision - 8)] is the cell, counted from row_starts[r], that holds the first
        slot of the bucket; the wanted cell is this one or one after it.
        """
        bits = min(8, self.precision)
        first = np.arange(1 << bits) << (self.precision - bits)
        # Row r's cells cover [r << precision, (r + 1) << precision) of one common axis.
        ends = np.cumsum(self.freqs.astype(np.int64))
        queries = (np.arange(self.rows) << self.precision)[:, None] + first
        found = np.searchsorted(ends, queries, side="right") - self.row_starts[:-1, None]
        return _frozen(found.astype(np.uint16))

    @cached_property
    def costs(self) -> NDArray[np.int32]:
        """int32 (cells,): the cell's cost in units of 2**-16 bit (to about 2 units), from integers alone."""
        values, inverse = np.unique(self.freqs, return_inverse=True)
        return _frozen(((self.precision << 16) - _log2_fixed(values))[inverse].astype(np.int32))

    def symbol_bits(self, symbols: ArrayLike, indexes: ArrayLike) -> NDArray[np.float64]:
        """Exact cost in bits of each symbol under its row, escapes included: float64 of their shape.

        symbols, indexes: integer arrays of one shape, int32 values, 0 <= index < rows. Raises as `encode`.
        """
        symbol, index = as_int32("symbols", symbols), as_int32("indexes", indexes)
        if symbol.shape != index.shape:
            raise ValueError(f"symbols have shape {symbol.shape}, indexes {index.shape}")
        check_indexes(index, self.rows)
        first, last = self.row_starts[index], self.row_starts[index + 1] - 1
        above = symbol.astype(np.int64) - self.offsets[index]
        regular = (above >= 0) & (above < last - first)
        cell_bits = self.precision - np.log2(self.freqs.astype(np.float64))
        cost = np.asarray(cell_bits[np.where(regular, first + above, last)])
        excess = above - (last - first)
        raw = np.where(excess >= 0, 2 * excess, -2 * above - 1)[~regular]
        nibbles = sum((raw >> shift > 0).astype(np.int64) for shift in range(0, 36, 4))
        cost[~regular] += 4.0 * (1 + nibbles)
        return cost

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


def _escape_mass(pmf: NDArray[np.float64]) -> float:
    # fsum is exactly rounded, so independent of the machine; it overflows on huge values only.
    return 0.0 if pmf.max() >= 1 else max(0.0, 1.0 - math.fsum(pmf.tolist()))


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


def _log2_fixed(values: NDArray[np.uint16]) -> NDArray[np.int64]:
    """log2 of integers 1..65535 in units of 2**-16: each squaring yields one more bit."""
    exponent = np.zeros(values.size, np.int64)
    for shift in range(1, 16):
        exponent += (values >> shift) > 0
    # A mantissa in [1, 2) with 31 fraction bits: its square stays below 2^64.
    mantissa = values.astype(np.uint64) << (31 - exponent).astype(np.uint64)
    result = exponent
    for _ in range(16):
        mantissa = (mantissa * mantissa) >> np.uint64(31)
        bit = mantissa >> np.uint64(32)
        mantissa >>= bit
        result = 2 * result + bit.astype(np.int64)
    return result


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array
