"""An evaluation from beginning to end: what is checked before the work, and the work in its order."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..codec import ImageCodec, build
from ..container import check_name
from ..device import usable_device
from ..files import check_writable, write_file
from ..images import read_image
from ..weights import DIGEST_SHOWN, bundled_models, find_weights
from . import packages, pictures
from .measure import measure
from .references import REFERENCES, measure_reference, select
from .rows import Row

WARM_UP = 64
"""Side of the crop that each codec codes once, unmeasured: much is loaded at the first call."""


@dataclass(frozen=True)
class Choice:
    """A model to evaluate."""

    curve: str
    point: str
    model: str
    """Its bundled name, or path."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured."""

    rows: list[Row]
    anchor: str | None
    left_out: dict[str, str]
    """Reference codecs that this Pillow lacks, with the reason."""
    environment: dict[str, Any]


class Evaluator:
    """Checked before any work: packages, names, photos, orders, files that pictures would overwrite.

    photos: files, in order. models: bundled names or paths, each possibly as CURVE=MODEL. references: names
    of REFERENCES with commas, or "none". threads: of torch and of the exact part; torch's own number if None.
    pictures_folder: made if missing. Raises ValueError, OSError, ImportError.
    """

    def __init__(
        self,
        photos: Sequence[Path],
        models: Sequence[str],
        order: str | None = None,
        references: str = ",".join(REFERENCES),
        anchor: str | None = None,
        device: str = "cpu",
        threads: int | None = None,
        pictures_folder: Path | None = None,
        force: bool = False,
        exact: str | None = None,
    ) -> None:
        packages.check("pytorch_msssim")
        if threads is not None and threads < 1:
            raise ValueError(f"{threads} threads")
        self.threads = threads or torch.get_num_threads()
        self.device, self.exact = str(usable_device(device)), exact
        self.order, self.force = order, force
        self.references, self.left_out = select(references)
        self.photos = list(photos)
        if not (self.photos and (models or self.references)):
            raise ValueError(f"nothing to evaluate: {len(self.photos)} photos, {len(models)} models")
        self.choices = choose(models, order)
        curves = [*dict.fromkeys(choice.curve for choice in self.choices), *self.references]
        if anchor is not None:
            packages.check("bjontegaard")
            if anchor not in curves:
                raise ValueError(f"the anchor {anchor!r} is none of the curves {', '.join(curves)}")
        self.anchor = anchor
        names = Counter(path.name for path in self.photos)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"{', '.join(twice)}: photos of one name, whose rows nobody could tell apart")
        for path in self.photos:
            read_image(path)
        self.pictures = pictures_folder
        if pictures_folder is not None:
            packages.check("matplotlib")
            pictures_folder.mkdir(parents=True, exist_ok=True)
            for path in self.photos:
                for choice in self.choices:
                    for kind in ("bits", "normalized"):
                        check_writable(self._picture(path, choice, kind), force)

    @property
    def total(self) -> int:
        """How often `run` calls `progress`."""
        return len(self.photos) * (len(self.choices) + len(self.references))

    def run(self, progress: Callable[[str], object] = lambda done: None) -> Evaluation:
        """All rows, models first. progress: called with what is done, photo by photo.

        Raises ValueError, as `measure`, for a file that decodes to other latents.
        """
        rows: list[Row] = []
        with _threads(self.threads):
            for choice in self.choices:
                codec = ImageCodec(find_weights(choice.model), self.device, self.threads, self.exact)
                first = self.photos[0]
                crop = np.ascontiguousarray(read_image(first).pixels[:WARM_UP, :WARM_UP])
                measure(codec, crop, self.order, first.name)
                for path in self.photos:
                    rows.append(self._model(codec, choice, path))
                    progress(f"{choice.point}, {path.name}")
            for name in self.references:
                for path in self.photos:
                    rows += measure_reference(name, read_image(path).pixels, path.name)
                    progress(f"{name}, {path.name}")
        return Evaluation(rows, self.anchor, self.left_out, environment(self.device, self.threads))

    def _model(self, codec: ImageCodec, choice: Choice, path: Path) -> Row:
        pixels = read_image(path).pixels
        found = measure(codec, pixels, self.order, path.name, choice.curve, choice.point)
        if self.pictures is not None:
            target = self._picture(path, choice, "bits")
            write_file(target, lambda new: pictures.bit_allocation(new, pixels, found), self.force)
            if found.normalized:
                target = self._picture(path, choice, "normalized")
                write_file(target, lambda new: pictures.normalized_latents(new, found), self.force)
        return found.row

    def _picture(self, photo: Path, choice: Choice, kind: str) -> Path:
        assert self.pictures is not None
        return self.pictures / f"{photo.name}-{choice.point}-{kind}.png"


def choose(models: Sequence[str], order: str | None = None) -> list[Choice]:
    """The models by curve and point: read and built once, so that one which can't run fails before the work.

    A curve is what CURVE=MODEL says, else the system that the weights name, else their architecture. A point
    is the model's name; of several models of one name, name and digest. Raises WeightError or ValueError.
    """
    found: list[tuple[str, str, str, str]] = []
    for given in models:
        curve, model = _named(given)
        weights = find_weights(model)
        orders = build(weights).orders
        if order not in (None, *orders):
            raise ValueError(f"{model} has no coding order {order!r}, only {', '.join(orders)}")
        curve = curve or weights.info.get("system", weights.architecture)
        check_name(curve)
        if curve in REFERENCES:
            raise ValueError(f"{given}: a curve of models can't have the name of the reference {curve}")
        digest = weights.digest[:DIGEST_SHOWN].hex()
        if same := [other for *_, other, known in found if known == digest]:
            raise ValueError(f"{same[0]} and {model} are the same weights")
        found.append((curve, weights.name, model, digest))
    names = Counter(name for _, name, _, _ in found)
    return [
        Choice(curve, name if names[name] == 1 else f"{name}-{digest}", model)
        for curve, name, model, digest in found
    ]


def _named(given: str) -> tuple[str | None, str]:
    """(curve or None, model) of CURVE=MODEL or MODEL."""
    curve, equals, model = given.partition("=")
    if not equals or Path(given).exists() or given in bundled_models():
        return None, given
    return curve, model


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def environment(device: str, threads: int) -> dict[str, Any]:
    """What the figures depend on, the times above all."""
    from llvmlite.binding import get_host_cpu_name
    from PIL import features

    found = {}
    for name in ("quadrans", "numpy", "numba", "torch", "pillow", "pytorch-msssim", "bjontegaard"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    libraries = {one.feature: features.version(one.feature) for one in REFERENCES.values()}
    kind = torch.device(device)
    return {
        "cpu": get_host_cpu_name(),
        "device": torch.cuda.get_device_name(kind) if kind.type == "cuda" else device,
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": found,
        "codecs": libraries,
    }
