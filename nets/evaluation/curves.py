"""Rate-distortion curves: means over photos, and BD-rates between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .packages import require
from .quality import decibels
from .rows import TIMES, Row

METRICS = ("psnr", "ms_ssim_db")
MIN_POINTS = 4
"""Fewest points of a curve that has a BD-rate: what Bjontegaard's cubics need."""


@dataclass(frozen=True)
class Point:
    """Means over photos."""

    curve: str
    point: str
    photos: int
    bytes: int
    """The sum."""
    bpp: float
    psnr: float
    ms_ssim: float | None
    """None unless all photos have one."""
    model_bytes: float | None
    """The sum; so is the next."""
    ideal_bytes: float | None
    seconds: Mapping[str, float]

    @property
    def ms_ssim_db(self) -> float | None:
        """In dB, of the mean."""
        return decibels(self.ms_ssim)


@dataclass(frozen=True)
class BdRate:
    """How many percent more or fewer bits a curve needs than the anchor, for as much quality."""

    curve: str
    metric: str
    percent: float | None
    overlap: float
    """Of the two curves' ranges of the metric: what they share, as a part of what they span."""
    reason: str = ""
    """Why there is no BD-rate."""


def curves(rows: Iterable[Row]) -> dict[str, list[Point]]:
    """The points of each curve, by rate; curves as they come."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.curve, row.point), []).append(row)
    found: dict[str, list[Point]] = {}
    for (curve, point), group in groups.items():
        found.setdefault(curve, []).append(_point(curve, point, group))
    return {curve: sorted(points, key=lambda one: one.bpp) for curve, points in found.items()}


def _point(curve: str, point: str, rows: Sequence[Row]) -> Point:
    return Point(
        *(curve, point, len(rows), sum(row.bytes for row in rows)),
        bpp=_mean([row.bpp for row in rows]),
        psnr=_mean([row.psnr for row in rows]),
        ms_ssim=_all([row.ms_ssim for row in rows], _mean),
        model_bytes=_all([row.model_bytes for row in rows], math.fsum),
        ideal_bytes=_all([row.ideal_bytes for row in rows], math.fsum),
        seconds={name: _mean([row.seconds[name] for row in rows]) for name in TIMES if rows[0].seconds},
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _all(values: Sequence[float | None], joined: Callable[[list[float]], float]) -> float | None:
    known = [value for value in values if value is not None]
    return joined(known) if len(known) == len(values) else None


def bd_rates(found: Mapping[str, Sequence[Point]], anchor: str) -> list[BdRate]:
    """BD-rates of all other curves against the anchor, under each of METRICS.

    Source: Bjontegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001, with
    monotone piecewise cubics through log-rates over the metric ("pchip", as in JVET's test conditions).
    Raises ImportError, naming the extra, without the package bjontegaard.
    """
    package = require("bjontegaard")
    rates = []
    for metric in METRICS:
        first = _pairs(found[anchor], metric)
        for curve, points in found.items():
            if curve == anchor:
                continue
            other = _pairs(points, metric)
            reason = _unfit(anchor, first) or _unfit(curve, other)
            overlap = 0.0 if reason else _overlap(first, other)
            if not reason and overlap == 0:
                reason = f"no {metric} that both curves reach"
            percent = None
            if not reason:
                columns = (*zip(*first, strict=True), *zip(*other, strict=True))
                options = {"require_matching_points": False, "min_overlap": 0}
                percent = float(package.bd_rate(*map(list, columns), method="pchip", **options))
            rates.append(BdRate(curve, metric, percent, overlap, reason))
    return rates


def _pairs(points: Sequence[Point], metric: str) -> list[tuple[float, float]]:
    """(bpp, metric) of the points that have both."""
    pairs = [(point.bpp, getattr(point, metric)) for point in points]
    return [(bpp, value) for bpp, value in pairs if value is not None and math.isfinite(value)]


def _unfit(curve: str, pairs: Sequence[tuple[float, float]]) -> str:
    """Why a curve has no BD-rate, "" if it may have one."""
    if len(pairs) < MIN_POINTS:
        return f"{curve} has {len(pairs)} of the {MIN_POINTS} points or more that it takes"
    for (bpp, value), (more, next_value) in pairwise(pairs):
        if not (more > bpp and next_value > value):
            return f"{curve} does not rise: {value:.3f} dB at {bpp:.4f} bpp, {next_value:.3f} at {more:.4f}"
    return ""


def _overlap(a: Sequence[tuple[float, float]], b: Sequence[tuple[float, float]]) -> float:
    """Of curves that rise."""
    shared = min(a[-1][1], b[-1][1]) - max(a[0][1], b[0][1])
    return max(shared, 0.0) / (max(a[-1][1], b[-1][1]) - min(a[0][1], b[0][1]))
