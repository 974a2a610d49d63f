"""The lanes coder on a real GPU: `pytest -m gpu` on a machine with CuPy, torch and a CUDA device."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
import unusual_streams

from quadrans import entropy
from quadrans.entropy import CorruptStream
from quadrans.kernels import _quantize as compiled
from quadrans.kernels import cuda
from quadrans.kernels.cuda.quantization import RESIDUAL, dequantize, quantize, to_indexes

pytestmark = pytest.mark.gpu

LAYOUTS = [(1, 1), (1, 5), (8, 3), (32, 1), (32, 16), (64, 1), (64, 8)]


@pytest.fixture
def cp():
    import cupy

    return cupy


def job(seed: int, size: int):
    rng = random.Random(seed)
    table = unusual_streams.table(rng)
    symbols, indexes = unusual_streams.symbols(rng, table, size)
    return table, np.array(symbols, np.int32), np.array(indexes, np.int32)


def latent(size: int, seed: int = 0):
    """(table, symbols, indexes) of a busy latent under 64 scales."""
    rng = np.random.default_rng(seed)
    indexes = np.clip(rng.normal(22, 8, size), 0, 63).astype(np.int32)
    symbols = np.rint(rng.normal(size=size) * entropy.default_scales()[indexes]).astype(np.int32)
    return entropy.gaussian_table(), symbols, indexes


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [0, 1, 63, 65, 1000, 20_001])
def test_either_side_decodes_the_other(cp, layout, size):
    for seed in range(3):
        table, symbols, indexes = job(seed, size)
        stream = cuda.encode(cp.asarray(symbols), cp.asarray(indexes), table, *layout)
        assert stream == entropy.encode(symbols, indexes, table, *layout)
        np.testing.assert_array_equal(entropy.decode(stream, indexes, table), symbols)
        np.testing.assert_array_equal(cp.asnumpy(cuda.decode(stream, cp.asarray(indexes), table)), symbols)


@pytest.mark.parametrize("layout", [(32, 16), (64, 8), (None, None)])
def test_a_latent(cp, layout):
    table, symbols, indexes = latent(245_760)
    stream = cuda.encode(cp.asarray(symbols), cp.asarray(indexes), table, *layout)
    assert stream == entropy.encode(symbols, indexes, table, *layout)
    decoder = cuda.Decoder(stream, table)
    cuts = [0, 1, 1000, 1000, 100_003, 245_760]
    parts = [decoder.get(cp.asarray(indexes[a:b])) for a, b in pairwise(cuts)]
    decoder.close()
    np.testing.assert_array_equal(cp.asnumpy(cp.concatenate(parts)), symbols)


def test_a_batch(cp):
    jobs = [latent(30_000 + 7 * seed, seed) for seed in range(64)]
    table = jobs[0][0]
    pairs = [(cp.asarray(symbols), cp.asarray(indexes)) for _, symbols, indexes in jobs]
    streams = cuda.encode_batch(pairs, table, 32, 4)
    for (_, symbols, indexes), stream in zip(jobs, streams, strict=True):
        assert stream == entropy.encode(symbols, indexes, table, 32, 4)
    for decoded, (_, symbols, _) in zip(
        cuda.decode_batch(streams, [b for _, b in pairs], table), jobs, strict=True
    ):
        np.testing.assert_array_equal(cp.asnumpy(decoded), symbols)


def test_corrupt_streams(cp):
    rng = random.Random(1)
    for seed in range(200):
        table, symbols, indexes = job(seed, rng.choice([1, 100, 3000]))
        layout = rng.choice(LAYOUTS)
        stream = unusual_streams.mutated(rng, entropy.encode(symbols, indexes, table, *layout), b"\1\2\3")
        try:
            expected = entropy.decode(stream, indexes, table)
        except ValueError as error:
            with pytest.raises(type(error)):
                cuda.decode(stream, cp.asarray(indexes), table)
        else:
            found = cuda.decode(stream, cp.asarray(indexes), table)
            np.testing.assert_array_equal(cp.asnumpy(found), expected)


def test_bad_indexes(cp):
    table, symbols, indexes = latent(5000)
    stream = entropy.encode(symbols, indexes, table, 32, 2)
    decoder = cuda.Decoder(stream, table)
    wrong = indexes.copy()
    wrong[1234] = 64
    with pytest.raises(ValueError, match="index 64 at 1234"):
        decoder.get(cp.asarray(wrong))
    np.testing.assert_array_equal(cp.asnumpy(decoder.get(cp.asarray(indexes))), symbols)
    decoder.close()
    with pytest.raises(CorruptStream):
        cuda.decode(stream[:-2], cp.asarray(indexes), table)


def test_torch_tensors_on_torchs_stream(cp):
    import torch

    table, symbols, indexes = latent(50_000)
    expected = entropy.encode(symbols, indexes, table, 32, 4)
    with torch.cuda.stream(torch.cuda.Stream()):
        a, b = torch.from_numpy(symbols).cuda(), torch.from_numpy(indexes).cuda()
        # What is queued on the stream before must be seen.
        assert cuda.encode(a + 0, b * 1, table, 32, 4) == expected
        found = cuda.decode(expected, b, table)
        assert torch.equal(torch.from_dlpack(found), a)
    with pytest.raises(TypeError, match="CUDA device"):
        cuda.encode(torch.from_numpy(symbols), b, table)


@pytest.mark.parametrize("bits", [RESIDUAL, 4])
def test_quantization(cp, bits):
    rng, n, channels = np.random.default_rng(0), 1999, 7
    thresholds = entropy.scale_thresholds()
    scales = np.exp(rng.normal(0, 2, (n, channels)))
    means = rng.normal(0, 1, (n, channels)) * 2.0 ** rng.integers(-140, 12, (n, channels))
    both = np.concatenate([scales, means], 1).astype(np.float32)
    offsets, indexes = np.empty(n * channels, np.float32), np.empty(n * channels, np.int32)
    compiled.to_indexes(
        both.reshape(-1), 0, channels, 2 * channels, n, channels, thresholds, bits, offsets, indexes
    )
    arrays = cp.asarray(both), cp.asarray(thresholds), bits
    found_offsets, found_indexes = (cp.asnumpy(one).reshape(-1) for one in to_indexes(*arrays))
    np.testing.assert_array_equal(found_indexes, indexes)
    np.testing.assert_array_equal(found_offsets.view(np.uint32), offsets.view(np.uint32))
    y = np.rint(rng.normal(0, 50, (n, channels))).astype(np.float32)
    rows, cols, firsts = np.zeros(n, np.int64), np.arange(n), np.zeros(n, np.int64)
    symbols, y_hat = np.empty(n * channels, np.int32), np.zeros(n * channels, np.float32)
    where = (0, n, channels, rows, cols, firsts, channels)
    assert compiled.quantize(y.reshape(-1), *where, offsets, bits, symbols) == -1
    assert compiled.store(y_hat, *where, symbols, offsets, bits) == -1
    found = quantize(cp.asarray(y), *arrays)
    np.testing.assert_array_equal(cp.asnumpy(found[0]).reshape(-1), symbols)
    np.testing.assert_array_equal(cp.asnumpy(found[2]).reshape(-1).view(np.uint32), y_hat.view(np.uint32))
    again = cp.zeros((n, channels), cp.float32)
    dequantize(found[0], to_indexes(*arrays)[0], bits, again)
    np.testing.assert_array_equal(cp.asnumpy(again).reshape(-1).view(np.uint32), y_hat.view(np.uint32))
