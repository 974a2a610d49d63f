"""Matrix products and steps of a serial context model: quadrans' exact kernels beside torch.mm, one core.

python bench/matmul.py [--runs N] [--threads N ...]

A product (n x C) x (C x D) is a 1x1 convolution of n positions, its bits compared with a plain loop's. A
step is Minnen 2018's context (12 taps of 192 channels to 384) and head (768, 640, 512, 384) at n positions,
without the coder. Runs take turns. A rate is 2 n C D floating-point operations by the median time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from quadrans.kernels import _fma, cpu
from quadrans.kernels._floats import fma
from quadrans.kernels._interpret import run
from quadrans.kernels._team import together
from quadrans.kernels.builder import Builder
from quadrans.kernels.program import ConvWeights, Function, Program, WeightStore

FloatArray = NDArray[np.float32]

PRODUCTS = (48, 2304, 384), (1536, 768, 640), (1536, 2304, 384)
POSITIONS = 1, 6, 11, 16
# What a run takes at least, in seconds, by repeating.
RUN = 0.02
MACHINE = _fma.machine_number()
ONE_TAP = np.zeros((1, 3), np.int64)


@njit(nogil=True)
def plain_product(x, weight, bias, out):  # type: ignore[no-untyped-def]
    """The arithmetic's sums of products, one after the other."""
    machine: Any = _fma.machine(MACHINE)  # type: ignore[call-arg]
    for i in range(len(x)):
        out[i] = bias
        for first in range(0, x.shape[1], _fma.BLOCK):
            acc = np.zeros_like(bias)
            for k in range(first, min(first + _fma.BLOCK, x.shape[1])):
                for d in range(len(bias)):
                    acc[d] = fma(machine, x[i, k], weight[k, d], acc[d])  # type: ignore[call-arg]
            for d in range(len(bias)):
                out[i, d] += acc[d]


@njit(nogil=True)
def repeat(count, table, ints, floats, memory, n, rows, cols, team, thread, ticks):  # type: ignore[no-untyped-def]
    """The program `count` times, as one member of a team."""
    machine: Any = _fma.machine(MACHINE)  # type: ignore[call-arg]
    for _ in range(count):
        if not run(machine, table, ints, floats, memory, n, rows, cols, True, team, thread, ticks):
            return


class Repeated:
    """A program run several times in one call, in several threads."""

    def __init__(self, program: Program, n: int) -> None:
        self.program, self.n = program, n
        self.memory = cpu.new_memory(program.size)
        self.rows, self.cols = np.full(n, 16), 10 + np.arange(n)

    def value(self, name: str) -> FloatArray:
        """View of a value without gaps, (positions, channels)."""
        offset, pitch, height, width, channels = self.program.places[name]
        return self.memory[offset:][: self.n * height * width * pitch].reshape(-1, channels)

    def __call__(self, count: int, threads: int = 1) -> None:
        program, none = self.program, np.zeros(0, np.int64)
        arguments = program.table, program.ints, program.store.floats, self.memory, self.n
        together(
            threads,
            lambda team, thread: repeat(count, *arguments, self.rows, self.cols, team, thread, none),
        )


def times(works: list[Callable[[int], object]], runs: int) -> list[list[float]]:
    """Seconds of a repetition of each work, which take turns."""
    counts = []
    for work in works:
        work(1)
        start = time.perf_counter()
        work(1)
        counts.append(1 + int(RUN / (time.perf_counter() - start)))
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(runs):
        for work, count, taken in zip(works, counts, seconds, strict=True):
            start = time.perf_counter()
            work(count)
            taken.append((time.perf_counter() - start) / count)
    return seconds


def random(rng: np.random.Generator, *shape: int) -> FloatArray:
    return (rng.standard_normal(shape) / 16).astype(np.float32)


