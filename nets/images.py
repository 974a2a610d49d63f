"""Reading and writing of photos through Pillow: what is accepted, and how it becomes RGB."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .container import MAX_PIXELS

try:
    from PIL import Image, ImageCms, ImageOps, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin
except ImportError as error:
    raise ImportError("photos need Pillow: pip install 'quadrans[codec]'") from error

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
# Importing the last two plugins registers them; Pillow itself does so only after all else has failed.
FORMATS = (
    *("PNG", "JPEG", "BMP", "PPM"),
    WebPImagePlugin.WebPImageFile.format,
    TiffImagePlugin.TiffImageFile.format,
)


class ImageError(ValueError):
    """A photo that can't be read, or of a kind that is not supported."""


@dataclass(frozen=True)
class Photo:
    """`pixels` is (H, W, 3) uint8 RGB. `notes` says what reading changed (grey made RGB, alpha blended)."""

    pixels: NDArray[np.uint8]
    notes: tuple[str, ...] = ()


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file's image, its header checked and its pixels not yet decoded; see `read_image` for errors."""
    if path.exists() and not path.is_file():
        raise ImageError(f"{path} is not a regular file")
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images; the limit below refuses them.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(
                    f"{path}: {image.width}x{image.height} pixels exceed the limit of {MAX_PIXELS}"
                )
            if image.mode.startswith(("I", "F")) or _is_deep(image):
                raise ImageError(
                    f"{path}: mode {image.mode} has more than 8 bits per sample; convert to 8 bits"
                )
            yield image
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: not a readable image of {', '.join(FORMATS)}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ImageError(f"{path}: damaged image ({error})") from error
    except Exception as error:
        # Pillow's plugins answer damage with whatever their parsing ran into: struct.error, KeyError, ...
        raise ImageError(f"{path}: damaged or unsupported image ({error})") from error


def read_size(path: Path) -> tuple[int, int]:
    """(width, height) as stored, from the header alone. Errors as `read_image`, but for damaged pixels."""
    with _opened(path) as image:
        return image.size


def read_image(path: Path) -> Photo:
    """Read a photo as 8-bit RGB, turned upright by its EXIF orientation.

    Grey becomes RGB with equal channels; transparency is blended onto white; colours of an embedded
    profile are converted to sRGB; of several frames the first is read. Raises ImageError on files that
    are no image, are cut short, have 16 bits or floats per sample, or more than `MAX_PIXELS` pixels;
    OSError on files that can't be opened.
    """
    notes: list[str] = []
    with _opened(path) as image:
        if (frames := getattr(image, "n_frames", 1)) > 1:
            notes.append(f"first of {frames} frames")
        upright = _in_srgb(ImageOps.exif_transpose(image), notes)
        if upright.has_transparency_data:
            notes.append("transparency blended onto white")
            rgba = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        elif upright.mode in ("1", "L"):
            notes.append("grey coded as RGB")
        elif upright.mode not in ("RGB", "P"):
            notes.append(f"{upright.mode} converted to RGB")
        return Photo(np.asarray(upright.convert("RGB")), tuple(notes))


def _in_srgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """The image with the colours of its ICC profile converted to sRGB, if it has another one."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "CMYK", "L"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        name = ImageCms.getProfileDescription(source).strip()
        if "srgb" in name.lower():
            return image
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        notes.append("colour profile unreadable, ignored")
        return image
    assert converted is not None
    notes.append(f"colours converted from {name[:40]!r} to sRGB")
    return converted


def _is_deep(image: Image.Image) -> bool:
    """Whether the file holds 16 bits per sample that Pillow would silently cut to 8 (RGB PNG, TIFF, PPM)."""
    bits = getattr(image, "tag_v2", {}).get(258, (8,))
    if max(bits) > 8:
        return True
    for codec, _, _, arguments in getattr(image, "tile", ()):
        # The raw mode says "RGB;16B" and the like, but BGR;16 is 5, 6 and 5 bits of a BMP. PPM's decoder
        # takes the largest sample value instead.
        for argument in arguments if isinstance(arguments, tuple) else (arguments,):
            if isinstance(argument, str) and "16" in argument and not argument.startswith("BGR;"):
                return True
            if codec.startswith("ppm") and isinstance(argument, int) and argument > 255:
                return True
    return False


def write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write (H, W, 3) uint8 RGB as PNG to an open temporary path (the format does not follow the suffix)."""
    Image.fromarray(pixels).save(path, format="PNG")
