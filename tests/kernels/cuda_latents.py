"""What the tests of latents on emulated GPUs share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fake_cupy
import pytest
from latent_cases import table

from quadrans import entropy, kernels
from quadrans.kernels import cuda
from quadrans.kernels.cuda import _lanes, _module, network, serial


def emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """CuPy, on the emulator, as a fixture gives it."""
    fake = fake_cupy.install(monkeypatch)
    caches = _module._module, _lanes._device_table, network._shape
    for one in caches:
        one.cache_clear()
    yield fake
    for one in caches:
        one.cache_clear()


def on_cpu(y, features, model, order, layout=(8, 1), **inputs):
    """(stream, y_hat)"""
    encoder = entropy.Encoder(table(model.quantization.fraction_bits), *layout)
    y_hat = kernels.encode_latent(encoder, y, features, model, order, **inputs)
    return encoder.finish(), y_hat


def on_device(cp, inputs):
    """The inputs as arrays of the device."""
    return {"inputs": {name: cp.asarray(array) for name, array in inputs.items()}} if inputs else {}


def decoded(cp, stream, features, model, order, inputs=None, **options):
    """The latent that the GPU decodes, as a host array."""
    decoder = cuda.Decoder(stream, table(model.quantization.fraction_bits))
    options |= on_device(cp, inputs)
    y_hat = serial.decode_latent(decoder, cp.asarray(features), model, order, **options)
    assert isinstance(y_hat, cp.ndarray)
    decoder.close()
    return y_hat.get()


def check(cp, assert_same_bits, y, features, model, order, layout=(8, 1), inputs=None):
    """Either side's streams are the other's, and latents equal to the bit."""
    stream, expected = on_cpu(y, features, model, order, layout, **({"inputs": inputs} if inputs else {}))
    assert_same_bits(decoded(cp, stream, features, model, order, inputs), expected)
    encoder = cuda.Encoder(table(model.quantization.fraction_bits), *layout)
    arrays = cp.asarray(y), cp.asarray(features)
    y_hat = serial.encode_latent(encoder, *arrays, model, order, **on_device(cp, inputs))
    assert encoder.finish() == stream
    assert_same_bits(y_hat.get(), expected)
