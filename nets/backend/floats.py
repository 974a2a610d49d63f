"""Parameters that float arithmetic gives, step by step: functions and torch modules, as they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ...kernels import Order, Taps
from .tensors import FloatArray

Pair = tuple[Tensor, Tensor]
"""(mean, scale)"""

_FEW = 4
"""With a context, steps of at most one in so many positions run on windows."""


class FloatParameters:
    """What gives (mean, scale) of steps, from what is given and y_hat, zero where nothing is decoded.

    hyper: from what is given to features; without it they are the same. parameters: None, features are (mean,
    scale) or one tensor of both; a function of the features, and of y_hat and step by name where there are
    several steps; a tuple, for each step a function of one tensor, y_hat and the features; with `context`
    a pointwise function of one tensor, the features and those of the context.
    """

    def __init__(
        self,
        parameters: Callable[..., Any] | tuple[Callable[..., Any], ...] | None,
        hyper: Callable[..., Any] | None,
        context: nn.Conv2d | None,
    ) -> None:
        self.parameters, self.hyper, self.context = parameters, hyper, context

    def of(self, given: tuple[Tensor, ...]) -> ImageParameters:
        """Those of one image."""
        if self.hyper is not None:
            out = self.hyper(*given)
            given = (out,) if isinstance(out, Tensor) else tuple(out)
        return ImageParameters(self, given)


class ImageParameters:
    """(mean, scale) of an image's steps. features: what they share."""

    def __init__(self, owner: FloatParameters, features: tuple[Tensor, ...]) -> None:
        self.features, self._owner = features, owner
        self._masked: Tensor | None = None
        self._around: Tensor | None = None

    def whole(self) -> Pair:
        """Of all elements at once, without a context."""
        parameters: Any = self._owner.parameters
        if parameters is not None:
            return _pair(_called_once(parameters, self.features))
        return _pair(self.features if len(self.features) > 1 else self.features[0])

    def of_step(self, order: Order, number: int, y_hat: FloatArray) -> tuple[Pair, bool]:
        """((mean, scale) of a step's elements, whether these are all there is).

        If they are, (1, C, 1, n), the step's positions in sequence; else the elements are at their places
        among others. y_hat: (M, H, W), as it is by then. REQUIRES: steps are asked for one after the other.
        """
        parameters: Any = self._owner.parameters
        if self._owner.context is not None:
            return self._in_context(self._owner.context, order, number, y_hat)
        # A function may keep it, or write to it.
        own = torch.from_numpy(y_hat[None].copy()).to(self.features[0].device)
        if isinstance(parameters, tuple):
            net = parameters[_number(order, number, len(parameters))]
            return _pair(net(torch.cat([own.to(self.features[0]), *self.features], 1))), False
        return _pair(parameters(*self.features, y_hat=own, step=number)), False

    def _in_context(self, conv: nn.Conv2d, order: Order, number: int, y_hat: FloatArray) -> tuple[Pair, bool]:
        parameters: Any = self._owner.parameters
        step, (height, width) = order.steps[number], y_hat.shape[1:]
        for one in self.features:
            # Windows would be cut out of larger ones, too.
            if one.ndim != 4 or tuple(one.shape[2:]) != (height, width):
                raise ValueError(f"features of shape {tuple(one.shape)} for a latent of {height} x {width}")
        if self._masked is None:
            mask = torch.from_numpy(_mask(order.taps, conv.kernel_size[0])).to(conv.weight)
            self._masked = conv.weight * mask
        around = self._padded(order, number, y_hat, self._masked)
        if len(step) * _FEW > height * width:
            context = self._convolved(conv, step.context, around)
            return _pair(parameters(torch.cat([*self.features, context], 1))), False
        # At few positions a window for each, as images, is less work than the whole planes.
        at, size = (torch.from_numpy(step.rows), torch.from_numpy(step.cols)), conv.kernel_size[0]
        windows = around[0].unfold(1, size, 1).unfold(2, size, 1)[:, at[0], at[1]].transpose(0, 1)
        context = self._convolved(conv, step.context, windows)
        here = [one[0][:, at[0], at[1]].T[:, :, None, None] for one in self.features]
        mean, scale = _pair(parameters(torch.cat([*here, context], 1)))
        return (_joined(mean), _joined(scale)), True

    def _padded(self, order: Order, number: int, y_hat: FloatArray, like: Tensor) -> Tensor:
        """(1, M, H + 2p, W + 2p): y_hat in zeros, on the device and of the type of the context's weight."""
        pad = like.shape[2] // 2
        if self._around is None:
            channels, height, width = y_hat.shape
            self._around = like.new_zeros(1, channels, height + 2 * pad, width + 2 * pad)
        if number:
            # Everything else is there since the calls before.
            last = order.steps[number - 1]
            new = torch.from_numpy(y_hat[:, last.rows, last.cols]).to(like)
            self._around[0][:, torch.from_numpy(last.rows + pad), torch.from_numpy(last.cols + pad)] = new
        return self._around

    def _convolved(self, conv: nn.Conv2d, reads: bool, around: Tensor) -> Tensor:
        """Context features; zero, without even the bias, in steps that don't read any."""
        context = F.conv2d(around, self._masked, conv.bias)  # type: ignore[arg-type]
        return context if reads else torch.zeros_like(context)


