"""Functions and reductions: the same bits from the reference, Numba with and without FMA, and device code."""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from quadrans.kernels import attention as rows
from quadrans.kernels import functions
from quadrans.kernels import reference_functions as reference
from quadrans.kernels._fma import MACHINES, machine, machine_number

ROOT = Path(__file__).resolve().parents[2]
X86 = platform.machine().lower() in ("x86_64", "amd64")
FUSED, UNFUSED = MACHINES.index("avx2"), MACHINES.index("unfused")
SLOPE = np.float32(0.3)
NAMES = "relu leaky_relu gelu gelu_tanh exp softplus tanh sigmoid absolute sqrt".split()
KINDS = {name: kind for kind, name in enumerate(NAMES, functions.RELU)}
F = np.float32
INF, NAN, TINY = np.inf, np.nan, 2.0**-149


def reference_of(name: str) -> Callable[[np.ndarray], np.ndarray]:
    return (lambda x: reference.leaky_relu(x, SLOPE)) if name == "leaky_relu" else getattr(reference, name)


def compiled(number: int) -> SimpleNamespace:
    """The compiled functions for a machine of that number."""

    @njit(nogil=True, cache=True)
    def unary(kind, slope, x, out):
        return functions.unary(machine(number), kind, slope, x, out)

    @njit(nogil=True, cache=True)
    def erf(x, out):
        for i in range(len(x)):
            out[i] = functions.erf(machine(number), x[i])

    @njit(nogil=True, cache=True)
    def layer_norm(memory, src, src_pitch, dst, dst_pitch, channels, begin, end, floats, gamma, beta, eps):
        kind = machine(number)
        rows.layer_norm_rows(
            kind, memory, src, src_pitch, dst, dst_pitch, channels, begin, end, floats, gamma, beta, eps
        )

    @njit(nogil=True, cache=True)
    def attention(memory, places, pitches, shape, scale, floats, bias, mask, scratch):
        q, k, v, out = places
        q_pitch, k_pitch, v_pitch, out_pitch = pitches
        queries, keys, heads, dim = shape
        rows.attention(
            machine(number),
            memory,
            q,
            q_pitch,
            k,
            k_pitch,
            v,
            v_pitch,
            out,
            out_pitch,
            queries,
            keys,
            heads,
            dim,
            scale,
            floats,
            bias,
            mask,
            scratch,
        )

    return SimpleNamespace(unary=unary, erf=erf, layer_norm=layer_norm, attention=attention)


COMPILED = {"fused": compiled(FUSED), "unfused": compiled(UNFUSED)}


def run(implementation: SimpleNamespace, name: str, x: np.ndarray) -> np.ndarray:
    out = np.full_like(x, np.nan)
    if name == "erf":
        implementation.erf(x, out)
    else:
        assert implementation.unary(KINDS[name], SLOPE, x, out)
    return out


@pytest.fixture(scope="session")
def device(tmp_path_factory) -> SimpleNamespace:
    """CUDA's functions compiled for the host, to be called as `compiled` ones are."""
    library = tmp_path_factory.mktemp("functions") / "functions.so"
    flags = ["-O2", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fPIC", "-shared"]
    source = Path(__file__).with_name("functions_host.cpp")
    subprocess.run(["g++", *flags, "-I", ROOT / "kernels" / "cuda", source, "-o", library], check=True)
    loaded = ctypes.CDLL(str(library))

    def pointer(x):
        return x.ctypes.data_as(ctypes.POINTER(ctypes.c_float))

    def unary(kind, slope, x, out):
        loaded.unary_array(kind, ctypes.c_float(slope), pointer(x), pointer(out), ctypes.c_longlong(len(x)))
        return True

    def erf(x, out):
        loaded.erf_array(pointer(x), pointer(out), ctypes.c_longlong(len(x)))

    return SimpleNamespace(unary=unary, erf=erf)


def sample(step: int) -> np.ndarray:
    """Every step-th bit pattern, and some around where the functions change their ways."""
    strided = np.arange(0, 1 << 32, step, dtype=np.uint64).astype(np.uint32)
    turns = [0.5625, 1, 14.5, 14.5 / math.sqrt(2), 16, 20, math.log(2) / 2, 87.3, 88.7, 89, 103.97, 104]
    ends = [0, TINY, 2.0**-126, np.finfo(F).max, INF, NAN]
    edges = np.array(turns + ends, F).view(np.uint32)
    near = (
        (edges[:, None].astype(np.int64) + np.arange(-40, 41)).clip(0, 0x7FFFFFFF).astype(np.uint32).ravel()
    )
    return np.concatenate([strided, near, near | np.uint32(1 << 31)]).view(F)


@pytest.fixture(scope="module")
def everywhere() -> np.ndarray:
    return sample(40009)


ALL = [*NAMES, "erf"]


@pytest.mark.parametrize("name", ALL)
def test_same_bits(name, everywhere, device, assert_same_bits) -> None:
    expected = reference_of(name)(everywhere)
    for implementation in (*COMPILED.values(), device):
        assert_same_bits(run(implementation, name, everywhere), expected)


@pytest.mark.parametrize("name", ALL)
def test_device_code_on_many_more(name, device, assert_same_bits) -> None:
    x = np.random.default_rng(7).integers(0, 1 << 32, 1_000_000, np.uint32).view(F)
    assert_same_bits(run(device, name, x), run(COMPILED["fused"], name, x))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [0, 1, 15, 100, 5000])
