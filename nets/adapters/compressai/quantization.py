"""From torch's floats to the coder's integers: what `build_indexes` and `quantize` of CompressAI compute."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ....entropy._compiled import import_compiled
from ...scale_search import ScaleSearch


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
        narrow = bound.dtype != torch.float64
        self._search = ScaleSearch(self._thresholds.astype(np.float32), self._least) if narrow else None

    def __call__(self, scales: Tensor) -> Tensor:
        """scales: floats of any shape and device. Returns int32 of that shape, there."""
        values = _floats(scales.detach()).numpy()
        found = np.empty(values.shape, np.int32)
        if self._search is None or values.dtype == np.float64:
            nan = bool(np.isnan(values).any())
            if not nan:
                found[...] = np.searchsorted(
                    self._thresholds, np.maximum(values.astype(np.float64), self._least)
                )
        else:
            nan = self._search(values.reshape(-1), found.reshape(-1))
        if nan:
            at = np.argwhere(np.isnan(values))[0].tolist()
            raise ValueError(f"scales are NaN at {at} of {list(values.shape)}")
        return torch.from_numpy(found).to(scales.device)


def to_numpy(integers: Tensor) -> NDArray[np.int32]:
    """Their values as int32, from any device."""
    return integers.detach().to("cpu", torch.int32).numpy()


def _floats(values: Tensor) -> Tensor:
    """The same numbers in C order on the CPU: float64 if they are that, else float32."""
    wide = values.dtype == torch.float64
    return values.to("cpu", torch.float64 if wide else torch.float32).contiguous()


@cache
def _loops() -> Any:
    return import_compiled("._loops", __package__)
