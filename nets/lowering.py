"""Lowering of torch modules to exact layers. A module without an exact counterpart is refused by name.

`lowers` registers how a module is lowered, for that very class: a subclass may compute something else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..kernels import blocks, layers
from ..kernels.layers import Layer

Lowering = Callable[[Any, str], Layer]
LoweringT = TypeVar("LoweringT", bound=Lowering)

_LOWERINGS: dict[type[nn.Module], tuple[Lowering, int | None]] = {}

EXACT = (torch.float32, torch.float16, torch.bfloat16)
"""What becomes float32 without rounding."""


def array(tensor: Tensor) -> NDArray[np.float32]:
    """A float32 copy of a parameter, on the CPU. TypeError if float32 can't hold it exactly."""
    if tensor.dtype not in EXACT:
        raise TypeError(f"a tensor of {tensor.dtype}, which float32 can't hold exactly")
    return tensor.detach().float().cpu().numpy().copy()


def bias_array(module: nn.Conv2d | nn.ConvTranspose2d) -> NDArray[np.float32]:
    """A convolution's bias, zeros if it has none."""
    return np.zeros(module.out_channels, np.float32) if module.bias is None else array(module.bias)


def lowers(kind: type[nn.Module], axis: int | None) -> Callable[[LoweringT], LoweringT]:
    """Register a function (module, path) -> Layer for a class of modules.

    axis: where the module's channels are: 1 (B, C, H, W), -1 (B, ..., C), None for any.
    """

    def register(function: LoweringT) -> LoweringT:
        _LOWERINGS[kind] = function, axis
        return function

    return register


def lower(module: nn.Module, path: str = "", axis: int | None = None) -> Layer:
    """The exact equivalent of a module, on channels-last arrays.

    It is called with the module's inputs in its own axes replaced by (N, H, W, C). path: the module's name,
    for errors. axis: where channels are in what the module is to be called with, as in `lowers`; None for
    where it wants them. Raises TypeError naming a module that can't be lowered: of an unknown class, with
    hooks, parametrizations, dropout in training, weights that aren't exact in float32, or channels in another
    axis; ValueError naming one whose weights aren't finite.
    """
    layer, own = _lower(module, path)
    if None not in (axis, own) and axis != own:
        raise refused(module, path, f"has its channels in axis {own}, its inputs in axis {axis}")
    return layer


def lower_part(module: nn.Module, path: str, name: str) -> Layer:
    """A submodule, by its dotted name, lowered; what it stands in is checked as modules themselves are."""
    for step in name.split("."):
        _check(module, path)
        module, path = getattr(module, step), f"{path}.{step}" if path else step
    return lower(module, path)


def refused(module: nn.Module, path: str, reason: str) -> TypeError:
    """The error for a module that can't be run, in one line: of what holds others its class alone."""
    shown = module if next(module.children(), None) is None else type(module).__name__
    return TypeError(f"layer {path or 'itself'} ({shown}) {reason}")


def _lower(module: nn.Module, path: str) -> tuple[Layer, int | None]:
    if type(module) is nn.Sequential:
        return _sequence(module, path)
    if type(module) not in _LOWERINGS:
        raise refused(module, path, "has no exact counterpart")
    _check(module, path)
    function, axis = _LOWERINGS[type(module)]
    return function(module, path), axis


def _check(module: nn.Module, path: str) -> None:
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        raise refused(module, path, "has hooks or another forward: no exact counterpart")
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.dtype not in EXACT:
            raise refused(
                module, path, f"has a {name} of {parameter.dtype}, which float32 can't hold exactly"
            )
        bad = parameter.numel() - int(torch.isfinite(parameter).sum())
        if bad:
            shape = tuple(parameter.shape)
            raise ValueError(f"layer {path or 'itself'}: {bad} values of its {name} {shape} are not finite")


def _sequence(module: nn.Sequential, path: str) -> tuple[Layer, int | None]:
    _check(module, path)
    lowered, found = [], None
    # Not named_children, which gives a module only once however often it takes part.
    for name, child in module._modules.items():
        where = f"{path}.{name}" if path else name
        if child is None:
            raise refused(module, path, f"has no module {name}")
        layer, axis = _lower(child, where)
        if None not in (axis, found) and axis != found:
            raise refused(child, where, f"has its channels in axis {axis}, modules before it in axis {found}")
        lowered.append(layer)
        found = found if axis is None else axis
    return blocks.Sequential(lowered), found


