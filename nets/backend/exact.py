"""Backends whose distributions follow from what is given in exact kernels: equal bits on every machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ... import kernels
from ...entropy import CdfTable, CorruptStream, mixture
from ..entropy_model import EntropyModel
from ..exact import Exact, ExactPart, OnCpu, OnCuda
from ..system import ExactFeatures
from . import stream as stream_head
from .latent import check_limit
from .orders import Orders
from .tables import INTEGER, RESIDUAL, check_rows, rule, table_and_thresholds
from .tensors import FloatArray, channels_last, check_same_shape, planes

_LATENT = "y"


class ExactCoder:
    """Codes the latent of one image, by the loops of `nets.exact`."""

    def __init__(self, exact: Exact, orders: Orders, names: tuple[str, ...]) -> None:
        """exact: of one part, "y". names: of the given tensors, as its layers read them."""
        self._exact, self._orders, self._names = exact, orders, names
        self._part = exact.parts[_LATENT]
        self.channels: int | None = self._part.model.channels
        self.given: int | None = len(names)

    def encode(self, y: Tensor, given: tuple[Tensor, ...]) -> tuple[bytes, FloatArray]:
        """(stream, y_hat (M, H, W), any strides) of y (1, M, H, W). ValueError for what doesn't fit."""
        values = self._latent(y)
        sides = self._sides(given)
        features, order, crc = self._prepared(sides, ValueError)
        check_same_shape("y", y, (1, self._part.model.channels, order.height, order.width))
        stream, y_hat = self._exact.encode(_LATENT, values, features, order)
        fingerprint = stream_head.with_given(crc, list(sides.values()))
        return stream_head.with_head(stream_head.EXACT, fingerprint, stream), y_hat.transpose(2, 0, 1)

    def decode(self, data: Any, given: tuple[Tensor, ...]) -> FloatArray:
        """y_hat (M, H, W), any strides. Raises CorruptStream, TableMismatch."""
        opened = stream_head.opened(data, stream_head.EXACT)
        sides = self._sides(given)
        features, order, crc = self._prepared(sides, CorruptStream)
        stream = opened.checked(stream_head.with_given(crc, list(sides.values())))
        return self._exact.decode(_LATENT, bytes(stream), features, order).transpose(2, 0, 1)

    def bits(self, y: Tensor, given: tuple[Tensor, ...]) -> float:
        """What the symbols of y (1, M, H, W) cost under the table, or the mixtures. Runs on the CPU."""
        part, values = self._part, self._latent(y)
        features, order, _ = self._prepared(self._sides(given), ValueError)
        check_same_shape("y", y, (1, part.model.channels, order.height, order.width))
        plane = _host(features[part.plane])
        inputs = {key: _host(features[key]) for key in part.inputs}
        steps: Any = (part.divided(values, plane), plane, part.model, order)
        if part.table is None:
            return mixture.bits(values.astype(np.int32), kernels.latent_mixtures(*steps, inputs=inputs))
        return part.table.bits(*kernels.latent_symbols(*steps, inputs=inputs))

    def _latent(self, y: Tensor) -> FloatArray:
        image = planes("y", y)
        check_limit(image)
        values = channels_last(image)
        quantization = self._part.model.quantization
        whole = getattr(quantization, "fraction_bits", 0) is not None
        return np.rint(values) if whole else values

    def _sides(self, given: tuple[Tensor, ...]) -> dict[str, FloatArray]:
        """What is given of an image, (H, W, C) each, by name. ValueError for what isn't finite."""
        # -0 + 0 is 0: integers that were rounded are the same as those that were decoded.
        return {
            name: channels_last(planes(f"given {number}", one)) + np.float32(0)
            for number, (name, one) in enumerate(zip(self._names, given, strict=True))
        }

    def _prepared(
        self, sides: Mapping[str, FloatArray], error: type[Exception]
    ) -> tuple[Mapping[str, Any], kernels.Order, int]:
        """(features, order, what the fingerprint continues) of an image."""
        features = self._exact.features(sides, error)
        height, width = features[self._part.plane].shape[:2]
        return features, *self._orders(height, width)


