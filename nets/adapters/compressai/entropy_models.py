"""CompressAI's entropy models with its bytes and results, over arrays and tables made once.

    restore = override(model)        # compress, decompress and build_indexes of its entropy models are ours
    restore()

What is put in place are attributes of the modules: deep copies and pickles of the model have their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional, GaussianMixtureConditional
from compressai.latent_codecs import RasterScanLatentCodec
from compressai.models.google import JointAutoregressiveHierarchicalPriors
from numpy.typing import NDArray
from torch import Tensor, nn

from ....entropy import CdfTable, rans64
from . import serial
from .quantization import quantized, to_numpy
from .tables import bottleneck_table, conditional_table, scale_indexes

MIXTURE_ABS_MAX = 32767
"""Of the symbols of a mixture: each within it has a frequency of 1 or more, of 65535 in all."""
MIXTURE_VALUES = 1 << 28
"""Cumulative frequencies that are made at a time, 4 bytes each and several times that on the way."""


class Override:
    """A function in the place of a module's method; in a copy or pickle of the module, of that copy."""

    def __init__(self, function: Callable[..., Any], module: nn.Module) -> None:
        self.function, self.module = function, module

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.function(self.module, *arguments, **named)

    def __repr__(self) -> str:
        return f"<{self.function.__name__} of {type(self.module).__name__}>"


def override(model: nn.Module) -> Callable[[], None]:
    """Puts our functions in place of the methods of the model's entropy models and serial codecs.

    Returns what undoes it, as `restore` does. Raises TypeError, naming the module, for an entropy model of
    another class, of which nothing is known, or another coder, and for methods that something else replaced
    already; nothing is changed then.
    """
    found: list[tuple[nn.Module, str, Override]] = []
    for name, module in model.named_modules():
        methods = _METHODS.get(type(module), {})
        if hasattr(module, "entropy_coder"):
            _check_known(name, module)
        for owner, candidates in _SERIAL.items():
            # A subclass may have its own.
            if isinstance(module, owner) and all(
                getattr(type(module), method) is getattr(owner, method) for method in candidates
            ):
                methods = candidates
        for method, function in methods.items():
            if not isinstance(vars(module).get(method), Override | None):
                raise TypeError(f"{_called(name, module)} has a {method} of its own already")
            found.append((module, method, Override(function, module)))
    if not any(type(module) in _METHODS for module, _, _ in found):
        raise TypeError(f"a {type(model).__name__} has none of CompressAI's entropy models")
    for module, method, ours in found:
        setattr(module, method, ours)
    return partial(restore, model)


