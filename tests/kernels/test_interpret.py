"""The compiled interpreter equals the plain one to the bit, on any machine level and number of threads."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import table_oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from numba.core.registry import cpu_target
from numpy.typing import NDArray

from quadrans.entropy import _simd
from quadrans.kernels import _fma, _team, cpu
from quadrans.kernels.builder import Builder
from quadrans.kernels.program import ConvWeights, Function, Program, WeightStore

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
FEATURES = set(cpu_target.target_context.codegen().magic_tuple()[2].split(","))
MACHINES = _fma.MACHINES
CAN_FUSE = _fma.SHAPES[MACHINES[_fma.machine_number()]].fused or "+fma" in FEATURES
Build = Callable[[Builder], None]
Positions = tuple[IntArray, IntArray, bool]

SPECIAL = np.array(
    [
        0.0,
        -0.0,
        2**-149,
        -(2**-149),
        2**-126,
        2**-130,
        3e38,
        -3e38,
        np.inf,
        -np.inf,
        np.nan,
        1,
        -1,
        1e-20,
        1e20,
    ],
    np.float32,
)


def numbers(rng: np.random.Generator, *shape: int, special: float = 0.0) -> FloatArray:
    """Normal numbers of very different sizes, some of them special ones."""
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(-3, 4, shape)
    return np.where(rng.random(shape) < special, rng.choice(SPECIAL, shape), x).astype(np.float32)


def kernel_taps(kernel: int, padding: int, rng: np.random.Generator | None = None) -> NDArray[np.int64]:
    """Taps of a kernel (some masked, with rng)."""
    taps = [
        (i * kernel + j, i - padding, j - padding)
        for i in range(kernel)
        for j in range(kernel)
        if rng is None or rng.random() < 0.7
    ]
    return np.array(taps, np.int64).reshape(-1, 3)


def same(a: FloatArray, b: FloatArray) -> None:
    """Equal bits, NaN payloads apart."""
    bits = [np.where(np.isnan(x), np.float32(np.nan), x).view(np.uint32) for x in (a, b)]
    np.testing.assert_array_equal(*bits)


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each machine that this CPU can be: its vectors may be narrower or wider than the CPU's."""
    if _fma.SHAPES[request.param].fused and not CAN_FUSE:
        pytest.skip("this CPU has no fused multiply-add")
    monkeypatch.setattr(_fma, "machine_number", lambda: _fma.MACHINES.index(request.param))
    return request.param


def check(
    build: Build,
    n: int,
    capacity: int | None = None,
    threads: tuple[int, ...] = (1, 3),
    positions: Positions | None = None,
    special: float = 0.02,
    seed: int = 1,
) -> None:
    """Runs a program both ways in a memory full of numbers, and compares all of it.

    The whole memory is compared, so whatever should be left alone was. It has exactly the program's size, and
    what follows it is checked, too.
    """
    programs: list[Program] = []
    for packing in (cpu.pack, table_oracle.pack):
        builder = Builder(WeightStore(packing), capacity or max(n, 1))
        build(builder)
        programs.append(builder.build())
    compiled, plain = programs
    memory = numbers(np.random.default_rng(seed), plain.size, special=special)
    expected = memory.copy()
    if n:
        table_oracle.execute(plain, expected, n, positions)
    for count in threads:
        around = np.full(compiled.size + 64, np.nan, np.float32)
        around[32:-32] = memory
        cpu.execute(compiled, around[32:-32], n, count, positions)
        same(around[32:-32], expected)
        assert np.isnan(around[:32]).all()
        assert np.isnan(around[-32:]).all()


