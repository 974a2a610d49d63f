"""Entropy models against their exact twins, on small random latents: parameters close, streams exact."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quadrans import entropy, kernels
from quadrans.entropy import mixture
from quadrans.nets.codec import latent_table
from quadrans.nets.entropy_model import EntropyModel
from quadrans.nets.quantizer import GIVEN

FloatArray = NDArray[np.float32]


def randomized(module: nn.Module, seed: int = 0, gain: float = 2.0) -> nn.Module:
    """The module in inference, with larger weights than it was made with, and biases that aren't zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.copy_(gain * torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
    return module.eval().requires_grad_(False)


def integers(shape: tuple[int, ...], seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(np.float32)


def normals(shape: tuple[int, ...], seed: int = 1) -> FloatArray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def planes(array: FloatArray) -> Tensor:
    """(H, W, C) to (1, C, H, W)."""
    return torch.from_numpy(array).permute(2, 0, 1)[None]


def back(tensor: Tensor) -> FloatArray:
    """(1, C, H, W) to (H, W, C)."""
    return tensor[0].permute(1, 2, 0).contiguous().numpy()


def check_parameters(model: EntropyModel, y_hat: FloatArray, features: FloatArray, name: str) -> None:
    """The lowered model's integers, of a complete latent, are those of torch's scales and means."""
    coded = model.forward(planes(y_hat), {"features": planes(features)}, GIVEN, name)
    scales, means = back(coded.scales), back(coded.means)
    exact, order = model.lower(), model.order(name, *y_hat.shape[:2])
    if isinstance(exact, kernels.StepModel):
        symbols, rows = kernels.latent_symbols(y_hat, features, exact, order)
        offsets = y_hat - symbols
    else:
        offsets, rows = kernels.latent_parameters(y_hat, features, exact, order)
    index = rows
    if not model.residual:
        index, fraction = rows // kernels.FRACTIONS, rows % kernels.FRACTIONS - kernels.FRACTIONS // 2
        offsets = offsets + fraction / kernels.FRACTIONS
    room = 1e-3 if model.residual else 0.5 / kernels.FRACTIONS + 1e-3
    np.testing.assert_allclose(offsets, means, atol=room, rtol=1e-4)
    bounds = np.concatenate([[-np.inf], exact.quantization.thresholds, [np.inf]])
    slack = 1e-3 * np.maximum(1, np.abs(scales))
    assert (scales > bounds[index] - slack).all()
    assert (scales <= bounds[index + 1] + slack).all()


def round_trip(model: EntropyModel, y: FloatArray, features: FloatArray, name: str) -> FloatArray:
    """y_hat, which a decoder finds to the bit. y is encoded in one call, and decoded step by step."""
    exact, order = model.lower(), model.order(name, *y.shape[:2])
    mixtures = isinstance(exact.quantization, kernels.MixtureQuantization)
    table = None if mixtures else latent_table(model.residual)
    encoder = mixture.Encoder() if table is None else entropy.Encoder(table)
    y_hat = kernels.encode_latent(encoder, y, features, exact, order)
    stream = encoder.finish()
    decoder = mixture.Decoder(stream) if table is None else entropy.Decoder(stream, table)
    found = kernels.decode_latent(decoder, features, exact, order)
    decoder.close()
    assert found.tobytes() == y_hat.tobytes()
    return y_hat
