"""The part of a codec that must be exact, on a CPU or on a CUDA device: from side information to y_hat.

Both give the same bits. Arrays come and go as NumPy's; in between they stay on the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import entropy, kernels
from ..entropy import CdfTable, CorruptStream, mixture
from .system import ExactFeatures

FloatArray = NDArray[np.float32]
Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class ExactPart:
    """A latent's exact model, the features that it reads, and the table that it indexes."""

    model: kernels.PositionModel | kernels.StepModel
    plane: str
    inputs: tuple[str, ...]
    table: CdfTable | None
    """None: it is coded under mixtures."""
    least_step: float | None = None
    """See `EntropyModel`."""

    def divided(self, y: Any, plane: Any) -> Any:
        """A latent in steps, if it has some. plane: its features, on the same device."""
        if self.least_step is None:
            return y
        # What overflows is refused as it is encoded.
        with np.errstate(over="ignore"):
            return y / self._steps(plane)

    def multiplied(self, y_hat: Any, plane: Any) -> Any:
        """The inverse of `divided`."""
        if self.least_step is None:
            return y_hat
        # Those of a forged file may overflow.
        with np.errstate(over="ignore"):
            return y_hat * self._steps(plane)

    def _steps(self, plane: Any) -> Any:
        return plane[:, :, : self.model.channels].clip(self.least_step)


class Exact(ABC):
    """Exact features of side information, and the models of latents over them."""

    def __init__(self, layers: Mapping[str, ExactFeatures], parts: Mapping[str, ExactPart]) -> None:
        self.layers, self.parts = layers, parts

    @abstractmethod
    def features(self, sides: Mapping[str, FloatArray], error: type[Exception] = CorruptStream) -> Arrays:
        """Features by name, on the device, of rounded side information (rows, cols, C).

        Raises `error` if they aren't finite.
        """

    @abstractmethod
    def encode(
        self, name: str, y: FloatArray, features: Arrays, order: kernels.Order
    ) -> tuple[bytes, FloatArray]:
        """(stream, y_hat) of a part's y (H, W, M). ValueError for arrays that don't fit."""

    @abstractmethod
    def decode(self, name: str, stream: bytes, features: Arrays, order: kernels.Order) -> FloatArray:
        """y_hat (H, W, M) of a part's stream. Raises CorruptStream, TableMismatch."""

    def _inputs(self, name: str, features: Arrays) -> dict[str, Any]:
        return {key: features[key] for key in self.parts[name].inputs}


def _shaped(array: FloatArray, shape: tuple[int, int, int] | None) -> FloatArray:
    return array if shape is None else array.reshape(shape)


class OnCpu(Exact):
    """In so many threads at once, which change nothing but the time."""

    def __init__(
        self, layers: Mapping[str, ExactFeatures], parts: Mapping[str, ExactPart], threads: int = 1
    ) -> None:
        super().__init__(layers, parts)
        self.threads = threads

    def features(
        self, sides: Mapping[str, FloatArray], error: type[Exception] = CorruptStream
    ) -> dict[str, FloatArray]:
        """See `Exact`."""
        out = {}
        for name, one in self.layers.items():
            first, *others = one.reads
            inputs = {key: sides[key] for key in others}
            out[name] = one.layer(_shaped(sides[first], one.shape), inputs, threads=self.threads)
        _check(out, sides, error)
        return out

    def encode(
        self, name: str, y: FloatArray, features: Arrays, order: kernels.Order
    ) -> tuple[bytes, FloatArray]:
        """See `Exact`."""
        part = self.parts[name]
        encoder = mixture.Encoder() if part.table is None else entropy.Encoder(part.table)
        plane = features[part.plane]
        arrays = part.divided(y, plane), plane, part.model, order
        y_hat = kernels.encode_latent(
            encoder, *arrays, inputs=self._inputs(name, features), threads=self.threads
        )
        return encoder.finish(), part.multiplied(y_hat, plane)

    def decode(self, name: str, stream: bytes, features: Arrays, order: kernels.Order) -> FloatArray:
        """See `Exact`."""
        decoder = self.decoder(name, stream)
        y_hat = self.decode_from(decoder, name, features, order)
        decoder.close()
        return y_hat

    def decoder(self, name: str, stream: bytes) -> entropy.Decoder | mixture.Decoder:
        """What decodes a part's stream. Raises CorruptStream, TableMismatch."""
        table = self.parts[name].table
        return mixture.Decoder(stream) if table is None else entropy.Decoder(stream, table)

    def decode_from(
        self, decoder: Any, name: str, features: Arrays, order: kernels.Order, ticks: Any = None
    ) -> FloatArray:
        """`decode` from a decoder, which stays open, or from what has a `get` like its."""
        part = self.parts[name]
        inputs = self._inputs(name, features)
        arrays = features[part.plane], part.model, order
        y_hat = kernels.decode_latent(decoder, *arrays, inputs=inputs, threads=self.threads, ticks=ticks)
        return part.multiplied(y_hat, features[part.plane])


