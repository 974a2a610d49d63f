"""From torch's floats to the coder's integers: what `build_indexes` and `quantize` of CompressAI compute."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ....entropy._compiled import import_compiled, simd_level

_SHIFTS = range(20, 13, -1)
"""How many bits of a float say where it lies within its bucket: 8 buckets an octave, to 512."""


def quantized(inputs: Tensor, means: Tensor | None) -> NDArray[np.int32]:
    """round(inputs - means): int32 of inputs' shape. means: floats that broadcast to it, or None for 0.

    What CompressAI's `quantize` gives, except that it raises ValueError where inputs aren't finite, or a
    symbol isn't within int32.
    """
    inputs = inputs.detach()
    if means is not None:
        means = means.detach()
        if means.dtype != inputs.dtype or inputs.dtype.itemsize < 4:
            # Subtracting in place, CompressAI keeps the type of the inputs.
            inputs, means = (inputs - means).to(inputs.dtype), None
    values = _floats(inputs).numpy()
    centers = None if means is None else _floats(means.expand_as(inputs)).numpy().reshape(-1)
    symbols = np.empty(values.shape, np.int32)
    if not _loops().quantize(values.reshape(-1), centers, symbols.reshape(-1)):
        with np.errstate(invalid="ignore"):
            residuals = values if centers is None else values - centers.reshape(values.shape)
            at = tuple(np.argwhere(~(np.abs(np.rint(residuals)) < 1 << 31))[0].tolist())
        where = f"{list(at)} of {list(values.shape)}"
        raise ValueError(f"inputs less means are {residuals[at]} at {where}, not within int32")
    return symbols


class ScaleIndexes:
    """`build_indexes` of one scale table and bound.

    The index of a scale is how many scales of the table but the last lie below it, or below the bound if
    that is greater. Equal to CompressAI's index for every number; NaN, for which CompressAI finds the last
    row, raises ValueError.
    """

    def __init__(self, scale_table: Tensor, bound: Tensor) -> None:
        """scale_table: float, 1-D and not empty, in any sequence; bound: one number."""
        table = scale_table.detach().double().cpu().numpy()
        if table.ndim != 1 or not table.size or np.isnan(table).any():
            raise ValueError(f"scale table of shape {table.shape} with {np.isnan(table).sum()} NaN")
        self._thresholds = np.sort(table[:-1])
        self._least = float(bound)
        self._low = int(np.float32(self._least).view(np.int32))
        self._shift, self._records = 0, None
        if bound.dtype != torch.float64 and self._least > 0:
            self._shift, self._records = _records(self._thresholds.astype(np.float32))

    def __call__(self, scales: Tensor) -> Tensor:
        """scales: floats of any shape and device. Returns int32 of that shape, there."""
        values = _floats(scales.detach()).numpy()
        found = np.empty(values.shape, np.int32)
        if self._records is None or values.dtype == np.float64:
            nan = bool(np.isnan(values).any())
            if not nan:
                found[...] = np.searchsorted(
                    self._thresholds, np.maximum(values.astype(np.float64), self._least)
                )
        else:
            bits = values.view(np.int32).reshape(-1)
            search = _loops().search_loop(simd_level())
            nan = search(bits, self._low, self._shift, self._records, found.reshape(-1))
        if nan:
            at = np.argwhere(np.isnan(values))[0].tolist()
            raise ValueError(f"scales are NaN at {at} of {list(values.shape)}")
        return torch.from_numpy(found).to(scales.device)


def to_numpy(integers: Tensor) -> NDArray[np.int32]:
    """Their values as int32, from any device."""
    return integers.detach().to("cpu", torch.int32).numpy()


def _records(thresholds: NDArray[np.float32]) -> tuple[int, NDArray[np.int32] | None]:
    """(shift, records) as the loop `search` wants them; no records where thresholds lie too close for that.

    REQUIRES: ascending, no NaN.
    """
    # Negative thresholds are below every bucket, as their bits show once they are all -1.
    bits = np.maximum(thresholds.view(np.int32), -1).astype(np.int64)
    for shift in _SHIFTS:
        buckets = np.arange(1 << (31 - shift))
        first = np.searchsorted(bits >> shift, buckets)
        crowded = (np.searchsorted(bits >> shift, buckets, side="right") - first).max() > 1
        # The greatest sum, of number and carry, must stay below 2^32.
        if crowded or first[-1] + 2 > 1 << (32 - shift):
            continue
        last = (1 << shift) - 1
        within = np.full(buckets.size, last)
        inside = bits[bits >= 0]
        within[inside >> shift] = inside & last
        return shift, ((first << shift) + last - within).astype(np.uint32).view(np.int32)
    return 0, None


def _floats(values: Tensor) -> Tensor:
    """The same numbers in C order on the CPU: float64 if they are that, else float32."""
    wide = values.dtype == torch.float64
    return values.to("cpu", torch.float64 if wide else torch.float32).contiguous()


@cache
def _loops() -> Any:
    return import_compiled("._loops", __package__)
