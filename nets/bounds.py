"""Rounding and clamping with gradients that let training pass through them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _LowerBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        grad = grads[0]
        # A value below the bound may still move up: only a gradient that pushes it further down is cut.
        return grad * ((x >= ctx.bound) | (grad < 0)), None


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """max(x, bound), whose gradient passes where it would raise a value below the bound."""
    return _LowerBound.apply(x, bound)


def round_through(x: Tensor) -> Tensor:
    """round(x), with the gradient of the identity (straight-through)."""
    return x + (x.round() - x).detach()


def uniform_noise(x: Tensor) -> Tensor:
    """x plus noise from U(-1/2, 1/2), the training surrogate of rounding."""
    return x + (torch.rand_like(x) - 0.5)
