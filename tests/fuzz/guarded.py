"""Arrays between two pages that no one may touch: an access out of bounds, of vectors too, ends the process.

`guard` makes the coders use such arrays, for Linux and other POSIX systems.
"""

import ctypes
import mmap
from typing import Any

import numpy as np

from quadrans.entropy import CdfTable, _lanes, _passes, mixture, range_coder, rans64

_PAGE, _NO_ACCESS = mmap.PAGESIZE, 0


class Guarded:
    """NumPy, but what `empty`, `empty_like` and `zeros` return touches a guarded page.

    Each array begins where one ends or, every other time, ends where one begins.
    """

    def __init__(self) -> None:
        self._protect = ctypes.CDLL(None, use_errno=True).mprotect
        self._protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        self._at_end = False

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Any, dtype: Any) -> np.ndarray:
        """As NumPy's, but that every byte is 0xA5."""
        return self._array(shape, dtype, 0xA5)

    def empty_like(self, array: np.ndarray) -> np.ndarray:
        """As `empty`, of the array's shape and dtype."""
        return self._array(array.shape, array.dtype, 0xA5)

    def zeros(self, shape: Any, dtype: Any) -> np.ndarray:
        """As NumPy's."""
        return self._array(shape, dtype, 0)

    def copy(self, array: np.ndarray) -> np.ndarray:
        """A guarded copy."""
        out = self._array(array.shape, array.dtype, 0)
        out[...] = array
        return out

    def _array(self, shape: Any, dtype: Any, fill: int) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        inner = -(-size // _PAGE) * _PAGE
        memory = mmap.mmap(-1, inner + 2 * _PAGE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for page in (address, address + _PAGE + inner):
            if self._protect(page, _PAGE, _NO_ACCESS):
                raise OSError(ctypes.get_errno(), "mprotect failed")
        self._at_end = not self._at_end
        start = _PAGE + inner - size if self._at_end else _PAGE
        flat = np.frombuffer(memory, np.uint8, size, start)
        flat[:] = fill
        return flat.view(dtype).reshape(shape)


def guard() -> Guarded:
    """From now on the coders' arrays are guarded."""
    guarded = Guarded()
    for module in (_lanes, _passes, mixture, range_coder, rans64):
        module.np = guarded
    return guarded


def guard_table(guarded: Guarded, table: CdfTable) -> None:
    """The arrays in which the loops look the table up are guarded too."""
    lookup = table.lookup
    arrays = [guarded.copy(array) for array in lookup[:3]]
    for array in arrays:
        array.flags.writeable = False
    table.__dict__["lookup"] = lookup._make([*arrays, *lookup[3:]])
