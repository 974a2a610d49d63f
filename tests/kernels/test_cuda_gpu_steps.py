"""Steps that remember, refine and read other inputs on a real GPU: as `test_cuda_gpu_program`."""

from __future__ import annotations

import latent_cases as cases
import numpy as np
import pytest
from cuda_latents import check, on_cpu
from latent_cases import latent, table
from step_cases import MASK, attending_model, inputs, remembering_model

from quadrans import kernels
from quadrans.entropy import CorruptStream
from quadrans.kernels import cuda
from quadrans.kernels.cuda import serial

pytestmark = pytest.mark.gpu


@pytest.fixture
def cp():
    import cupy

    return cupy


@pytest.mark.parametrize("layout", [(64, 1), (32, 16), (16, 200)], ids=str)
@pytest.mark.parametrize("names", [(), ("tokens", "keys")], ids=str)
def test_memory_and_refinements(cp, names, layout, bits, rng, assert_same_bits):
    for order in (
        kernels.quadtree(17, 14, 36),
        kernels.slices(9, 10, (5, 30, 1)),
        kernels.slices_checkerboard(9, 10, (5, 31), MASK),
    ):
        model = remembering_model(rng, bits, order, 36, 40, memory=33, names=names)
        args = *latent(rng, bits, order.height, order.width, 36, 40), model, order, layout
        for _ in range(3):
            check(cp, assert_same_bits, *args, inputs=inputs(rng, *names))


def test_slices_of_a_photograph(cp, bits, rng, assert_same_bits):
    """Uneven slices with a checkerboard each, M = 320, as large as they are for 768x512."""
    order = kernels.slices_checkerboard(32, 48, (16, 16, 32, 64, 192), kernels.checkerboard_mask(5))
    model = remembering_model(rng, bits, order, 320, 640, memory=64)
    check(cp, assert_same_bits, *latent(rng, bits, 32, 48, 320, 640), model, order, (32, 16))


@pytest.mark.parametrize("layout", [(1, 1), (32, 16)], ids=str)
def test_inputs_of_positions(cp, layout, bits, rng, assert_same_bits):
    model, given = attending_model(rng, bits, (33, 66, 70)), inputs(rng, "keys")
    device = {name: cp.asarray(array) for name, array in given.items()}
    for order in cases.orders(13, 18):
        y, features = latent(rng, bits, 13, 18, 33, 66)
        check(cp, assert_same_bits, y, features, model, order, layout, inputs=given)
        expected = kernels.latent_parameters(y, features, model, order, inputs=given)
        arrays = cp.asarray(y), cp.asarray(features)
        offsets, indexes = serial.latent_parameters(*arrays, model, order, inputs=device)
        assert_same_bits(offsets.get(), expected[0])
        np.testing.assert_array_equal(indexes.get(), expected[1])


def test_a_failure_ends_all_launches(cp, rng):
    """Truncated streams, at each step: no launch waits for blocks that have left."""
    order = kernels.slices(9, 10, (5, 30, 1))
    model = remembering_model(rng, None, order, 36, 40)
    y, features = latent(rng, None, 9, 10, 36, 40)
    stream, _ = on_cpu(y, features, model, order, (32, 3))

    def decode(given):
        decoder = cuda.Decoder(given, table(None))
        serial.decode_latent(decoder, cp.asarray(features), model, order)
        decoder.close()

    decode(stream)
    for cut in range(8, len(stream), len(stream) // 40):
        with pytest.raises(CorruptStream):
            decode(stream[:cut])
