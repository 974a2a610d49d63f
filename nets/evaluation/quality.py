"""Distortion of images: PSNR and MS-SSIM, of (H, W, 3) uint8 RGB."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .packages import require

MS_SSIM_SIDE = 161
"""Least side of an image that has an MS-SSIM: at the coarsest of five scales its window is 11 pixels wide."""


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB of two images of one shape; inf if they are equal."""
    mse = float(np.mean((a.astype(np.float64) - b) ** 2))
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)


def ms_ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float | None:
    """MS-SSIM, the mean over R, G and B; None for images that have a side below MS_SSIM_SIDE.

    Source: Wang, Simoncelli and Bovik, "Multiscale structural similarity for image quality assessment",
    Asilomar 2003, as pytorch-msssim has it. Raises ImportError, naming the extra, without that package.
    """
    if min(a.shape[:2]) < MS_SSIM_SIDE:
        return None
    similarity = require("pytorch_msssim")
    import torch

    x, y = (torch.tensor(image).permute(2, 0, 1)[None].float() for image in (a, b))
    return float(similarity.ms_ssim(x, y, data_range=255))


def decibels(similarity: float | None) -> float | None:
    """-10 log10(1 - s) of an MS-SSIM, inf for 1."""
    if similarity is None:
        return None
    return math.inf if similarity >= 1 else -10 * math.log10(1 - similarity)