@st.composite
def convs(draw: st.DrawFn) -> tuple[Build, int, int]:
    """A convolution of parts of values; images; seed."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    inputs = draw(st.sampled_from([1, 2, 3, 17, 63, 64, 65, 130]))
    outputs = draw(st.sampled_from([1, 3, 4, 8, 15, 16, 17, 48, 63, 64, 65, 80, 129]))
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    kernel = draw(st.integers(1, 3 if inputs < 60 else 2))
    up, down = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 2), (3, 1), (1, 3)]))
    masked, padding = draw(st.booleans()), draw(st.integers(0, kernel))
    size = draw(st.integers(1, 7 if inputs < 60 else 3)), draw(st.integers(1, 7 if inputs < 60 else 3))
    weights = ConvWeights(
        numbers(rng, kernel * kernel, inputs, outputs, special=draw(st.sampled_from([0, 0.01]))),
        numbers(rng, outputs, special=0.1),
    )
    with np.errstate(all="ignore"):
        weights.weight[...] *= np.float32(draw(st.sampled_from([1, 1, 1e-38, 1e-30, 1e30])))
    taps = kernel_taps(kernel, padding, rng if masked else None)
    function = draw(st.sampled_from([Function.IDENTITY, *Function]))
    before, after = draw(st.integers(0, 3)), draw(st.integers(0, 3))

    def build(b: Builder) -> None:
        x = b.input("x", height, width, before + inputs + after)
        y = b.conv(x.part(before, before + inputs), weights, taps, size, up, down)
        if function:
            y = b.unary(y, function, 0.3)
        parts = [b.input("left", *size, before)] if before else []
        parts += [y]
        parts += [b.input("right", *size, after)] if after else []
        b.output("joined", b.concatenate(parts))

    return build, draw(st.integers(0, 3)), seed


@settings(max_examples=40)
@given(convs())
def test_convolutions(machine, drawn):
    build, n, seed = drawn
    check(build, n, capacity=3, seed=seed)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 2, 5, 6, 7, 11, 13, 49, 193])
def test_each_count_of_positions(n, threads):
    """Each number of rows in a block, several chunks, members with nothing to do."""
    rng = np.random.default_rng(n)
    weights = ConvWeights(numbers(rng, 1, 5, 150), numbers(rng, 150))

    def build(b: Builder) -> None:
        b.output("y", b.conv(b.input("x", 1, 1, 5), weights, kernel_taps(1, 0), (1, 1)))

    check(build, n, threads=(threads,))


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("n", [0, 1, 9])
def test_steps(machine, n, context):
    """Context and windows of positions, at the plane's edges and within; what a step doesn't read is +0."""
    rng = np.random.default_rng(n)
    height, width, channels = 4, 5, 70
    weights = ConvWeights(numbers(rng, 25, channels, 33), numbers(rng, 33))
    taps = kernel_taps(5, 2)[:12]
    corners = np.array([(0, 0), (3, 4), (0, 4)])[:n]
    inside = rng.integers(0, [height, width], (max(n - 3, 0), 2))
    rows, cols = np.ascontiguousarray(np.concatenate([corners, inside]).T.astype(np.int64))

    def build(b: Builder) -> None:
        plane = b.plane("plane", height, width, channels + 2)
        part = plane.part(1, 1 + channels)
        seen = b.context(part, weights, taps)
        here = b.window(plane, np.zeros((1, 3), np.int64), (1, 1), False)
        b.output("joined", b.concatenate([here, seen]))
        window = np.array([(i * 3 + j, i - 1, j - 1) for i in range(3) for j in range(3) if i * 3 + j != 4])
        b.output("window", b.window(part, window, (3, 3), True))
        b.output("other", b.window(part, window[::2], (3, 3), False))

    check(build, n, capacity=9, threads=(1, 2, 4), positions=(rows, cols, context), special=0.05)


@pytest.mark.parametrize("channels", [1, 3, 4, 15, 16, 17, 64, 65, 100])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
def test_depthwise(machine, channels, up, down):
    rng = np.random.default_rng(channels)
    weight, bias = numbers(rng, 9, channels, special=0.02), numbers(rng, channels, special=0.1)
    taps = np.array([(i * 3 + j, i - 1, j - 1) for i in range(3) for j in range(3) if i != j], np.int64)

    def build(b: Builder) -> None:
        x = b.input("x", 4, 3, channels + 1)
        y = b.depthwise(x.part(1, channels + 1), weight, bias, taps, (4, 3), up)
        if down == 1:
            y = b.unary(y, Function.LEAKY_RELU, 0.1)
        b.output("y", b.concatenate([y, b.input("right", 4, 3, 2)]))

    check(build, 2, threads=(1, 5))


@pytest.mark.parametrize("function", Function)
def test_elements(machine, function):
    """Functions, sums and products, of values with and without gaps."""

    def build(b: Builder) -> None:
        x, z = b.input("x", 3, 4, 37), b.input("z", 3, 4, 35)
        y = b.add(b.unary(x, function, 0.2).part(1, 36), z)
        b.output("y", b.concatenate([b.multiply(y, z), b.unary(x.part(2, 37), function, 0.2)]))

    check(build, 3, threads=(1, 2, 7), special=0.1)


@pytest.mark.parametrize("channels", [1, 31, 32, 33, 96])
def test_layer_norm(machine, channels):
    rng = np.random.default_rng(channels)
    gamma, beta = numbers(rng, channels), numbers(rng, channels)

    def build(b: Builder) -> None:
        x = b.input("x", 2, 3, channels + 2)
        b.output("y", b.layer_norm(x.part(1, channels + 1), gamma, beta, 1e-5))

    check(build, 3, special=0.005)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("added", [(), ("bias",), ("masks",), ("bias", "masks")])
def test_attention(machine, shared, added):
    """Sequences of images, the keys in the same value as the queries or in a plane, members sharing them."""
    rng = np.random.default_rng(len(added))
    queries, keys, heads, head_dim = 6, 7 if shared else 6, 2, 9
    bias, masks = numbers(rng, heads, queries, keys), numbers(rng, 3, queries, keys, special=0.1)
    all_added = {"bias": bias, "masks": (masks, np.array([2, 0]))}
    channels = heads * head_dim

    def build(b: Builder) -> None:
        x = b.input("x", 3, 4, 3 * channels)
        y = b.plane("tokens", 1, keys, 2 * channels) if shared else x.part(channels, 3 * channels)
        q, k, v = x.part(0, channels), y.part(0, channels), y.part(channels, 2 * channels)
        more = {name: all_added[name] for name in added}
        b.output("y", b.attention(q, k, v, heads, 0.3, (queries, keys), **more))

    check(build, 3, threads=(1, 2, 5), special=0.003)


def test_attention_of_few_sequences(machine):
    """Members share the queries of a sequence, also where they are more than those."""

    def build(b: Builder) -> None:
        x, y = b.input("x", 1, 5, 6), b.plane("tokens", 1, 70, 12)
        b.output("y", b.attention(x, y.part(0, 6), y.part(6, 12), 2, 0.3, (5, 70)))

    check(build, 1, threads=(1, 2, 3, 7))


def test_moves(machine):
    """Everything that only moves numbers."""
    rng = np.random.default_rng(0)
    constant = numbers(rng, 4, 6, 3)
    order = rng.permutation(24)

    def build(b: Builder) -> None:
        x = b.input("x", 2, 3, 25)
        y = b.shuffle(x.part(1, 25), 2)
        z = b.gather(y.part(1, 6), order[:12], (3, 4))
        b.output("gathered", z)
        b.output("partly", b.gather(y.part(1, 6), np.where(order[:12] % 3, order[:12], -1), (3, 4)))
        b.output("joined", b.concatenate([b.constant(constant), y, b.input("z", 4, 6, 5).part(1, 4)]))
        b.output("back", b.unshuffle(y.part(2, 5), 2))

    check(build, 3, threads=(1, 2, 5), special=0.1)


def small() -> tuple[Program, FloatArray]:
    """A program of a convolution at one position, and its memory."""
    builder = Builder(WeightStore(cpu.pack), 4)
    weights = ConvWeights(np.ones((1, 3, 2), np.float32), np.zeros(2, np.float32))
    builder.output("y", builder.conv(builder.input("x", 1, 1, 3), weights, kernel_taps(1, 0), (1, 1)))
    program = builder.build()
    return program, cpu.new_memory(program.size)


def test_more_threads_than_cores():
    """Members without a core give way to those that others wait for."""
    program, memory = small()
    for _ in range(20):
        cpu.execute(program, memory, 4, threads=4 * (os.cpu_count() or 1) + 1)


def test_members_meet_at_barriers():
    """What each member writes before a barrier all others see after it."""
    threads, rounds = 5, 300
    marks, wrong = np.zeros((threads, 64), np.int64), np.zeros(threads, np.int64)

    @njit(nogil=True)
    def meet(team, thread, rounds, marks, wrong):
        for i in range(rounds):
            marks[thread, 0] = i
            _team.barrier(team)
            for other in range(len(marks)):
                wrong[thread] += marks[other, 0] != i
            _team.barrier(team)

    meet(_team.new_team(1), 0, 0, marks, wrong)
    _team.together(threads, lambda team, thread: meet(team, thread, rounds, marks, wrong))
    assert not wrong.any()


def test_a_member_fails():
    """The others leave, those at a barrier too, and the error is the caller's."""
    left = []

    def work(team: IntArray, thread: int) -> None:
        if thread == 1:
            raise MemoryError("no room")
        left.append(_team.barrier(team))

    with pytest.raises(MemoryError, match="no room"):
        _team.together(3, work)
    assert left == [False, False]


