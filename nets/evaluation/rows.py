"""What is known of one photo under one point of a curve: a model, or a setting of a reference codec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...kernels import Order
from .quality import decibels


@dataclass(frozen=True)
class Steps:
    """A latent's coding steps, in coding order: item i of each list is of step i."""

    symbols: list[int]
    bits: list[float]
    """-log2 p under the integers that the coder has."""
    minimum: list[float]
    """Of the normalized latents (y - mean) / scale; so are the other two."""
    maximum: list[float]
    deviation: list[float]
    """Their standard deviation, about their own mean."""


@dataclass(frozen=True)
class Row:
    """A photo, really coded and decoded."""

    photo: str
    curve: str
    point: str
    width: int
    height: int
    bytes: int
    """Of the whole file."""
    psnr: float
    """dB, of uint8 RGB."""
    ms_ssim: float | None
    order: str | None = None
    """Coding order; this and all that follows is a model's alone."""
    model_bytes: float | None = None
    """-log2 of the network's own densities."""
    ideal_bytes: float | None = None
    """-log2 under the coder's integers: what an ideal coder would write."""
    sections: Mapping[str, int] = field(default_factory=dict)
    """Bytes of each stream in the file."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Of encoding and decoding, transforms and exact part: TIMES."""
    steps: Mapping[str, Steps] = field(default_factory=dict)
    """Of each part of y."""

    @property
    def bpp(self) -> float:
        """Bits of the file for each pixel of the photo."""
        return 8 * self.bytes / (self.width * self.height)

    @property
    def ms_ssim_db(self) -> float | None:
        """-10 log10(1 - MS-SSIM)"""
        return decibels(self.ms_ssim)


TIMES = ("analysis", "encoding", "decoding", "synthesis")
"""Transforms of the encoder, its exact part, the decoder's exact part, its transforms; files in memory."""


def steps_of(order: Order, bits: NDArray[np.float64], normalized: NDArray[np.float32]) -> Steps:
    """The steps of a latent; bits, normalized: (H, W, M), of each of its elements."""
    steps = Steps([], [], [], [], [])
    for step in order:
        where = step.elements(bits.shape[2])
        values = normalized[where].astype(np.float64)
        steps.symbols.append(values.size)
        steps.bits.append(float(bits[where].sum()))
        steps.minimum.append(float(values.min()))
        steps.maximum.append(float(values.max()))
        steps.deviation.append(float(values.std()))
    return steps
