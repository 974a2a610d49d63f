"""A codec's own torch modules, lowered to exact kernels: means come first in what they give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ... import kernels
from ...entropy import CdfTable
from ...kernels import Layer, Order
from ..entropy_model import ParallelEntropy
from ..exact import ExactPart
from ..lowering import array, bias_array, lower, refused
from ..system import ExactFeatures
from .exact import ExactCoder, exact_coder
from .tables import RESIDUAL, rule

_PLANE = "features"
_KERNEL = 5
"""Of the mask that orders follow where there is no context convolution."""
_AXIS = 1
"""Of channels."""
ORDERS = ("parallel", "wavefront", "raster", "checkerboard")

OrderFunction = Callable[[int, int], Order]


@dataclass(frozen=True)
class NamedOrder:
    """A function (height, width) -> Order that can be pickled. kernel: of the context convolution."""

    name: str
    kernel: int = _KERNEL

    def __call__(self, height: int, width: int) -> Order:
        match self.name:
            case "parallel":
                return kernels.parallel(height, width)
            case "raster":
                return kernels.raster(height, width, kernels.causal_mask(self.kernel))
            case "wavefront":
                return kernels.wavefront(height, width, kernels.causal_mask(self.kernel))
            case _:
                return kernels.checkerboard(height, width, kernels.checkerboard_mask(self.kernel))


def order_function(order: Any, context: nn.Conv2d | None) -> OrderFunction:
    """The function of an order's name, or the given one. ValueError, TypeError for what is neither."""
    if isinstance(order, str):
        if order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, or a function, not {order!r}")
        return NamedOrder(order, _KERNEL if context is None else int(context.kernel_size[0]))
    if not callable(order):
        raise TypeError(f"order must be a name or a function, not {type(order).__name__}")
    return order  # type: ignore[no-any-return]


