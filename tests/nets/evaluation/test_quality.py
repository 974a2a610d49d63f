"""Distortions: known values, limits, and the package that is missing."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from quadrans.nets.evaluation.quality import MS_SSIM_SIDE, decibels, ms_ssim, psnr


def test_psnr_of_a_known_error() -> None:
    a = np.full((5, 7, 3), 100, np.uint8)
    b = a.copy()
    b[0, 0, 0] = 90
    assert psnr(a, b) == pytest.approx(10 * math.log10(255**2 * a.size / 100))
    assert psnr(b, a) == psnr(a, b)
    assert psnr(a, a) == math.inf


def test_ms_ssim_falls_with_noise(photo: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    noisy = [
        (photo + rng.normal(0, sigma, photo.shape)).clip(0, 255).astype(np.uint8) for sigma in (0, 5, 20)
    ]
    equal, less, least = (ms_ssim(photo, one) for one in noisy)
    assert equal == pytest.approx(1, abs=1e-6)
    assert 0.5 < least < less < equal


@pytest.mark.parametrize("shape", [(MS_SSIM_SIDE, 300), (300, MS_SSIM_SIDE)])
def test_ms_ssim_needs_room(photo: np.ndarray, shape: tuple[int, int]) -> None:
    enough = photo[: shape[0], : shape[1]]
    assert ms_ssim(enough, enough) == pytest.approx(1, abs=1e-6)
    short = enough[:-1] if shape[0] == MS_SSIM_SIDE else enough[:, :-1]
    assert ms_ssim(short, short) is None


def test_decibels() -> None:
    assert decibels(0.99) == pytest.approx(20)
    assert decibels(0.0) == 0
    assert decibels(1.0) == math.inf
    assert decibels(None) is None


def test_the_missing_package_is_named(photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_msssim", None)
    with pytest.raises(ImportError, match=r"needs pytorch-msssim: pip install 'quadrans\[eval\]'"):
        ms_ssim(photo, photo)
