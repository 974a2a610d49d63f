"""Context masks, their taps, and the lag that a wavefront needs for them."""

from __future__ import annotations

import numpy as np
import pytest

from quadrans.kernels import taps

LEE_WINDOW = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]], dtype=bool)


def offsets(t: taps.Taps) -> list[tuple[int, int]]:
    return list(zip(t.dr.tolist(), t.dc.tolist(), strict=True))


def test_masks() -> None:
    assert taps.causal_mask(5).sum() == taps.checkerboard_mask(5).sum() == 12
    assert taps.checkerboard_mask(3).sum() == 4
    assert not taps.checkerboard_mask(5)[2, 2]
    assert not taps.causal_mask(5)[2, 2:].any()
    assert len(taps.mask_taps(taps.empty_mask(5))) == 0
    causal = taps.mask_taps(taps.causal_mask(3))
    assert causal.index.tolist() == [0, 1, 2, 3]
    assert offsets(causal) == [(-1, -1), (-1, 0), (-1, 1), (0, -1)]


def test_window() -> None:
    window, spelled = taps.window_taps(4), taps.mask_taps(LEE_WINDOW, center=(3, 2))
    assert window.shape == spelled.shape == (4, 4)
    assert window.index.tolist() == spelled.index.tolist() == list(range(14))
    assert offsets(window) == offsets(spelled)
    assert offsets(window)[0] == (-3, -2)
    assert offsets(window)[-3:] == [(-1, 1), (0, -2), (0, -1)]


@pytest.mark.parametrize("k", range(1, 9))
def test_lag_of_windows(k: int) -> None:
    window = taps.window_taps(k)
    assert len(window) == k * (k - 1) + k // 2
    # Its furthest tap is (-1, columns right of the center); without one there is nothing above to wait for.
    assert taps.wavefront_lag(window) == (0 if k == 1 else k - k // 2)
    if k % 2:
        assert taps.wavefront_lag(taps.causal_mask(k)) == (0 if k == 1 else k // 2 + 1)


def test_lag() -> None:
    assert taps.wavefront_lag(taps.window_taps()) == 2
    assert taps.wavefront_lag(LEE_WINDOW, center=(3, 2)) == 2
    assert taps.wavefront_lag(taps.causal_mask(5)) == 3
    assert taps.wavefront_lag(taps.empty_mask(3)) == 0


def test_tap_below_allows_a_lag_or_none() -> None:
    mask = taps.empty_mask(5)
    mask[3, 0] = True
    assert taps.wavefront_lag(mask) == 0
    mask[1, 2] = True
    assert taps.wavefront_lag(mask) == 1
    mask[1, 3] = True
    with pytest.raises(ValueError, match=r"tap \(row \+1, column -2\)"):
        taps.wavefront_lag(mask)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="4x4 mask has no middle tap"):
        taps.mask_taps(LEE_WINDOW)
    with pytest.raises(ValueError, match="2-D boolean"):
        taps.mask_taps(np.ones((3, 3)))
    with pytest.raises(ValueError, match="odd and positive, not 4"):
        taps.causal_mask(4)
    with pytest.raises(ValueError, match="positive, not 0"):
        taps.window_taps(0)
    none = np.zeros(0, np.int64)
    with pytest.raises(ValueError, match="one 1-D shape"):
        taps.Taps(none, none, none.astype(np.int32), (1, 1))
    with pytest.raises(ValueError, match=r"tap indexes 9\.\.9 of a kernel of 9 taps"):
        taps.Taps(np.array([9]), np.array([0]), np.array([-1]), (3, 3))
    with pytest.raises(ValueError, match="further than 32768"):
        taps.Taps(np.array([0]), np.array([-40000]), np.array([0]), (3, 3))
