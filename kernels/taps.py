"""Which positions around the coded one a context convolution reads: masks and their taps. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

IntArray = NDArray[np.int64]

MAX_REACH = 1 << 15
"""Furthest row or column offset of a tap."""


@dataclass(frozen=True, eq=False)
class Taps:
    """Taps of a kernel that take part in a convolution, in ascending kernel row, then column.

    index: (T,) int64, kernel row * kernel width + kernel column. dr, dc: (T,) int64, the offsets
    from the coded position to the position read. shape: the kernel's (rows, columns).
    """

    index: IntArray
    dr: IntArray
    dc: IntArray
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        """Raise ValueError for anything that the compiled kernels could not index safely."""
        arrays = [np.asarray(array) for array in (self.index, self.dr, self.dc)]
        if any(array.dtype != np.int64 or array.shape != (len(self.index),) for array in arrays):
            kinds = ", ".join(f"{array.dtype} {array.shape}" for array in arrays)
            raise ValueError(f"index, dr and dc must be int64 of one 1-D shape, not {kinds}")
        taps = self.shape[0] * self.shape[1]
        if len(self.index) and not (self.index.min() >= 0 and self.index.max() < taps):
            raise ValueError(f"tap indexes {self.index.min()}..{self.index.max()} of a kernel of {taps} taps")
        if any(np.abs(array).max(initial=0) > MAX_REACH for array in arrays[1:]):
            raise ValueError(f"a tap reads further than {MAX_REACH} positions away")

    def __len__(self) -> int:
        return len(self.index)


def mask_taps(mask: ArrayLike | Taps, center: tuple[int, int] | None = None) -> Taps:
    """The taps of a 2-D boolean mask; `center` is the coded position's (row, column) in the mask.

    The default center is the middle of a mask with odd sides; masks with an even side must name it.
    Taps pass through unchanged. ValueError otherwise.
    """
    if isinstance(mask, Taps):
        return mask
    kernel = np.asarray(mask)
    if kernel.ndim != 2 or kernel.dtype != np.bool_:
        raise ValueError(f"a mask is a 2-D boolean array, not {kernel.dtype} of shape {kernel.shape}")
    height, width = kernel.shape
    if center is None:
        if height % 2 == 0 or width % 2 == 0:
            raise ValueError(f"a {height}x{width} mask has no middle tap: give its center")
        center = (height // 2, width // 2)
    rows, cols = (axis.astype(np.int64) for axis in np.nonzero(kernel))
    return Taps(rows * width + cols, rows - center[0], cols - center[1], (height, width))


def _tap_grid(k: int) -> tuple[IntArray, IntArray]:
    if k < 1 or k % 2 == 0:
        raise ValueError(f"the kernel size must be odd and positive, not {k}")
    offsets = np.arange(k, dtype=np.int64) - k // 2
    return offsets[:, None], offsets[None, :]


def causal_mask(k: int) -> NDArray[np.bool_]:
    """(k, k) mask of the taps before the center in raster scan (type A: the center is out)."""
    dr, dc = _tap_grid(k)
    return (dr < 0) | ((dr == 0) & (dc < 0))


def checkerboard_mask(k: int) -> NDArray[np.bool_]:
    """(k, k) mask of the taps at odd distance |dr| + |dc| from the center."""
    dr, dc = _tap_grid(k)
    return (dr + dc) % 2 == 1


def empty_mask(k: int) -> NDArray[np.bool_]:
    """(k, k) mask without taps: with it a context convolution gives its bias."""
    dr, dc = _tap_grid(k)
    return np.zeros(np.broadcast_shapes(dr.shape, dc.shape), dtype=np.bool_)


def window_taps(k: int = 4) -> Taps:
    """Lee 2019's k x k window, whose last row holds the coded position, at column k // 2.

    The 4x4 window reads rows -3..0 and columns -2..1; of its last row, 1 1 0 0, the two taps on the
    left. A wavefront needs lag 2. ValueError for k < 1.
    """
    if k < 1:
        raise ValueError(f"the window's size must be positive, not {k}")
    mask = np.ones((k, k), dtype=np.bool_)
    mask[-1, k // 2 :] = False
    return mask_taps(mask, (k - 1, k // 2))


def wavefront_lag(mask: ArrayLike | Taps, center: tuple[int, int] | None = None) -> int:
    """The least lag >= 0 whose wavefront decodes every tap's position before it is read.

    A tap (dr, dc) lies dc + lag * dr wavefronts away, which must be negative. The 5x5 causal mask
    needs 3. ValueError, naming the tap, if no lag serves.
    """
    taps = mask_taps(mask, center)
    offsets = list(zip(taps.dr.tolist(), taps.dc.tolist(), strict=True))
    lag = max([0, *(dc // -dr + 1 for dr, dc in offsets if dr < 0)])
    for dr, dc in offsets:
        if dc + lag * dr >= 0:
            raise ValueError(f"no wavefront decodes tap (row {dr:+d}, column {dc:+d}) before it is read")
    return lag
