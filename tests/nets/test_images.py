"""What photos are accepted, and what becomes of grey, alpha, palettes, orientation and deep samples."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from quadrans.nets.images import ImageError, Photo, read_image, write_image

rng = np.random.default_rng(0)
RGB = rng.integers(0, 256, (5, 7, 3), np.uint8)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_rgb_is_unchanged(tmp_path: Path) -> None:
    photo = read_image(saved(tmp_path / "a.png", Image.fromarray(RGB)))
    assert np.array_equal(photo.pixels, RGB)
    assert photo.notes == ()


def test_grey_becomes_rgb(tmp_path: Path) -> None:
    photo = read_image(saved(tmp_path / "a.png", Image.fromarray(RGB[..., 0])))
    assert np.array_equal(photo.pixels, np.repeat(RGB[..., :1], 3, 2))
    assert photo.notes == ("grey coded as RGB",)


def test_alpha_is_blended_onto_white(tmp_path: Path) -> None:
    alpha = np.zeros((5, 7, 1), np.uint8)
    alpha[:, 3:] = 255
    photo = read_image(saved(tmp_path / "a.png", Image.fromarray(np.concatenate([RGB, alpha], 2))))
    assert (photo.pixels[:, :3] == 255).all()
    assert np.array_equal(photo.pixels[:, 3:], RGB[:, 3:])
    assert photo.notes == ("transparency blended onto white",)


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    photo = read_image(saved(tmp_path / "a.png", image, transparency=0))
    assert photo.pixels.tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = read_image(saved(tmp_path / "a.png", Image.fromarray(RGB), exif=exif))
    assert np.array_equal(photo.pixels, np.rot90(RGB, -1))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_grey_is_refused(tmp_path: Path, mode: str) -> None:
    dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
    path = saved(tmp_path / "a.tif", Image.fromarray(np.ones((4, 4), dtype)))
    with pytest.raises(ImageError, match="more than 8 bits"):
        read_image(path)


def test_deep_rgb_png_is_refused(tmp_path: Path) -> None:
    """Pillow would read 48-bit RGB as its upper 8 bits without a word."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(6 * 3) for _ in range(2))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 16, 2, 0, 0, 0))
    path = tmp_path / "deep.png"
    path.write_bytes(data + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    with pytest.raises(ImageError, match="more than 8 bits"):
        read_image(path)


def test_deep_ppm_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.ppm"
    path.write_bytes(b"P6 1 1 65535\n" + bytes(6))
    with pytest.raises(ImageError, match="more than 8 bits"):
        read_image(path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = saved(
        tmp_path / "a.png", Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8))
    ).read_bytes()
    for length in (0, 7, 20, len(whole) // 2, len(whole) - 60):
        path = tmp_path / "cut.png"
        path.write_bytes(whole[:length])
        with pytest.raises(ImageError):
            read_image(path)


def test_written_png_reads_back(tmp_path: Path) -> None:
    write_image(tmp_path / "no-suffix", RGB)
    assert np.array_equal(read_image(tmp_path / "no-suffix").pixels, RGB)


def icc(kind: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(kind)).tobytes()


def with_profile(folder: Path, profile: bytes) -> Photo:
    return read_image(saved(folder / "a.png", Image.fromarray(RGB), icc_profile=profile))


def test_colour_profiles(tmp_path: Path) -> None:
    """sRGB is left alone; what is unreadable, or of another kind of colour, is ignored with a note."""
    photo = with_profile(tmp_path, icc("sRGB"))
    assert np.array_equal(photo.pixels, RGB)
    assert photo.notes == ()
    for profile in (b"nonsense", icc("LAB")):
        assert with_profile(tmp_path, profile).notes == ("colour profile unreadable, ignored",)
    swapped = icc("sRGB").replace(b"rXYZ", b"xXYZ").replace(b"bXYZ", b"rXYZ").replace(b"xXYZ", b"bXYZ")
    photo = with_profile(tmp_path, swapped.replace("sRGB".encode("utf-16be"), "sw\x1bp".encode("utf-16be")))
    assert np.abs(photo.pixels[..., ::-1].astype(int) - RGB).max() <= 2
    (note,) = photo.notes
    assert "converted from 'sw\\x1bp" in note


def test_frames_are_counted(tmp_path: Path) -> None:
    frames = [Image.fromarray(RGB), Image.fromarray(RGB[::-1])]
    photo = read_image(saved(tmp_path / "a.tif", frames[0], save_all=True, append_images=frames[1:]))
    assert np.array_equal(photo.pixels, RGB)
    assert photo.notes == ("first of 2 frames",)


def test_other_formats_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path, "GIF")
    with pytest.raises(ImageError, match="not a readable image of PNG, JPEG"):
        read_image(path)


def test_too_many_pixels_are_refused_at_once(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.new("1", (8193, 8192)))
    with pytest.raises(ImageError, match="8193x8192 pixels exceed"):
        read_image(path)


def test_pipes_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ImageError, match="not a regular file"):
        read_image(tmp_path / "a.png")
