"""What both directions of the lanes coder share on a device: the table, and how launches are cut."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...entropy.table import CdfTable
from ._module import import_cupy
from .lookup import decoder_lookup

MAX_LANES, WARP = 64, 32
# Warps that share a block, at most; and at least, where they share a table in its shared memory.
_MOST_WARPS, _LEAST_STAGED = 16, 4


class DeviceTable(NamedTuple):
    """A table on a device: what the decoder looks up, what the encoder does."""

    decoder_rows: Any
    decoder_cells: Any
    encoder_rows: Any
    encoder_cells: Any
    rows: np.int32
    precision: np.int32

    def encoder(self) -> tuple[Any, ...]:
        """The first arguments of an encoder's kernel."""
        return self.encoder_rows, self.encoder_cells, self.rows, self.precision

    def decoder(self) -> tuple[Any, ...]:
        """The first arguments of a decoder's kernel."""
        return self.decoder_rows, self.decoder_cells, self.rows, self.precision


def device_table(table: CdfTable) -> DeviceTable:
    """The table on the current device."""
    return _device_table(table, import_cupy().cuda.Device().id)


@lru_cache(maxsize=16)
def _device_table(table: CdfTable, device: int) -> DeviceTable:
    cupy = import_cupy()
    arrays = [cupy.asarray(array) for array in (*decoder_lookup(table), *table.lookup[:2])]
    # Others than the current stream may use the arrays later.
    cupy.cuda.get_current_stream().synchronize()
    rows, cells, encoder_rows, encoder_cells = arrays
    precision = np.int32(table.precision)
    return DeviceTable(rows, cells, encoder_rows, encoder_cells, np.int32(table.rows), precision)


def warps_of(groups: int, staged: bool) -> tuple[int, int]:
    """(blocks, warps of each): spread over the processors, as what counts is how soon each step is done."""
    processors = import_cupy().cuda.Device().attributes["MultiProcessorCount"]
    least = _LEAST_STAGED if staged else 1
    warps = min(max(-(-groups // processors), least), _MOST_WARPS)
    return -(-groups // warps), warps


def upload(records: NDArray[Any]) -> Any:
    return import_cupy().asarray(np.ascontiguousarray(records).view(np.uint8))