def _joined(values: Tensor) -> Tensor:
    """(n, C, 1, 1) as one plane (1, C, 1, n)."""
    return values.permute(2, 1, 3, 0)


def _called_once(parameters: Callable[..., Any], features: tuple[Tensor, ...]) -> Any:
    """What a function of an order of one step gives. TypeError that says so if it wants y_hat or step."""
    try:
        return parameters(*features)
    except TypeError as error:
        wanted = _wanted(parameters, features)
        if wanted:
            raise TypeError(
                f"parameters wants {wanted}, which the parallel order, all in one step, doesn't give: "
                "name another order, or leave it out"
            ) from error
        raise


def _wanted(parameters: Callable[..., Any], features: tuple[Tensor, ...]) -> str:
    """Which of the arguments of a function of steps are needed, and aren't given by position."""
    try:
        signature = inspect.signature(parameters)
        bound = signature.bind_partial(*features).arguments
    except (TypeError, ValueError):
        return ""
    named = [signature.parameters[key] for key in ("y_hat", "step") if key in signature.parameters]
    return " and ".join(one.name for one in named if one.default is one.empty and one.name not in bound)


def _mask(taps: Taps, kernel: int) -> NDArray[np.bool_]:
    """(kernel, kernel) of an order's taps. ValueError if they are of another kernel."""
    if len(taps) and taps.shape != (kernel, kernel):
        raise ValueError(f"a {taps.shape} mask doesn't fit the {(kernel, kernel)} kernel")
    mask = np.zeros(kernel * kernel, np.bool_)
    mask[taps.index] = True
    return mask.reshape(kernel, kernel)


def _number(order: Order, step: int, count: int) -> int:
    """Which of `count` functions is a step's: as a `StepModel` has it, for orders of a single position."""
    if len(order) == count:
        return step
    if 2 * len(order) == count and (order.height, order.width) == (1, 1):
        return 2 * step + int(order.steps[step].context)
    raise ValueError(f"{order.name} has {len(order)} steps, parameters {count}")


def _pair(out: Any) -> Pair:
    """(mean, scale) of what a function gave. TypeError, ValueError for what is neither two nor one."""
    if isinstance(out, Tensor):
        if out.ndim != 4 or out.shape[1] % 2:
            raise ValueError(f"parameters of shape {tuple(out.shape)}, not (1, means and scales, H, W)")
        mean, scale = out.chunk(2, 1)
        return mean, scale
    if not isinstance(out, tuple | list) or len(out) != 2 or not all(isinstance(o, Tensor) for o in out):
        raise TypeError(f"parameters must give (mean, scale) or one tensor, not {type(out).__name__}")
    return out[0], out[1]