def check_context(context: Any) -> None:
    """TypeError, ValueError unless it is a k x k convolution that keeps height and width."""
    if not isinstance(context, nn.Conv2d):
        raise TypeError(f"context must be an nn.Conv2d, not {type(context).__name__}")
    sizes = set(context.kernel_size)
    padding = context.padding
    kept = padding == "same" or tuple(padding) == tuple(size // 2 for size in context.kernel_size)
    plain = (context.stride, context.dilation, context.groups) == ((1, 1), (1, 1), 1)
    if context._forward_hooks or context._forward_pre_hooks:
        # Old weight and spectral norm, pruning: the weight isn't what the next call will make it.
        raise TypeError(f"context {context} has hooks, which nobody runs: its weight is used by itself")
    if len(sizes) != 1 or not min(sizes) % 2 or not kept or not plain or context.padding_mode != "zeros":
        raise ValueError(
            f"context must be an odd k x k convolution of stride 1 with k // 2 zeros around, not {context}"
        )


def check_parts(parameters: Any, order: OrderFunction, context: Any, hyper: Any) -> None:
    """TypeError, ValueError unless parameters can give what steps of the order need.

    parameters: None, or a function or module, or a tuple of them.
    """
    several = parameters if isinstance(parameters, tuple) else (parameters,)
    for one in (*several, hyper):
        if one is not None and not callable(one):
            raise TypeError(f"parameters and hyper must be functions or modules, not {type(one).__name__}")
    if not several or (None in several and several is parameters):
        raise ValueError("parameters needs a module for each step")
    if context is not None and (parameters is None or several is parameters):
        raise ValueError("a context convolution needs one module as parameters, for all positions")
    if parameters is None and not is_parallel(order):
        raise ValueError("an order of several steps needs parameters that make something of y_hat")


def is_parallel(order: OrderFunction) -> bool:
    """Whether it is the order of that name: everything in one step, which reads no y_hat."""
    return isinstance(order, NamedOrder) and order.name == "parallel"


def is_lowered(exact: bool | None, parts: Mapping[str, Any]) -> bool:
    """Whether parts, by name, are to be lowered.

    TypeError if that is asked for and can't be, and for functions beside modules if nothing is asked for.
    """
    flat = dict(flattened(parts))
    plain = {name: one for name, one in flat.items() if not isinstance(one, nn.Module)}
    modules = [name for name in flat if name not in plain]
    if not (modules if exact is None else exact):
        return False
    if plain:
        name, one = next(iter(plain.items()))
        what = f"{name}, a plain {type(one).__name__} ({one!r}),"
        raise TypeError(f"{what} can't be lowered as modules are: with exact=False indexes are checked")
    if not modules:
        raise TypeError("exact=True lowers modules, which parameters that are given can't be")
    return True


def flattened(parts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What is there, by name; of a tuple each by its number."""
    for name, part in parts.items():
        if isinstance(part, tuple):
            yield from ((f"{name}.{number}", one) for number, one in enumerate(part))
        elif part is not None:
            yield name, part


def check_eval(parts: Mapping[str, Any]) -> None:
    """TypeError naming a module, of parts by name, that is in training."""
    for name, part in flattened(parts):
        for path, module in part.named_modules(prefix=name) if isinstance(part, nn.Module) else ():
            if module.training:
                reason = "is in training, where dropout and statistics of batches vary: call eval() first"
                raise refused(module, path, reason)


@dataclass(frozen=True)
class ModulesRecipe:
    """What makes an `ExactCoder` of modules, checked by `EntropyBackend`."""

    parameters: nn.Module | tuple[nn.Module, ...] | None
    order: OrderFunction
    context: nn.Conv2d | None
    hyper: nn.Module | None
    channels: int | None
    rounding: str
    table: CdfTable
    thresholds: NDArray[np.float32]
    device: str
    threads: int
    mode: ClassVar[str] = "exact"

    def modules(self) -> dict[str, nn.Module]:
        """All of them, by name."""
        parts = {"parameters": self.parameters, "context": self.context, "hyper": self.hyper}
        return dict(flattened(parts))

    def build(self) -> ExactCoder:
        """Raises TypeError for a module that has no exact counterpart, ValueError for what doesn't fit."""
        hyper = None if self.hyper is None else lower(self.hyper, "hyper", _AXIS)
        model: kernels.ContextModel | kernels.StepModel
        if self.context is not None:
            model, features = self._context_model(self.context), hyper
        elif isinstance(self.parameters, tuple):
            model, features = self._step_model(self.parameters, hyper), hyper
        else:
            features = self._whole(hyper)
            model = self._parallel_model(features)
        if self.channels not in (None, model.channels):
            raise ValueError(f"modules for a latent of {model.channels} channels, not {self.channels}")
        part = ExactPart(model, _PLANE, (), self.table)
        name = _PLANE if features is None else "given"
        layers = {_PLANE: ExactFeatures(kernels.Sequential() if features is None else features, (name,))}
        return exact_coder(part, layers, (name,), self.order, self.device, self.threads)

    @property
    def _rule(self) -> kernels.Quantization:
        return rule(self.rounding, self.thresholds)

    def _whole(self, hyper: Layer | None) -> Layer:
        """From what is given to (means, scales)."""
        layers = [hyper] if hyper is not None else []
        if self.parameters is not None:
            assert isinstance(self.parameters, nn.Module)
            layers.append(lower(self.parameters, "parameters", _AXIS))
        return kernels.Sequential(layers)

    def _parallel_model(self, whole: Layer) -> kernels.StepModel:
        if not is_parallel(self.order):
            raise ValueError(
                "an order of several steps needs a context convolution, or a module for each step"
            )
        channels = _half("parameters", whole.channels(whole.inputs))
        model = ParallelEntropy(channels, self.rounding == RESIDUAL, means_first=True).lower()
        return replace(model, quantization=self._rule)

    def _context_model(self, context: nn.Conv2d) -> kernels.ContextModel:
        assert isinstance(self.parameters, nn.Module)
        head = scales_first(lower(self.parameters, "parameters", _AXIS), context.in_channels)
        return kernels.ContextModel(array(context.weight), bias_array(context), head, self._rule)

    def _step_model(self, modules: tuple[nn.Module, ...], hyper: Layer | None) -> kernels.StepModel:
        if self.channels is None:
            raise ValueError("a module for each step needs channels=, how many the latent has")
        lowered = [lower(one, f"parameters.{i}", _AXIS) for i, one in enumerate(modules)]
        given = None if hyper is None else hyper.channels(hyper.inputs)
        if given is None:
            inputs = next((layer.inputs for layer in lowered if layer.inputs is not None), None)
            if inputs is None or inputs <= self.channels:
                raise ValueError(
                    f"modules from {inputs} channels, which must be the latent's {self.channels} and features"
                )
            given = inputs - self.channels
        nets = []
        for number, layer in enumerate(lowered):
            outputs = layer.channels(self.channels + given)
            nets.append(scales_first(layer, _half(f"parameters.{number}", outputs)))
        return kernels.StepModel(nets, self.channels, given, self._rule)


def _half(name: str, outputs: int | None) -> int:
    if outputs is None or outputs % 2 or not outputs:
        raise ValueError(f"{name} gives {outputs or 'unknown'} channels, not means and as many scales")
    return outputs // 2


def scales_first(layer: Layer, channels: int) -> Layer:
    """The layer with its `channels` means behind its scales."""
    layers = list(layer.layers) if isinstance(layer, kernels.Sequential) else [layer]
    last = layers[-1] if layers else None
    if isinstance(last, kernels.Conv2d) and last.outputs == 2 * channels:
        # Channels of a convolution are independent of each other, so they can change places for nothing.
        weight, bias = (np.roll(own, channels, 0) for own in (last.weight, last.bias) if own is not None)
        turned = replace(last, weight=weight, bias=bias)
        return kernels.Sequential([*layers[:-1], turned])
    halves = kernels.Slice(channels, 2 * channels), kernels.Slice(0, channels)
    return kernels.Sequential([*layers, kernels.Concat(halves)])
