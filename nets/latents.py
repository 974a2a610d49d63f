"""What a coder carries of a photo: the latent, and side information."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Latents:
    """What the coder carries."""

    y: NDArray[np.float32]
    """(H, W, M): y_hat, or out of `analyse` what is still to be rounded about means."""
    sides: Mapping[str, NDArray[np.int32]]
    """(rows, cols, C) each: side information, distances from the medians."""

    def same_bits(self, other: Latents) -> bool:
        """Whether all arrays of both have the same names, shapes and bytes."""
        if self.sides.keys() != other.sides.keys():
            return False
        pairs = [(self.y, other.y), *((side, other.sides[name]) for name, side in self.sides.items())]
        return all(a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)
