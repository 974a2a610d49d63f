"""The adapter of torchac's functions: what comes in torch comes out in torch, what in NumPy in NumPy."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch

from quadrans.entropy import CorruptStream
from quadrans.entropy import torchac as arrays
from quadrans.nets.adapters import torchac

FLOATS = torch.tensor([[0, 0.25, 0.75, 0.9375, 1]]).repeat(5, 1)
SYMBOLS = torch.tensor([0, 1, 3, 2, 1], dtype=torch.int16)
STREAM = bytes.fromhex("2f a0")


def job(dtype, normalize):
    rng = np.random.default_rng(5)
    cdf = torch.from_numpy(np.sort(rng.random((6, 7, 12)))).to(dtype)
    cdf[..., 0], cdf[..., -1] = 0, 1
    symbols = rng.integers(0, 11, (6, 7))
    if not normalize:
        # Some cells are empty then; the widest isn't.
        symbols = cdf.double().diff().argmax(-1).numpy()
    return cdf, torch.from_numpy(symbols.astype(np.int16))


def original_integers(cdf, normalize):
    """torchac's conversion, in its words."""
    columns = cdf.shape[-1]
    factor = torch.tensor(2, dtype=torch.float32).pow_(16) - ((columns - 1) if normalize else 0)
    whole = cdf.mul(factor).round().to(torch.int16)
    return whole.add_(torch.arange(columns, dtype=torch.int16)) if normalize else whole


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("normalize", [True, False])
def test_floats_as_torchac_converts_them(dtype, normalize):
    cdf, symbols = job(dtype, normalize)
    whole = original_integers(cdf, normalize)
    stream = torchac.encode_float_cdf(cdf, symbols, normalize, check_input_bounds=True)
    assert stream == torchac.encode_int16_normalized_cdf(whole, symbols)
    for decoded in (
        torchac.decode_float_cdf(cdf, stream, normalize),
        torchac.decode_int16_normalized_cdf(whole, stream),
    ):
        assert decoded.dtype == torch.int16
        assert torch.equal(decoded, symbols)


def test_arrays_stay_arrays():
    assert torchac.encode_float_cdf(FLOATS.numpy(), SYMBOLS.numpy()) == STREAM
    decoded = torchac.decode_float_cdf(FLOATS.numpy(), STREAM)
    assert isinstance(decoded, np.ndarray)
    assert decoded.dtype == np.int16
    assert decoded.tolist() == SYMBOLS.tolist()
    whole = original_integers(FLOATS, True)
    assert isinstance(torchac.decode_int16_normalized_cdf(whole.numpy(), STREAM), np.ndarray)


def test_tensors_of_any_layout():
    assert torchac.encode_float_cdf(FLOATS.clone().requires_grad_(), SYMBOLS) == STREAM
    assert torchac.encode_float_cdf(FLOATS.t().contiguous().t(), SYMBOLS) == STREAM
    assert torch.equal(torchac.decode_float_cdf(FLOATS[:1].expand(5, 5), STREAM), SYMBOLS)
    one = torchac.decode_float_cdf(FLOATS[0], torchac.encode_float_cdf(FLOATS[0], SYMBOLS[2]))
    assert (one.shape, int(one)) == ((), 3)


def test_errors():
    elsewhere = torch.empty(FLOATS.shape, device="meta")
    for call in (
        lambda: torchac.encode_float_cdf(elsewhere, SYMBOLS),
        lambda: torchac.decode_float_cdf(elsewhere, STREAM),
        lambda: torchac.encode_float_cdf(elsewhere.bfloat16(), SYMBOLS),
        lambda: torchac.decode_int16_normalized_cdf(elsewhere.short(), STREAM),
    ):
        with pytest.raises(ValueError, match="CDF must be on CPU, not on meta"):
            call()
    with pytest.raises(ValueError, match="Symbols must be on CPU, not on meta"):
        torchac.encode_float_cdf(FLOATS, SYMBOLS.to("meta"))
    with pytest.raises(ValueError, match="sym must be int16, not int64"):
        torchac.encode_float_cdf(FLOATS, SYMBOLS.long())
    with pytest.raises(ValueError, match="symbol 4 at 0"):
        torchac.encode_float_cdf(FLOATS, SYMBOLS + 4)
    with pytest.raises(ValueError, match=r"cdf_float is in 0.0..2.0"):
        torchac.encode_float_cdf(2 * FLOATS.bfloat16(), SYMBOLS, check_input_bounds=True)
    with pytest.raises(ValueError, match="cdf_float holds values that are not finite"):
        torchac.decode_float_cdf(FLOATS.bfloat16() / 0, STREAM)
    with pytest.raises(CorruptStream, match="stream of 1 bytes"):
        torchac.decode_float_cdf(FLOATS, STREAM[:1])


def test_signatures():
    for name in ("encode_float_cdf", "decode_float_cdf", "encode_int16_normalized_cdf"):
        of_tensors, of_arrays = (inspect.signature(getattr(m, name)).parameters for m in (torchac, arrays))
        assert [(p.name, p.default) for p in of_tensors.values()] == [
            (p.name, p.default) for p in of_arrays.values()
        ]


def test_import_compiles_nothing():
    """Neither by a C++ compiler, as torchac's import does, nor by Numba."""
    code = "import sys, quadrans.nets.adapters.torchac as t; print('numba' in sys.modules, len(dir(t)) > 4)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True"]
