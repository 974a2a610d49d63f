"""The image codec: photo to .qdr and back, with torch for the transforms and exact kernels in between.

Analysis and synthesis run in torch and may round differently elsewhere: the first only chooses what is
coded, the second only what the pixels look like. Everything that decides a distribution (hyper-synthesis,
context, head, table index) runs in `quadrans.kernels`, so the decoded latent is the encoder's to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

try:
    import torch
    from torch import Tensor
except ImportError as error:
    raise ImportError("quadrans.nets.codec needs PyTorch: pip install 'quadrans[codec]'") from error

from .. import entropy, kernels
from ..entropy import CdfTable, TableMismatch
from .container import DIGEST_BYTES, MULTIPLE, Container, check_size
from .context import ANCHOR_PARITY, MODES
from .device import usable_device
from .exact import OnCpu, OnCuda
from .lowering import array, bias_array, lower
from .minnen2018 import Minnen2018
from .tiling import tiled
from .weights import WeightError, Weights

STRIDE = 16
"""Pixels on a side for each position of y."""

MODE_OF_ORDER = {
    "raster": "causal",
    "wavefront": "causal",
    "checkerboard": "checkerboard",
    "parallel": "none",
}
"""What each coding order of a .qdr file lets the context convolution see."""


class ModelMismatch(ValueError):
    """A .qdr file that was made with other weights than those at hand."""


def coding_order(order: str, height: int, width: int) -> kernels.Order:
    """The coding order of a .qdr file, by its name there, for a latent of height x width positions."""
    match order:
        case "raster":
            return kernels.raster(height, width, kernels.causal_mask(5))
        case "wavefront":
            return kernels.wavefront(height, width, kernels.causal_mask(5))
        case "checkerboard":
            return kernels.checkerboard(height, width, kernels.checkerboard_mask(5), ANCHOR_PARITY)
        case "parallel":
            return kernels.parallel(height, width)
    raise ValueError(f"unknown coding order {order!r}; known: {', '.join(MODE_OF_ORDER)}")


@cache
def latent_table() -> CdfTable:
    """Rows of scale index * 16 + fraction index: Gaussians of 64 scales and means of -8/16 .. 7/16."""
    scales = entropy.default_scales()
    fractions = np.arange(-kernels.FRACTIONS // 2, kernels.FRACTIONS // 2) / kernels.FRACTIONS
    return entropy.gaussian_table(scales[:, None], fractions)


def build(weights: Weights) -> Minnen2018:
    """The torch module with these weights, in float32, ready for inference.

    Raises WeightError if the tensors or the table are not those of a Minnen2018.
    """
    if weights.architecture != "minnen2018":
        raise WeightError(f"model {weights.name} has the unknown architecture {weights.architecture!r}")
    tensors = {key: torch.from_numpy(value.astype(np.float32)) for key, value in weights.tensors.items()}
    try:
        # On the meta device shapes are compared before anything of a size that the file claims is made.
        with torch.device("meta"):
            net = Minnen2018(len(tensors["g_a.0.weight"]), len(tensors["g_a.6.weight"]))
        net.load_state_dict(tensors, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightError(f"model {weights.name}: tensors do not fit minnen2018 ({error})") from error
    net.context_prediction.make_masks()
    if weights.z_table.rows != net.n:
        raise WeightError(f"model {weights.name}: {weights.z_table.rows} table rows for {net.n} channels")
    return net.channels_last().eval().requires_grad_(False)


@dataclass(frozen=True)
class Latents:
    """What the coder carries: both latents of a photo, as integers."""

    y_hat: NDArray[np.float32]
    """(H/16, W/16, m), integer values"""
    z: NDArray[np.int32]
    """(H/64, W/64, n), distances from the medians"""

    def same_bits(self, other: Latents) -> bool:
        """Whether both arrays of both have the same shape and bytes."""
        pairs = ((self.y_hat, other.y_hat), (self.z, other.z))
        return all(a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


@dataclass(frozen=True)
class Cost:
    """What a photo's latents cost, in bits."""

    model_z: float
    """-log2 of the network's continuous density of z"""
    model_y: float
    """-log2 of the network's continuous density of y"""
    z: float
    """-log2 p under the z table"""
    y: NDArray[np.float64]
    """(H/16, W/16), -log2 p under the y table, summed over channels"""

    @property
    def model(self) -> float:
        """Bits of both latents by the network's densities."""
        return self.model_z + self.model_y

    @property
    def tables(self) -> float:
        """Bits of both latents under the tables: what an ideal coder would write."""
        return self.z + float(self.y.sum())