def test_unary_in_place(name, length, everywhere, assert_same_bits) -> None:
    x = everywhere[-length:] if length else everywhere[:0]
    expected = run(COMPILED["fused"], name, x)
    guarded = np.full(length + 2, F(-7))
    guarded[1:-1] = x
    assert COMPILED["fused"].unary(KINDS[name], SLOPE, guarded[1:-1], guarded[1:-1])
    assert_same_bits(guarded[1:-1], expected)
    assert guarded[0] == guarded[-1] == F(-7)


def test_unary_refuses_other_kinds_and_lengths() -> None:
    x, out = np.ones(5, F), np.full(5, np.nan, F)
    unary = COMPILED["fused"].unary
    assert not unary(functions.SQRT + 1, SLOPE, x, out)
    assert not unary(-1, SLOPE, x, out)
    assert not unary(functions.EXP, SLOPE, x, out[:4])
    assert np.isnan(out).all()
    assert unary(functions.IDENTITY, SLOPE, x, out)
    assert (out == 1).all()


EXACT = {
    "exp": (math.exp, 0.69, -103, 88.7),
    "tanh": (math.tanh, 1.46, -100, 100),
    "sigmoid": (lambda x: 1 / (1 + math.exp(-x)), 1.51, -103, 100),
    "softplus": (lambda x: max(x, 0) + math.log1p(math.exp(-abs(x))), 1.87, -103, 100),
    "erf": (math.erf, 1.41, -6, 6),
    "gelu": (lambda x: x * math.erfc(-x / math.sqrt(2)) / 2, 4.81, -13, 100),
    "gelu_tanh": (
        lambda x: x / (1 + math.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        2.87,
        -1,
        100,
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_error_in_units_of_the_last_place(name, rng) -> None:
    """The bounds that ARITHMETIC.md states, found by trying all inputs, on some."""
    function, bound, low, high = EXACT[name]
    x = np.concatenate([rng.uniform(low, high, 20000), rng.uniform(max(low, -8), 8, 20000)])
    x = np.concatenate([x, rng.choice([-1, 1], 10000) * 2.0 ** rng.uniform(-140, 0, 10000)])
    x = np.clip(x, low, high).astype(F)
    exact = np.array([function(float(value)) for value in x])
    error = np.abs(run(COMPILED["fused"], name, x).astype(np.float64) - exact)
    ulp = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(exact), 2.0**-126))) - 23)
    # Where the result is subnormal: half a unit of rounding on top of what is half a unit at most.
    bounds = np.where(np.abs(exact) < 2.0**-125, max(bound, 1.0), bound)
    assert (error <= bounds * ulp).all()
    # And the test can fail: results are no better than they claim.
    assert (error > 0.3 * bound * ulp).any()


def test_gelu_tanh_error_far_below_zero(rng) -> None:
    function = EXACT["gelu_tanh"][0]
    x = rng.uniform(-16, -1, 40000).astype(F)
    exact = np.array([function(float(value)) for value in x])
    assert np.abs(run(COMPILED["fused"], "gelu_tanh", x) - exact).max() <= 4.5e-8


