"""He 2021: checkerboard contexts, two steps instead of one a position, and the random-mask model behind them.

He, Zheng, Sun, Wang and Qin, "Checkerboard context model for efficient learned image compression", CVPR 2021.
Only the context's mask and the anchors' zero context feature are new; hosts are Minnen 2018 and Cheng 2020.
With integer rounding all parameters follow from one pass, as in equations 9 to 11 (`context.ContextEntropy`);
residuals first need a pass of the head, for the anchors' means. Public codes after the paper have anchors of
odd row + column, CompressAI even ones: `parity`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ...kernels import Order, causal_mask, checkerboard_mask, empty_mask
from ..context import CHECKERBOARD, ContextEntropy
from ..entropy_model import Coded, Features
from ..quantizer import GIVEN, ROUND, Quantizer
from ..system import Part
from .cheng2020 import PUBLISHED_COMPONENTS, PUBLISHED_HIDDEN, Cheng2020
from .minnen2018 import Minnen2018

Mask = NDArray[np.bool_]

KERNEL = 5


class CheckerboardMinnen2018(Minnen2018):
    """`Minnen2018` with a checkerboard context."""

    def __init__(
        self,
        n: int = 128,
        m: int = 192,
        rounding: str = "integer",
        orders: tuple[str, ...] = (CHECKERBOARD,),
        parity: str = "odd",
    ) -> None:
        super().__init__(n, m, rounding, orders, parity)


class CheckerboardCheng2020(Cheng2020):
    """`Cheng2020`, mixtures of three included, with a checkerboard context."""

    def __init__(
        self,
        n: int = 128,
        components: int | None = PUBLISHED_COMPONENTS,
        rounding: str = "integer",
        orders: tuple[str, ...] = (CHECKERBOARD,),
        parity: str = "odd",
        hidden: int = PUBLISHED_HIDDEN,
    ) -> None:
        super().__init__(n, components, rounding, orders, parity, hidden)


def _centered(mask: Mask) -> Mask:
    """A smaller mask in the middle of one of KERNEL x KERNEL taps."""
    margin = (KERNEL - len(mask)) // 2
    return np.pad(mask, margin)


TABLE_1: Mapping[str, Mask] = {
    "none": empty_mask(KERNEL),
    "serial 3x3": _centered(causal_mask(3)),
    "serial 5x5": causal_mask(5),
    "checkerboard 3x3": _centered(checkerboard_mask(3)),
    "checkerboard 5x5": checkerboard_mask(5),
    "all of 3x3": _centered(~np.eye(9, dtype=np.bool_)[4].reshape(3, 3)),
}
"""The masks of Table 1; of 0, 4, 12, 4, 12 and 8 taps."""


def single_reference_masks() -> Iterator[tuple[tuple[int, int], Mask]]:
    """The 24 masks of one tap each of Figure 4, with the tap's (row, column) from the position."""
    middle = KERNEL // 2
    for row, col in np.ndindex(KERNEL, KERNEL):
        if (row, col) != (middle, middle):
            mask = empty_mask(KERNEL)
            mask[row, col] = True
            yield (row - middle, col - middle), mask


def random_mask(kernel: int = KERNEL) -> Tensor:
    """(kernel, kernel) bool from torch's generator: each tap with probability 1/2, never the center."""
    mask = torch.rand(kernel, kernel) < 0.5
    mask[kernel // 2, kernel // 2] = False
    return mask


def rate_saving(rate: Tensor | float, without: Tensor | float) -> Tensor | float:
    """Equation 7: the part of the rate `without` context that a mask of that rate saves."""
    return (without - rate) / without


class RandomMaskEntropy(ContextEntropy):
    """Under a new `random_mask` in each pass of training; elsewhere without context, by a mask of zeros.

    The whole of y_hat around a position is visible, so this measures and can't decode: `order` and `lower`
    raise TypeError.
    """

    def order(self, name: str, height: int, width: int) -> Order:
        """See the class."""
        raise _no_codec()

    def forward(self, y: Tensor, features: Features, quantizer: Quantizer, order: str) -> Coded:
        """See the class."""
        self.check_order(order)
        mask = random_mask(self.context.kernel_size[0]) if self.context.training else TABLE_1["none"]
        return self.masked(y, features, quantizer, mask)

    def masked(self, y: Tensor, features: Features, quantizer: Quantizer, mask: ArrayLike | Tensor) -> Coded:
        """Under any mask (5, 5); ValueError if it sees the center."""
        taps = torch.as_tensor(mask, dtype=torch.bool)
        kernel = self.context.kernel_size
        if tuple(taps.shape) != kernel or taps[kernel[0] // 2, kernel[1] // 2]:
            raise ValueError(f"a mask of {tuple(taps.shape)} taps must be {kernel}, without its center")
        y_hat, seen = quantizer(y)
        p = self.distribution(features, self.context(y_hat, taps))
        return Coded(y_hat, p.bits(seen), p.means, p.scales)

    def lower(self) -> None:  # type: ignore[override]
        """See the class."""
        raise _no_codec()


def _no_codec() -> TypeError:
    return TypeError("a random-mask model reads what isn't decoded yet: it measures rates and codes nothing")


class RandomMask(Minnen2018):
    """Section 4.1's model, `Minnen2018` trained under random masks: it measures what each mask would save."""

    def __init__(self, n: int = 128, m: int = 192) -> None:
        super().__init__(n, m)
        self.config = {"n": n, "m": m}

    def parts(self) -> Mapping[str, Part]:
        return {"y": Part(self._model(), 0, self.m)}

    def _model(self) -> RandomMaskEntropy:
        return RandomMaskEntropy(self.context_prediction, self.entropy_parameters, ("measurement",))

    def bits(self, y_hat: Tensor, features: Features, mask: ArrayLike | Tensor) -> Tensor:
        """(B,) bits of rounded y_hat (B, M, H, W) under a (5, 5) mask. ValueError if it sees the center."""
        return self._model().masked(y_hat, features, GIVEN, mask).bits.sum((1, 2, 3))

    @torch.no_grad()
    def rates(self, x: Tensor, masks: Mapping[str, Mask]) -> dict[str, Tensor]:
        """(B,) bits per pixel, z's included, of images (B, 3, H, W) under each mask; y_hat is the same."""
        y = self.analysis(x).float()
        y_hat = y.round()
        rounded, sides = self.code_sides(self.hyper_analysis(y), ROUND)
        features = self.features(rounded)
        pixels = x.shape[2] * x.shape[3]
        return {
            name: (self.bits(y_hat, features, mask) + sides["z"]) / pixels for name, mask in masks.items()
        }