class ImageCodec:
    """Codes photos with one model. Not tied to an image size; safe to share between threads.

    weights: of a Minnen2018. device: torch device of the transforms. What is exact runs there too if it is a
    CUDA device, through CuPy; else on the CPU, in `threads` threads at once, whose number changes nothing but
    the time. Raises WeightError for weights that don't fit, ValueError for a device that torch can't use,
    ImportError for a CUDA device without CuPy.
    """

    def __init__(self, weights: Weights, device: str = "cpu", threads: int = 1) -> None:
        self.name = weights.name
        self.weight_digest = weights.digest[:DIGEST_BYTES]
        self.device = usable_device(device)
        self.net = build(weights).to(self.device)
        self.z_table, self.y_table = weights.z_table, latent_table()
        thresholds = entropy.scale_thresholds(entropy.default_scales())
        digests = self.z_table.digest + self.y_table.digest
        tables = sha256(digests.encode() + thresholds.astype("<f4").tobytes())
        self.table_digest = tables.digest()[:DIGEST_BYTES]
        self.medians = array(self.net.entropy_bottleneck.medians)
        context = self.net.context_prediction
        head = lower(self.net.entropy_parameters)
        self.context_model = kernels.ContextModel(
            array(context.weight), bias_array(context), head, kernels.Quantization(thresholds)
        )
        self.h_s = lower(self.net.h_s)
        parts = self.h_s, self.context_model, self.y_table
        self._cpu = OnCpu(*parts, threads)
        cuda = self.device.type == "cuda"
        self._exact = OnCuda(*parts, self.device.index or 0) if cuda else self._cpu

    def compress(self, pixels: NDArray[np.uint8], order: str = "wavefront") -> bytes:
        """(H, W, 3) uint8 RGB to the bytes of a .qdr file. Raises ValueError for other arrays and orders."""
        return self.encode(self.analyse(pixels), pixels.shape[1], pixels.shape[0], order).to_bytes()

    def decompress(self, data: bytes) -> NDArray[np.uint8]:
        """The bytes of a .qdr file to (H, W, 3) uint8 RGB. Raises what `decode` raises."""
        container = Container.from_bytes(data)
        latents = self.decode(container)
        return self.synthesise(latents.y_hat, container.width, container.height)

    @torch.inference_mode()
    def analyse(self, pixels: NDArray[np.uint8]) -> Latents:
        """(H, W, 3) uint8 RGB to rounded latents.

        The last row and column are repeated up to multiples of 64. Raises ValueError for other arrays, and
        for images without pixels or beyond `container.MAX_PIXELS`.
        """
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"pixels must be (H, W, 3) uint8, not {pixels.shape} {pixels.dtype}")
        height, width = pixels.shape[:2]
        check_size(width, height)
        padding = ((0, -height % MULTIPLE), (0, -width % MULTIPLE), (0, 0))
        x = torch.from_numpy(np.pad(pixels, padding, mode="edge")).permute(2, 0, 1)[None]
        y = tiled(self._analysis, x, STRIDE, 1)
        z = self.net.h_a(y.to(self.device)) - self.net.entropy_bottleneck.medians[:, None, None]
        # Adding zero turns the -0.0 that rounding may give into the 0.0 that a decoder finds.
        y_hat, z = ((t.round() + 0.0)[0].permute(1, 2, 0).contiguous().cpu() for t in (y, z))
        return Latents(y_hat.numpy(), z.to(torch.int32).numpy())

    def _analysis(self, x: Tensor) -> Tensor:
        x = x.to(self.device).float() / 255
        return self.net.g_a(x.contiguous(memory_format=torch.channels_last)).cpu()

    @torch.inference_mode()
    def synthesise(self, y_hat: NDArray[np.float32], width: int, height: int) -> NDArray[np.uint8]:
        """A latent (h, w, m) to (height, width, 3) uint8 RGB. Raises ValueError if the sizes don't fit."""
        self._check_latent(y_hat, width, height)
        x = tiled(self._synthesis, torch.from_numpy(y_hat).permute(2, 0, 1)[None], 1, STRIDE)
        return x[0, :, :height, :width].permute(1, 2, 0).contiguous().numpy()

    def _synthesis(self, y_hat: Tensor) -> Tensor:
        x = self.net.g_s(y_hat.to(self.device).contiguous(memory_format=torch.channels_last))
        # An absurd latent of a forged file can overflow to NaN, which has no defined integer.
        return (x.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8).cpu()

    def features(self, z: NDArray[np.int32]) -> NDArray[np.float32]:
        """Hyper-synthesis of (h, w, n) symbols to (4h, 4w, 2m), exact."""
        return self._cpu.features(self._z_hat(z))

    def _z_hat(self, z: NDArray[np.int32]) -> NDArray[np.float32]:
        return z.astype(np.float32) + self.medians

    def encode(self, latents: Latents, width: int, height: int, order: str = "wavefront") -> Container:
        """Code the latents of a width x height photo. Raises ValueError if they don't fit its size."""
        self._check_latent(latents.y_hat, width, height)
        coding = coding_order(order, *latents.y_hat.shape[:2])
        z = entropy.encode(latents.z, self._channels(latents.z.shape), self.z_table)
        y = self._exact.encode(latents.y_hat, self._z_hat(latents.z), coding)
        return Container(width, height, order, self.name, self.weight_digest, self.table_digest, z, y)

    def decode(self, container: Container) -> Latents:
        """The latents of a .qdr file. Raises CorruptStream, TableMismatch or ModelMismatch."""
        self.check(container)
        h, w = -(-container.height // MULTIPLE), -(-container.width // MULTIPLE)
        z = entropy.decode(container.z, self._channels((h, w, self.net.n)), self.z_table)
        y_hat = self._exact.decode(container.y, self._z_hat(z), coding_order(container.order, 4 * h, 4 * w))
        return Latents(y_hat, z)

    def check(self, container: Container) -> None:
        """Raise ModelMismatch or TableMismatch unless this codec can decode the file."""
        if (container.model, container.weight_digest) != (self.name, self.weight_digest):
            raise ModelMismatch(
                f"made with model {container.model} (weights {container.weight_digest.hex()}), "
                f"not with {self.name} (weights {self.weight_digest.hex()})"
            )
        if container.table_digest != self.table_digest:
            raise TableMismatch(
                f"made with tables {container.table_digest.hex()}, not with {self.table_digest.hex()}"
            )

    def cost(self, latents: Latents, order: str = "wavefront") -> Cost:
        """What the latents cost in a coding order: by the model's own estimate, and under the tables."""
        symbols, indexes = self._symbols(latents, order)
        return Cost(
            *self._model_bits(latents, order),
            self.z_table.bits(latents.z, self._channels(latents.z.shape)),
            self.y_table.symbol_bits(symbols, indexes).sum(-1),
        )

    def account(self, container: Container) -> dict[str, entropy.Report]:
        """Where the bits of a file's streams "z" and "y" went. Raises as `decode`."""
        latents = self.decode(container)
        z_bits, y_bits = self._model_bits(latents, container.order)
        z = latents.z, self._channels(latents.z.shape)
        y = self._symbols(latents, container.order)
        return {
            "z": entropy.report(container.z, *z, self.z_table, z_bits),
            "y": entropy.report(container.y, *y, self.y_table, y_bits),
        }

    def _symbols(self, latents: Latents, order: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        coding = coding_order(order, *latents.y_hat.shape[:2])
        return kernels.latent_symbols(latents.y_hat, self.features(latents.z), self.context_model, coding)

    @torch.inference_mode()
    def _model_bits(self, latents: Latents, order: str) -> tuple[float, float]:
        y_hat, z_hat = (
            torch.from_numpy(latent).permute(2, 0, 1)[None].to(self.device)
            for latent in (latents.y_hat, self._z_hat(latents.z))
        )
        mode = torch.tensor([MODES.index(MODE_OF_ORDER[order])])
        y_bits, z_bits = self.net.latent_bits(y_hat, z_hat, mode)
        return float(z_bits), float(y_bits)

    def _channels(self, shape: tuple[int, ...]) -> NDArray[np.int32]:
        return np.broadcast_to(np.arange(self.net.n, dtype=np.int32), shape)

    def _check_latent(self, y_hat: NDArray[np.float32], width: int, height: int) -> None:
        check_size(width, height)
        expected = (-(-height // MULTIPLE) * 4, -(-width // MULTIPLE) * 4, self.net.m)
        if y_hat.shape != expected:
            raise ValueError(f"y_hat of shape {y_hat.shape}; {width}x{height} pixels have {expected}")
