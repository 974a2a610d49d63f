"""Steps of a coding order: which elements of a latent are coded together, and what they read. NumPy only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
from numpy.typing import NDArray

from .taps import IntArray


@dataclass(frozen=True, eq=False)
class Step:
    """Elements coded together: at position i, `width` channels from first[i] on.

    rows, cols, first: (n,) int64; one number for `first` serves all positions. width: None for all
    channels of the latent. Symbols are coded in the sequence of the positions, the channels of one
    position together, ascending.

    context: whether the step reads the context: the order's taps around each of its positions,
    there the channels that it codes here; or, in a partial order, all that is decoded. If it
    doesn't, its context feature is exactly zero, without even the bias.
    known: the step also reads channels 0 .. known - 1 of every position.
    ValueError if the numbers don't fit together.
    """

    rows: IntArray
    cols: IntArray
    context: bool
    first: IntArray = field(default_factory=lambda: np.zeros(1, np.int64))
    width: int | None = None
    known: int = 0

    def __post_init__(self) -> None:
        first = np.asarray(self.first)
        if first.size == 1 and first.dtype == np.int64:
            first = np.full(np.shape(self.rows), first.item(), np.int64)
        arrays = [np.asarray(self.rows), np.asarray(self.cols), first]
        if any(array.dtype != np.int64 or array.shape != (arrays[0].size,) for array in arrays):
            kinds = ", ".join(f"{array.dtype} {array.shape}" for array in arrays)
            raise ValueError(f"rows, cols and first must be int64 of one 1-D shape, not {kinds}")
        if (self.width is not None and self.width < 1) or self.known < 0:
            raise ValueError(f"a step of width {self.width} that knows {self.known} channels")
        for name, array in zip(("rows", "cols", "first"), arrays, strict=True):
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.rows)

    def elements(self, channels: int) -> tuple[IntArray, IntArray, IntArray]:
        """The index with which a latent (H, W, channels) gives the step's elements, (n, width)."""
        rows, cols, first, width = self.block(channels)
        return rows[:, None], cols[:, None], first[:, None] + np.arange(width)

    def block(self, channels: int) -> tuple[IntArray, IntArray, IntArray, int]:
        """(rows, cols, first channel, (n,) each, width): the step's channels of a latent (H, W, channels)."""
        return self.rows, self.cols, self.first, channels if self.width is None else self.width


@dataclass(frozen=True, eq=False)
class Steps(Sequence[Step]):
    """A sequence of S steps held as flat, contiguous arrays, as compiled loops want them.

    Step s has positions starts[s] .. starts[s + 1] - 1 of rows, cols and first. starts: (S + 1,);
    rows, cols, first: (P,); width, known: (S,), all int64; context: (S,) bool. A width of 0 means
    all channels (None in a `Step`).
    """

    starts: IntArray
    rows: IntArray
    cols: IntArray
    first: IntArray
    context: NDArray[np.bool_]
    width: IntArray
    known: IntArray

    @classmethod
    def of(cls, steps: Iterable[Step]) -> Steps:
        steps = list(steps)
        none = np.zeros(0, np.int64)
        return cls(
            np.cumsum([0, *(len(step) for step in steps)], dtype=np.int64),
            np.concatenate([none, *(step.rows for step in steps)]),
            np.concatenate([none, *(step.cols for step in steps)]),
            np.concatenate([none, *(step.first for step in steps)]),
            np.array([step.context for step in steps], np.bool_),
            np.array([step.width or 0 for step in steps], np.int64),
            np.array([step.known for step in steps], np.int64),
        )

    def __len__(self) -> int:
        return len(self.context)

    @overload
    def __getitem__(self, which: int) -> Step: ...
    @overload
    def __getitem__(self, which: slice) -> tuple[Step, ...]: ...
    def __getitem__(self, which: int | slice) -> Step | tuple[Step, ...]:
        if isinstance(which, slice):
            return tuple(self[s] for s in range(len(self))[which])
        s = range(len(self))[which]
        at = slice(self.starts[s], self.starts[s + 1])
        return Step(
            self.rows[at],
            self.cols[at],
            bool(self.context[s]),
            self.first[at],
            int(self.width[s]) or None,
            int(self.known[s]),
        )
