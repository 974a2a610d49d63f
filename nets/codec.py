"""The image codec: photo to .qdr and back, with torch for the transforms and exact kernels in between.

Analysis and synthesis run in torch and may round differently elsewhere: the first only chooses what is
coded, the second only what the pixels look like. Everything that decides a distribution (hyper-synthesis,
context, head, table index) runs in `quadrans.kernels`, so the decoded latent is the encoder's to the bit.

One loop serves every system: side information, each kind in one pass, then the parts of y, each in its order.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import torch
    from torch import Tensor
except ImportError as error:
    raise ImportError("quadrans.nets.codec needs PyTorch: pip install 'quadrans[codec]'") from error

from .. import entropy, kernels
from ..entropy import CdfTable, CorruptStream, TableMismatch
from .container import DIGEST_BYTES, MAX_PIXELS, Container, check_size
from .device import usable_device
from .entropy_model import Coded
from .exact import ExactPart, OnCpu, OnCuda
from .inspection import Inspection, Recorder, Section, placed_bits
from .latents import Latents
from .lowering import array
from .quantizer import GIVEN, ROUND
from .registry import new
from .system import Part, System
from .tiling import tiled
from .weights import WeightError, Weights

_MISFITS = (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError, IndexError)
"""What constructors and lowering have for arguments and weights that don't go together."""

LARGEST = 1 << 24
"""Integers up to this are float32s."""


class ModelMismatch(ValueError):
    """A .qdr file that was made with other weights than those at hand."""