def test_a_member_cannot_start(monkeypatch):
    program, memory = small()
    start = threading.Thread.start

    def fails(thread: threading.Thread) -> None:
        if thread.name == "quadrans-2":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fails)
    with pytest.raises(RuntimeError, match="can't start"):
        cpu.execute(program, memory, 4, threads=4)


def test_arguments():
    program, memory = small()
    read_only = memory.copy()
    read_only.flags.writeable = False
    for wrong, error, message in (
        ((memory[:-1], 4), ValueError, "floats for a program that needs"),
        ((memory.astype(np.float64), 4), TypeError, "float32"),
        ((memory.reshape(1, -1), 4), TypeError, "1-D"),
        ((np.zeros(2 * memory.size, np.float32)[::2], 4), ValueError, "contiguous"),
        ((read_only, 4), ValueError, "writeable"),
        ((memory, 5), ValueError, "room for 4"),
        ((memory, -1), ValueError, "room for 4"),
        ((memory, 4, 0), ValueError, "at least one thread"),
        ((memory, 4, 1, None, np.zeros(2, np.int64)), ValueError, "ticks of 2"),
        ((memory, 4, 1, None, np.zeros(1, np.int32)), TypeError, "int64"),
    ):
        with pytest.raises(error, match=message):
            cpu.execute(program, *wrong)


