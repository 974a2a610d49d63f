"""Coding orders: partitions that respect their masks, and refusal of those that don't."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadrans import kernels

LEE_WINDOW = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]], dtype=bool)
SIDES = st.integers(1, 9)


def assert_valid(order: kernels.Order, mask: np.ndarray) -> None:
    """By brute force: a partition in which every step reads only what earlier steps decoded."""
    half = mask.shape[0] // 2
    decoded: set[tuple[int, int]] = set()
    for step in order:
        positions = list(zip(step.rows.tolist(), step.cols.tolist(), strict=True))
        assert positions
        for r, c in positions:
            for i, j in np.argwhere(mask) - half:
                inside = 0 <= r + i < order.height and 0 <= c + j < order.width
                assert not (step.context and inside) or (r + i, c + j) in decoded
        assert len(set(positions)) == len(positions)
        assert decoded.isdisjoint(positions)
        decoded |= set(positions)
    assert decoded == {(r, c) for r in range(order.height) for c in range(order.width)}


@given(SIDES, SIDES, st.sampled_from([1, 3, 5, 7]), st.integers(0, 2))
def test_serial_orders(h: int, w: int, k: int, more: int) -> None:
    mask = kernels.causal_mask(k)
    lag = kernels.wavefront_lag(mask) + more
    raster, wavefront = kernels.raster(h, w, mask), kernels.wavefront(h, w, mask, lag)
    assert_valid(raster, mask)
    assert_valid(wavefront, mask)
    assert len(raster) == h * w
    assert len(wavefront) <= w + lag * (h - 1)


@given(SIDES, SIDES, st.sampled_from([3, 5]), st.sampled_from(["even", "odd"]))
def test_checkerboard(h: int, w: int, k: int, parity: str) -> None:
    mask = kernels.checkerboard_mask(k)
    order = kernels.checkerboard(h, w, mask, parity)
    assert_valid(order, mask)
    assert len(order) == min(2, h * w)
    for step in order:
        assert ((step.rows + step.cols) % 2 == (parity == "odd") ^ step.context).all()


@given(SIDES, SIDES)
def test_parallel(h: int, w: int) -> None:
    order = kernels.parallel(h, w)
    assert_valid(order, kernels.causal_mask(5))
    assert [(len(step), step.context) for step in order] == [(h * w, False)]


@given(SIDES, SIDES)
def test_runs_keep_the_sequence(h: int, w: int) -> None:
    mask = kernels.checkerboard_mask(3)
    for order in (kernels.checkerboard(h, w, mask), kernels.wavefront(h, w, kernels.causal_mask(3))):
        runs = list(order.runs())
        assert len(runs) <= 2
        rows, cols = order.positions()
        np.testing.assert_array_equal(np.concatenate([run.rows for run in runs]), rows)
        np.testing.assert_array_equal(np.concatenate([run.cols for run in runs]), cols)


def test_masks() -> None:
    assert kernels.causal_mask(5).sum() == kernels.checkerboard_mask(5).sum() == 12
    assert kernels.checkerboard_mask(3).sum() == 4
    assert not kernels.checkerboard_mask(5)[2, 2]
    assert not kernels.causal_mask(5)[2, 2:].any()
    assert len(kernels.mask_taps(kernels.empty_mask(5))) == 0
    taps = kernels.mask_taps(kernels.causal_mask(3))
    assert taps.index.tolist() == [0, 1, 2, 3]
    assert list(zip(taps.dr.tolist(), taps.dc.tolist(), strict=True)) == [(-1, -1), (-1, 0), (-1, 1), (0, -1)]


def test_lag() -> None:
    assert kernels.wavefront_lag(kernels.causal_mask(5)) == 3
    assert kernels.wavefront_lag(kernels.causal_mask(3)) == 2
    assert kernels.wavefront_lag(LEE_WINDOW, center=(3, 2)) == 2
    assert kernels.wavefront_lag(kernels.empty_mask(3)) == 0
    assert len(kernels.wavefront(32, 48, kernels.causal_mask(5))) == 141
    lee = kernels.mask_taps(LEE_WINDOW, center=(3, 2))
    assert len(kernels.wavefront(32, 48, lee)) == 48 + 2 * 31


def test_lag_is_least() -> None:
    for k in (3, 5, 7):
        mask = kernels.causal_mask(k)
        with pytest.raises(ValueError, match="reads tap"):
            kernels.wavefront(9, 9, mask, kernels.wavefront_lag(mask) - 1)


def test_tap_below_allows_a_lag_or_none() -> None:
    mask = kernels.empty_mask(5)
    mask[3, 0] = True
    assert kernels.wavefront_lag(mask) == 0
    mask[1, 2] = True
    assert kernels.wavefront_lag(mask) == 1
    mask[1, 3] = True
    with pytest.raises(ValueError, match=r"tap \(row \+1, column -2\)"):
        kernels.wavefront_lag(mask)


def test_wrong_orders_are_refused() -> None:
    causal = kernels.causal_mask(5)
    with pytest.raises(ValueError, match=r"raster: position \(0, 0\) reads tap \(row \+0, column \+1\)"):
        kernels.raster(4, 4, kernels.checkerboard_mask(3))
    with pytest.raises(
        ValueError, match=r"checkerboard: position \(\d, \d\) reads tap \(row -2, column -2\)"
    ):
        kernels.checkerboard(4, 4, causal)
    with pytest.raises(ValueError, match="which is not decoded before it"):
        kernels.check_order(kernels.wavefront(4, 9, kernels.causal_mask(3)), causal)

    raster = kernels.raster(2, 2, causal)

    def order(*steps: kernels.Step) -> kernels.Order:
        return kernels.Order("odd", 2, 2, raster.taps, steps)

    with pytest.raises(ValueError, match=r"\(1, 1\) is coded 0 times"):
        order(*raster.steps[:3])
    with pytest.raises(ValueError, match=r"\(0, 1\) is coded 2 times"):
        order(*raster.steps, raster.steps[1])
    with pytest.raises(ValueError, match=r"\(0, 2\) is outside 2x2"):
        order(kernels.Step(np.array([0]), np.array([2]), False))
    with pytest.raises(ValueError, match=r"position \(1, 1\) reads tap \(row -1, column -1\)"):
        order(*raster.steps[::-1])


def test_bad_arguments() -> None:
    mask = kernels.causal_mask(3)
    for height, width in ((0, 3), (3, 0)):
        with pytest.raises(ValueError, match="at least 1x1"):
            kernels.raster(height, width, mask)
    with pytest.raises(ValueError, match="parity"):
        kernels.checkerboard(2, 2, mask, "both")
    with pytest.raises(ValueError, match="negative"):
        kernels.wavefront(2, 2, mask, -1)
    with pytest.raises(ValueError, match="center"):
        kernels.mask_taps(LEE_WINDOW)
    with pytest.raises(ValueError, match="2-D boolean"):
        kernels.mask_taps(np.ones((3, 3)))
    with pytest.raises(ValueError, match="odd and positive"):
        kernels.causal_mask(4)
