"""The tables that backends code under, and how scales and means index them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ... import entropy, kernels
from ...entropy import CdfTable

RESIDUAL, INTEGER = ROUNDINGS = ("residual", "integer")


def table_and_thresholds(
    rounding: str, scales: ArrayLike | None, table: CdfTable | None, thresholds: ArrayLike | None
) -> tuple[CdfTable, NDArray[np.float32]]:
    """What is left open filled in: Gaussians of the scales, and the middles between these.

    ValueError unless the table has the rows that thresholds and rounding need, TypeError if it isn't one.
    """
    if table is not None and not isinstance(table, CdfTable):
        raise TypeError(f"table must be an entropy.CdfTable, not {type(table).__name__}")
    if thresholds is None:
        thresholds = entropy.scale_thresholds(scales)
    if table is None:
        values = entropy.default_scales() if scales is None else np.asarray(scales, np.float64)
        table = _gaussians(tuple(values.tolist()), rounding == INTEGER)
    own = rule(rounding, thresholds)
    check_rows(table, own)
    return table, own.thresholds


def rule(rounding: str, thresholds: ArrayLike) -> kernels.Quantization:
    """ValueError for another rounding, and thresholds that aren't ascending float32 numbers."""
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding must be one of {', '.join(ROUNDINGS)}, not {rounding!r}")
    values = np.asarray(thresholds)
    exact = values.astype(np.float32)
    if not np.array_equal(exact, values):
        raise ValueError("thresholds must be numbers that float32 holds exactly")
    return kernels.Quantization(exact, None if rounding == RESIDUAL else kernels.FRACTION_BITS)


def check_rows(table: CdfTable, own: kernels.Quantization) -> None:
    """ValueError unless the table has exactly the rows that are indexed."""
    if table.rows != own.rows:
        raise ValueError(
            f"a table of {table.rows} rows; {len(own.thresholds)} thresholds"
            f"{'' if own.fraction_bits is None else f' and means of {own.fraction_bits} bits'} "
            f"index {own.rows}"
        )


@lru_cache(8)
def _gaussians(scales: tuple[float, ...], fractional: bool) -> CdfTable:
    values = np.array(scales)
    if not fractional:
        return entropy.gaussian_table(values)
    fractions = np.arange(-kernels.FRACTIONS // 2, kernels.FRACTIONS // 2) / kernels.FRACTIONS
    return entropy.gaussian_table(values[:, None], fractions)