class OnCuda(Exact):
    """On CUDA device `number`, through CuPy. Raises ImportError, naming the extra, without it.

    Raises ValueError for parts that are coded under mixtures, which CPUs do.
    """

    def __init__(
        self, layers: Mapping[str, ExactFeatures], parts: Mapping[str, ExactPart], number: int = 0
    ) -> None:
        super().__init__(layers, parts)
        mixtures = [name for name, part in parts.items() if part.table is None]
        if mixtures:
            raise ValueError(
                f'{", ".join(mixtures)} is coded under mixtures, which only a CPU does: with exact="cpu" the '
                "transforms alone run on the CUDA device"
            )
        from ..kernels import cuda

        self._cuda, self._cupy, self._number = cuda, cuda.import_cupy(), number
        self._networks = {name: cuda.Network(one.layer) for name, one in layers.items()}

    def features(
        self, sides: Mapping[str, FloatArray], error: type[Exception] = CorruptStream
    ) -> dict[str, Any]:
        """See `Exact`."""
        with self._cupy.cuda.Device(self._number):
            arrays = {name: self._cupy.asarray(side) for name, side in sides.items()}
            out = {}
            for name, one in self.layers.items():
                first, *others = one.reads
                inputs = {key: arrays[key] for key in others}
                out[name] = self._networks[name](_shaped(arrays[first], one.shape), inputs)
            _check(out, sides, error)
            return out

    def encode(
        self, name: str, y: FloatArray, features: Arrays, order: kernels.Order
    ) -> tuple[bytes, FloatArray]:
        """See `Exact`."""
        part = self.parts[name]
        with self._cupy.cuda.Device(self._number):
            assert part.table is not None
            encoder = self._cuda.Encoder(part.table)
            plane = features[part.plane]
            arrays = part.divided(self._cupy.asarray(y), plane), plane, part.model, order
            y_hat = self._cuda.encode_latent(encoder, *arrays, inputs=self._inputs(name, features))
            return encoder.finish(), self._cupy.asnumpy(part.multiplied(y_hat, plane))

    def decode(self, name: str, stream: bytes, features: Arrays, order: kernels.Order) -> FloatArray:
        """See `Exact`."""
        part = self.parts[name]
        with self._cupy.cuda.Device(self._number):
            assert part.table is not None
            decoder = self._cuda.Decoder(stream, part.table)
            arrays = features[part.plane], part.model, order
            y_hat = self._cuda.decode_latent(decoder, *arrays, inputs=self._inputs(name, features))
            decoder.close()
            return self._cupy.asnumpy(part.multiplied(y_hat, features[part.plane]))


def _check(features: Mapping[str, Any], sides: Mapping[str, FloatArray], error: type[Exception]) -> None:
    for name, values in features.items():
        if not np.isfinite(values).all():
            most = max(float(np.abs(side).max()) for side in sides.values())
            raise error(f"side information up to {most} gives {name} that aren't finite")
