"""The decoders that `quadrans bench decode` runs: ours on CPUs and GPUs, and serial ones as used today.

Each decodes from z_hat, as a decoder of z gives it, to y_hat, hyper-synthesis included. To add one, write a
function that takes a `Case` and the number of threads, encodes the latent, and returns a `Job`. Its docstring
says what is timed.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .. import entropy, kernels
from ..kernels import cpu
from ..nets.codec import ImageCodec
from .coders import compressai
from .latents import FloatArray, Latent, Network, model

PARTS = ("hyper", "context", "nets", "index", "coder", "transfers", "rest")
"""Where time goes: hyper-synthesis; what reads decoded positions; the layers behind it; making table rows;
the coder and write-back; copies between host and device; checks, memory, and all else."""

SERIAL_PIXELS = 768 * 512
"""Of the largest image that decoders going position by position in Python are given."""

Parts = dict[str, float]
"""Seconds by part."""

Ticks = dict[str, int]


@dataclass(frozen=True, eq=False)
class Case:
    """A latent to decode, and all that a decoder knows beforehand."""

    codec: ImageCodec
    network: Network
    order: kernels.Order
    latent: Latent


@dataclass(frozen=True, eq=False)
class Job:
    """decode(parts) is timed, and gives y_hat, which must equal the encoder's; bytes: of the stream.

    Given parts, it adds the seconds of each of PARTS, and may take longer. host: y_hat to NumPy, not timed.
    """

    y_hat: FloatArray
    bytes: int
    decode: Callable[..., Any]
    host: Callable[[Any], FloatArray] = np.asarray


@dataclass(frozen=True)
class LatentDecoder:
    """A way to decode latents. most: pixels of the largest image; peer: a package that it needs."""

    name: str
    device: str
    about: str
    prepare: Callable[[Case, int], Job]
    orders: frozenset[str] | None
    most: int
    peer: str | None


DECODERS: list[LatentDecoder] = []
"""The first that a table has is what the others are compared with."""


def decoder(
    name: str,
    device: str = "cpu",
    orders: frozenset[str] | None = None,
    most: int = 1 << 62,
    peer: str | None = None,
) -> Callable[[Callable[[Case, int], Job]], Callable[[Case, int], Job]]:
    """Registers what prepares jobs; orders: those that it can decode, all if None."""

    def register(prepare: Callable[[Case, int], Job]) -> Callable[[Case, int], Job]:
        about = " ".join((prepare.__doc__ or "").split())
        DECODERS.append(LatentDecoder(name, device, about, prepare, orders, most, peer))
        return prepare

    return register


@contextmanager
def split(parts: Parts | None, rest: str, *calls: tuple[Any, str, str]) -> Iterator[None]:
    """Adds to `parts` the seconds within: of the calls (owner, method, part), and as `rest` of all else."""
    if parts is None:
        yield
        return
    before = sum(parts.values())
    with ExitStack() as stack:
        for owner, method, part in calls:
            stack.enter_context(patch.object(owner, method, _timed(getattr(owner, method), parts, part)))
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
    _add(parts, rest, seconds - (sum(parts.values()) - before))


def _timed(method: Callable[..., Any], parts: Parts, part: str) -> Callable[..., Any]:
    def timed(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return method(*arguments, **options)
        finally:
            _add(parts, part, time.perf_counter() - start)

    return timed


def _add(parts: Parts, part: str, seconds: float) -> None:
    parts[part] = parts.get(part, 0.0) + seconds


@contextmanager
def split_by_ticks(parts: Parts | None, now: Callable[[], int] | None = None) -> Iterator[Ticks | None]:
    """Gives what `decode_latent` wants as ticks; adds the seconds within to `parts` in their proportions.

    now: the counter that they are of, where the host can read it, so that the rest is known too.
    """
    if parts is None:
        yield None
        return
    ticks: Ticks = {}
    began, start = now() if now else 0, time.perf_counter()
    yield ticks
    seconds, counted = time.perf_counter() - start, sum(ticks.values())
    whole = now() - began if now else counted
    for part, count in {**ticks, "rest": whole - counted}.items():
        _add(parts, part, seconds * count / max(whole, 1))


# Serial decoders in torch


@decoder("compressai", orders=frozenset({"raster"}), most=SERIAL_PIXELS, peer="compressai")
def compressai_serial(case: Case, threads: int) -> Job:
    """JointAutoregressiveHierarchicalPriors with our weights: its h_s, then its _decompress_ar"""
    google, net = compressai_model(case.codec)
    z_hat, y = _tensor(case.latent.z_hat), _tensor(case.latent.y)
    height, width = y.shape[2:]
    kernel, padding = 5, 2

    @torch.inference_mode()
    def decode(parts: Parts | None = None) -> Tensor:
        with split(parts, "hyper"):
            features = net.h_s(z_hat)
        y_hat = torch.zeros_like(padded)
        with split(
            parts,
            "context",
            (net.entropy_parameters, "forward", "nets"),
            (net.gaussian_conditional, "build_indexes", "index"),
            (google.RansDecoder, "decode_stream", "coder"),
        ):
            net._decompress_ar(stream, y_hat, features, height, width, kernel, padding)
        return y_hat

    with torch.inference_mode():
        padded = F.pad(y, (padding,) * 4)
        # Writes the y_hat that its decoder will find into the y that it is given.
        stream = net._compress_ar(padded, net.h_s(z_hat), height, width, kernel, padding)
    inside = partial(_inside, padding=padding)
    return Job(inside(padded), len(stream), decode, inside)


@cache
def compressai_models() -> Any:
    """Its module `models.google`, imported without the packages that its datasets and transforms need."""
    compressai()
    folder = sys.modules["compressai"].__path__[0]
    bare: dict[str, dict[str, Any]] = {
        "compressai.models": {"__path__": [f"{folder}/models"]},
        "compressai.registry.transforms": {"TRANSFORMS": {}, "register_transform": None},
    }
    for name, attributes in bare.items():
        if name not in sys.modules:
            module = sys.modules[name] = ModuleType(name)
            vars(module).update(attributes)
    return importlib.import_module("compressai.models.google")


@cache
def compressai_model(codec: ImageCodec) -> tuple[Any, Any]:
    """(its module, its model with the codec's weights, as far as decoding needs them)."""
    google, ours = compressai_models(), cast(Any, codec.system)
    net = google.JointAutoregressiveHierarchicalPriors(ours.n, ours.m).eval()
    for part in ("h_s", "context_prediction", "entropy_parameters"):
        getattr(net, part).load_state_dict(
            getattr(ours, part).state_dict(), strict=part != "context_prediction"
        )
    with torch.no_grad():
        # Its decoder takes the weights as they are, its encoder those under the mask.
        net.context_prediction.weight.mul_(net.context_prediction.mask)
    net.gaussian_conditional.update_scale_table(google.get_scale_table())
    return google, net


@decoder("torch", orders=frozenset({"raster"}), most=SERIAL_PIXELS)
def torch_serial(case: Case, threads: int) -> Job:
    """position by position, as published decoders are written, with our coder"""
    serial = TorchSerial(case.codec)
    z_hat, y = _tensor(case.latent.z_hat), _tensor(case.latent.y)
    # Its own stream: torch's rounding differs from ours.
    stream = serial.encode(y, z_hat)
    return Job(case.latent.y, len(stream), partial(serial.decode, stream, z_hat), _inside)


class TorchSerial:
    """The serial decoder as it is usually written: crop a window, convolve, run the head, look up indexes,
    decode, write back."""

    def __init__(self, codec: ImageCodec) -> None:
        self.table, self.net = table(codec), cast(Any, codec.system)
        context = self.net.context_prediction
        self.weight = (context.weight * torch.from_numpy(kernels.causal_mask(5)).float()).contiguous()
        self.thresholds = torch.from_numpy(model(codec).quantization.thresholds)

    @torch.inference_mode()
    def encode(self, y: Tensor, z_hat: Tensor) -> bytes:
        padded, features = F.pad(y, (2, 2, 2, 2)), self.net.h_s(z_hat)
        encoder = entropy.Encoder(self.table)
        for row in range(y.shape[2]):
            for col in range(y.shape[3]):
                means, indexes = self.rows(self.parameters(features, padded, row, col))
                encoder.put(y[0, :, row, col].to(torch.int32).numpy() - means, indexes)
        return encoder.finish()

    @torch.inference_mode()
    def decode(self, stream: bytes, z_hat: Tensor, parts: Parts | None = None) -> Tensor:
        """(1, M, H + 4, W + 4)"""
        with split(parts, "hyper"):
            features = self.net.h_s(z_hat)
        height, width = features.shape[2:]
        padded = torch.zeros(1, self.net.m, height + 4, width + 4)
        decoder = entropy.Decoder(stream, self.table)
        head = self.net.entropy_parameters
        with split(
            parts, "context", (head, "forward", "nets"), (self, "rows", "index"), (decoder, "get", "coder")
        ):
            for row in range(height):
                for col in range(width):
                    means, indexes = self.rows(self.parameters(features, padded, row, col))
                    padded[0, :, row + 2, col + 2] = torch.from_numpy(decoder.get(indexes) + means)
            decoder.close()
        return padded

    def parameters(self, features: Tensor, padded: Tensor, row: int, col: int) -> Tensor:
        window = padded[:, :, row : row + 5, col : col + 5]
        context = F.conv2d(window, self.weight, self.net.context_prediction.bias)
        joined = torch.cat([features[:, :, row : row + 1, col : col + 1], context], 1)
        return self.net.entropy_parameters(joined)

    def rows(self, parameters: Tensor) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Integer parts of the means, and rows of the table."""
        scales, means = parameters[0, :, 0, 0].chunk(2)
        fixed = (means * kernels.FRACTIONS).round().to(torch.int32)
        whole = (fixed + kernels.FRACTIONS // 2) // kernels.FRACTIONS
        fraction = fixed - whole * kernels.FRACTIONS + kernels.FRACTIONS // 2
        index = torch.searchsorted(self.thresholds, scales) * kernels.FRACTIONS + fraction
        return whole.numpy(), index.numpy()


def _tensor(plane: FloatArray) -> Tensor:
    """(H, W, C) as (1, C, H, W)."""
    return torch.from_numpy(plane).permute(2, 0, 1)[None]


def _inside(padded: Tensor, padding: int = 2) -> FloatArray:
    """(1, M, H + 2 padding, W + 2 padding) as (H, W, M)."""
    return padded[0, :, padding:-padding, padding:-padding].permute(1, 2, 0).contiguous().numpy()


# Ours


def hyper_synthesis(codec: ImageCodec) -> kernels.Layer:
    """The exact hyper-synthesis."""
    return codec.cpu.layers["features"].layer


def table(codec: ImageCodec) -> entropy.CdfTable:
    """The table of y."""
    found = codec.cpu.parts["y"].table
    assert found is not None
    return found


@decoder("quadrans")
def quadrans_cpu(case: Case, threads: int) -> Job:
    """hyper-synthesis and kernels.decode_latent"""
    codec, network, z_hat = case.codec, case.network.model, case.latent.z_hat
    encoder = entropy.Encoder(table(codec))
    y_hat = _encode(case, encoder, threads)
    stream = encoder.finish()

    def decode(parts: Parts | None = None) -> FloatArray:
        with split(parts, "hyper"):
            features = hyper_synthesis(codec)(z_hat, threads=threads)
        coder = entropy.Decoder(stream, table(codec))
        arguments = coder, features, network, case.order
        with split_by_ticks(parts, cpu.ticks) as ticks:
            out = kernels.decode_latent(*arguments, threads=threads, ticks=ticks)
        coder.close()
        return out

    return Job(y_hat, len(stream), decode)


GPU_LANES, GPU_GROUPS = 32, 16
"""Of streams for GPUs, where a warp decodes a group."""


@decoder("quadrans", "cuda")
def quadrans_cuda(case: Case, threads: int) -> Job:
    """the same on the GPU, of the CPU's stream: from z_hat and stream on the host to y_hat on the device"""
    cuda = importlib.import_module("..kernels.cuda", __package__)
    cupy = cuda.import_cupy()
    codec, network = case.codec, case.network.model
    hyper = cuda.Network(hyper_synthesis(codec))
    encoder = entropy.Encoder(table(codec), GPU_LANES, GPU_GROUPS)
    y_hat = _encode(case, encoder, 1)
    stream = encoder.finish()
    synchronize = cupy.cuda.Device().synchronize

    def decode(parts: Parts | None = None) -> Any:
        with split(parts, "transfers"):
            z_hat, decoder = cupy.asarray(case.latent.z_hat), cuda.Decoder(stream, table(codec))
            synchronize()
        with split(parts, "hyper"):
            features = hyper(z_hat)
            synchronize()
        with split_by_ticks(parts) as ticks:
            out = cuda.decode_latent(decoder, features, network, case.order, ticks=ticks)
            decoder.close()
            synchronize()
        return out

    return Job(y_hat, len(stream), decode, cupy.asnumpy)


def _encode(case: Case, encoder: entropy.Encoder, threads: int) -> FloatArray:
    features = hyper_synthesis(case.codec)(case.latent.z_hat, threads=threads)
    y = case.latent.y
    return kernels.encode_latent(encoder, y, features, case.network.model, case.order, threads=threads)
