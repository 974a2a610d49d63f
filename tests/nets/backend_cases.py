"""Small codecs for the tests of backends: modules, coding orders, latents, and their exact twins."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quadrans import entropy, kernels
from quadrans.kernels import Concat, Sequential, Slice
from quadrans.nets.lowering import array, bias_array, lower

M, N, F = 8, 3, 10
SIZES = (4, 3, 3)
"""Channels of slices."""
CAUSAL, CHECKERS = kernels.causal_mask(3), kernels.checkerboard_mask(3)

ODD = partial(kernels.checkerboard, mask=CHECKERS, parity="odd")
SLICES = partial(kernels.slices, sizes=(3, 5))
QUADTREE = partial(kernels.quadtree, channels=M)
SLICED_CHECKERBOARD = partial(kernels.slices_checkerboard, sizes=(3, 5), mask=CHECKERS)


def columns(height: int, width: int) -> kernels.Order:
    """An order of nobody else's: even columns from the right, then odd ones, which see those beside them."""
    rows, cols = (axis.reshape(-1).astype(np.int64) for axis in np.mgrid[:height, :width])
    mask = np.zeros((3, 3), np.bool_)
    mask[1, ::2] = True
    steps = []
    for odd in (0, 1):
        at = np.flatnonzero(cols % 2 == odd)[::-1]
        if at.size:
            steps.append(kernels.Step(rows[at], cols[at], bool(odd)))
    return kernels.Order("columns", height, width, kernels.mask_taps(mask), steps)


POSITION_ORDERS: dict[str, Any] = {
    **{name: name for name in ("parallel", "raster", "wavefront", "checkerboard")},
    "odd": ODD,
    "columns": columns,
}
STEP_ORDERS: dict[str, Any] = {
    "slices": SLICES,
    "quadtree": QUADTREE,
    "slices_checkerboard": SLICED_CHECKERBOARD,
    "two": "checkerboard",
}
STEPS = {"slices": 2, "quadtree": 4, "slices_checkerboard": 4, "two": 2}


def order_of(order: Any, height: int, width: int, kernel: int = 3) -> kernels.Order:
    """The order that a backend makes of an argument."""
    masks = {"raster": kernels.causal_mask, "wavefront": kernels.causal_mask}
    if not isinstance(order, str):
        return order(height, width)
    if order == "parallel":
        return kernels.parallel(height, width)
    mask = masks.get(order, kernels.checkerboard_mask)(kernel)
    return getattr(kernels, order)(height, width, mask)


def eager(module: nn.Module, gain: float = 2.0) -> nn.Module:
    """The module ready, with larger weights, so that distributions differ."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(gain)
    return module.eval()


def modules(kind: str, seed: int = 0) -> dict[str, Any]:
    """Arguments of a backend with the modules that an order of this name needs."""
    torch.manual_seed(seed)
    hyper = eager(nn.Sequential(nn.ConvTranspose2d(N, 6, 4, 2, 1), nn.LeakyReLU(), nn.Conv2d(6, F, 1)))
    if kind in POSITION_ORDERS:
        if kind == "parallel":
            return {"hyper": hyper, "parameters": eager(nn.Conv2d(F, 2 * M, 1))}
        context = eager(nn.Conv2d(M, 5, 3, padding=1))
        head = eager(nn.Sequential(nn.Conv2d(F + 5, 12, 1), nn.ReLU(), nn.Conv2d(12, 2 * M, 1)))
        return {"hyper": hyper, "context": context, "parameters": head}
    widths = {"slices": [3, 5], "slices_checkerboard": [3, 3, 5, 5]}.get(kind, [M] * STEPS[kind])
    nets = [eager(nn.Conv2d(M + F, 2 * width, 3, padding=1)) for width in widths]
    # The last net's halves change places in another way than a convolution's.
    nets[-1] = nn.Sequential(nets[-1], nn.LeakyReLU()).eval()
    return {"hyper": hyper, "parameters": nets, "channels": M}


def order_argument(kind: str) -> Any:
    return {**POSITION_ORDERS, **STEP_ORDERS}[kind]


def exact_twin(kind: str, given: dict[str, Any], rounding: str) -> tuple[Any, kernels.Layer]:
    """(model, hyper) of `kernels`, joined from lowered modules in the plainest way."""
    bits = None if rounding == "residual" else kernels.FRACTION_BITS
    thresholds = entropy.scale_thresholds()
    rule = kernels.Quantization(thresholds, bits)

    def turned(layer: kernels.Layer, width: int) -> kernels.Layer:
        return Sequential([layer, Concat([Slice(width, 2 * width), Slice(0, width)])])

    hyper, parameters = lower(given["hyper"]), given["parameters"]
    if kind == "parallel":
        net = Sequential([Slice(M, M + F), turned(lower(parameters), M)])
        return kernels.StepModel([net], M, F, rule), hyper
    if kind in POSITION_ORDERS:
        context, head = given["context"], turned(lower(parameters), M)
        return kernels.ContextModel(array(context.weight), bias_array(context), head, rule), hyper
    nets = []
    for module in parameters:
        layer = lower(module)
        width = (layer.channels(M + F) or 0) // 2
        nets.append(turned(layer, width))
    return kernels.StepModel(nets, M, F, rule), hyper


def images(size: tuple[int, int], count: int = 2, seed: int = 1) -> tuple[Tensor, Tensor]:
    """(y, z_hat): a latent of even sides, of which the z_hat has half."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(count, M, *size, generator=generator) * 6
    z_hat = torch.randn(count, N, size[0] // 2, size[1] // 2, generator=generator).mul(2).round()
    return y, z_hat
