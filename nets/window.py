"""Contexts in a window: Lee 2019's estimator over the 4x4 neighborhoods of y_hat and of the features.

Lee, Cho and Beack, "Context-adaptive entropy model for end-to-end optimized image compression", ICLR 2019.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import kernels
from ..kernels import Order, window_taps
from .blocks import WindowEstimator
from .context import SERIAL
from .density import Gaussian
from .entropy_model import Coded, EntropyModel, Features, quantization
from .lowering import lower
from .quantizer import SURROGATES, Quantizer

SIZE, CENTER = 4, (3, 2)
"""The window's side, and the coded position in it: rows -3 .. 0 and columns -2 .. 1 around it."""

BLOCK = 1024
"""Positions whose windows are estimated at once, which bounds the memory that they take."""


def windows(plane: Tensor, positions: Tensor) -> Tensor:
    """(B, C, H, W) to (B * P, C, 4, 4), zero outside the plane. positions (P,): row * W + column, int64."""
    width = plane.shape[3]
    up, left = CENTER
    padded = F.pad(plane, (left, SIZE - 1 - left, up, SIZE - 1 - up))
    every = padded.unfold(2, SIZE, 1).unfold(3, SIZE, 1)
    rows = torch.div(positions, width, rounding_mode="floor")
    return every[:, :, rows, positions % width].transpose(1, 2).flatten(0, 1)


class WindowEntropy(EntropyModel):
    """Means and scales from windows around a position: c'' of y_hat as far as it is decoded, c' of features.

    estimator: f, whose `m` channels of y read as many features: the first of `features` that there are.
    points: so many positions, drawn at random for all images of a batch, stand for all of them in the rate of
    a training step, their bits scaled up; None: all count. That holds while the estimator is in training mode
    and rounding has a surrogate; elsewhere every position counts.
    """

    residual = False

    def __init__(
        self,
        estimator: WindowEstimator,
        features: int | None = None,
        orders: tuple[str, ...] = SERIAL,
        points: int | None = 16,
    ) -> None:
        self.estimator, self.orders, self.points = estimator, orders, points
        self.features = estimator.m if features is None else features

    def order(self, name: str, height: int, width: int) -> Order:
        """See `EntropyModel`."""
        self.check_order(name)
        make = {"raster": kernels.raster, "wavefront": kernels.wavefront}[name]
        return make(height, width, window_taps(SIZE))

    def parameters(self, y_hat: Tensor, features: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(scales, means), (B, M, P) each, of P positions as `windows` takes them."""
        mask = torch.zeros(SIZE * SIZE)
        mask[torch.from_numpy(window_taps(SIZE).index)] = 1
        mask = mask.view(SIZE, SIZE).to(y_hat)
        near, m = features[:, : self.estimator.m], self.estimator.m
        raw = []
        for block in positions.split(BLOCK):
            joined = [windows(y_hat, block) * mask, windows(near, block).to(y_hat.dtype)]
            # All positions of one image, then of the next.
            raw.append(self.estimator(torch.cat(joined, 1)).float().view(len(y_hat), len(block), 2 * m))
        means, scales = torch.cat(raw, 1).transpose(1, 2).chunk(2, 1)
        return scales, means

    def forward(self, y: Tensor, features: Features, quantizer: Quantizer, order: str) -> Coded:
        """See `EntropyModel`. Where no position was chosen, bits and means are zero and scales one."""
        self.check_order(order)
        y_hat, seen = quantizer(y)
        count = y.shape[2] * y.shape[3]
        training = self.estimator.training and quantizer.surrogate in SURROGATES
        positions = torch.arange(count)
        if training and self.points is not None and self.points < count:
            positions = torch.randperm(count)[: self.points]
        positions = positions.to(y.device)
        scales, means = self.parameters(y_hat, features[self.plane], positions)
        p = Gaussian(scales, means)
        bits, scales = p.bits(seen.flatten(2)[:, :, positions]), p.scales
        if len(positions) < count:
            nothing = torch.zeros_like(seen).flatten(2)
            scales = (nothing + 1).index_copy(2, positions, scales)
            means = nothing.index_copy(2, positions, means)
            bits = nothing.index_copy(2, positions, bits * (count / len(positions)))
        return Coded(y_hat, *(plane.view(y.shape) for plane in (bits, means, scales)))

    def lower(self) -> kernels.WindowModel:
        """See `EntropyModel`."""
        m = self.estimator.m
        estimator = kernels.Sequential(
            [
                # The window also holds features that aren't f's.
                kernels.Slice(0, 2 * m),
                lower(self.estimator),
                kernels.Concat([kernels.Slice(m, 2 * m), kernels.Slice(0, m)]),
            ]
        )
        return kernels.WindowModel(estimator, (SIZE, SIZE), CENTER, m, self.features, quantization(False))