def _host(array: Any) -> FloatArray:
    """An array of NumPy, or of CuPy."""
    return array.get() if hasattr(array, "get") else array  # type: ignore[no-any-return]


@dataclass(frozen=True)
class ExactRecipe:
    """What makes an `ExactCoder` of an entropy model; it can be pickled if the model can.

    hyper: the exact layer from what is given to features; None: features are given, and the model's inputs
    after them. Or an `ExactFeatures` for each of them by name; given is then what these read, in the sequence
    in which they name it.
    """

    model: EntropyModel
    order: str
    hyper: kernels.Layer | Mapping[str, ExactFeatures] | None
    table: CdfTable | None
    thresholds: ArrayLike | None
    device: str
    threads: int
    mode: ClassVar[str] = "exact"

    def build(self) -> ExactCoder:
        """Raises TypeError for a module that has no exact counterpart; see `EntropyBackend.of`."""
        self.model.check_order(self.order)
        lowered, table = self._quantized()
        plane, others = self.model.plane, self.model.inputs
        part = ExactPart(lowered, plane, others, table, self.model.least_step)
        layers = self._layers(plane, others)
        names = tuple(dict.fromkeys(name for one in layers.values() for name in one.reads))
        return exact_coder(part, layers, names, self._order, self.device, self.threads)

    def _order(self, height: int, width: int) -> kernels.Order:
        return self.model.order(self.order, height, width)

    def _layers(self, plane: str, others: tuple[str, ...]) -> dict[str, ExactFeatures]:
        if isinstance(self.hyper, Mapping):
            needed = sorted({plane, *others})
            if sorted(self.hyper) != needed:
                raise ValueError(f"hyper layers for {sorted(self.hyper)}, the model reads {needed}")
            return dict(self.hyper)
        if self.hyper is not None:
            if others:
                raise ValueError(f"the model reads {', '.join(others)}, too: name a hyper layer for each")
            return {plane: ExactFeatures(self.hyper)}
        return {name: ExactFeatures(kernels.Sequential(), (name,)) for name in (plane, *others)}

    def _quantized(self) -> tuple[Any, CdfTable | None]:
        """(the lowered model, its table), quantized as the recipe says."""
        lowered: Any = self.model.lower()
        if isinstance(lowered.quantization, kernels.MixtureQuantization):
            if self.table is not None or self.thresholds is not None:
                raise ValueError("a model of mixtures has neither table nor thresholds")
            return lowered, None
        rounding = RESIDUAL if lowered.quantization.fraction_bits is None else INTEGER
        thresholds = lowered.quantization.thresholds if self.thresholds is None else self.thresholds
        if self.table is None and self.thresholds is not None:
            raise ValueError("other thresholds need a table with a row for each scale between them")
        table, thresholds = table_and_thresholds(rounding, None, self.table, thresholds)
        own = rule(rounding, thresholds)
        check_rows(table, own)
        return replace(lowered, quantization=own), table


def exact_coder(
    part: ExactPart,
    layers: Mapping[str, ExactFeatures],
    names: tuple[str, ...],
    order: Any,
    device: str,
    threads: int,
) -> ExactCoder:
    """order: a function (height, width) -> Order. ValueError for a device that is neither a CPU nor CUDA."""
    try:
        where = torch.device(device)
    except RuntimeError:
        where = None
    if where is None or where.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda, not {device!r}")
    described = part.model, part.plane, part.least_step, dict(layers)
    quantization = part.model.quantization
    if isinstance(quantization, kernels.MixtureQuantization):
        rounding = "mixture"
    else:
        rounding = RESIDUAL if quantization.fraction_bits is None else INTEGER
    crc = stream_head.own_fingerprint(stream_head.EXACT, rounding, part.table, described)
    parts = {_LATENT: part}
    on_cuda = where.type == "cuda"
    exact = OnCuda(layers, parts, where.index or 0) if on_cuda else OnCpu(layers, parts, threads)
    return ExactCoder(exact, Orders(order, crc), names)
