"""`Rows`: distributions as CompressAI's coder takes them, for `rans64`."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arrays import as_int32, raise_bad_index
from ._compiled import import_compiled
from .table import CdfTable

# A pass of so many symbols, and of so many for each value of the rows in use, is worth a table: that decodes
# several times as fast as the search in rows, but has to be built first.
_WORTH_A_TABLE = 1 << 16, 2


@cache
def loops() -> ModuleType:
    return import_compiled("._rans64_rows_loops", __package__)


@cache
def table_loops() -> ModuleType:
    return import_compiled("._rans64_loops", __package__)


class Rows:
    """Any number of rows of cumulative frequencies of 16 bits, for jobs where each row serves few symbols.

    Row r is cdf[r, :sizes[r]]. Its cell i is cdf[r, i] .. cdf[r, i + 1], for the symbol offsets[r] + i; the
    last, number sizes[r] - 2, is the escape. A row that no index names may hold anything. One that is in
    use has 2 <= sizes[r] <= columns and doesn't fall (values below 0 count as 0), and a cell in use lies
    within 0..2**16 and is 1 to 2**16 - 1 wide. So rows need not span all 2**16, and cells that no symbol
    falls in may be empty, which `CdfTable.from_cdf` refuses.

    Decoding a symbol takes a search in its row: for rows that serve many passes, a CdfTable is faster.
    """

    def __init__(self, cdf: ArrayLike, sizes: ArrayLike, offsets: ArrayLike) -> None:
        """cdf: integers (rows, columns); sizes, offsets: integers (rows,); all within int32.

        An int32 array `cdf` is not copied: it must stay as it is while these rows are in use. Raises
        ValueError for shapes that don't fit, and for integers outside int32; TypeError for what isn't an
        integer.
        """
        matrix = as_int32("cdf", cdf)
        if matrix.ndim != 2:
            raise ValueError(f"cdf has shape {matrix.shape}, not (rows, columns)")
        rows, columns = matrix.shape
        starts = np.arange(rows, dtype=np.int64) * columns
        self._fill(matrix.reshape(-1), starts, np.full(rows, columns, np.int32), sizes, offsets)

    @classmethod
    def from_flat(cls, cdf: ArrayLike, widths: ArrayLike, sizes: ArrayLike, offsets: ArrayLike) -> Rows:
        """Rows of widths of their own, which follow each other in `cdf`; so sizes[r] <= widths[r].

        cdf: integers (values,); widths, sizes, offsets: integers (rows,). Errors as in the constructor.
        """
        flat, width = as_int32("cdf", cdf), as_int32("widths", widths)
        if flat.ndim != 1 or width.ndim != 1:
            raise ValueError(f"cdf {flat.shape}, widths {width.shape}: expected (values,) and (rows,)")
        ends = np.cumsum(width, dtype=np.int64)
        if width.min(initial=0) < 0 or (ends[-1] if ends.size else 0) != flat.size:
            raise ValueError(
                f"widths {width.min(initial=0)} and above, in all {width.sum()} of {flat.size} values"
            )
        self = cls.__new__(cls)
        self._fill(flat, ends - width, width, sizes, offsets)
        return self

    def _fill(
        self,
        cdf: NDArray[np.int32],
        starts: NDArray[np.int64],
        widths: NDArray[np.int32],
        sizes: ArrayLike,
        offsets: ArrayLike,
    ) -> None:
        size, offset = as_int32("sizes", sizes), as_int32("offsets", offsets)
        if not size.shape == offset.shape == starts.shape:
            raise ValueError(f"{starts.size} rows, but sizes {size.shape} and offsets {offset.shape}")
        # Copies: the loops rely on what was checked of these.
        self._cdf, self._starts, self._widths = cdf, starts, widths.copy()
        self._sizes, self._offsets = size.copy(), offset.copy()
        self._checked = np.zeros(starts.size, np.bool_)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self._sizes.size

    def __repr__(self) -> str:
        return f"Rows(rows={self.rows}, values={self._cdf.size})"

    def intervals(self, symbols: ArrayLike, indexes: ArrayLike) -> NDArray[np.uint32]:
        """What is coded for one pass, as `_rans64_rows_loops` has it. Raises as `rans64.encode`."""
        symbol, index = as_int32("symbols", symbols), as_int32("indexes", indexes)
        if symbol.shape != index.shape:
            raise ValueError(f"symbols have shape {symbol.shape}, indexes {index.shape}")
        symbol, index = symbol.reshape(-1), index.reshape(-1)
        self.check(index)
        intervals = np.empty(loops().MAX_INTERVALS * symbol.size, np.uint32)
        status, count, cell = loops().to_intervals(
            symbol, index, self._cdf, self._starts, self._sizes, self._offsets, intervals
        )
        if status:
            self._raise(status, index, count, cell)
        return intervals[:count].copy()

    def decode(
        self,
        indexes: NDArray[np.int32],
        state: int,
        position: int,
        words: NDArray[np.uint32],
        symbols: NDArray[np.int32],
    ) -> tuple[int, int, int]:
        """Decodes one pass: (status for `raise_status`, state or detail, position)."""
        self.check(indexes)
        if quick := self._table(indexes):
            table, indexes = quick
            rows, cells, buckets, _ = table.lookup
            return table_loops().decode(indexes, rows, cells, buckets, state, position, words, symbols)
        codes = loops()
        status, state, position, cell = codes.decode(
            indexes, self._cdf, self._starts, self._sizes, self._offsets, state, position, words, symbols
        )
        if status == codes.BAD_CELL:
            self._raise(status, indexes, state, cell)
        return status, state, position

    def _table(self, indexes: NDArray[np.int32]) -> tuple[CdfTable, NDArray[np.int32]] | None:
        """A table of all rows in use, and the indexes of its rows; None where it isn't worth it or legal."""
        least, each = _WORTH_A_TABLE
        if indexes.size < least:
            return None
        used = np.flatnonzero(self._checked)
        sizes = self._sizes[used]
        columns = int(sizes.max())
        if indexes.size < each * max(int(sizes.sum()), columns * used.size // 4):
            return None
        places = self._starts[used][:, None] + np.arange(columns)
        matrix = self._cdf[np.minimum(places, self._cdf.size - 1)]
        matrix[np.arange(columns) >= sizes[:, None]] = 0
        try:
            table = CdfTable.from_cdf(matrix, sizes, self._offsets[used])
        except ValueError:
            return None
        number = np.zeros(self.rows, np.int32)
        number[used] = np.arange(used.size)
        return table, number[indexes]

    def check(self, indexes: NDArray[np.int32]) -> None:
        """Raises ValueError unless the 1-D indexes name rows that can be used."""
        status, position, place = loops().check_used(
            indexes, self._cdf, self._starts, self._widths, self._sizes, self._checked
        )
        if status:
            self._raise(status, indexes, position, place)

    def _raise(self, status: int, indexes: NDArray[np.int32], position: int, place: int) -> NoReturn:
        codes, row = loops(), int(indexes[position])
        if status == codes.BAD_ROW:
            raise_bad_index(indexes, position, self.rows)
        if status == codes.BAD_SIZE:
            raise ValueError(f"row {row} has size {self._sizes[row]}, legal are 2..{self._widths[row]}")
        values = self._cdf[self._starts[row] :][: self._sizes[row]]
        if status == codes.BAD_FALL:
            raise ValueError(f"row {row} falls to {values[place]} at {place}")
        raise ValueError(
            f"symbol {position} falls in cell {place} of row {row}, {values[place]}..{values[place + 1]}: "
            "it must be 1 to 65535 wide, within 0..65536"
        )
