"""One photo under one model: a whole file, decoded again, what it cost, how long it took, what was lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ...kernels import Order
from ..codec import ImageCodec
from ..container import Container
from ..entropy_model import Coded
from .quality import ms_ssim, psnr
from .rows import TIMES, Row, steps_of

T = TypeVar("T")


@dataclass(frozen=True)
class Measurement:
    """A row, and the arrays behind it."""

    row: Row
    bits: Mapping[str, NDArray[np.float64]]
    """(rows, cols, C) of each stream: -log2 p of each symbol under the coder's integers."""
    normalized: Mapping[str, NDArray[np.float32]]
    """(H, W, M) of each part of y: (y - mean) / scale, by the scales of the densities, which are floored."""
    orders: Mapping[str, Order]
    """Of each part of y."""
    covered: tuple[int, int]
    """(width, height) in pixels that the latents cover: the photo's, padded."""


def measure(
    codec: ImageCodec,
    pixels: NDArray[np.uint8],
    order: str | None = None,
    photo: str = "",
    curve: str = "",
    point: str = "",
) -> Measurement:
    """Code and decode (H, W, 3) uint8 RGB.

    Normalized is what enters the coder: where y is rounded about means it is not yet rounded, elsewhere it
    is. Where what is decoded is refined, estimate and normalized latents are the encoder's. Raises
    ValueError if the file decodes to other latents, on the codec's device or on the CPU, and what the codec
    raises.
    """
    height, width = pixels.shape[:2]
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], T]) -> T:
        started = time.perf_counter()
        result = work()
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
        return result

    analysis, encoding, decoding, synthesis = TIMES
    latents = timed(analysis, lambda: codec.analyse(pixels))
    # Unmeasured: how many lanes the coder has follows from the photo, and each number is compiled once.
    codec.decode(codec.encode(latents, width, height, order))
    container, coded = timed(encoding, lambda: codec.code(latents, width, height, order))
    data = timed(encoding, container.to_bytes)
    read = timed(decoding, lambda: Container.from_bytes(data))
    decoded = timed(decoding, lambda: codec.decode(read))
    shown = timed(synthesis, lambda: codec.synthesise(decoded.y, width, height))

    inspection = codec.inspect(read)
    for found, where in ((decoded, codec.device), (inspection.latents, "the CPU")):
        if not found.same_bits(coded):
            raise ValueError(
                f"{photo}: the {len(data)} bytes of {codec.name} in order {read.order} decode to another "
                f"latent on {where}"
            )
    side_bits, densities = codec.densities(latents, coded, read.order)
    estimate = [*side_bits.values(), *(one.bits for one in densities.values())]
    bits = {name: section.bits for name, section in inspection.sections.items()}
    parts = codec.system.parts()
    normalized = {
        name: _normalized(latents.y[:, :, parts[name].start : parts[name].stop], one)
        for name, one in densities.items()
    }
    orders = {name: codec.order(name, read.order, width, height) for name in parts}
    row = Row(
        *(photo, curve, point, width, height, len(data), psnr(pixels, shown), ms_ssim(pixels, shown)),
        order=read.order,
        model_bytes=sum(float(one.cpu().double().sum()) for one in estimate) / 8,
        ideal_bytes=inspection.bits / 8,
        sections={name: len(stream) for name, stream in read.sections.items()},
        seconds=seconds,
        steps={name: steps_of(orders[name], bits[name], normalized[name]) for name in parts},
    )
    rows, cols, _ = coded.y.shape
    stride = codec.system.stride
    return Measurement(row, bits, normalized, orders, (cols * stride, rows * stride))


def _normalized(y: NDArray[np.float32], coded: Coded) -> NDArray[np.float32]:
    means, scales = (one[0].permute(1, 2, 0).cpu().numpy() for one in (coded.means, coded.scales))
    return (y - means) / scales