def _plain(module: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    return module.dilation == (1, 1) and module.padding_mode == "zeros"


@lowers(nn.Conv2d, 1)
def _(module: nn.Conv2d, path: str) -> Layer:
    depthwise = module.groups > 1 and module.groups == module.in_channels == module.out_channels
    if not _plain(module) or (module.groups > 1 and not depthwise):
        raise refused(module, path, "has dilation, padding or groups without an exact counterpart")
    padding: Any = module.padding
    if padding == "valid":
        padding = (0, 0)
    elif padding == "same":
        if not all(size % 2 for size in module.kernel_size):
            raise refused(module, path, "is padded more on one side: no exact counterpart")
        padding = tuple(size // 2 for size in module.kernel_size)
    kind = layers.DepthwiseConv2d if depthwise else layers.Conv2d
    return kind(array(module.weight), bias_array(module), _pair(module.stride), _pair(padding))


@lowers(nn.ConvTranspose2d, 1)
def _(module: nn.ConvTranspose2d, path: str) -> Layer:
    if not _plain(module) or module.groups > 1 or module.stride[0] != module.stride[1]:
        raise refused(module, path, "has dilation, groups or uneven strides: no exact counterpart")
    shape = (_pair(module.stride), _pair(module.padding), _pair(module.output_padding))
    return layers.ConvTranspose2d(array(module.weight), bias_array(module), *shape)


def _pair(values: Any) -> tuple[int, int]:
    return int(values[0]), int(values[1])


@lowers(nn.Linear, -1)
def _(module: nn.Linear, path: str) -> Layer:
    return layers.Linear(array(module.weight), None if module.bias is None else array(module.bias))


@lowers(nn.LayerNorm, -1)
def _(module: nn.LayerNorm, path: str) -> Layer:
    if len(module.normalized_shape) != 1:
        raise refused(module, path, "isn't over the channels alone: no exact counterpart")
    channels = module.normalized_shape[0]
    gamma = np.ones(channels, np.float32) if module.weight is None else array(module.weight)
    beta = np.zeros(channels, np.float32) if module.bias is None else array(module.bias)
    return layers.LayerNorm(gamma, beta, module.eps)


@lowers(nn.LeakyReLU, None)
def _(module: nn.LeakyReLU, path: str) -> Layer:
    if not 0 <= module.negative_slope <= 1:
        raise refused(module, path, "has a slope outside 0..1: no exact counterpart")
    return layers.LeakyReLU(module.negative_slope)


@lowers(nn.Softplus, None)
def _(module: nn.Softplus, path: str) -> Layer:
    if (module.beta, module.threshold) != (1, 20):
        raise refused(module, path, "isn't Softplus(1, 20): no exact counterpart")
    return layers.Softplus()


@lowers(nn.GELU, None)
def _(module: nn.GELU, path: str) -> Layer:
    return layers.GELU(module.approximate)


@lowers(nn.ReLU, None)
def _(module: nn.ReLU, path: str) -> Layer:
    return layers.ReLU()


@lowers(nn.Sigmoid, None)
def _(module: nn.Sigmoid, path: str) -> Layer:
    return layers.Sigmoid()


@lowers(nn.Tanh, None)
def _(module: nn.Tanh, path: str) -> Layer:
    return layers.Tanh()


@lowers(nn.PixelShuffle, 1)
def _(module: nn.PixelShuffle, path: str) -> Layer:
    return layers.PixelShuffle(module.upscale_factor)


@lowers(nn.PixelUnshuffle, 1)
def _(module: nn.PixelUnshuffle, path: str) -> Layer:
    return layers.PixelUnshuffle(module.downscale_factor)


@lowers(nn.Identity, None)
def _(module: nn.Identity, path: str) -> Layer:
    return blocks.Sequential()


@lowers(nn.Dropout, None)
def _(module: nn.Dropout, path: str) -> Layer:
    if module.training and module.p > 0:
        raise refused(module, path, "is random in training: call eval() first")
    return blocks.Sequential()