def restore(model: nn.Module) -> None:
    """Takes away what `override` put in place, in this model or in the one that it is a copy of."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Override):
                delattr(module, name)


def _check_known(name: str, module: Any) -> None:
    if type(module) not in _METHODS:
        known = ", ".join(kind.__name__ for kind in _METHODS)
        raise TypeError(f"{_called(name, module)}: of entropy models, exactly {known} are known")
    if module.entropy_coder.name != "ans":
        raise TypeError(f"{_called(name, module)} codes with {module.entropy_coder.name!r}, not with 'ans'")


def _called(name: str, module: nn.Module) -> str:
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    return f"{name} ({kind})" if name else kind


def compress_bottleneck(bottleneck: EntropyBottleneck, x: Tensor) -> list[bytes]:
    """`EntropyBottleneck.compress`: x (B, C, ...) to one stream for each image."""
    indexes = _channel_indexes(x.size(1), tuple(x.shape[2:]))
    symbols = quantized(x, _medians(bottleneck, x.dim()))
    table = bottleneck_table(bottleneck)
    return [rans64.encode(one, indexes, table) for one in symbols]


def decompress_bottleneck(
    bottleneck: EntropyBottleneck, strings: Sequence[bytes], size: Sequence[int]
) -> Tensor:
    """`EntropyBottleneck.decompress`: (B, C, *size)."""
    table = bottleneck_table(bottleneck)
    indexes = _channel_indexes(table.rows, tuple(size))
    symbols = _decoded(strings, np.broadcast_to(indexes, (len(strings), *indexes.shape)), table)
    medians = _medians(bottleneck, symbols.dim())
    return bottleneck.dequantize(symbols, medians, medians.dtype)


def compress_gaussian(
    conditional: GaussianConditional, inputs: Tensor, indexes: Tensor, means: Tensor | None = None
) -> list[bytes]:
    """`GaussianConditional.compress`: one stream for each image."""
    if inputs.dim() < 2:
        raise ValueError(f"Invalid `inputs` size {tuple(inputs.shape)}: expected at least 2 dimensions")
    if inputs.size() != indexes.size():
        raise ValueError(
            "`inputs` and `indexes` should have the same size, not "
            f"{tuple(inputs.shape)} and {tuple(indexes.shape)}"
        )
    table = conditional_table(conditional)
    return [
        rans64.encode(*one, table) for one in zip(quantized(inputs, means), to_numpy(indexes), strict=True)
    ]


def decompress_gaussian(
    conditional: GaussianConditional,
    strings: Sequence[bytes],
    indexes: Tensor,
    dtype: torch.dtype = torch.float,
    means: Tensor | None = None,
) -> Tensor:
    """`GaussianConditional.decompress`: of indexes' shape, and means' type or `dtype`."""
    if indexes.dim() < 2:
        raise ValueError(f"Invalid `indexes` size {tuple(indexes.shape)}: expected at least 2 dimensions")
    if len(strings) != indexes.size(0):
        raise ValueError(f"Invalid strings or indexes parameters: {len(strings)} and {tuple(indexes.shape)}")
    if means is not None and not (
        means.dim() == indexes.dim()
        and means.shape[:2] == indexes.shape[:2]
        and (means.shape == indexes.shape or all(size == 1 for size in means.shape[2:]))
    ):
        raise ValueError(f"Invalid means parameters: {tuple(means.shape)} for indexes {tuple(indexes.shape)}")
    symbols = _decoded(strings, to_numpy(indexes), conditional_table(conditional))
    return conditional.dequantize(symbols.to(conditional.quantized_cdf.device), means, dtype)


def build_indexes(conditional: GaussianConditional, scales: Tensor) -> Tensor:
    """`GaussianConditional.build_indexes`: int32 of scales' shape. Raises ValueError for NaN."""
    return scale_indexes(conditional)(scales)


def compress_mixture(
    mixture: GaussianMixtureConditional, y: Tensor, scales: Tensor, means: Tensor, weights: Tensor
) -> tuple[tuple[bytes, int, Tensor], Tensor]:
    """`GaussianMixtureConditional.compress`: ((stream, abs_max, zero_bitmap), y_hat).

    Raises ValueError for more than MIXTURE_ABS_MAX or MIXTURE_VALUES, as `decompress_mixture` does.
    """
    if not torch.isfinite(y).all():
        raise ValueError("y isn't finite")
    abs_max = int(y.abs().max()) + 1
    y_hat = torch.round(y)
    zero_bitmap = torch.where(torch.sum(torch.abs(y_hat), (3, 2)).squeeze(0) == 0, 0, 1)
    nonzero = torch.nonzero(zero_bitmap).flatten().tolist()
    rows = _mixture_rows(mixture, scales, means, weights, nonzero, abs_max)
    symbols = to_numpy(y_hat[:, nonzero] + abs_max).reshape(-1)
    stream = rans64.encode(symbols, np.arange(rows.rows, dtype=np.int32), rows)
    return (stream, abs_max, zero_bitmap), y_hat


