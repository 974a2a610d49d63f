"""Curves: means over photos, and BD-rates where they are defined."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadrans.nets.evaluation.curves import BdRate, Point, bd_rates, curves
from quadrans.nets.evaluation.rows import TIMES, Row


def row(curve: str, point: str, size: int, psnr: float, ms_ssim: float | None = 0.9, **more) -> Row:
    return Row("photo", curve, point, 100, 80, size, psnr, ms_ssim, **more)


def curve(name: str, rates: list[float], psnrs: list[float]) -> list[Point]:
    similarities = [1 - 10 ** (-psnr / 20) for psnr in psnrs]
    return [
        Point(name, str(rate), 1, 0, rate, psnr, similarity, None, None, {})
        for rate, psnr, similarity in zip(rates, psnrs, similarities, strict=True)
    ]


RATES, PSNRS = [0.1, 0.2, 0.45, 0.9, 1.7], [27.0, 29.5, 32.0, 35.0, 38.5]


def test_means_over_photos() -> None:
    times = [dict.fromkeys(TIMES, seconds) for seconds in (1.0, 3.0)]
    rows = [
        row("net", "big", 4000, 36, 0.98, model_bytes=3990.0, ideal_bytes=3995.0, seconds=times[0]),
        row("net", "small", 1000, 30, 0.9, model_bytes=990.0, ideal_bytes=991.0, seconds=times[0]),
        Row("wide", "net", "small", 200, 80, 3000, 32, 0.96, None, 2990.0, 2991.0, seconds=times[1]),
        row("jpeg", "quality 5", 800, 25, None),
    ]
    found = curves(rows)
    assert list(found) == ["net", "jpeg"]
    small, big = found["net"]
    assert (small.point, small.photos, small.bytes, big.point) == ("small", 2, 4000, "big")
    assert small.bpp == pytest.approx((1.0 + 1.5) / 2)
    assert (small.psnr, small.ms_ssim) == pytest.approx((31, 0.93))
    assert small.ms_ssim_db == pytest.approx(-10 * math.log10(0.07))
    assert (small.model_bytes, small.ideal_bytes) == (3980, 3982)
    assert small.seconds == dict.fromkeys(TIMES, 2.0)
    (jpeg,) = found["jpeg"]
    assert (jpeg.ms_ssim, jpeg.ms_ssim_db, jpeg.model_bytes, jpeg.seconds) == (None, None, None, {})


def test_a_mean_needs_all_photos() -> None:
    (points,) = curves([row("net", "a", 10, 30, 0.9), row("net", "a", 10, 30, None)]).values()
    assert points[0].ms_ssim is None


@given(factor=st.floats(0.05, 20))
def test_a_curve_of_other_rates_by_a_factor(factor: float) -> None:
    other = curve("other", [factor * rate for rate in RATES], PSNRS)
    rates = bd_rates({"anchor": curve("anchor", RATES, PSNRS), "other": other}, "anchor")
    assert [one.metric for one in rates] == ["psnr", "ms_ssim_db"]
    for one in rates:
        assert (one.curve, one.reason) == ("other", "")
        assert one.percent == pytest.approx(100 * (factor - 1), rel=1e-6, abs=1e-6)
        assert one.overlap == pytest.approx(1)


def test_part_of_the_range() -> None:
    shifted = curve("other", RATES, [psnr + 5.75 for psnr in PSNRS])
    one, _ = bd_rates({"anchor": curve("anchor", RATES, PSNRS), "other": shifted}, "anchor")
    assert one.percent is not None
    assert one.percent < -50
    assert one.overlap == pytest.approx(5.75 / 17.25)


@pytest.mark.parametrize(
    ("rates", "psnrs", "reason"),
    [
        (RATES[:3], PSNRS[:3], "other has 3 of the 4 points or more that it takes"),
        (RATES, [27, 29, 28.5, 35, 38], "other does not rise: 29.000 dB at 0.2000 bpp, 28.500 at 0.4500"),
        (RATES, [27, 29, 29, 35, 38], "other does not rise"),
        (RATES, [psnr + 20 for psnr in PSNRS], "no psnr that both curves reach"),
        (RATES, [27, 29, 30, math.inf, math.inf], "other has 3 of the 4 points"),
    ],
)
def test_why_there_is_none(rates: list[float], psnrs: list[float], reason: str) -> None:
    found = {"anchor": curve("anchor", RATES, PSNRS), "other": curve("other", rates, psnrs)}
    one = bd_rates(found, "anchor")[0]
    assert isinstance(one, BdRate)
    assert (one.percent, one.overlap) == (None, 0)
    assert one.reason.startswith(reason)


def test_an_anchor_that_is_none() -> None:
    found = {"anchor": curve("anchor", RATES[:1], PSNRS[:1]), "other": curve("other", RATES, PSNRS)}
    assert all(one.reason.startswith("anchor has 1 of") for one in bd_rates(found, "anchor"))
