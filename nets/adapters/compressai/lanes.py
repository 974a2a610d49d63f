"""A CompressAI model's `compress` and `decompress` in quadrans' own streams, which decode alike everywhere.

Analysis, hyper-analysis and synthesis run in torch as they are. What lies between the integers of z and those
of y is exact: so y_hat is the encoder's to the bit, on whatever machine and device it is decoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from operator import index
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .... import entropy
from ....entropy import CdfTable, CorruptStream
from ....kernels import parallel
from ....kernels.quantization import LATENT_LIMIT
from ...backend import EntropyBackend
from ...backend import stream as stream_head
from ...backend.orders import Orders
from ...backend.stream import EXACT
from ...backend.tensors import channels_last, check_images, planes, stack
from ...container import MAX_PIXELS
from ...stale import Stamp
from .anatomy import Anatomy, watched, y_shape
from .tables import MEND, bottleneck_table
from .translate import medians, translate

MAX_POSITIONS = MAX_PIXELS >> 4
"""Of a latent that a shape may announce: bottlenecks are at least 4 pixels apart."""


class Lanes:
    """What stands for `compress` and `decompress` of one model.

    A deep copy or pickle of the model has its own, which lowers the copy's weights when it is first used.
    """

    def __init__(self, model: Any, anatomy: Anatomy, threads: int, device: str) -> None:
        """Raises TypeError naming a module that has no exact counterpart."""
        self._model, self._anatomy, self._threads, self._device = model, anatomy, threads, device
        self._stamp = Stamp(watched(model, anatomy), MEND)
        # What it saw is kept, and goes with copies, but no tensors.
        self._stamp.source = {}
        self._coder: _Coder | None = _Coder(model, anatomy, threads, device)

    def compress(self, x: Tensor) -> dict[str, Any]:
        """Images (B, 3, H, W) to the strings of each, in the structure of CompressAI's own result.

        An image's strings are those that it has alone. Raises StaleWeights; ValueError for an image whose
        latent isn't finite, or doesn't fit its features: most models need sides that 64 divides.
        """
        coder, model, anatomy = self._ready(), self._model, self._anatomy
        check_images("x", x)
        with torch.no_grad():
            # Image by image, since how torch rounds may depend on a batch's size.
            y = torch.cat([model.g_a(image) for image in x.split(1)])
            if coder.backend is None:
                strings, integers = coder.side.encode("y", y)
                return self._result([strings], y.shape[2:], coder.side.values(integers), y)
            h_a = model.get_submodule(anatomy.h_a or "")
            z = torch.cat([h_a(one.abs() if anatomy.absolute else one) for one in y.split(1)])
            z_strings, integers = coder.side.encode("z", z)
            y_strings, y_hat = coder.backend.encode(y, integers)
            return self._result([y_strings, z_strings], z.shape[2:], y_hat, y)

    def decompress(self, strings: Sequence[Sequence[bytes]], shape: Any) -> dict[str, Tensor]:
        """{"x_hat": images (B, 3, H, W) in 0..1} of what `compress` gave, where the synthesis is.

        Raises StaleWeights; ValueError, TypeError for what no `compress` gives; CorruptStream; TableMismatch
        for strings of another model.
        """
        y_hat = self.y_hat(strings, shape)
        like = next(self._model.g_s.parameters(), y_hat)
        return {"x_hat": self._model.g_s(y_hat.to(like.device, like.dtype)).clamp_(0, 1)}

    def y_hat(self, strings: Sequence[Sequence[bytes]], shape: Any) -> Tensor:
        """(B, M, H, W) float32, on the CPU: what `decompress` gives to the synthesis, and raises."""
        coder = self._ready()
        *of_y, of_side = _checked_strings(strings, 1 if coder.backend is None else 2)
        codec = self._anatomy.codec if coder.backend else None
        if codec and not (isinstance(shape, Mapping) and {"y", "hyper"} <= shape.keys()):
            raise ValueError(f'shape must have "y" and "hyper", as this model\'s has, not be {shape!r}')
        integers = coder.side.decode(of_side, _size(shape["hyper"] if codec else shape))
        if coder.backend is None:
            return coder.side.values(integers)
        y_hat = coder.backend.decompress(of_y[0], integers)
        if codec:
            expected = y_shape(self._model.get_submodule(f"{codec}.y"), y_hat)
            if _plain(shape["y"]) != _plain(expected):
                raise ValueError(f"y of shape {_plain(shape['y'])}, these strings' is {_plain(expected)}")
        return y_hat

    def _result(self, strings: list[list[bytes]], size: Any, y_hat: Tensor, y: Tensor) -> dict[str, Any]:
        codec = self._anatomy.codec
        if codec is None:
            return {"strings": strings, "shape": size}
        if self._anatomy.h_s is not None:
            size = {"y": y_shape(self._model.get_submodule(f"{codec}.y"), y), "hyper": size}
        return {"strings": strings, "shape": size, "y_hat": y_hat.to(y.device, y.dtype)}

    def _ready(self) -> _Coder:
        stamp = copy(self._stamp)
        # The tensors of today: modules may have been replaced since.
        stamp.source = watched(self._model, self._anatomy)
        stamp.check()
        if self._coder is None:
            self._coder = _Coder(self._model, self._anatomy, self._threads, self._device)
        return self._coder

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_coder": None}


class _Coder:
    """What is made of a model's weights."""

    def __init__(self, model: Any, anatomy: Anatomy, threads: int, device: str) -> None:
        bottleneck: Any = model.get_submodule(anatomy.bottleneck)
        self.side = _Side(bottleneck_table(bottleneck), medians(bottleneck), threads)
        self.backend: EntropyBackend | None = None
        if anatomy.h_s is not None:
            twin = translate(model, anatomy)
            self.backend = EntropyBackend.of(
                twin.model,
                twin.order,
                hyper=twin.hyper,
                table=entropy.gaussian_table(twin.scales),
                thresholds=entropy.scale_thresholds(twin.scales),
                device=device,
                threads=threads,
            )


