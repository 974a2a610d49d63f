"""Lowering of torch modules to exact kernels. A layer without an exact counterpart is refused by name."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import kernels


def array(tensor: Tensor) -> NDArray[np.float32]:
    """A float32 copy of a parameter, on the CPU."""
    return tensor.detach().float().cpu().numpy().copy()


def bias_array(module: nn.Conv2d | nn.ConvTranspose2d) -> NDArray[np.float32]:
    """A convolution's bias, zeros if it has none."""
    return np.zeros(module.out_channels, np.float32) if module.bias is None else array(module.bias)


def _layer(path: str, module: nn.Module) -> kernels.Layer:
    match module:
        case nn.Conv2d(groups=1, dilation=(1, 1), padding_mode="zeros"):
            layer: type = kernels.Conv2d
            per_axis: list = [module.stride, module.padding]
        case nn.ConvTranspose2d(groups=1, dilation=(1, 1), padding_mode="zeros"):
            layer = kernels.ConvTranspose2d
            per_axis = [module.stride, module.padding, module.output_padding]
        case nn.LeakyReLU(negative_slope=0.01):
            return kernels.LeakyReLU()
        case nn.ReLU():
            return kernels.ReLU()
        case _:
            raise TypeError(f"layer {path} ({module}) has no exact counterpart")
    if any(isinstance(pair, str) or pair[0] != pair[1] for pair in per_axis):
        raise TypeError(f"layer {path} ({module}) has a stride or padding that differs between the axes")
    return layer(array(module.weight), bias_array(module), *(pair[0] for pair in per_axis))


def lower(module: nn.Sequential) -> kernels.Sequential:
    """The exact equivalent of a Sequential of Conv2d, ConvTranspose2d, ReLU and LeakyReLU(0.01).

    It takes and gives (H, W, C) float32 arrays. Raises TypeError naming the layer that can't be lowered.
    """
    return kernels.Sequential([_layer(name, child) for name, child in module.named_children()])
