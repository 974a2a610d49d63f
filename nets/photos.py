"""Random crops from a folder of photos, each a pure function of (seed, step, index)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .images import IMAGE_SUFFIXES, ImageError, read_image, read_size

CACHE_BYTES = 1 << 30


class Photos:
    """The photos below a folder that are at least `crop` pixels on each side.

    `skipped` names what was left out and why. Only headers are read at first; decoded photos stay in
    memory up to 1 GiB. Not safe to share between threads.
    """

    def __init__(self, folder: Path, crop: int) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder")
        self.crop = crop
        self.skipped: list[tuple[Path, str]] = []
        self.paths: list[Path] = []
        self._cache: dict[int, NDArray[np.uint8]] = {}
        self._cached_bytes = 0
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES):
            try:
                width, height = read_size(path)
                if min(width, height) < crop:
                    raise ImageError(f"{width}x{height} is smaller than the crop of {crop}")
                self.paths.append(path)
            except (ImageError, OSError) as error:
                self.skipped.append((path, str(error)))
        if not self.paths:
            reasons = "".join(f"\n  {path}: {reason}" for path, reason in self.skipped[:5])
            raise ValueError(f"{folder} holds no photo of at least {crop}x{crop} pixels{reasons}")

        self._folder = folder

    @property
    def digest(self) -> str:
        """Of the photos' names and bytes' numbers: another one means other crops."""
        sha = hashlib.sha256()
        for path in self.paths:
            sha.update(f"{path.relative_to(self._folder).as_posix()} {path.stat().st_size}\n".encode())
        return sha.hexdigest()

    def _pixels(self, index: int) -> NDArray[np.uint8]:
        pixels = self._cache.get(index)
        if pixels is None:
            pixels = read_image(self.paths[index]).pixels
            if self._cached_bytes + pixels.nbytes <= CACHE_BYTES:
                self._cache[index] = pixels
                self._cached_bytes += pixels.nbytes
        return pixels

    def batch(self, rng_key: Sequence[int], size: int) -> NDArray[np.uint8]:
        """(size, crop, crop, 3) crops, flipped left to right at random, drawn from the given key alone."""
        rng = np.random.default_rng(rng_key)
        crops = np.empty((size, self.crop, self.crop, 3), np.uint8)
        for i in range(size):
            pixels = self._pixels(int(rng.integers(len(self.paths))))
            top, left = (int(rng.integers(side - self.crop + 1)) for side in pixels.shape[:2])
            crop = pixels[top : top + self.crop, left : left + self.crop]
            crops[i] = crop[:, ::-1] if rng.integers(2) else crop
        return crops
