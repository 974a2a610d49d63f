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
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from .. import entropy, kernels
from ..entropy import CdfTable, TableMismatch
from .container import DIGEST_BYTES, Container, check_size
from .lowering import array, bias_array, lower
from .minnen2018 import Minnen2018
from .weights import WeightError, Weights


class ModelMismatch(ValueError):
    """A .qdr file that was made with other weights than those at hand."""


@cache
def latent_table() -> CdfTable:
    """Rows of scale index * 16 + fraction index: Gaussians of 64 scales and means of -8/16 .. 7/16."""
    scales = entropy.default_scales()
    fractions = np.arange(-kernels.FRACTIONS // 2, kernels.FRACTIONS // 2) / kernels.FRACTIONS
    return entropy.gaussian_table(scales[:, None], fractions)


def build(weights: Weights) -> Minnen2018:
    """The torch module with these weights, in float32, ready for inference."""
    if weights.architecture != "minnen2018":
        raise WeightError(f"model {weights.name} has the unknown architecture {weights.architecture!r}")
    try:
        net = Minnen2018(weights.tensors["g_a.0.weight"].shape[0], weights.tensors["g_a.6.weight"].shape[0])
        net.load_state_dict({k: torch.from_numpy(v.astype(np.float32)) for k, v in weights.tensors.items()})
    except (KeyError, IndexError, RuntimeError) as error:
        raise WeightError(f"model {weights.name}: tensors do not fit minnen2018 ({error})") from error
    if len(weights.z_table.offsets) != net.n:
        raise WeightError(
            f"model {weights.name}: {len(weights.z_table.offsets)} table rows for {net.n} channels"
        )
    return net.channels_last().eval().requires_grad_(False)


@dataclass(frozen=True)
class Latents:
    """What the coder carries: both latents of a photo, as integers."""

    y_hat: NDArray[np.float32]
    """(H/16, W/16, m), integer values"""
    z: NDArray[np.int32]
    """(H/64, W/64, n), distances from the medians"""


@dataclass(frozen=True)
class Cost:
    """What a photo's latents cost under the tables, in bits."""

    z: float
    y: NDArray[np.float64]
    """(H/16, W/16), summed over channels"""

    @property
    def total(self) -> float:
        return self.z + float(self.y.sum())


class ImageCodec:
    """Codes photos with one model. Not tied to an image size; safe to share between threads."""

    def __init__(self, weights: Weights, device: str = "cpu") -> None:
        self.name = weights.name
        self.weight_digest = weights.digest[:DIGEST_BYTES]
        self.net = build(weights).to(device)
        self.device = device
        self.z_table, self.y_table = weights.z_table, latent_table()
        digests = self.z_table.digest + self.y_table.digest
        self.table_digest = sha256(digests.encode()).digest()[:DIGEST_BYTES]
        self.medians = array(self.net.entropy_bottleneck.medians)
        self.h_s = lower(self.net.h_s)
        context = self.net.context_prediction
        self.context_model = kernels.ContextModel(
            array(context.weight),
            bias_array(context),
            lower(self.net.entropy_parameters),
            entropy.scale_thresholds(entropy.default_scales()),
        )

    def compress(self, pixels: NDArray[np.uint8], order: str = "wavefront") -> bytes:
        """(H, W, 3) uint8 RGB to the bytes of a .qdr file."""
        return self.encode(self.analyse(pixels), pixels.shape[1], pixels.shape[0], order).to_bytes()

    def decompress(self, data: bytes) -> NDArray[np.uint8]:
        """The bytes of a .qdr file to (H, W, 3) uint8 RGB. Raises what `decode` raises."""
        container = Container.from_bytes(data)
        latents = self.decode(container)
        return self.synthesise(latents.y_hat, container.width, container.height)

    @torch.inference_mode()
    def analyse(self, pixels: NDArray[np.uint8]) -> Latents:
        """Pixels to rounded latents. The last row and column are repeated up to multiples of 64."""
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"pixels must be (H, W, 3) uint8, not {pixels.shape} {pixels.dtype}")
        height, width = pixels.shape[:2]
        check_size(width, height)
        x = torch.tensor(pixels, device=self.device).permute(2, 0, 1)[None].float() / 255
        multiple = self.net.downsampling
        x = F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        y = self.net.g_a(x.contiguous(memory_format=torch.channels_last))
        z = self.net.h_a(y) - self.net.entropy_bottleneck.medians[:, None, None]
        # Adding zero turns the -0.0 that rounding may give into the 0.0 that a decoder finds.
        y_hat, z = ((t.round() + 0.0)[0].permute(1, 2, 0).contiguous().cpu() for t in (y, z))
        return Latents(y_hat.numpy(), z.to(torch.int32).numpy())

    @torch.inference_mode()
    def synthesise(self, y_hat: NDArray[np.float32], width: int, height: int) -> NDArray[np.uint8]:
        """A latent to pixels, cropped to the photo's size."""
        y = torch.from_numpy(y_hat).to(self.device).permute(2, 0, 1)[None]
        x = self.net.g_s(y)[0, :, :height, :width]
        return (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()

    def features(self, z: NDArray[np.int32]) -> NDArray[np.float32]:
        """Hyper-synthesis of (h, w, n) symbols to (4h, 4w, 2m), exact."""
        return self.h_s(z.astype(np.float32) + self.medians)

    def encode(self, latents: Latents, width: int, height: int, order: str = "wavefront") -> Container:
        """Code the latents of a width x height photo."""
        coding = coding_order(order, *latents.y_hat.shape[:2])
        z = entropy.encode(latents.z, self._channels(latents.z.shape), self.z_table)
        encoder = entropy.Encoder(self.y_table)
        kernels.encode_latent(encoder, latents.y_hat, self.features(latents.z), self.context_model, coding)
        return Container(
            width, height, order, self.name, self.weight_digest, self.table_digest, z, encoder.finish()
        )

    def decode(self, container: Container) -> Latents:
        """The latents of a .qdr file. Raises CorruptStream, TableMismatch or ModelMismatch."""
        self.check(container)
        multiple = self.net.downsampling
        h, w = -(-container.height // multiple), -(-container.width // multiple)
        z = entropy.decode(container.z, self._channels((h, w, self.net.n)), self.z_table)
        decoder = entropy.Decoder(container.y, self.y_table)
        coding = coding_order(container.order, 4 * h, 4 * w)
        y_hat = kernels.decode_latent(decoder, self.features(z), self.context_model, coding)
        decoder.close()
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
        """The sum of -log2 p under the tables, and where it falls."""
        coding = coding_order(order, *latents.y_hat.shape[:2])
        features = self.features(latents.z)
        symbols, indexes = kernels.latent_symbols(latents.y_hat, features, self.context_model, coding)
        z = self.z_table.bits(latents.z, self._channels(latents.z.shape))
        y = self.y_table.symbol_bits(symbols, indexes).sum(-1)
        return Cost(float(z), y)

    def _channels(self, shape: tuple[int, ...]) -> NDArray[np.int32]:
        return np.broadcast_to(np.arange(self.net.n, dtype=np.int32), shape)


def coding_order(order: str, height: int, width: int) -> kernels.Order:
    """The coding order of a .qdr file, by its name there, for a latent of height x width positions."""
    match order:
        case "raster":
            return kernels.raster(height, width, kernels.causal_mask(5))
        case "wavefront":
            return kernels.wavefront(height, width, kernels.causal_mask(5))
        case "checkerboard":
            return kernels.checkerboard(height, width, kernels.checkerboard_mask(5), parity="odd")
        case "parallel":
            return kernels.parallel(height, width)
    raise ValueError(f"unknown coding order {order!r}")