SPECIAL = {
    # x:          inf, -inf,  nan,  0.0, -0.0,  tiny,  -tiny
    "relu": (INF, 0.0, 0.0, 0.0, 0.0, TINY, 0.0),
    "leaky_relu": (INF, -INF, NAN, 0.0, -0.0, TINY, -0.0),
    "gelu": (INF, 0.0, NAN, 0.0, 0.0, 0.0, -0.0),
    "gelu_tanh": (INF, -0.0, NAN, 0.0, -0.0, 0.0, -0.0),
    "exp": (INF, 0.0, NAN, 1.0, 1.0, 1.0, 1.0),
    "softplus": (INF, 0.0, NAN, *[F(math.log(2))] * 4),
    "tanh": (1.0, -1.0, NAN, 0.0, -0.0, TINY, -TINY),
    "sigmoid": (1.0, 0.0, NAN, 0.5, 0.5, 0.5, 0.5),
    "erf": (1.0, -1.0, NAN, 0.0, -0.0, TINY, -TINY),
    "absolute": (INF, INF, NAN, 0.0, 0.0, TINY, TINY),
    "sqrt": (INF, 0.0, NAN, 0.0, 0.0, F(2**-74.5), 0.0),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_values(name, assert_same_bits) -> None:
    x = np.array([INF, -INF, NAN, 0.0, -0.0, TINY, -TINY], F)
    for implementation in COMPILED.values():
        assert_same_bits(run(implementation, name, x), np.array(SPECIAL[name], F))


WORKED = """
    -100   0000001B 0000001B 0000001B BF800000 BF800000 00000000 80000000
    -13    3617B02A 3617B014 3617B01F BF800000 BF800000 81D87B88 80000000
    -3.3   3D1712CE 3D11B319 3D145AA5 BF7F4DF0 BF7FFFCD BAD11963 BAABDD89
    -1.1   3EAA6E14 3E7FBBD1 3E931D9D BF4CED81 BF61551F BE18D073 BE190148
    -0.3   3F3DA643 3ED9E2AC 3F0DEA39 BE9526EE BEA841C5 BDEAC155 BDEAC2A7
    0.001  3F8020C9 3F001062 3F3192DE 3A83126C 3A93E61C 3A032D35 3A032D35
    0.5    3FD3094C 3F1F597E 3F795D1C 3EEC9A9F 3F053F7B 3EB103AF 3EB1016D
    0.75   40077CEE 3F2DDEA8 3F9184FD 3F22991F 3F360E4C 3F147CD0 3F14784C
    2.5    4142EB7F 3F6C948F 40250C88 3F7C92C1 3F7FE554 401F01A7 401F08DC
    20     4DE75844 3F800000 41A00000 3F800000 3F800000 41A00000 41A00000
    88.5   7F4CDCC4 3F800000 42B10000 3F800000 3F800000 42B10000 42B10000
"""


def test_worked_values_of_the_page() -> None:
    """What arithmetic 2 gives, forever: x, then the bits of each function's result."""
    names = "exp sigmoid softplus tanh erf gelu gelu_tanh".split()
    for line in WORKED.split("\n")[1:-1]:
        x, *bits = line.split()
        for name, word in zip(names, bits, strict=True):
            assert f"{getattr(reference, name)(np.array([x], F)).view(np.uint32)[0]:08X}" == word, (name, x)


def test_leaky_relu_of_slope_0_makes_nan_of_infinities(assert_same_bits) -> None:
    x, out = np.array([INF, -INF, 1, -1], F), np.empty(4, F)
    COMPILED["fused"].unary(functions.LEAKY_RELU, F(0), x, out)
    assert_same_bits(out, np.array([NAN, NAN, 1, -0.0], F))


def test_these_are_the_functions_of_pytorch(normal) -> None:
    import torch
    from torch.nn import functional as nn

    x = np.concatenate([normal(1000) * F(scale) for scale in (0.01, 1, 10)])
    double = torch.from_numpy(x).double()
    for name, function in {
        "relu": torch.relu,
        "leaky_relu": lambda x: nn.leaky_relu(x, float(SLOPE)),
        "gelu": nn.gelu,
        "gelu_tanh": lambda x: nn.gelu(x, approximate="tanh"),
        "exp": torch.exp,
        "softplus": nn.softplus,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "absolute": torch.abs,
        "sqrt": lambda x: x.relu().sqrt(),
        "erf": torch.erf,
    }.items():
        np.testing.assert_allclose(
            run(COMPILED["fused"], name, x), function(double).numpy(), rtol=2e-6, atol=1e-7, err_msg=name
        )
    y, gamma, beta = normal(7, 50), normal(50), normal(50)
    expected = nn.layer_norm(
        torch.from_numpy(y), (50,), torch.from_numpy(gamma), torch.from_numpy(beta), 1e-5
    )
    np.testing.assert_allclose(reference.layer_norm(y, gamma, beta, 1e-5), expected.numpy(), atol=2e-6)
    np.testing.assert_allclose(reference.softmax(y), torch.from_numpy(y).softmax(-1).numpy(), atol=1e-6)
    q, k, v = normal(7, 24), normal(11, 24), normal(11, 24)
    bias, mask = normal(3, 7, 11), normal(7, 11)
    split = [torch.from_numpy(part).view(-1, 3, 8).transpose(0, 1) for part in (q, k, v)]
    expected = nn.scaled_dot_product_attention(*split, attn_mask=torch.from_numpy(bias + mask), scale=0.7)
    got = reference.attention(q, k, v, 3, 0.7, bias, mask)
    np.testing.assert_allclose(got, expected.transpose(0, 1).reshape(7, 24).numpy(), atol=2e-6)


def test_sums_are_32_strided_partial_sums(assert_same_bits) -> None:
    """Terms of one partial sum swallow or cancel each other, those of two don't meet before the end."""
    x = np.zeros(96, F)
    x[[0, 32, 64]] = 1, 2**24, -(2**24)
    x[[1, 33, 65]] = 2**24, -(2**24), 1
    assert_same_bits(reference.reduce_sum(x), np.array(1, F))
    # (s_0 + s_16) + (s_8 + s_24): 2^24 + 1 rounds to 2^24, and 1 + 1 does not vanish.
    x = np.zeros(32, F)
    x[[0, 16, 8, 24]] = 2**24, 1, 1, 1
    assert_same_bits(reference.reduce_sum(x), np.array(2**24 + 2, F))
    # 1 + 2^-12 squared is 1 + 2^-11 + 2^-24: only an fma keeps the last term until -1 - 2^-11 comes.
    big = F(1 + 2.0**-12)
    assert reference.reduce_sum_squares(np.array([big], F)) == F(1 + 2.0**-11)


VALUES = np.array([0.0, -0.0, TINY, -TINY, 2**-126, 1e-20, 3e38, -3e38, INF, -INF, NAN, -100, 1], F)


def numbers(rng: np.random.Generator, *shape: int, special: float) -> np.ndarray:
    """Normal numbers of very different sizes, that part of them special ones."""
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-4, 5, shape)
    return np.where(rng.random(shape) < special, rng.choice(VALUES, shape), x).astype(F)


