"""Coding with one system under random weights: times by part, and every latent compared."""

from __future__ import annotations

import gc
import hashlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from .. import entropy
from ..entropy import mixture
from ..kernels import cpu
from ..nets import registry
from ..nets.codec import ImageCodec
from ..nets.container import Container
from ..nets.demo import demo_photo
from ..nets.export import export_weights
from ..nets.latents import Latents
from ..nets.weights import Weights, write_weights
from .decoders import Parts, split, split_by_ticks
from .measure import one_line
from .plausible import draw, plausible

PARTS = ("transforms", "features", "context", "nets", "index", "coder", "rest")
"""Where time goes: analysis or synthesis, in torch; exact layers from side information; what reads decoded
positions; the networks behind it; making table rows or mixtures; the coder and write-back; checks, memory,
and all else. Encoding counts context and index as nets."""


@dataclass
class Row:
    """A system, coding one image in one order. Times in ms by PARTS, of the run of median length."""

    system: str
    order: str
    steps: int
    width: int
    height: int
    threads: int
    symbols: int
    """Elements of y."""
    bytes: int = 0
    """Of the whole file."""
    encode_ms: dict[str, float] = field(default_factory=dict)
    decode_ms: dict[str, float] = field(default_factory=dict)
    encode_runs_ms: list[float] = field(default_factory=list)
    decode_runs_ms: list[float] = field(default_factory=list)
    coder_share: float = 0.0
    """Of decoding, from file to pixels."""
    coder_share_of_latents: float = 0.0
    """Of decoding, from file to y_hat."""
    exact: bool = False
    """Whether every decoder found the encoder's latents."""
    other_process: bool = False
    """Whether one of them was another process."""
    error: str = ""

    @property
    def title(self) -> str:
        """What is measured, in words."""
        return f"{self.system}, {self.order}, {self.width}x{self.height}, {self.threads} thread(s)"


def measure_system(
    name: str,
    config: Mapping[str, Any],
    orders: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    teams: Sequence[int],
    runs: int,
    console: Console,
    then: Callable[[ImageCodec, Row], None] | None = None,
) -> list[Row]:
    """A row for each order, or for the system's own if none are given, size and number of threads.

    Another process decodes what the first row codes. then: gets the codec and each row that is right.
    """
    with torch.device("meta"):
        system = registry.make(name, **config)
    rows = []
    for width, height in sizes:
        h, w = system.positions(width, height)
        for order in orders or system.orders[:1]:
            about = name, order, system.steps(order, width, height), width, height
            rows += [Row(*about, threads, h * w * system.m) for threads in teams]
    pixels = {size: photo(*size) for size in sizes}
    with console.status(name):
        try:
            torch.set_num_threads(max(teams))
            weights = export_weights(plausible(name, **config), name, {}, "float32")
            codec = ImageCodec(weights, threads=max(teams))
            latents = {size: draw(codec, *size) for size in sizes}
        # Whatever goes wrong in one system belongs into its rows, and the others go on.
        except Exception as error:
            for row in rows:
                row.error = one_line(error)
            return rows
        for row in rows:
            size = row.width, row.height
            try:
                _measure(row, codec, pixels[size], latents[size], weights if row is rows[0] else None, runs)
                if then:
                    then(codec, row)
            except Exception as error:
                row.error = one_line(error)
            console.print(_line(row), style="bold red" if row.error else None)
    # A large system takes gigabytes, part of it in cycles.
    del codec, weights, latents
    gc.collect()
    return rows


def _measure(
    row: Row,
    codec: ImageCodec,
    pixels: NDArray[np.uint8],
    latents: Latents,
    weights: Weights | None,
    runs: int,
) -> None:
    """Fills a row. weights: for another process to decode with."""
    torch.set_num_threads(row.threads)
    codec.cpu.threads = row.threads
    container, coded = codec.code(latents, row.width, row.height, row.order)
    data = container.to_bytes()
    row.bytes = len(data)
    encodes, decodes = [], []
    # The first run compiles and warms up.
    for _ in range(runs + 1):
        parts, again = encode(codec, pixels, latents, row.order)
        if again != data:
            raise AssertionError("encoding the same latents again gave another file")
        encodes.append(parts)
        parts, found = decode(codec, data)
        if not found.same_bits(coded):
            raise AssertionError("the round trip failed: the decoded latents are not the encoder's")
        decodes.append(parts)
    if weights is not None:
        if decode_elsewhere(weights, data) != digest(coded):
            raise AssertionError("the latents that another process decoded are not the encoder's")
        row.other_process = True
    row.exact = True
    row.encode_runs_ms, row.encode_ms = _median(encodes[1:])
    row.decode_runs_ms, row.decode_ms = _median(decodes[1:])
    coder, whole = row.decode_ms["coder"], sum(row.decode_ms.values())
    row.coder_share = coder / whole
    row.coder_share_of_latents = coder / (whole - row.decode_ms["transforms"])


