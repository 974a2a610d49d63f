"""Models that decode their latent position by position, in raster scan, as CompressAI's streams want it.

At each position run the operations of torch that CompressAI runs there, on arrays of the same shapes: others
would round otherwise, and one table row that differs makes noise of all that follows. Everything else, lists,
indexes and the coder, is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from compressai.entropy_models import GaussianConditional
from compressai.latent_codecs.rasterscan import default_collate
from torch import Tensor, nn

from ....entropy import rans64
from .quantization import quantized, to_numpy
from .tables import conditional_table, scale_indexes


class _Network(NamedTuple):
    """From what is decoded to the distributions of a position."""

    weight: Tensor
    bias: Tensor | None
    kernel_size: int
    merge: Callable[[Tensor, Tensor], Tensor]
    parameters: nn.Module

    def scan(self, y_hat: Tensor, features: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Of each position its part of y_hat, to be written, and its scales and means, all (1, M).

        y_hat: (1, M, H + k - 1, W + k - 1), padded; features: (1, C, H, W).
        """
        k, half = self.kernel_size, (self.kernel_size - 1) // 2
        for h in range(y_hat.size(2) - k + 1):
            for w in range(y_hat.size(3) - k + 1):
                around = y_hat[:, :, h : h + k, w : w + k]
                context = F.conv2d(around, self.weight, bias=self.bias)
                merged = self.merge(features[:, :, h : h + 1, w : w + 1], context)
                scales, means = self.parameters(merged).squeeze(3).squeeze(2).chunk(2, 1)
                yield around[:, :, half, half], scales, means


@torch.no_grad()
def _compress(conditional: GaussianConditional, network: _Network, y: Tensor, features: Tensor) -> bytes:
    """The stream of a padded y, which becomes y_hat."""
    table, search = conditional_table(conditional), scale_indexes(conditional)
    symbols, indexes = [], []
    for place, scales, means in network.scan(y, features):
        indexes.append(to_numpy(search(scales)))
        symbols.append(quantized(place, means))
        place.copy_(conditional.dequantize(torch.from_numpy(symbols[-1]), means))
    return rans64.encode(np.concatenate(symbols), np.concatenate(indexes), table)


@torch.no_grad()
def _decompress(
    conditional: GaussianConditional, network: _Network, stream: bytes, y_hat: Tensor, features: Tensor
) -> None:
    """Fills a padded y_hat of zeros."""
    search = scale_indexes(conditional)
    decoder = rans64.Decoder(stream, conditional_table(conditional))
    for place, scales, means in network.scan(y_hat, features):
        symbols = torch.from_numpy(decoder.get(to_numpy(search(scales))))
        place.copy_(conditional.dequantize(symbols, means))
    decoder.close()


def _concatenate(*tensors: Tensor) -> Tensor:
    return torch.cat(tensors, dim=1)


def compress_ar(
    model: Any, y_hat: Tensor, params: Tensor, height: int, width: int, kernel_size: int, padding: int
) -> bytes:
    """`JointAutoregressiveHierarchicalPriors._compress_ar`: the padded y_hat holds y."""
    _check_size(y_hat, height, width, kernel_size, padding)
    context = model.context_prediction
    network = _Network(
        context.weight * context.mask, context.bias, kernel_size, _concatenate, model.entropy_parameters
    )
    return _compress(model.gaussian_conditional, network, y_hat, params)


def decompress_ar(
    model: Any,
    y_string: bytes,
    y_hat: Tensor,
    params: Tensor,
    height: int,
    width: int,
    kernel_size: int,
    padding: int,
) -> None:
    """`JointAutoregressiveHierarchicalPriors._decompress_ar`, which doesn't mask: what is ahead is 0 yet."""
    _check_size(y_hat, height, width, kernel_size, padding)
    context = model.context_prediction
    network = _Network(context.weight, context.bias, kernel_size, _concatenate, model.entropy_parameters)
    _decompress(model.gaussian_conditional, network, y_string, y_hat, params)


def compress_raster(codec: Any, y: Tensor, ctx_params: Tensor) -> dict[str, Any]:
    """`RasterScanLatentCodec.compress`."""
    network = _of_codec(codec)
    images = []
    for i in range(y.size(0)):
        y_hat = _padded(y[i : i + 1].detach(), codec.padding)
        string = _compress(codec.gaussian_conditional, network, y_hat, ctx_params[i : i + 1])
        images.append({"strings": [string], "y_hat": _padded(y_hat, -codec.padding).squeeze(0)})
    return {**default_collate(images), "shape": y.shape[2:4]}


def decompress_raster(
    codec: Any, strings: list[list[bytes]], shape: tuple[int, int], ctx_params: Tensor, **_: Any
) -> dict[str, Any]:
    """`RasterScanLatentCodec.decompress`."""
    (y_strings,) = strings
    network = _of_codec(codec)
    images = []
    for i, string in enumerate(y_strings):
        y_hat = ctx_params.new_zeros((1, codec.context_prediction.in_channels, *shape), dtype=torch.float32)
        y_hat = _padded(y_hat, codec.padding)
        _decompress(codec.gaussian_conditional, network, string, y_hat, ctx_params[i : i + 1])
        images.append({"y_hat": _padded(y_hat, -codec.padding).squeeze(0)})
    return default_collate(images)


def _of_codec(codec: Any) -> _Network:
    context = codec.context_prediction
    weight = (context.weight * context.mask).detach()
    return _Network(weight, context.bias, codec.kernel_size, codec.merge, codec.entropy_parameters)


def _padded(x: Tensor, padding: int) -> Tensor:
    return F.pad(x, (padding,) * 4)


def _check_size(y_hat: Tensor, height: int, width: int, kernel_size: int, padding: int) -> None:
    """What `scan` relies on, and CompressAI's models always give."""
    padded = (height + 2 * padding, width + 2 * padding)
    if kernel_size != 2 * padding + 1 or tuple(y_hat.shape[2:]) != padded:
        raise ValueError(
            f"y_hat of {tuple(y_hat.shape)} and kernels of {kernel_size}, padded by {padding}: expected "
            f"(1, M, {padded[0]}, {padded[1]}) and {2 * padding + 1}"
        )
