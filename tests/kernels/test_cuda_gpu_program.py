"""Programs and latents on a real GPU: `pytest -m gpu` on a machine with CuPy, torch and a CUDA device.

`compute-sanitizer --tool memcheck` (and racecheck, synccheck) takes the same command.
"""

from __future__ import annotations

from itertools import product

import latent_cases as cases
import numpy as np
import pytest
import random_layers
from latent_cases import CAUSAL, context_model, latent, lee_model, step_model, table
from random_layers import Grower

from quadrans import entropy, kernels
from quadrans.entropy import CorruptStream
from quadrans.kernels import cuda
from quadrans.kernels.cuda import network, serial

pytestmark = pytest.mark.gpu


@pytest.fixture
def cp():
    import cupy

    return cupy


@pytest.mark.parametrize("seed", range(150))
def test_trees(cp, seed, assert_same_bits):
    """Whatever is built of layers, weights and values of all sizes; one image as two."""
    extreme, bits = [(0, 0), (0.02, 0.02), (0.3, 1)][seed % 3]
    grower = Grower(seed, extreme)
    shape = (grower.pick(1, 2, 5, 6), grower.pick(1, 3, 4, 6), grower.pick(*random_layers.WIDTHS))
    layer = grower.tree(shape, 3)
    x, tokens = grower.values(2, *shape, bits=bits), grower.values(2, *random_layers.TOKENS, bits=bits)
    inputs = {"tokens": tokens} if random_layers.reads_tokens(layer) else {}
    expected = layer(x, inputs, check=False)
    own = network.Network(layer)
    device = {name: cp.asarray(array) for name, array in inputs.items()}
    assert_same_bits(cp.asnumpy(own(cp.asarray(x), device, check=False)), expected)
    first = {name: array[0] for name, array in device.items()}
    assert_same_bits(cp.asnumpy(own(cp.asarray(x[0]), first, check=False)), expected[0])


@pytest.mark.parametrize("outputs", [192, 131])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (9, 17), (64, 95)])
def test_large_convolutions(cp, size, outputs, assert_same_bits):
    """Of each tile, with many blocks at work; strided and transposed."""
    grower = Grower(1)
    weight, bias = grower.weights(outputs, 200, 5, 5), grower.weights(outputs)
    x = grower.values(2, *size, 200)
    for layer in (
        kernels.Conv2d(weight, bias, padding=2),
        kernels.Conv2d(weight, bias, stride=2, padding=2),
        kernels.ConvTranspose2d(np.ascontiguousarray(weight.swapaxes(0, 1)), bias, 2, 2, 1),
    ):
        assert_same_bits(cp.asnumpy(network.Network(layer)(cp.asarray(x))), layer(x, threads=8))


def check(cp, assert_same_bits, y, features, model, order, layout) -> None:
    """Either side's streams are the other's, and latents equal to the bit, each time."""
    rows = table(model.quantization.fraction_bits)
    expected_encoder = entropy.Encoder(rows, *layout)
    expected = kernels.encode_latent(expected_encoder, y, features, model, order, threads=8)
    stream = expected_encoder.finish()
    encoder = cuda.Encoder(rows, *layout)
    arrays = cp.asarray(y), cp.asarray(features)
    assert_same_bits(cp.asnumpy(serial.encode_latent(encoder, *arrays, model, order)), expected)
    assert encoder.finish() == stream
    for _ in range(3):
        decoder = cuda.Decoder(stream, rows)
        found = serial.decode_latent(decoder, arrays[1], model, order)
        decoder.close()
        assert_same_bits(cp.asnumpy(found), expected)


@pytest.mark.parametrize("layout", [(1, 1), (64, 1), (32, 16), (64, 5), (16, 200)], ids=str)
def test_orders_of_positions(cp, layout, bits, rng, assert_same_bits):
    for order in cases.orders(13, 18):
        model = context_model(rng, bits, sizes=(33, 66, 70))
        check(cp, assert_same_bits, *latent(rng, bits, 13, 18, 33, 66), model, order, layout)
    order = kernels.wavefront(13, 18, kernels.window_taps())
    check(cp, assert_same_bits, *latent(rng, bits, 13, 18, 5, 5), lee_model(rng, bits, 5), order, layout)


