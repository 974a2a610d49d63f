"""Contexts around a position: one masked convolution under the masks of several coding orders, and a head.

A coding order says which neighbors a latent position may see: those before it in raster scan (decoded
serially or by wavefronts), for half of the positions their anchors ("checkerboard"), or none ("parallel").
One set of weights serves all when training draws the order at random, as the random-mask model of He et al.,
"Checkerboard Context Model for Efficient Learned Image Compression", CVPR 2021, section 4.1, does with masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import kernels
from ..kernels import Order, causal_mask, checkerboard_mask
from .density import SCALE_MIN, Distribution, Gaussian, GaussianMixture
from .entropy_model import Coded, EntropyModel, Features, quantization
from .lowering import array, bias_array, lower
from .quantizer import ROUNDINGS, Quantizer

SERIAL = ("wavefront", "raster")
CHECKERBOARD, PARALLEL = "checkerboard", "parallel"


def check_choices(rounding: str, orders: Sequence[str], parity: str) -> None:
    """Raise ValueError for what no context convolution has."""
    for name, given, known in (
        ("rounding", [rounding], ROUNDINGS),
        ("orders", orders, (*SERIAL, CHECKERBOARD, PARALLEL)),
        ("parity", [parity], ("even", "odd")),
    ):
        if not given or set(given) - set(known):
            raise ValueError(f"{name} must be of {', '.join(known)}, not {', '.join(given) or 'none'}")


class ContextConv(nn.Conv2d):
    """A k x k convolution of y_hat (B, M, H, W) to context features (B, D, H, W), under any mask.

    outputs: D, 2M if not given.
    """

    def __init__(self, m: int, kernel: int = 5, outputs: int | None = None) -> None:
        super().__init__(m, outputs or 2 * m, kernel, padding=kernel // 2)

    def forward(self, y_hat: Tensor, mask: Any) -> Tensor:  # type: ignore[override]
        """Context features: y_hat (B, M, H, W) to (B, D, H, W). mask: (k, k), 1 where it is read."""
        taps = torch.as_tensor(mask, dtype=self.weight.dtype, device=self.weight.device)
        return F.conv2d(y_hat, self.weight * taps, self.bias, padding=self.padding)


def anchors(y: Tensor, parity: str) -> Tensor:
    """(H, W) of y's dtype: 1 at the positions of an "even" or "odd" row + column."""
    rows, cols = (torch.arange(size, device=y.device) for size in y.shape[2:])
    return ((rows[:, None] + cols) % 2 == (parity == "odd")).to(y.dtype)


class ContextEntropy(EntropyModel):
    """Minnen 2018's: a masked convolution of y_hat, and a head over hyper features and context feature.

    In "checkerboard" the anchors' context features are zero, not the bias (He et al. 2021, section 4.3), and
    in "parallel" everybody's. parity: of the anchors' row + column. context_first: whether the head takes
    (context, features) instead of (features, context). components: None for (scales, means), K for a
    mixture's (logits, means, scales) of each component in turn, scales by their absolute values.
    """

    def __init__(
        self,
        context: ContextConv,
        head: nn.Module,
        orders: tuple[str, ...] = SERIAL,
        *,
        residual: bool = False,
        parity: str = "odd",
        context_first: bool = False,
        components: int | None = None,
    ) -> None:
        if residual and components:
            raise ValueError("a mixture has no mean to round a residual about")
        self.context, self.head, self.orders, self.residual = context, head, orders, residual
        self.parity, self.context_first, self.components = parity, context_first, components

    @property
    def channels(self) -> int:
        """M"""
        return self.context.in_channels

    def order(self, name: str, height: int, width: int) -> Order:
        """See `EntropyModel`."""
        self.check_order(name)
        kernel = self.context.kernel_size[0]
        match name:
            case "raster":
                return kernels.raster(height, width, causal_mask(kernel))
            case "wavefront":
                return kernels.wavefront(height, width, causal_mask(kernel))
            case "checkerboard":
                return kernels.checkerboard(height, width, checkerboard_mask(kernel), self.parity)
            case "parallel":
                return kernels.parallel(height, width)
        raise ValueError(f"no order {name!r} of positions")

    def distribution(self, features: Features, context: Tensor) -> Distribution:
        """From features and context features (B, D, H, W) to the distribution of each element."""
        joined = [features[self.plane], self.refine(context, features).to(features[self.plane].dtype)]
        raw = self.head(torch.cat(joined[::-1] if self.context_first else joined, 1)).float()
        if self.components is None:
            scales, means = raw.chunk(2, 1)
            return Gaussian(scales, means)
        b, _, h, w = raw.shape
        parts = raw.view(b, self.components, 3, self.channels, h, w).unbind(2)
        return GaussianMixture(parts[0], parts[1], parts[2].abs())

    def refine(self, context: Tensor, features: Features) -> Tensor:
        """What a subclass makes of the context features before the head reads them."""
        return context

    def forward(self, y: Tensor, features: Features, quantizer: Quantizer, order: str) -> Coded:
        """See `EntropyModel`.

        Serial contexts of residuals are of round(y) while y isn't given: their own rounding waits for means.
        """
        self.check_order(order)
        kernel = self.context.kernel_size[0]
        # What the context reads is what synthesis gets: under noise, the same noise.
        y_hat, seen = quantizer(y)
        nothing = y.new_zeros(len(y), self.context.out_channels, *y.shape[2:])
        if order == PARALLEL:
            context = nothing
        elif order == CHECKERBOARD:
            chosen, read = anchors(y, self.parity), y_hat
            if self.residual and quantizer.rounds:
                read = quantizer(y, self.distribution(features, nothing).means)[0]
            context = self.context(read * chosen, checkerboard_mask(kernel)) * (1 - chosen)
        else:
            context = self.context(y_hat, causal_mask(kernel))
        p = self.distribution(features, context)
        if self.residual and quantizer.rounds:
            y_hat, seen = quantizer(y, p.means)
        return Coded(y_hat, p.bits(seen), p.means, p.scales)

    def lower(self) -> kernels.ContextModel:
        """See `EntropyModel`."""
        rule: Any = quantization(self.residual)
        head = self.lower_head()
        if self.components is not None:
            rule = kernels.MixtureQuantization(self.components, SCALE_MIN)
            head = kernels.Sequential([head, _absolute_scales(self.components, self.channels)])
        return kernels.ContextModel(
            array(self.context.weight), bias_array(self.context), head, rule, **self.lower_inputs()
        )

    def lower_head(self) -> kernels.Layer:
        """The head's exact twin, from (features, context)."""
        head = lower(self.head)
        if not self.context_first:
            return head
        assert isinstance(head, kernels.Sequential)
        first, *others = head.layers
        if not isinstance(first, kernels.Conv2d):
            raise TypeError(f"a head that takes the context first must begin with a convolution, not {first}")
        turned = np.roll(first.weight, -self.context.out_channels, axis=1)
        return kernels.Sequential([replace(first, weight=turned), *others])

    def lower_inputs(self) -> dict[str, Any]:
        """What else the exact model is made with: its `inputs`."""
        return {}


def _absolute_scales(components: int, m: int) -> kernels.Layer:
    """(logits, means, scales) of each component, with the absolute values of the scales."""
    parts: list[kernels.Layer] = []
    for first in range(0, 3 * m * components, 3 * m):
        parts += [kernels.Slice(first, first + 2 * m)]
        parts += [kernels.Sequential([kernels.Slice(first + 2 * m, first + 3 * m), kernels.Abs()])]
    return kernels.Concat(parts)
