"""The part of a codec that must be exact, on a CPU or on a CUDA device: from z to y_hat and its stream.

Both give the same bits. Arrays come and go as NumPy's; in between they stay on the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import entropy, kernels
from ..entropy import CdfTable, CorruptStream

FloatArray = NDArray[np.float32]


class Exact(ABC):
    """Hyper-synthesis h_s, a model of y's distributions over its features, and the table they index."""

    def __init__(self, h_s: kernels.Layer, model: kernels.PositionModel, table: CdfTable) -> None:
        self.h_s, self.model, self.table = h_s, model, table

    @abstractmethod
    def features(self, z_hat: FloatArray) -> Any:
        """(H, W, F) on the device, of (h, w, N)."""

    @abstractmethod
    def encode(self, y_hat: FloatArray, z_hat: FloatArray, order: kernels.Order) -> bytes:
        """The stream of y_hat (H, W, M), integers. ValueError for arrays that don't fit."""

    @abstractmethod
    def decode(self, stream: bytes, z_hat: FloatArray, order: kernels.Order) -> FloatArray:
        """y_hat (H, W, M) of a stream. Raises CorruptStream, TableMismatch."""


class OnCpu(Exact):
    """In so many threads at once, which change nothing but the time."""

    def __init__(
        self, h_s: kernels.Layer, model: kernels.PositionModel, table: CdfTable, threads: int = 1
    ) -> None:
        super().__init__(h_s, model, table)
        self.threads = threads

    def features(self, z_hat: FloatArray) -> FloatArray:
        """See `Exact`."""
        return self.h_s(z_hat, threads=self.threads)

    def encode(self, y_hat: FloatArray, z_hat: FloatArray, order: kernels.Order) -> bytes:
        """See `Exact`."""
        encoder = entropy.Encoder(self.table)
        features = self.features(z_hat)
        kernels.encode_latent(encoder, y_hat, features, self.model, order, threads=self.threads)
        return encoder.finish()

    def decode(self, stream: bytes, z_hat: FloatArray, order: kernels.Order) -> FloatArray:
        """See `Exact`."""
        features = self.features(z_hat)
        _check(features, z_hat)
        decoder = entropy.Decoder(stream, self.table)
        y_hat = kernels.decode_latent(decoder, features, self.model, order, threads=self.threads)
        decoder.close()
        return y_hat


class OnCuda(Exact):
    """On CUDA device `number`, through CuPy. Raises ImportError, naming the extra, without it."""

    def __init__(
        self, h_s: kernels.Layer, model: kernels.PositionModel, table: CdfTable, number: int = 0
    ) -> None:
        super().__init__(h_s, model, table)
        from ..kernels import cuda

        self._cuda, self._cupy, self._number = cuda, cuda.import_cupy(), number
        self._network = cuda.Network(h_s)

    def features(self, z_hat: FloatArray) -> Any:
        """See `Exact`."""
        with self._cupy.cuda.Device(self._number):
            return self._network(self._cupy.asarray(z_hat))

    def encode(self, y_hat: FloatArray, z_hat: FloatArray, order: kernels.Order) -> bytes:
        """See `Exact`."""
        features = self.features(z_hat)
        with self._cupy.cuda.Device(self._number):
            encoder = self._cuda.Encoder(self.table)
            self._cuda.encode_latent(encoder, self._cupy.asarray(y_hat), features, self.model, order)
            return encoder.finish()

    def decode(self, stream: bytes, z_hat: FloatArray, order: kernels.Order) -> FloatArray:
        """See `Exact`."""
        features = self.features(z_hat)
        with self._cupy.cuda.Device(self._number):
            _check(features, z_hat)
            decoder = self._cuda.Decoder(stream, self.table)
            y_hat = self._cuda.decode_latent(decoder, features, self.model, order)
            decoder.close()
            return self._cupy.asnumpy(y_hat)


def _check(features: Any, z_hat: FloatArray) -> None:
    if not np.isfinite(features).all():
        raise CorruptStream(f"a hyper-latent up to {np.abs(z_hat).max()} gives features that aren't finite")
