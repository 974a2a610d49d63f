"""Reference codecs: Pillow's JPEG, JPEG 2000 and WebP, a curve of settings each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from .quality import ms_ssim, psnr
from .rows import Row


@dataclass(frozen=True)
class Reference:
    """A codec of Pillow."""

    format: str
    feature: str
    """What `PIL.features` calls it."""
    settings: Mapping[str, Mapping[str, Any]]
    """The points of its curve: what is saved with, by name."""
    fitted: Callable[[int], Mapping[str, Any]] = lambda side: {}
    """Further options, for an image whose smaller side is that long."""


def _resolutions(side: int) -> dict[str, int]:
    """JPEG 2000 halves its images five times, but no side below one sample."""
    return {"num_resolutions": min(6, side.bit_length())}


REFERENCES: Mapping[str, Reference] = {
    "jpeg": Reference(
        "JPEG",
        "jpg",
        {
            f"quality {q}": {"quality": q, "subsampling": "4:2:0", "optimize": True}
            for q in (5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90)
        },
    ),
    # Without mct=1 Pillow codes R, G and B apart from each other, which costs some 4 dB.
    "jpeg2000": Reference(
        "JPEG2000",
        "jpg_2000",
        {
            f"{bpp} bpp": {
                "irreversible": True,
                "mct": 1,
                "quality_mode": "rates",
                "quality_layers": [24 / bpp],
            }
            for bpp in (0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0)
        },
        _resolutions,
    ),
    "webp": Reference(
        "WEBP",
        "webp",
        {f"quality {q}": {"quality": q, "method": 6} for q in (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90)},
    ),
}
"""JPEG with 4:2:0 chroma and optimized Huffman tables; JPEG 2000 (.jp2), irreversible, at given rates; WebP,
lossy, at its slowest."""


def select(names: str) -> tuple[list[str], dict[str, str]]:
    """(those at hand, why each of the others is left out) of comma-separated names of REFERENCES, or "none".

    Raises ValueError for other names.
    """
    chosen = [] if names == "none" else list(dict.fromkeys(names.split(",")))
    if unknown := [name for name in chosen if name not in REFERENCES]:
        raise ValueError(f"unknown reference {', '.join(map(repr, unknown))}; known: {', '.join(REFERENCES)}")
    left_out = {
        name: f"this Pillow was built without {REFERENCES[name].format}"
        for name in chosen
        if not features.check(REFERENCES[name].feature)
    }
    return [name for name in chosen if name not in left_out], left_out


def measure_reference(name: str, pixels: NDArray[np.uint8], photo: str = "") -> Iterator[Row]:
    """A row for each setting, of (H, W, 3) uint8 RGB. Raises ValueError where Pillow can't code it."""
    reference = REFERENCES[name]
    height, width = pixels.shape[:2]
    for point, setting in reference.settings.items():
        file = BytesIO()
        try:
            options = {**setting, **reference.fitted(min(height, width))}
            Image.fromarray(pixels).save(file, reference.format, **options)
            with Image.open(file, formats=[reference.format]) as image:
                shown = np.asarray(image.convert("RGB"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{photo}: {name}, {point}, of {width}x{height} pixels: {error}") from error
        distortions = psnr(pixels, shown), ms_ssim(pixels, shown)
        yield Row(photo, name, point, width, height, len(file.getvalue()), *distortions)