def _median(runs: list[Parts]) -> tuple[list[float], dict[str, float]]:
    """Times of all runs in ms, and the parts of that of median length."""
    lengths = [1000 * sum(parts.values()) for parts in runs]
    middle = runs[lengths.index(statistics.median_low(lengths))]
    return lengths, {part: 1000 * middle.get(part, 0.0) for part in PARTS}


def photo(width: int, height: int) -> NDArray[np.uint8]:
    """(height, width, 3): the demo's, cut, or continued by reflections."""
    pixels = demo_photo()
    missing = [(0, max(0, size - own)) for size, own in zip((height, width), pixels.shape[:2], strict=True)]
    return np.ascontiguousarray(np.pad(pixels, (*missing, (0, 0)), "symmetric")[:height, :width])


def encode(codec: ImageCodec, pixels: NDArray[np.uint8], latents: Latents, order: str) -> tuple[Parts, bytes]:
    """Seconds by part of analysing a photo and coding latents, and the file's bytes."""
    parts: Parts = {}
    with split(parts, "transforms"):
        codec.analyse(pixels)
    networks = codec.cpu.encode
    kinds, verbs = (entropy.Encoder, mixture.Encoder), ("put", "finish")
    coders = [(kind, verb, "coder") for kind in kinds for verb in verbs]

    def encode_part(*arguments: Any) -> Any:
        with split(parts, "nets", *coders):
            return networks(*arguments)

    calls = (codec.cpu, "features", "features"), (entropy, "encode", "coder")
    with patch.object(codec.cpu, "encode", encode_part), split(parts, "rest", *calls):
        container = codec.encode(latents, pixels.shape[1], pixels.shape[0], order)
        return parts, container.to_bytes()


def decode(codec: ImageCodec, data: bytes) -> tuple[Parts, Latents]:
    """Seconds by part of decoding a file to pixels, and its latents."""
    parts: Parts = {}
    whole: Any = codec.cpu.decode_from

    def decode_from(*arguments: Any) -> Any:
        with split_by_ticks(parts, cpu.ticks) as ticks:
            return whole(*arguments, ticks=ticks)

    calls = (
        (codec.cpu, "features", "features"),
        (codec.cpu, "decoder", "coder"),
        (entropy, "decode", "coder"),
    )
    with patch.object(codec.cpu, "decode_from", decode_from), split(parts, "rest", *calls):
        container = Container.from_bytes(data)
        latents = codec.decode(container)
    with split(parts, "transforms"):
        codec.synthesise(latents.y, container.width, container.height)
    return parts, latents


def digest(latents: Latents) -> str:
    """SHA-256 of all latents' bytes."""
    arrays = [latents.y, *(latents.sides[name] for name in sorted(latents.sides))]
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


DECODE = """
import pathlib, sys
from quadrans.bench.systems_measure import digest
from quadrans.nets import codec, container, weights

folder = pathlib.Path(sys.argv[1])
one = codec.ImageCodec(weights.read_weights(folder / "weights.safetensors"))
print(digest(one.decode(container.Container.from_bytes((folder / "photo.qdr").read_bytes()))))
"""


def decode_elsewhere(weights: Weights, data: bytes) -> str:
    """`digest` of what a new process decodes from a file, with weights that it reads from another."""
    with tempfile.TemporaryDirectory() as folder:
        write_weights(Path(folder) / "weights.safetensors", weights)
        (Path(folder) / "photo.qdr").write_bytes(data)
        command = [sys.executable, "-c", DECODE, folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"another process failed: {done.stderr.strip()[-300:]}")
        return done.stdout.strip()


def _line(row: Row) -> str:
    if row.error:
        return f"{row.title}: {row.error}"
    encoding, decoding = (f"{sum(ms.values()):,.0f} ms" for ms in (row.encode_ms, row.decode_ms))
    return f"{row.title}: encoding {encoding}, decoding {decoding}, coder {row.coder_share:.1%}"