def test_positions():
    """Positions must be in all planes that are read."""
    builder = Builder(WeightStore(cpu.pack), 4)
    for name, size in (("tall", (5, 3)), ("wide", (3, 5))):
        plane = builder.plane(name, *size, 2)
        builder.output(f"{name} part", builder.window(plane, np.zeros((1, 3), np.int64), (1, 1), False))
    program = builder.build()
    memory = cpu.new_memory(program.size)
    good = np.array([0, 2], np.int64)
    cpu.execute(program, memory, 2, 1, (good, good, True))
    for rows, cols, error, message in (
        (good + 1, good, ValueError, "rows 1..3 of a plane that has 3"),
        (good, good + 1, ValueError, "columns 1..3 of a plane that has 3"),
        (good - 1, good, ValueError, "rows -1..1"),
        (good[:1], good, ValueError, r"rows of shape \(1,\) for 2 positions"),
        (good, good.astype(np.float64), TypeError, "float64 where integers"),
    ):
        with pytest.raises(error, match=message):
            cpu.execute(program, memory, 2, 1, (rows, cols, True))
    with pytest.raises(ValueError, match="none are given"):
        cpu.execute(program, memory, 2)


def test_flushed_subnormals():
    """Refused in each thread that computes."""
    import torch

    program, memory = small()

    def flushed() -> bool:
        if not torch.set_flush_denormal(True):
            return False
        try:
            with pytest.raises(RuntimeError, match="flushes subnormals"):
                cpu.execute(program, memory, 4)
        finally:
            torch.set_flush_denormal(False)
        return True

    with ThreadPoolExecutor(1) as pool:
        if not pool.submit(flushed).result():
            pytest.skip("this CPU can't flush subnormals")


def test_imported_where_subnormals_are_flushed():
    """What is imported then is right as soon as they no longer are."""
    code = """
        import torch
        torch.set_flush_denormal(True)
        from quadrans.kernels.cpu import check_arithmetic
        torch.set_flush_denormal(False)
        check_arithmetic()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_ticks():
    program, memory = small()
    ticks = np.zeros(1, np.int64)
    cpu.execute(program, memory, 4, ticks=ticks)
    assert ticks[0] > 0


@pytest.mark.skipif("+sse2" not in FEATURES, reason="this is no x86 CPU")
def test_other_cpus():
    """Code for a CPU without fused multiply-add, not only in another order: the very instructions."""
    environment = {**os.environ, "NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": "+sse4.2,+popcnt"}
    environment |= {"QUADRANS_SIMD": ""}
    code = "from quadrans.kernels import _fma; print(_fma.MACHINES[_fma.machine_number()])"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.stdout.strip() == "unfused", run.stderr
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__]
    command += ["-k", "unfused and (test_convolutions or test_depthwise or test_steps)"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("level", _simd.LEVELS)
def test_machine_of_the_environment(level):
    """QUADRANS_SIMD chooses among the machines, too."""
    if level not in _simd.levels():
        pytest.skip(f"this CPU has no {level}")
    code = "from quadrans.kernels import _fma; print(_fma.MACHINES[_fma.machine_number()])"
    environment = {**os.environ, "QUADRANS_SIMD": level}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    expected = {"scalar": "unfused", "avx2": "avx2"}.get(level, "avx512")
    assert run.stdout.strip() == ("neon" if platform.machine() in ("arm64", "aarch64") else expected), (
        run.stderr
    )