def test_minnen_2018(cp, bits, rng, assert_same_bits):
    """As large as it is for 768x512: M = 192, 141 steps."""
    model = context_model(rng, bits, sizes=(192, 384, 384))
    order = kernels.wavefront(32, 48, CAUSAL)
    for layout in ((None, None), (32, 16)):
        check(cp, assert_same_bits, *latent(rng, bits, 32, 48, 192, 384), model, order, layout)


@pytest.mark.parametrize("layout", [(64, 1), (32, 16), (16, 200)], ids=str)
def test_step_models(cp, layout, bits, rng, assert_same_bits):
    mask = kernels.checkerboard_mask(5)
    for order in (
        kernels.quadtree(17, 14, 36),
        kernels.slices(9, 10, (5, 30, 1)),
        kernels.slices_checkerboard(9, 10, (5, 31), mask),
    ):
        model = step_model(rng, bits, order, 36, 40)
        args = *latent(rng, bits, order.height, order.width, 36, 40), model, order
        check(cp, assert_same_bits, *args, layout)


def test_corrupt_streams(cp, rng):
    """What the CPU refuses is refused, and what it doesn't gives its latent."""
    model, order = context_model(rng, 4), kernels.wavefront(6, 8, CAUSAL)
    y, features = latent(rng, 4, 6, 8)
    for layout, number in product([(8, 1), (32, 3)], range(60)):
        encoder = entropy.Encoder(table(4), *layout)
        kernels.encode_latent(encoder, y, features, model, order)
        stream = bytearray(encoder.finish())
        if number % 4 == 0:
            del stream[int(rng.integers(2, len(stream))) :]
        else:
            stream[int(rng.integers(2, len(stream)))] ^= 1 << int(rng.integers(8))
        outcomes = []
        for kind, decode, array in (
            (entropy.Decoder, kernels.decode_latent, features),
            (cuda.Decoder, serial.decode_latent, cp.asarray(features)),
        ):
            try:
                decoder = kind(bytes(stream), table(4))
                y_hat = decode(decoder, array, model, order)
                decoder.close()
                outcomes.append(cp.asnumpy(y_hat).tobytes())
            except CorruptStream:
                outcomes.append(None)
        assert outcomes[0] == outcomes[1]


def test_torch_tensors_on_torchs_stream(cp, rng, assert_same_bits):
    """What is queued before them is seen, and their results by what is queued after."""
    import torch

    model, order = context_model(rng, 4), kernels.wavefront(6, 8, CAUSAL)
    y, features = latent(rng, 4, 6, 8)
    encoder = entropy.Encoder(table(4), 8, 2)
    expected = kernels.encode_latent(encoder, y, features, model, order)
    stream = encoder.finish()
    layer = kernels.Conv2d(rng.standard_normal((7, 6, 3, 3)).astype(np.float32), padding=1)
    with torch.cuda.stream(torch.cuda.Stream()):
        queued = torch.zeros_like(torch.from_numpy(features)).cuda()
        for _ in range(50):
            queued = queued + torch.from_numpy(features).cuda() / 64
        given = torch.from_numpy(features).cuda() + 0 * queued
        decoder = cuda.Decoder(stream, table(4))
        found = serial.decode_latent(decoder, given, model, order)
        assert isinstance(found, torch.Tensor)
        assert_same_bits((found + 0).cpu().numpy(), expected)
        out = network.Network(layer)(given, check=False)
        assert isinstance(out, torch.Tensor)
        assert_same_bits((out * 1).cpu().numpy(), layer(features))


def test_time_is_split(cp, rng):
    model, order = context_model(rng, 4, sizes=(33, 66, 70)), kernels.wavefront(13, 18, CAUSAL)
    y, features = latent(rng, 4, 13, 18, 33, 66)
    encoder = entropy.Encoder(table(4))
    kernels.encode_latent(encoder, y, features, model, order)
    ticks: dict[str, int] = {}
    decoder = cuda.Decoder(encoder.finish(), table(4))
    serial.decode_latent(decoder, cp.asarray(features), model, order, ticks=ticks)
    assert set(ticks) == set(serial.PARTS)
    assert min(ticks.values()) > 0