RARELY = st.sampled_from([0.0, 0.0, 0.02, 0.3])
SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("implementation", COMPILED.values(), ids=COMPILED)
@given(
    count=st.integers(1, 5), channels=st.integers(1, 200), spare=st.integers(0, 5), special=RARELY, seed=SEEDS
)
def test_layer_norm(implementation, count, channels, spare, special, seed, assert_same_bits) -> None:
    """In place and not; what is beside the rows is neither read nor written."""
    rng = np.random.default_rng(seed)
    pitch = channels + spare
    x = numbers(rng, count, channels, special=special)
    gamma, beta = numbers(rng, 2, channels, special=special)
    floats = np.concatenate([[F(np.nan)], gamma, [F(np.nan)], beta, [F(np.nan)]])
    poisoned = np.full(1 + 2 * count * pitch + spare, np.nan, F)
    source = poisoned[1 : 1 + count * pitch].reshape(count, pitch)[:, :channels]
    source[...] = x
    for target in (1, 1 + count * pitch):
        memory = poisoned.copy()
        where = (memory, 1, pitch, target, pitch, channels)
        implementation.layer_norm(*where, 1, count, floats, 1, channels + 2, F(1e-6))
        wanted = poisoned.copy()
        rest = wanted[target : target + count * pitch].reshape(count, pitch)
        rest[1:, :channels] = reference.layer_norm(x, gamma, beta, 1e-6)[1:]
        assert_same_bits(memory, wanted)


