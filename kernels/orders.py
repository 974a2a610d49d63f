"""Coding orders, as data.

A context model conditions each latent element on elements already coded. An `Order` says which
elements are coded together (a step), in which sequence, and what each step reads; `check_order`
proves that no step reads what isn't decoded yet. NumPy only.

    order                 steps                          systems
    raster                height * width                 Minnen 2018, Lee 2019, Cheng 2020
    wavefront             width + lag * (height - 1)     the same ones, unchanged
    checkerboard          2                              He 2021
    slices                1 a slice                      ChARM (10), TCM (5)
    slices_checkerboard   2 a slice                      ELIC (10), MLIC++ (20)
    quadtree              4                              DCVC-DC, DCA
    parallel              1                              models without context
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .steps import Step, Steps
from .taps import (
    IntArray,
    Taps,
    causal_mask,
    checkerboard_mask,
    empty_mask,
    mask_taps,
    wavefront_lag,
    window_taps,
)

__all__ = [
    "Order",
    "Step",
    "Steps",
    "Taps",
    "causal_mask",
    "check_order",
    "checkerboard",
    "checkerboard_mask",
    "empty_mask",
    "even_slices",
    "mask_taps",
    "parallel",
    "quadtree",
    "raster",
    "slices",
    "slices_checkerboard",
    "wavefront",
    "wavefront_lag",
    "window_taps",
]

MAX_CHANNELS = 1 << 16
"""Most channels of an order that counts them."""


@dataclass(frozen=True, eq=False)
class Order:
    """A partition of a latent's elements into steps, coded one after the other.

    taps: what a step with context reads around its positions. channels: how many the latent has;
    None for an order of positions, whose steps code all channels of whatever latent it has.
    partial: steps with context read, in place of taps, the whole latent as it is by then: all that
    earlier steps decoded, zero elsewhere. An order that would read what it hasn't decoded is
    refused (`check_order`). Iterating gives the steps; `flat` holds the same as arrays.
    """

    name: str
    height: int
    width: int
    taps: Taps
    steps: Sequence[Step]
    channels: int | None = None
    partial: bool = False
    flat: Steps = field(init=False, repr=False)

    def __post_init__(self) -> None:
        flat = self.steps if isinstance(self.steps, Steps) else Steps.of(self.steps)
        for name in ("flat", "steps"):
            object.__setattr__(self, name, flat)
        if self.partial and len(self.taps):
            raise ValueError(f"{self.name}: a partial order reads no taps, not {len(self.taps)}")
        check_order(self, self.taps)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def positions(self) -> tuple[IntArray, IntArray]:
        """rows, cols, (P,) int64 each, in coding order; P is height * width unless channels are split."""
        return self.flat.rows, self.flat.cols

    def runs(self) -> Steps:
        """Consecutive steps that read alike, joined.

        On a latent that is complete, a joined step gives the parameters that its steps give one by
        one: what they read was decoded before them, so it no longer changes. In a partial order it
        does change, and each step stays by itself.
        """
        flat = self.flat
        new = np.ones(len(flat), np.bool_)
        if not self.partial:
            new[1:] = np.any([np.diff(a) != 0 for a in (flat.context, flat.width, flat.known)], axis=0)
        return Steps(
            flat.starts[np.append(new, True)],
            flat.rows,
            flat.cols,
            flat.first,
            flat.context[new],
            flat.width[new],
            flat.known[new],
        )


def _grid(height: int, width: int) -> tuple[IntArray, IntArray]:
    """rows, cols of all positions in raster scan."""
    if height < 1 or width < 1:
        raise ValueError(f"an order needs at least 1x1 positions, not {height}x{width}")
    rows, cols = np.divmod(np.arange(height * width, dtype=np.int64), width)
    return rows, cols


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
    rows, cols = _grid(*size)
    keys = np.broadcast_to(np.asarray(key(rows, cols), dtype=np.int64), rows.shape)
    sequence = np.argsort(keys, kind="stable")
    keys = keys[sequence]
    starts = np.flatnonzero(np.append(np.diff(keys, prepend=-1) != 0, True))
    zero = np.zeros(len(starts) - 1, np.int64)
    steps = Steps(
        starts.astype(np.int64),
        rows[sequence],
        cols[sequence],
        np.zeros_like(rows),
        (keys[starts[:-1]] > 0) | first_context,
        width=zero,
        known=zero,
    )
    return Order(name, *size, taps, steps)


def raster(height: int, width: int, mask: ArrayLike | Taps) -> Order:
    """Row by row, one position a step: height * width steps, all with context."""
    return _ordered("raster", (height, width), mask_taps(mask), lambda r, c: r * width + c, True)


def wavefront(height: int, width: int, mask: ArrayLike | Taps, lag: int | None = None) -> Order:
    """Positions with equal column + lag * row together: at most width + lag * (height - 1) steps.

    Each position reads exactly what it reads under raster. `lag` defaults to the mask's
    `wavefront_lag`; a lag that the mask doesn't allow is refused with ValueError.
    """
    taps = mask_taps(mask)
    lag = wavefront_lag(taps) if lag is None else index(lag)
    if lag < 0:
        raise ValueError(f"the lag must not be negative: {lag}")
    # From lag = width on, the order is raster's; any lag beyond gives the same steps.
    step = min(lag, width)
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


def even_slices(channels: int, count: int) -> tuple[int, ...]:
    """`count` slices of equal size. ValueError unless `count` divides `channels`."""
    if channels < 1 or count < 1 or channels % count:
        raise ValueError(f"{channels} channels don't divide into {count} even slices")
    return (channels // count,) * count


def _sliced(name: str, inner: Order, sizes: Iterable[int]) -> Order:
    """For each slice of channels all steps of an order of positions, which also read earlier slices."""
    counts = [index(size) for size in sizes]
    if not counts or min(counts) < 1 or sum(counts) > MAX_CHANNELS:
        raise ValueError(f"slices need 1 channel or more each, {MAX_CHANNELS} at most in all, not {counts}")
    widths = np.array(counts, np.int64)
    before = np.cumsum(widths) - widths
    flat, repeats = inner.flat, len(counts)
    steps = Steps(
        np.append(0, np.cumsum(np.tile(np.diff(flat.starts), repeats))),
        np.tile(flat.rows, repeats),
        np.tile(flat.cols, repeats),
        np.repeat(before, len(flat.rows)),
        np.tile(flat.context, repeats),
        width=np.repeat(widths, len(flat)),
        known=np.repeat(before, len(flat)),
    )
    return Order(name, inner.height, inner.width, inner.taps, steps, sum(counts))


def slices(height: int, width: int, sizes: Iterable[int]) -> Order:
    """Slices of `sizes` channels one after the other, each reading the earlier ones everywhere.

    ChARM: even_slices(320, 10); TCM: even_slices(320, 5). No step reads taps (`context`).
    """
    return _sliced("slices", parallel(height, width), sizes)


def slices_checkerboard(
    height: int, width: int, sizes: Iterable[int], mask: ArrayLike | Taps, parity: str = "even"
) -> Order:
    """Slices of `sizes` channels, in each a checkerboard: anchors, then the rest.

    All steps read earlier slices everywhere; those after anchors also the mask's taps, within their
    own slice. ELIC: sizes (16, 16, 32, 64, 192); MLIC++: even_slices(320, 10), parity "odd".
    """
    return _sliced("slices_checkerboard", checkerboard(height, width, mask, parity), sizes)


def quadtree(height: int, width: int, channels: int) -> Order:
    """DCVC-DC's four steps (Li 2023): each codes a quarter of the channels at every position.

    Of the four groups of channels, which one differs among the positions of a 2x2 block, so that
    the symbols of a step form a (height, width, channels / 4) plane. Steps 2 to 4 read all that is
    decoded (a partial order). ValueError unless `channels` is divisible by 4.
    """
    if channels < 4 or channels % 4:
        raise ValueError(f"a quadtree needs channels in four equal groups, not {channels}")
    rows, cols = _grid(height, width)
    corner = 2 * (rows % 2) + cols % 2
    quarter = channels // 4
    steps = [
        Step(rows, cols, turn > 0, (corner ^ swap) * quarter, quarter)
        for turn, swap in enumerate((0, 3, 2, 1))
    ]
    return Order("quadtree", height, width, mask_taps(empty_mask(1)), steps, channels, partial=True)


def check_order(order: Order, mask: ArrayLike | Taps, center: tuple[int, int] | None = None) -> None:
    """Raise ValueError unless the order is a partition whose steps read only what is decoded.

    At every tap of the mask that falls inside the latent, a step with context reads the channels
    that it codes; a step that knows channels reads these everywhere. All must belong to earlier
    steps. The message names the position, and the tap or channel.
    """
    times, channel = _schedule(order)
    name, flat = order.name, order.flat

    def element(where: NDArray[np.bool_]) -> tuple[int, int, str]:
        g, r, c = np.unravel_index(int(where.argmax()), where.shape)
        part = "" if order.channels is None else f", channel {channel[g]},"
        return int(r), int(c), part

    # A step that knows channels must come after the last step that codes any of them, anywhere.
    latest = np.maximum.accumulate(times.max(axis=(1, 2)))
    knowing = np.flatnonzero(flat.known)
    early = knowing[latest[np.searchsorted(channel, flat.known[knowing]) - 1] >= knowing]
    if early.size:
        s = int(early[0])
        r, c, part = element((times >= s) & (channel < flat.known[s])[:, None, None])
        raise ValueError(f"{name}: step {s} reads position ({r}, {c}){part} which is not decoded before it")

    reads = flat.context[times]
    height, width = order.height, order.width
    taps = mask_taps(mask, center)
    for dr, dc in zip(taps.dr.tolist(), taps.dc.tolist(), strict=True):
        r0, r1 = max(0, -dr), min(height, height - dr)
        c0, c1 = max(0, -dc), min(width, width - dc)
        if r0 >= r1 or c0 >= c1:
            continue
        # A step reads at a tap the channels that it codes at the position, so each channel need only
        # be compared with itself.
        read = times[:, r0 + dr : r1 + dr, c0 + dc : c1 + dc]
        late = reads[:, r0:r1, c0:c1] & (read >= times[:, r0:r1, c0:c1])
        if late.any():
            r, c, part = element(late)
            raise ValueError(
                f"{name}: position ({r + r0}, {c + c0}){part} reads tap (row {dr:+d}, column {dc:+d}), "
                "which is not decoded before it"
            )


def _schedule(order: Order) -> tuple[NDArray[np.int32], IntArray]:
    """times (G, height, width), the step that codes each element, and channel (G,).

    Channels that no step tells apart are one of G groups, of which `channel` names the first. Raises
    ValueError unless each element is coded exactly once.
    """
    name, height, width, flat = order.name, order.height, order.width, order.flat
    channels = 1 if order.channels is None else order.channels
    if height < 1 or width < 1 or not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(
            f"an order needs at least 1x1 positions and 1..{MAX_CHANNELS} channels, "
            f"not {height}x{width} and {channels}"
        )
    rows, cols, first = flat.rows, flat.cols, flat.first
    outside = (rows < 0) | (rows >= height) | (cols < 0) | (cols >= width)
    if outside.any():
        i = int(outside.argmax())
        raise ValueError(f"{name}: position ({rows[i]}, {cols[i]}) is outside {height}x{width}")
    if order.channels is None and flat.width.any():
        raise ValueError(f"{name}: steps choose among channels, but the order doesn't say how many there are")
    if (flat.known > channels).any():
        raise ValueError(f"{name}: a step knows {flat.known.max()} channels of {channels}")
    lengths = np.diff(flat.starts)
    if not lengths.all():
        raise ValueError(f"{name}: step {int((lengths == 0).argmax())} codes nothing")
    span = np.repeat(np.where(flat.width == 0, channels, flat.width), lengths)
    outside = (first < 0) | (first > channels - span)
    if outside.any():
        i = int(outside.argmax())
        raise ValueError(
            f"{name}: position ({rows[i]}, {cols[i]}) codes {span[i]} channels from {first[i]} on, "
            f"of {channels}"
        )

    edge = np.zeros(channels + 1, np.bool_)
    edge[[0, channels]] = edge[first] = edge[first + span] = True
    channel = np.flatnonzero(edge)[:-1]
    group = np.cumsum(edge) - 1
    low = group[first]
    parts = group[first + span] - low
    step = np.repeat(np.arange(len(flat), dtype=np.int32), lengths)
    element = (low * height + rows) * width + cols
    if (parts != 1).any():
        nth = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
        element = np.repeat(element, parts) + nth * (height * width)
        step = np.repeat(step, parts)
    coded = np.bincount(element, minlength=len(channel) * height * width)
    if (coded != 1).any():
        i = int((coded != 1).argmax())
        g, position = divmod(i, height * width)
        part = "" if order.channels is None else f"channel {channel[g]} of "
        raise ValueError(f"{name}: {part}position {divmod(position, width)} is coded {coded[i]} times")
    times = np.empty(len(channel) * height * width, np.int32)
    times[element] = step
    return times.reshape(len(channel), height, width), channel
