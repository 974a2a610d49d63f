"""Layers and programs through the GPU's binding, emulated: equal to the CPU's to the bit."""

from __future__ import annotations

import sys

import fake_cupy
import numpy as np
import pytest
import random_layers
from hypothesis import given, settings
from hypothesis import strategies as st
from random_layers import Grower

from quadrans import kernels
from quadrans.kernels.builder import Builder
from quadrans.kernels.cuda import _module, network
from quadrans.kernels.program import WeightStore


@pytest.fixture(autouse=True)
def cp(monkeypatch):
    """CuPy, on the emulator."""
    fake = fake_cupy.install(monkeypatch)
    caches = _module._module, network._shape
    for one in caches:
        one.cache_clear()
    yield fake
    for one in caches:
        one.cache_clear()


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    channels=st.sampled_from(random_layers.WIDTHS),
    extreme=st.sampled_from([0, 0.02, 0.3]),
    bits=st.sampled_from([0, 0.02, 1]),
)
@settings(max_examples=60)
def test_trees(seed, size, channels, extreme, bits, cp, assert_same_bits):
    """Whatever is built of layers: infinities and NaN inside included."""
    grower = Grower(seed, extreme)
    layer = grower.tree((*size, channels), 3)
    x = grower.values(2, *size, channels, bits=bits)
    tokens = grower.values(2, *random_layers.TOKENS, bits=bits)
    inputs = {"tokens": tokens} if random_layers.reads_tokens(layer) else {}
    expected = layer(x, inputs, check=False)
    device = {name: cp.asarray(array) for name, array in inputs.items()}
    assert_same_bits(network.Network(layer)(cp.asarray(x), device, check=False).get(), expected)


def test_networks(cp, rng, assert_same_bits):
    """A layer on a GPU: batches, several inputs, programs kept; equal to the CPU's."""
    weights = rng.standard_normal((6, 5, 3, 3)).astype(np.float32)
    conv = kernels.Conv2d(weights, padding=1)
    both = kernels.Concat([kernels.Sequential(), kernels.Input("z")])
    layer = kernels.Sequential([conv, kernels.GELU(), both])
    x, z = (rng.standard_normal((2, 4, 3, channels)).astype(np.float32) for channels in (5, 2))
    expected = layer(x, {"z": z})
    own = network.Network(layer)
    assert_same_bits(own(cp.asarray(x), {"z": cp.asarray(z)}).get(), expected)
    assert_same_bits(own(cp.asarray(x[1]), {"z": cp.asarray(z[1])}).get(), expected[1])
    x[0, 1, 2, 3] = np.inf
    with pytest.raises(ValueError, match=r"x of shape .* has 1 values that are not finite"):
        own(cp.asarray(x), {"z": cp.asarray(z)})
    found = own(cp.asarray(x), {"z": cp.asarray(z)}, check=False).get()
    assert_same_bits(found, layer(x, {"z": z}, check=False))
    with pytest.raises(TypeError, match="x must be float32"):
        own(cp.asarray(x.astype(np.float64)))
    with pytest.raises(ValueError, match=r"z of shape \(4, 3, 2\) must be"):
        own(cp.asarray(x), {"z": cp.asarray(z[0])}, check=False)


def test_a_program_without_instructions(cp):
    x = cp.asarray(np.ones((2, 3, 4), np.float32))
    assert (network.Network(kernels.Sequential())(x) == x).all()


def test_names_are_found_at_home():
    from quadrans.kernels import cuda

    assert cuda.Network is network.Network
    assert set(cuda.__all__) <= set(dir(cuda))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cuda.nothing  # noqa: B018


def test_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"quadrans\[cuda\]"):
        network.new_memory(3)


def test_programs_refused(cp, rng):
    builder = Builder(WeightStore(network.pack), 2)
    plane = builder.plane("y_hat", 3, 4, 2)
    builder.output("y", builder.window(plane, np.zeros((1, 3), np.int64), (1, 1), False))
    program = builder.build()
    memory, zeros = network.new_memory(program.size), cp.zeros(2, np.int64)
    step, narrow = (zeros, zeros, True), zeros.astype(np.int32)
    on_host = np.zeros(program.size, np.float32)
    network.execute(program, memory, 2, positions=step)
    for error, message, arguments in (
        (ValueError, "the program works at the positions of a step", (memory, 2)),
        (ValueError, "3 images or positions for a program with room for 2", (memory, 3, 1, step)),
        (TypeError, "the memory must be a 1-D CuPy array of float32", (on_host, 2, 1, step)),
        (ValueError, "the memory of 3 must have", (memory[:3], 2, 1, step)),
        (TypeError, "rows must be a 1-D CuPy array of int64", (memory, 2, 1, (narrow, zeros, True))),
        (ValueError, "cols of 1 must have 2", (memory, 2, 1, (zeros, zeros[:1], True))),
        (ValueError, "ticks of 0 must have 1", (memory, 2, 1, step, cp.zeros(0, np.int64))),
    ):
        with pytest.raises(error, match=message):
            network.execute(program, *arguments)
