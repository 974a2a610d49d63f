"""A latent as it is coded under float parameters, step by step: its elements, and what is decoded of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...kernels import Step
from ...kernels.quantization import LATENT_LIMIT
from .floats import ImageParameters
from .orders import Orders
from .quantize import Int32Array, Quantizer
from .tensors import FloatArray, check_images, planes

Places = NDArray[np.int64] | slice


class StepElements(NamedTuple):
    """A step's elements, 1-D, channel by channel, and in each in the sequence of the positions."""

    number: int
    places: Places
    """Where in the latent (M, H, W), flattened, they are."""
    offsets: FloatArray
    indexes: Int32Array


class SteppedLatent:
    """y_hat (M, H, W), its coding order, and the parameters of each step in turn."""

    def __init__(
        self,
        parameters: ImageParameters,
        orders: Orders,
        quantizer: Quantizer,
        channels: int | None,
        stepped: bool,
    ) -> None:
        """stepped: whether the parameters need y_hat.

        A stepped latent has the height and width of the first of the features, and `channels` or those of
        its order; another those of its parameters. Raises ValueError, TypeError for what doesn't fit.
        """
        self._parameters, self._quantizer = parameters, quantizer
        self._whole: tuple[FloatArray, FloatArray] | None = None
        if stepped:
            height, width = check_images("features", parameters.features[0], 1).shape[2:]
        else:
            self._whole = self._arrays("", *parameters.whole())
            own, height, width = self._whole[0].shape
            if channels not in (None, own):
                raise ValueError(f"parameters of {own} channels for a latent of {channels}")
            channels = own
        self.order, self.fingerprint = orders(height, width)
        channels = self.order.channels if channels is None else channels
        if channels is None:
            raise ValueError("steps over a latent of unknown depth: the backend needs channels=")
        if self.order.channels not in (None, channels):
            raise ValueError(
                f"{self.order.name} codes {self.order.channels} channels, the latent has {channels}"
            )
        self.y_hat: FloatArray = np.zeros((channels, height, width), np.float32)

    def __len__(self) -> int:
        return len(self.order)

    def steps(self) -> Iterator[StepElements]:
        """The steps; each needs that what those before it coded was `put`."""
        for number, step in enumerate(self.order):
            (mean, scale), local, places = self._of_step(number, step)
            indexed = self._quantizer.to_indexes(mean.reshape(-1)[local], scale.reshape(-1)[local])
            yield StepElements(number, places, *indexed)

    def put(self, one: StepElements, symbols: Int32Array, error: type[Exception]) -> None:
        """Take a step's symbols. Raises the error for a latent beyond the limit."""
        values, legal = self._quantizer.to_latent(symbols, one.offsets)
        if not legal:
            raise error(f"a latent of step {one.number} lies beyond +-{LATENT_LIMIT}")
        self.y_hat.reshape(-1)[one.places] = values

    def _of_step(self, number: int, step: Step) -> tuple[tuple[FloatArray, FloatArray], Places, Places]:
        """((mean, scale), where in these the step's elements are, where in the latent)."""
        if self._whole is not None:
            # The only step, of all positions in raster scan.
            return self._whole, slice(None), slice(None)
        pair, own = self._parameters.of_step(self.order, number, self.y_hat)
        mean, scale = self._arrays(f" of step {number}", *pair)
        channels, height, width = self.y_hat.shape
        span = np.arange(channels if step.width is None else step.width)[:, None]
        size = (1, len(step)) if own else (height, width)
        if mean.shape[1:] != size or len(mean) not in (channels, len(span)):
            raise ValueError(
                f"parameters of step {number} of shape {mean.shape} for a latent {self.y_hat.shape}; "
                f"they may have {channels} channels, or the step's {len(span)}"
            )
        position = step.rows * width + step.cols
        places = ((step.first + span) * (height * width) + position).reshape(-1)
        if len(mean) == channels:
            span = step.first + span
        local = span * (size[0] * size[1]) + (np.arange(len(step)) if own else position)
        return (mean, scale), local.reshape(-1), places

    def _arrays(self, where: str, mean: Tensor, scale: Tensor) -> tuple[FloatArray, FloatArray]:
        """(C, H, W) each. ValueError unless they are of one image, of one shape and finite."""
        arrays = []
        for name, tensor in ((f"mean{where}", mean), (f"scale{where}", scale)):
            arrays.append(planes(name, check_images(name, tensor, 1)))
        if arrays[0].shape != arrays[1].shape:
            raise ValueError(f"mean{where} of shape {arrays[0].shape}, scale {arrays[1].shape}")
        return arrays[0], arrays[1]


def check_limit(values: FloatArray) -> None:
    """ValueError, naming the first, for values beyond the limit."""
    bad = np.abs(values) > LATENT_LIMIT
    if bad.any():
        raise too_large(values, int(bad.reshape(-1).argmax()))


def too_large(values: FloatArray, element: int) -> ValueError:
    """The error for an element of y (M, H, W), flattened."""
    where = tuple(int(i) for i in np.unravel_index(element, values.shape))
    return ValueError(
        f"y is {float(values[where])} at {where}: it or its symbol lies beyond +-{LATENT_LIMIT}"
    )
