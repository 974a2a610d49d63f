"""Coding orders and context masks, as data.

A context model conditions each latent position on positions already coded. An `Order` says which
positions are coded together (a step) and in which sequence; `Taps` say what a context convolution
reads around a position. `check_order` proves that an order never reads what isn't decoded yet.
NumPy only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

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

    The default center is the middle of a mask with odd sides; masks with an even side (Lee 2019's
    4x4 window, center (3, 2)) must name it. Taps pass through unchanged. ValueError otherwise.
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


@dataclass(frozen=True, eq=False)
class Step:
    """Positions coded together, all channels of each; rows, cols: (n,) int64.

    context: whether the step reads the context. If not, its context feature is exactly zero,
    without even the bias.
    """

    rows: IntArray
    cols: IntArray
    context: bool

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class Order:
    """A partition of a latent's height x width positions into steps, coded one after the other.

    taps: what a step with context reads around its positions. An order that would read what it
    hasn't decoded is refused (`check_order`). Iterating gives the steps. Within a step, symbols are
    coded in the sequence of its positions, the channels of one position together.
    """

    name: str
    height: int
    width: int
    taps: Taps
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        check_order(self, self.taps)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def positions(self) -> tuple[IntArray, IntArray]:
        """rows, cols, (height * width,) int64 each, in coding order."""
        rows = np.concatenate([step.rows for step in self.steps])
        return rows, np.concatenate([step.cols for step in self.steps])

    def runs(self) -> Iterator[Step]:
        """Consecutive steps that agree on reading the context, joined.

        On a latent that is complete, a joined step gives the parameters that its steps give one by
        one: what they read was decoded before them, so it no longer changes.
        """
        for context, group in groupby(self.steps, key=lambda step: step.context):
            steps = list(group)
            rows = np.concatenate([step.rows for step in steps])
            yield Step(rows, np.concatenate([step.cols for step in steps]), context)


def _ordered(
    name: str,
    size: tuple[int, int],
    taps: Taps,
    key: Callable[[IntArray, IntArray], Any],
    first_context: bool,
) -> Order:
    """Positions sorted by key(row, column), raster scan within equal keys; a step for each key met.

    first_context: whether the step of key 0 reads the context; all others do.
    """
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"an order needs at least 1x1 positions, not {height}x{width}")
    rows, cols = np.divmod(np.arange(height * width, dtype=np.int64), width)
    keys = np.broadcast_to(np.asarray(key(rows, cols), dtype=np.int64), rows.shape)
    sequence = np.argsort(keys, kind="stable")
    values, starts = np.unique(keys[sequence], return_index=True)
    rows, cols = rows[sequence], cols[sequence]
    bounds = [*starts.tolist(), height * width]
    steps = tuple(
        Step(rows[a:b], cols[a:b], value > 0 or first_context)
        for value, a, b in zip(values.tolist(), bounds[:-1], bounds[1:], strict=True)
    )
    return Order(name, height, width, taps, steps)


def raster(height: int, width: int, mask: ArrayLike | Taps) -> Order:
    """Row by row, one position a step: height * width steps, all with context."""
    return _ordered("raster", (height, width), mask_taps(mask), lambda r, c: r * width + c, True)


def wavefront(height: int, width: int, mask: ArrayLike | Taps, lag: int | None = None) -> Order:
    """Positions with equal column + lag * row together: at most width + lag * (height - 1) steps.

    Each position reads exactly what it reads under raster. `lag` defaults to the mask's
    `wavefront_lag`; a lag that the mask doesn't allow is refused with ValueError.
    """
    taps = mask_taps(mask)
    step = wavefront_lag(taps) if lag is None else lag
    if step < 0:
        raise ValueError(f"the lag must not be negative: {lag}")
    return _ordered("wavefront", (height, width), taps, lambda r, c: c + step * r, True)


def checkerboard(height: int, width: int, mask: ArrayLike | Taps, parity: str = "even") -> Order:
    """Anchors without context, then the rest with it: two steps (one on a 1x1 latent).

    parity: whether anchors have an "even" (CompressAI's default) or "odd" (codes derived from He
    2021) row + column. The mask may read anchors only: a `checkerboard_mask`, or a part of it.
    """
    if parity not in ("even", "odd"):
        raise ValueError(f'parity is "even" or "odd", not {parity!r}')
    anchor = int(parity == "odd")
    return _ordered(
        "checkerboard", (height, width), mask_taps(mask), lambda r, c: (r + c + anchor) % 2, False
    )


def parallel(height: int, width: int) -> Order:
    """Everything in one step without context."""
    return _ordered("parallel", (height, width), mask_taps(empty_mask(1)), lambda r, c: 0, False)


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


def check_order(order: Order, mask: ArrayLike | Taps, center: tuple[int, int] | None = None) -> None:
    """Raise ValueError unless the order is a partition whose steps read only what is decoded.

    A step with context reads every tap of the mask that falls inside the latent; the position it
    falls on must belong to an earlier step. The message names the position and the tap.
    """
    height, width = order.height, order.width
    rows, cols = order.positions()
    outside = (rows < 0) | (rows >= height) | (cols < 0) | (cols >= width)
    if outside.any():
        i = int(outside.argmax())
        raise ValueError(f"{order.name}: position ({rows[i]}, {cols[i]}) is outside {height}x{width}")
    times = np.bincount(rows * width + cols, minlength=height * width)
    if (times != 1).any():
        i = int((times != 1).argmax())
        raise ValueError(f"{order.name}: position {divmod(i, width)} is coded {times[i]} times")

    lengths = [len(step) for step in order]
    when = np.empty((height, width), dtype=np.int64)
    when[rows, cols] = np.repeat(np.arange(len(order)), lengths)
    reads = np.array([step.context for step in order], dtype=np.bool_)[when]
    taps = mask_taps(mask, center)
    for dr, dc in zip(taps.dr.tolist(), taps.dc.tolist(), strict=True):
        r0, r1 = max(0, -dr), min(height, height - dr)
        c0, c1 = max(0, -dc), min(width, width - dc)
        if r0 >= r1 or c0 >= c1:
            continue
        late = reads[r0:r1, c0:c1] & (when[r0 + dr : r1 + dr, c0 + dc : c1 + dc] >= when[r0:r1, c0:c1])
        if late.any():
            r, c = divmod(int(late.argmax()), c1 - c0)
            raise ValueError(
                f"{order.name}: position ({r + r0}, {c + c0}) reads tap (row {dr:+d}, column {dc:+d}), "
                "which is not decoded before it"
            )