@cache
def latent_table(residual: bool = False) -> CdfTable:
    """The rows of Gaussians of 64 scales, by scale index.

    Of residuals, about 0. Of integers, rows of scale index * 16 + fraction index: means of -8/16 .. 7/16.
    """
    scales = entropy.default_scales()
    if residual:
        return entropy.gaussian_table(scales)
    fractions = np.arange(-kernels.FRACTIONS // 2, kernels.FRACTIONS // 2) / kernels.FRACTIONS
    return entropy.gaussian_table(scales[:, None], fractions)


def build(weights: Weights) -> System:
    """The torch module with these weights, in float32, ready for inference.

    Raises WeightError if tensors or tables are not those of the architecture.
    """
    tensors = {key: torch.from_numpy(value.astype(np.float32)) for key, value in weights.tensors.items()}
    try:
        # On the meta device shapes are compared before anything of a size that the file claims is made.
        with torch.device("meta"):
            system = new(weights.architecture, weights.config)
        empty = [key for key, value in system.state_dict().items() if value.numel() == 0]
        if empty:
            raise ValueError(f"{empty[0]} would be empty")
        system.load_state_dict(tensors, assign=True)
        sides = system.sides()
    except _MISFITS as error:
        # torch names every tensor that is missing, of which there may be thousands.
        reason = textwrap.shorten(str(error), 500, placeholder=" ...")
        raise WeightError(
            f"model {weights.name}: its weights do not fit {weights.architecture} ({reason})"
        ) from error
    rows = {name: table.rows for name, table in weights.tables.items()}
    expected = {name: len(side.prior.medians) for name, side in sides.items()}
    if rows != expected:
        raise WeightError(f"model {weights.name}: tables of {rows} rows for channels {expected}")
    return system.channels_last().eval().requires_grad_(False)


class ImageCodec:
    """Codes photos with one model. Not tied to an image size; safe to share between threads.

    device: torch device of the transforms. exact: "cpu", or "cuda" for what is exact to run on that device,
    too, through CuPy; by default wherever the transforms do. threads: of the CPU's exact part, whose number
    changes nothing but the time. Raises WeightError for weights that don't fit, ValueError for a device that
    can't be used, ImportError for an exact part on CUDA without CuPy.
    """

    def __init__(
        self, weights: Weights, device: str = "cpu", threads: int = 1, exact: str | None = None
    ) -> None:
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise ValueError(f"threads must be a number of at least 1, not {threads!r}")
        self.name = weights.name
        self.device = usable_device(device)
        if exact not in (None, "cpu", "cuda") or (exact == "cuda" and self.device.type != "cuda"):
            raise ValueError(f"exact={exact!r} with the transforms on {self.device}; it is cpu or their cuda")
        self.system = build(weights).to(self.device)
        self.weight_digest = weights.digest[:DIGEST_BYTES]
        self.tables = dict(weights.tables)
        self.medians = {name: array(side.prior.medians) for name, side in self.system.sides().items()}
        try:
            self._parts = self.system.parts()
            parts = {name: _exact_part(part) for name, part in self._parts.items()}
            layers = self.system.lower_features() if parts else {}
        except _MISFITS as error:
            raise WeightError(f"model {self.name} can't be coded with: {error}") from error
        self.table_digest = self._table_digest(parts)
        self.cpu = OnCpu(layers, parts, threads)
        on_cuda = self.device.type == "cuda" and exact != "cpu"
        self._exact = OnCuda(layers, parts, self.device.index or 0) if on_cuda else self.cpu

    def _table_digest(self, parts: Mapping[str, ExactPart]) -> bytes:
        thresholds = entropy.scale_thresholds(entropy.default_scales()).astype("<f4").tobytes()
        used = [self.tables[name] for name in self.system.sides()]
        used += [part.table for part in parts.values() if part.table is not None]
        digests = "".join(table.digest for table in used)
        return sha256(digests.encode() + thresholds).digest()[:DIGEST_BYTES]

    @property
    def orders(self) -> tuple[str, ...]:
        """The coding orders that this model's files may have, its own first."""
        return self.system.orders

    def compress(self, pixels: NDArray[np.uint8], order: str | None = None) -> bytes:
        """(H, W, 3) uint8 RGB to the bytes of a .qdr file, in one of `orders`.

        Raises ValueError for other arrays and orders.
        """
        return self.encode(self.analyse(pixels), pixels.shape[1], pixels.shape[0], order).to_bytes()

    def decompress(self, data: bytes) -> NDArray[np.uint8]:
        """The bytes of a .qdr file to (H, W, 3) uint8 RGB. Raises what `decode` raises."""
        container = Container.from_bytes(data)
        return self.synthesise(self.decode(container).y, container.width, container.height)

    @torch.inference_mode()
    def analyse(self, pixels: NDArray[np.uint8]) -> Latents:
        """(H, W, 3) uint8 RGB to latents: side information and integers rounded, residuals not yet.

        The last row and column are repeated up to the system's multiple. Raises ValueError for other arrays,
        for images without pixels or beyond `container.MAX_PIXELS`, and for latents beyond +-LARGEST, which
        large weights may give.
        """
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"pixels must be (H, W, 3) uint8, not {pixels.shape} {pixels.dtype}")
        height, width = pixels.shape[:2]
        h, w = self._positions(width, height)
        stride = self.system.stride
        padding = ((0, h * stride - height), (0, w * stride - width), (0, 0))
        x = torch.from_numpy(np.pad(pixels, padding, mode="edge")).permute(2, 0, 1)[None]
        y = tiled(self._analysis, x, stride, 1, overlap=self.system.reach).to(self.device)
        sides = {}
        for name, z in self.system.hyper_analysis(y).items():
            distance = z - self.system.sides()[name].prior.medians[:, None, None]
            self._check_range(name, distance)
            sides[name] = _channels_last(distance.round()).astype(np.int32)
        if not self._parts:
            return Latents(self._rounded(sides)["y"], sides)
        for name, part in self._parts.items():
            self._check_range(name, y[:, part.start : part.stop])
            if not part.model.residual:
                y[:, part.start : part.stop].round_()
        # Adding zero turns the -0.0 that rounding may give into the 0.0 that a decoder finds.
        return Latents(_channels_last(y) + np.float32(0), sides)

    def _check_range(self, name: str, values: Tensor) -> None:
        """Raise ValueError for a latent with values that aren't finite or beyond +-LARGEST."""
        largest = float(values.abs().max())
        if not largest <= LARGEST:
            raise ValueError(
                f"model {self.name} gives {name} up to {largest} for this image, not within +-{LARGEST}: its "
                "weights are too large"
            )

    def _analysis(self, x: Tensor) -> Tensor:
        x = x.to(self.device).float() / 255
        return self.system.analysis(x.contiguous(memory_format=torch.channels_last)).cpu()

    @torch.inference_mode()
    def synthesise(self, y_hat: NDArray[np.float32], width: int, height: int) -> NDArray[np.uint8]:
        """A float32 latent (h, w, m) to (height, width, 3) uint8 RGB. Raises ValueError for other arrays."""
        self._check_latent(y_hat, width, height)
        x = torch.from_numpy(y_hat).permute(2, 0, 1)[None]
        x = tiled(self._synthesis, x, 1, self.system.stride, overlap=self.system.reach)
        return x[0, :, :height, :width].permute(1, 2, 0).contiguous().numpy()

    def _synthesis(self, y_hat: Tensor) -> Tensor:
        x = self.system.synthesis(y_hat.to(self.device).contiguous(memory_format=torch.channels_last))
        # An absurd latent of a forged file can overflow to NaN, which has no defined integer.
        return (x.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8).cpu()

    def features(self, sides: Mapping[str, NDArray[np.int32]]) -> Mapping[str, NDArray[np.float32]]:
        """Exact features by name, on the CPU, of side information."""
        return self.cpu.features(self._rounded(sides), ValueError)

    def order(self, name: str, order: str, width: int, height: int) -> kernels.Order:
        """A part's coding order in a file of a width x height photo and of that order."""
        part = self._parts[name]
        return part.model.order(self.system.part_order(part, order), *self._positions(width, height))

    def encode(self, latents: Latents, width: int, height: int, order: str | None = None) -> Container:
        """Code the latents of a width x height photo. Raises ValueError if they aren't such a photo's."""
        return self.code(latents, width, height, order)[0]

    def code(
        self, latents: Latents, width: int, height: int, order: str | None = None
    ) -> tuple[Container, Latents]:
        """`encode`, with the latents that `decode` will find.

        Of a y without a model, which is side information itself, `latents.y` says nothing more.
        """
        order = self._checked_order(order)
        self._check_latent(latents.y, width, height)
        shapes, sections = self._side_shapes(width, height), {}
        if latents.sides.keys() != shapes.keys():
            raise ValueError(f"side information {list(latents.sides)} of a model that has {list(shapes)}")
        for name, shape in shapes.items():
            side = latents.sides[name]
            if side.shape != shape or side.dtype != np.int32:
                raise ValueError(
                    f"{name} of shape {side.shape} {side.dtype}; {width}x{height} pixels have {shape} int32"
                )
            sections[name] = entropy.encode(side, _channels(shape), self.tables[name])
        if not self._parts:
            y_hat = self._rounded(latents.sides)["y"]
        else:
            features = self._exact.features(self._rounded(latents.sides), ValueError)
            found = []
            for name, part in self._parts.items():
                coding = self.order(name, order, width, height)
                y = np.ascontiguousarray(latents.y[:, :, part.start : part.stop])
                stream, decoded = self._exact.encode(name, y, features, coding)
                sections[name] = stream
                found.append(decoded)
            y_hat = np.concatenate(found, axis=2)
        digests = self.weight_digest, self.table_digest
        container = Container(width, height, order, self.name, *digests, sections)
        return container, replace(latents, y=y_hat)

    def decode(self, container: Container) -> Latents:
        """The latents of a .qdr file. Raises CorruptStream, TableMismatch or ModelMismatch."""
        sides = self._decode_sides(container)
        if not self._parts:
            return Latents(self._rounded(sides)["y"], sides)
        features = self._exact.features(self._rounded(sides))
        size = container.width, container.height
        found = [
            self._exact.decode(
                name, container.sections[name], features, self.order(name, container.order, *size)
            )
            for name in self._parts
        ]
        return Latents(np.concatenate(found, axis=2), sides)

    def _decode_sides(self, container: Container) -> dict[str, NDArray[np.int32]]:
        self.check(container)
        shapes = self._side_shapes(container.width, container.height)
        return {
            name: entropy.decode(container.sections[name], _channels(shape), self.tables[name])
            for name, shape in shapes.items()
        }

    def check(self, container: Container) -> None:
        """Raise ModelMismatch, TableMismatch or CorruptStream unless this codec can decode the file."""
        if (container.model, container.weight_digest) != (self.name, self.weight_digest):
            raise ModelMismatch(
                f"made with model {container.model} (weights {container.weight_digest.hex()}), "
                f"not with {self.name} (weights {self.weight_digest.hex()})"
            )
        if container.table_digest != self.table_digest:
            raise TableMismatch(
                f"made with tables {container.table_digest.hex()}, not with {self.table_digest.hex()}"
            )
        expected = [*self.system.sides(), *self._parts]
        if list(container.sections) != expected:
            raise CorruptStream(f"sections {list(container.sections)} of a model that has {expected}")
        try:
            self._checked_order(container.order)
            self._positions(container.width, container.height)
        except ValueError as error:
            raise CorruptStream(str(error)) from error

    def inspect(self, container: Container) -> Inspection:
        """Decode a file on the CPU and say what each of its streams holds, and what each symbol costs.

        Raises as `decode`.
        """
        sides = self._decode_sides(container)
        sections = {}
        for name, side in sides.items():
            indexes = _channels(side.shape)
            bits = self.tables[name].symbol_bits(side, indexes)
            sections[name] = Section(container.sections[name], [(side, indexes)], self.tables[name], bits)
        if not self._parts:
            return Inspection(Latents(self._rounded(sides)["y"], sides), sections)
        features = self.cpu.features(self._rounded(sides))
        found = []
        for name, part in self._parts.items():
            order = self.order(name, container.order, container.width, container.height)
            decoder = self.cpu.decoder(name, container.sections[name])
            recorder = Recorder(decoder)
            found.append(self.cpu.decode_from(recorder, name, features, order))
            decoder.close()
            table = self.cpu.parts[name].table
            bits = placed_bits(recorder.passes, table, order, part.stop - part.start)
            sections[name] = Section(container.sections[name], recorder.passes, table, bits)
        return Inspection(Latents(np.concatenate(found, axis=2), sides), sections)

    def model_bits(self, latents: Latents, decoded: Latents, order: str | None = None) -> dict[str, float]:
        """-log2 of the network's own continuous densities, in bits, of each latent by name: `densities`."""
        bits, coded = self.densities(latents, decoded, order)
        found = bits | {name: part.bits.sum() for name, part in coded.items()}
        return {name: float(value) for name, value in found.items()}

    @torch.inference_mode()
    def densities(
        self, latents: Latents, decoded: Latents, order: str | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Coded]]:
        """The network's own densities: (1,) bits of each kind of side information, and the parts of y.

        latents: as they were encoded; decoded: as they are decoded, of which the estimate is where the
        network doesn't refine what it decodes.
        """
        y, quantizer = (latents.y, ROUND) if self.system.refines else (decoded.y, GIVEN)
        sides = {name: self._tensor(side) for name, side in self._rounded(latents.sides).items()}
        _, bits = self.system.code_sides(sides, GIVEN)
        return bits, self.system.code_parts(self._tensor(y), sides, quantizer, self._checked_order(order))

    def _tensor(self, values: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(values).permute(2, 0, 1)[None].to(self.device)

    def _rounded(self, sides: Mapping[str, NDArray[np.int32]]) -> dict[str, NDArray[np.float32]]:
        """Side information with its medians."""
        return {name: side.astype(np.float32) + self.medians[name] for name, side in sides.items()}

    def _checked_order(self, order: str | None) -> str:
        order = order or self.orders[0]
        if order not in self.orders:
            raise ValueError(
                f"model {self.name} has no coding order {order!r}, only {', '.join(self.orders)}"
            )
        return order

    def _positions(self, width: int, height: int) -> tuple[int, int]:
        """(h, w) of y, of a photo of a legal size. ValueError for others."""
        check_size(width, height)
        h, w = self.system.positions(width, height)
        if h * w * self.system.stride**2 > MAX_PIXELS:
            raise ValueError(
                f"an image of {width}x{height} pixels, padded to multiples of {self.system.multiple}, "
                f"exceeds the limit of {MAX_PIXELS} pixels"
            )
        return h, w

    def _side_shapes(self, width: int, height: int) -> dict[str, tuple[int, int, int]]:
        h, w = self._positions(width, height)
        return {
            name: (*side.size(h, w), len(self.medians[name])) for name, side in self.system.sides().items()
        }

    def _check_latent(self, y: NDArray[np.float32], width: int, height: int) -> None:
        expected = (*self._positions(width, height), self.system.m)
        if y.shape != expected or y.dtype != np.float32:
            raise ValueError(
                f"y_hat of shape {y.shape} {y.dtype}; {width}x{height} pixels have {expected} float32"
            )


def _exact_part(part: Part) -> ExactPart:
    model = part.model.lower()
    mixture = isinstance(model.quantization, kernels.MixtureQuantization)
    table = None if mixture else latent_table(part.model.residual)
    return ExactPart(model, part.model.plane, part.model.inputs, table, part.model.least_step)


def _channels(shape: tuple[int, ...]) -> NDArray[np.int32]:
    return np.broadcast_to(np.arange(shape[2], dtype=np.int32), shape)


def _channels_last(tensor: Tensor) -> NDArray[Any]:
    return tensor[0].permute(1, 2, 0).contiguous().cpu().numpy()