def products(runs: int) -> None:
    """Rates beside torch.mm's."""
    import torch

    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    for n, inputs, outputs in PRODUCTS:
        weights = ConvWeights(random(rng, 1, inputs, outputs), random(rng, outputs))
        builder = Builder(WeightStore(cpu.pack), n)
        x = builder.input("x", 1, 1, inputs)
        builder.output("y", builder.conv(x, weights, ONE_TAP, (1, 1)))
        ours = Repeated(builder.build(), n)
        ours.value("x")[...] = random(rng, n, inputs)
        expected = np.empty((n, outputs), np.float32)
        plain_product(ours.value("x"), weights.weight[0], weights.bias, expected)
        a, b, c = torch.tensor(ours.value("x")), torch.tensor(weights.weight[0]), torch.empty(n, outputs)

        def mm(count: int, a: torch.Tensor = a, b: torch.Tensor = b, c: torch.Tensor = c) -> None:
            for _ in range(count):
                torch.mm(a, b, out=c)

        seconds = times([ours, mm], runs)
        if not np.array_equal(ours.value("y").view(np.int32), expected.view(np.int32)):
            sys.exit("the product's bits aren't the plain loop's")
        rates = [2e-9 * n * inputs * outputs / statistics.median(one) for one in seconds]
        best = [2e-9 * n * inputs * outputs / min(one) for one in seconds]
        print(
            f"{n:5} x {inputs} x {outputs}: quadrans {rates[0]:6.1f} GFLOP/s (best {best[0]:.1f}), "
            f"torch.mm {rates[1]:6.1f} (best {best[1]:.1f}): {rates[0] / rates[1]:.2f} times its rate"
        )


def step_program(rng: np.random.Generator, capacity: int) -> Program:
    """Context and head of Minnen 2018, N = M = 192, on planes of 768 x 512 pixels' latents."""
    builder = Builder(WeightStore(cpu.pack), capacity)
    y_hat, features = builder.plane("y_hat", 32, 48, 192), builder.plane("features", 32, 48, 384)
    taps = np.array([(i, i // 5 - 2, i % 5 - 2) for i in range(12)], np.int64)
    context = ConvWeights(random(rng, 25, 192, 384), random(rng, 384))
    x = builder.concatenate(
        [builder.window(features, ONE_TAP, (1, 1), False), builder.context(y_hat, context, taps)]
    )
    for inputs, outputs in ((768, 640), (640, 512), (512, 384)):
        x = builder.conv(
            x, ConvWeights(random(rng, 1, inputs, outputs), random(rng, outputs)), ONE_TAP, (1, 1)
        )
        if outputs != 384:
            x = builder.unary(x, Function.LEAKY_RELU, 0.01)
    builder.output("result", x)
    return builder.build()


def steps(runs: int, threads: list[int]) -> None:
    """Milliseconds of a step."""
    rng = np.random.default_rng(1)
    program = step_program(rng, max(POSITIONS))
    for n in POSITIONS:
        step = Repeated(program, n)
        for name in ("y_hat", "features"):
            offset, pitch, height, width, _ = program.places[name]
            step.memory[offset:][: height * width * pitch] = random(rng, height * width * pitch)
        results = []
        for count in threads:
            step.value("result")[...] = np.nan
            step(1, count)
            results.append(step.value("result").copy())
        if any(not np.array_equal(results[0].view(np.int32), one.view(np.int32)) for one in results):
            sys.exit("the step's bits depend on the number of threads")
        seconds = times([partial(step, threads=count) for count in threads], runs)
        for count, taken in zip(threads, seconds, strict=True):
            print(
                f"step of {n:2} positions, {count} thread{'s' * (count > 1)}: "
                f"{1000 * statistics.median(taken):.3f} ms (best {1000 * min(taken):.3f})"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    print(f"{_fma.MACHINES[MACHINE]}, medians of {arguments.runs} runs")
    products(arguments.runs)
    steps(arguments.runs, arguments.threads)


if __name__ == "__main__":
    main()
