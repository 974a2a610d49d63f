"""How the numbers that models give become what coders take (ARITHMETIC.md, section 9)."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import index

import numpy as np

from ..entropy.table import MAX_ROWS
from .arrays import float_array
from .program import FloatArray

LATENT_LIMIT = 1 << 24
"""Symbols and latents up to here are exact in binary32."""
RESIDUAL = -1
"""In place of fraction bits: the mean is not rounded, and the symbol is the rounded residual."""

FRACTION_BITS = 4
FRACTIONS = 1 << FRACTION_BITS
"""Table rows for each scale: means of -FRACTIONS/2 .. FRACTIONS/2 - 1 in units of 1/FRACTIONS."""


@dataclass(frozen=True, eq=False)
class Quantization:
    """How scales and means become table rows and offsets (ARITHMETIC.md, section 9).

    thresholds: ascending float32; a scale's index is the number of thresholds below it. fraction_bits: the
    latent is integers, and the mean is rounded to so many bits: row = index * 2^bits + fraction. None: the
    latent is what rounding leaves of its distance from the mean; row = index.
    """

    thresholds: FloatArray = field(repr=False)
    fraction_bits: int | None = FRACTION_BITS

    def __post_init__(self) -> None:
        thresholds = float_array(self.thresholds, "thresholds", 1).copy()
        if not (np.isfinite(thresholds).all() and (np.diff(thresholds) > 0).all()):
            raise ValueError("thresholds must be finite and ascending")
        bits = None if self.fraction_bits is None else index(self.fraction_bits)
        if bits is not None and bits not in range(9):
            raise ValueError(f"fraction_bits must be in 0..8 or None, not {bits}")
        for name, value in (("thresholds", thresholds), ("fraction_bits", bits)):
            object.__setattr__(self, name, value)
        if self.rows > MAX_ROWS:
            raise ValueError(f"{self.rows} rows of a table, which has at most {MAX_ROWS}")

    @property
    def parameters_per_channel(self) -> int:
        """What the model gives for each of its M channels: a scale and a mean."""
        return 2

    @property
    def bits(self) -> int:
        """The fraction bits, or RESIDUAL."""
        return RESIDUAL if self.fraction_bits is None else self.fraction_bits

    @property
    def rows(self) -> int:
        """Rows of the table that the coder needs."""
        return (len(self.thresholds) + 1) << (self.fraction_bits or 0)


@dataclass(frozen=True)
class MixtureQuantization:
    """How the model's numbers become mixtures of Gaussians (ARITHMETIC.md, section 9): integers, no table.

    The model gives 3 K M channels: for each of the K components in turn M weight logits, M means, M scales.
    The latent is integers, which `quadrans.entropy.mixture` codes as they are. scale_min: rounded to
    binary32; lesser scales, negative ones too, are replaced by it.
    """

    components: int
    scale_min: float = 0.11

    def __post_init__(self) -> None:
        components = index(self.components)
        if components < 1:
            raise ValueError(f"a mixture of {components} components")
        with np.errstate(over="ignore"):
            scale_min = float(np.float32(self.scale_min))
        if not 0 <= scale_min < np.inf:
            raise ValueError(f"scale_min must be a finite binary32 number >= 0, not {self.scale_min}")
        for name, value in (("components", components), ("scale_min", scale_min)):
            object.__setattr__(self, name, value)

    @property
    def parameters_per_channel(self) -> int:
        """What the model gives for each of its M channels: K times a logit, a mean and a scale."""
        return 3 * self.components