@pytest.mark.parametrize("implementation", COMPILED.values(), ids=COMPILED)
@given(
    queries=st.integers(1, 14),
    keys=st.integers(1, 140),
    heads=st.integers(1, 3),
    dim=st.sampled_from([1, 3, 16, 17, 40, 65, 130]),
    with_bias=st.booleans(),
    with_mask=st.booleans(),
    special=RARELY,
    seed=SEEDS,
)
def test_attention(
    implementation, queries, keys, heads, dim, with_bias, with_mask, special, seed, assert_same_bits
) -> None:
    rng = np.random.default_rng(seed)
    width = heads * dim
    pitches = tuple(int(width + n) for n in rng.integers(0, 4, 4))
    lengths = [rows_ * pitch for rows_, pitch in zip((queries, keys, keys, queries), pitches, strict=True)]
    places = tuple(int(n) for n in np.cumsum([3, *lengths[:3]]))
    memory = np.full(places[3] + lengths[3] + 3, np.nan, F)

    def view(n: int) -> np.ndarray:
        part = memory[places[n] : places[n] + lengths[n]].reshape(-1, pitches[n])
        return part[:, :width]

    inputs = []
    for n in range(3):
        view(n)[...] = numbers(rng, *view(n).shape, special=special)
        inputs.append(view(n).copy())
    bias = numbers(rng, heads, queries, keys, special=special) if with_bias else None
    mask = np.where(rng.random((queries, keys)) < 0.3, F(-np.inf), F(0)) if with_mask else None
    floats = np.concatenate([part.ravel() for part in (np.ones(2, F), bias, mask) if part is not None])
    wanted = memory.copy()
    out = wanted[places[3] : places[3] + lengths[3]].reshape(-1, pitches[3])
    out[:, :width] = reference.attention(*inputs, heads, 0.37, bias, mask)
    scratch = np.full(rows.attention_scratch(keys, dim) + 1, F(np.nan))
    scratch[-1] = 5
    implementation.attention(
        memory,
        places,
        pitches,
        (queries, keys, heads, dim),
        F(0.37),
        floats,
        2 if with_bias else -1,
        floats.size - queries * keys if with_mask else -1,
        scratch,
    )
    assert_same_bits(memory, wanted)
    assert scratch[-1] == 5


def digest(number: int) -> str:
    """Of the results of that machine's functions."""
    implementation = compiled(number)
    x = sample(400009)
    results = [run(implementation, name, x) for name in ALL]
    rng = np.random.default_rng(3)
    memory = numbers(rng, 40000, special=0.001)
    floats = numbers(rng, 2000, special=0)
    implementation.layer_norm(memory, 0, 111, 5000, 100, 99, 0, 9, floats, 0, 99, F(1e-5))
    scratch = np.empty(rows.attention_scratch(20, 33), F)
    places, pitches = (0, 10000, 20000, 30000), (70, 66, 80, 100)
    implementation.attention(memory, places, pitches, (8, 20, 2, 33), F(0.2), floats, 0, 400, scratch)
    bits = np.where(np.isnan(every := np.concatenate([*results, memory])), F(np.nan), every)
    return hashlib.sha256(bits.tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        pytest.param({"QUADRANS_SIMD": "scalar"}, "unfused", id="scalar"),
        pytest.param(
            {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": "+sse4.2,+popcnt", "QUADRANS_SIMD": ""},
            "unfused",
            id="nehalem",
        ),
        pytest.param(
            {
                "NUMBA_CPU_NAME": "haswell",
                "NUMBA_CPU_FEATURES": "+sse4.2,+popcnt,+avx,+avx2,+bmi,+bmi2,+fma,+lzcnt",
                "QUADRANS_SIMD": "",
            },
            "avx2",
            id="haswell",
        ),
    ],
)
@pytest.mark.skipif(not X86, reason="this is no x86 CPU")
def test_same_bits_on_other_cpus(environment, expected) -> None:
    """What each CPU picks for itself, compiled for nothing more than that CPU has."""
    command = [sys.executable, __file__]
    result = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [expected, digest(FUSED)]


if __name__ == "__main__":
    print(MACHINES[machine_number()], digest(machine_number()))