def decompress_mixture(
    mixture: GaussianMixtureConditional,
    strings: bytes,
    abs_max: int,
    zero_bitmap: Tensor,
    scales: Tensor,
    means: Tensor,
    weights: Tensor,
) -> Tensor:
    """`GaussianMixtureConditional.decompress`. Raises ValueError for more than `compress_mixture` gives."""
    nonzero = torch.nonzero(zero_bitmap).flatten().tolist()
    rows = _mixture_rows(mixture, scales, means, weights, nonzero, abs_max)
    symbols = torch.from_numpy(rans64.decode(strings, np.arange(rows.rows, dtype=np.int32), rows)) - abs_max
    images, height, width = scales.size(0), scales.size(2), scales.size(3)
    y_hat = torch.zeros(images, zero_bitmap.size(0), height, width)
    y_hat[:, nonzero] = symbols.reshape(images, -1, height, width).float()
    return y_hat


def _mixture_rows(
    mixture: GaussianMixtureConditional,
    scales: Tensor,
    means: Tensor,
    weights: Tensor,
    nonzero: list[int],
    abs_max: int,
) -> rans64.Rows:
    """A row for each symbol, of the channels that aren't all zero. ValueError if they don't fit."""
    if not 1 <= abs_max <= MIXTURE_ABS_MAX:
        raise ValueError(f"symbols within +-{abs_max}; mixtures code 1 to {MIXTURE_ABS_MAX}")
    # What `_build_cdf` makes: 0, the ends of 2 * abs_max + 1 symbols, and that of the escape.
    columns = 2 * abs_max + 3
    count = scales.size(0) * len(nonzero) * scales[0, 0].numel()
    if count * columns > MIXTURE_VALUES:
        raise ValueError(
            f"{count} symbols within +-{abs_max} need {count * columns} cumulative frequencies, "
            f"more than {MIXTURE_VALUES}"
        )
    cdf = mixture._build_cdf(*mixture.reshape_entropy_parameters(scales, means, weights, nonzero), abs_max)
    rows, columns = cdf.shape
    return rans64.Rows(cdf.cpu().numpy(), np.full(rows, columns, np.int32), np.zeros(rows, np.int32))


def _medians(bottleneck: EntropyBottleneck, dims: int) -> Tensor:
    """(1, C, 1, ...), of so many dimensions."""
    return bottleneck._get_medians().detach().reshape(1, -1, *[1] * (dims - 2))


def _channel_indexes(channels: int, size: tuple[int, ...]) -> NDArray[np.int32]:
    """(C, *size): everywhere the channel."""
    column = np.arange(channels, dtype=np.int32).reshape(-1, *[1] * len(size))
    return np.ascontiguousarray(np.broadcast_to(column, (channels, *size)))


def _decoded(strings: Sequence[bytes], indexes: NDArray[np.int32], table: CdfTable) -> Tensor:
    """(B, ...), int32: the symbols of one stream for each image."""
    if not isinstance(strings, tuple | list):
        raise ValueError(f"Invalid `strings` parameter type {type(strings).__name__}")
    images = [rans64.decode(*one, table) for one in zip(strings, indexes, strict=True)]
    one = len(images) == 1
    return torch.from_numpy(images[0][None] if one else np.array(images, np.int32).reshape(indexes.shape))


_METHODS: dict[type, dict[str, Callable[..., Any]]] = {
    EntropyBottleneck: {"compress": compress_bottleneck, "decompress": decompress_bottleneck},
    GaussianConditional: {
        "compress": compress_gaussian,
        "decompress": decompress_gaussian,
        "build_indexes": build_indexes,
    },
    GaussianMixtureConditional: {"compress": compress_mixture, "decompress": decompress_mixture},
}
_SERIAL: dict[type, dict[str, Callable[..., Any]]] = {
    JointAutoregressiveHierarchicalPriors: {
        "_compress_ar": serial.compress_ar,
        "_decompress_ar": serial.decompress_ar,
    },
    RasterScanLatentCodec: {"compress": serial.compress_raster, "decompress": serial.decompress_raster},
}