class _Side:
    """A latent under an entropy bottleneck: rounded to the medians plus integers, a row for each channel.

    Its strings have the heads of a backend's.
    """

    def __init__(self, table: CdfTable, medians: NDArray[np.float32], threads: int) -> None:
        self._table, self._threads = table, threads
        self._medians = torch.from_numpy(medians)[:, None, None]
        self._orders = Orders(parallel, stream_head.own_fingerprint(EXACT, "bottleneck", table, medians))

    def encode(self, name: str, latent: Tensor) -> tuple[list[bytes], Tensor]:
        """(strings, integers (B, C, h, w) float32 on the CPU) of a latent on any device.

        Raises ValueError, with the place, for values that aren't finite or beyond +-LATENT_LIMIT.
        """
        strings, images = [], []
        for image in latent.split(1):
            values = np.rint(planes(name, image) - self._medians.numpy())
            largest = float(np.abs(values).max())
            if largest > LATENT_LIMIT:
                raise ValueError(f"{name} is up to {largest} away from its medians, more than {LATENT_LIMIT}")
            symbols = channels_last(values).astype(np.int32)
            rows, fingerprint = self._rows(*symbols.shape[:2])
            stream = entropy.encode(symbols, rows, self._table, threads=self._threads)
            strings.append(stream_head.with_head(EXACT, fingerprint, stream))
            images.append(values)
        return strings, stack(images, self._medians)

    def decode(self, strings: Sequence[bytes], size: tuple[int, int]) -> Tensor:
        """Integers (B, C, h, w), float32. Raises CorruptStream, TableMismatch."""
        rows, fingerprint = self._rows(*size)
        images = []
        for string in strings:
            stream = stream_head.without_head(string, EXACT, fingerprint)
            symbols = entropy.decode(stream, rows, self._table, threads=self._threads)
            largest = max(int(symbols.max()), -int(symbols.min()))
            if largest > LATENT_LIMIT:
                raise CorruptStream(f"an integer of up to {largest}, more than {LATENT_LIMIT}")
            images.append(symbols.astype(np.float32).transpose(2, 0, 1))
        return stack(images, self._medians)

    def values(self, integers: Tensor) -> Tensor:
        """The rounded latent."""
        return integers + self._medians

    def _rows(self, height: int, width: int) -> tuple[NDArray[np.int32], int]:
        """(indexes (h, w, C), fingerprint)."""
        channels = np.arange(len(self._medians), dtype=np.int32)
        return np.broadcast_to(channels, (height, width, len(channels))), self._orders(height, width)[1]


def _checked_strings(strings: Any, kinds: int) -> list[Sequence[bytes]]:
    """Lists of strings, one string for each image. TypeError, ValueError with the numbers for others."""
    if not isinstance(strings, list | tuple) or not all(isinstance(one, list | tuple) for one in strings):
        raise TypeError("strings must be a list of lists of bytes")
    counts = [len(one) for one in strings]
    if len(strings) != kinds or len(set(counts)) != 1 or not counts[0]:
        raise ValueError(f"strings of {counts} images; this model has {kinds} of each, of one image or more")
    return list(strings)


def _size(shape: Any) -> tuple[int, int]:
    """(rows, columns). ValueError for what no latent has."""
    size = tuple(index(side) for side in shape)
    if len(size) != 2 or min(size) < 1 or size[0] * size[1] > MAX_POSITIONS:
        raise ValueError(f"a latent of {size} positions; they are (rows, columns), {MAX_POSITIONS} at most")
    return size


def _plain(shape: Any) -> list[Any]:
    return [_plain(one) if isinstance(one, list | tuple) else int(one) for one in shape]
