"""Reading and writing of photos through Pillow: what is accepted, and how it becomes RGB."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

try:
    from PIL import Image, ImageOps, UnidentifiedImageError
except ImportError as error:
    raise ImportError("photos need Pillow: pip install 'quadrans[codec]'") from error

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
MAX_PIXELS = 1 << 28
"""Photos above this count of pixels (16384 x 16384) are refused, on the way in and out."""


class ImageError(ValueError):
    """A photo that can't be read, or of a kind that is not supported."""


@dataclass(frozen=True)
class Photo:
    """`pixels` is (H, W, 3) uint8 RGB. `notes` says what reading changed (grey made RGB, alpha blended)."""

    pixels: NDArray[np.uint8]
    notes: tuple[str, ...] = ()


def read_image(path: Path) -> Photo:
    """Read a photo as 8-bit RGB, turned upright by its EXIF orientation.

    Grey becomes RGB with equal channels; transparency is blended onto white. Raises ImageError on files that
    are no image, are cut short, have 16 bits or floats per sample, or more than `MAX_PIXELS` pixels.
    """
    notes = []
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(
                    f"{path}: {image.width}x{image.height} pixels exceed the limit of {MAX_PIXELS}"
                )
            if image.mode.startswith(("I", "F")) or _is_deep(image):
                raise ImageError(
                    f"{path}: mode {image.mode} has more than 8 bits per sample; convert to 8 bits"
                )
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                notes.append("transparency blended onto white")
                rgba = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            elif upright.mode in ("1", "L"):
                notes.append("grey coded as RGB")
            elif upright.mode not in ("RGB", "P"):
                notes.append(f"{upright.mode} converted to RGB")
            return Photo(np.asarray(upright.convert("RGB")), tuple(notes))
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise ImageError(f"{path}: not a readable image ({error})") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ImageError(f"{path}: damaged image ({error})") from error


def _is_deep(image: Image.Image) -> bool:
    """Whether the file holds 16 bits per sample that Pillow would silently cut to 8 (RGB PNG, TIFF, PPM)."""
    bits = getattr(image, "tag_v2", {}).get(258, (8,))
    if max(bits) > 8:
        return True
    for codec, _, _, arguments in getattr(image, "tile", ()):
        # The raw mode says "RGB;16B" and the like; PPM's decoder takes the largest sample value instead.
        for argument in arguments if isinstance(arguments, tuple) else (arguments,):
            if isinstance(argument, str) and "16" in argument:
                return True
            if codec.startswith("ppm") and isinstance(argument, int) and argument > 255:
                return True
    return False


def write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write (H, W, 3) uint8 RGB as PNG to an open temporary path (the format does not follow the suffix)."""
    Image.fromarray(pixels).save(path, format="PNG")
