"""Programs on CPUs: packing of weights, checks, and execution by a team of threads.

Import this module only where it's used: it imports Numba.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from . import _fma
from ._interpret import run, ticks_now
from ._team import together
from .arrays import ready
from .program import ConvWeights, Program, aligned_floats

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

_NONE = np.zeros(0, np.int64)


def pack(weights: ConvWeights) -> tuple[FloatArray, FloatArray]:
    """A convolution's weights and bias as this CPU's kernels stream them, 1-D each: a `program.Packing`."""
    shape = _fma.SHAPES[_fma.MACHINES[_fma.machine_number()]]
    return _fma.pack(weights.weight, weights.bias, shape)


new_memory = aligned_floats
"""That many floats of memory, +0."""


@njit(nogil=True, cache=True)
def ticks() -> int:
    """The CPU's counter, which runs at a constant rate."""
    return ticks_now()  # type: ignore[call-arg]


@cache
def runner(number: int) -> Any:
    """`_interpret.run` without its first argument, for a machine of `_fma.MACHINES`."""

    @njit(nogil=True, cache=True)
    def on_machine(table, ints, floats, memory, n, rows, cols, context, team, thread, ticks):  # type: ignore[no-untyped-def]
        here: Any = _fma.machine(number)  # type: ignore[call-arg]
        return run(here, table, ints, floats, memory, n, rows, cols, context, team, thread, ticks)

    return on_machine


def execute(
    program: Program,
    memory: FloatArray,
    n: int,
    threads: int = 1,
    positions: tuple[IntArray, IntArray, bool] | None = None,
    ticks: IntArray | None = None,
) -> None:
    """Run a program for n images, or positions of a step, in its memory.

    memory: program.size floats or more, best from `new_memory`; positions: (rows, cols, context) of a step,
    rows and cols (n,) int64, for a program with CONTEXT or WINDOW; ticks (instructions,) int64: each has its
    time added, in ticks of the CPU's counter. The result doesn't depend on the number of threads, of which
    each should have a core: they wait for each other after each instruction.
    Raises TypeError or ValueError for arguments that don't fit the program, RuntimeError as
    `check_arithmetic`.
    """
    _check_array("the memory", memory, np.float32)
    if memory.size < program.size:
        raise ValueError(f"a memory of {memory.size} floats for a program that needs {program.size}")
    if not 0 <= n <= program.capacity:
        raise ValueError(f"{n} images or positions for a program with room for {program.capacity}")
    if ticks is None:
        ticks = _NONE
    elif len(ticks) != len(program.table):
        raise ValueError(f"ticks of {len(ticks)} instructions, of {len(program.table)}")
    else:
        _check_array("ticks", ticks, np.int64)
    step = _step(program, n, positions)
    arguments = (program.table, program.ints, program.store.floats, memory, n, *step)
    loop = runner(_fma.machine_number())

    def member(team: IntArray, thread: int) -> None:
        check_arithmetic()
        loop(*arguments, team, thread, ticks)

    together(threads, member)


def _check_array(name: str, array: Any, dtype: type) -> None:
    """Numba would compile everything anew for another layout, read-only arrays included."""
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
        raise TypeError(f"{name} must be a 1-D array of {np.dtype(dtype)}")
    if not array.flags.carray:
        raise ValueError(f"{name} must be contiguous, aligned and writeable")


def _step(
    program: Program, n: int, positions: tuple[IntArray, IntArray, bool] | None
) -> tuple[IntArray, IntArray, bool]:
    """rows, cols, context as `run` wants them; each position is inside all planes that are read there."""
    if program.surroundings is None:
        return _NONE, _NONE, False
    if positions is None:
        raise ValueError("the program works at the positions of a step, and none are given")
    rows, cols = (ready(array, np.int64) for array in positions[:2])
    for name, array, end in zip(("row", "column"), (rows, cols), program.surroundings, strict=True):
        if array.shape != (n,):
            raise ValueError(f"{name}s of shape {array.shape} for {n} positions")
        if n and not 0 <= array.min() <= array.max() < end:
            raise ValueError(f"{name}s {array.min()}..{array.max()} of a plane that has {end}")
    return rows, cols, bool(positions[2])


# 2^-126, 2^-149, 0.5, 1, 3 * 2^-25, 2^-25: as bits, since this may be imported where subnormals are flushed.
_PROBES = np.array([0x800000, 1, 0x3F000000, 0x3F800000, 0x33C00000, 0x33000000], np.uint32).view(np.float32)


@njit(nogil=True, cache=True)
def _follows_ieee(probes):  # type: ignore[no-untyped-def]
    # Read from memory, so that no compiler folds the outcome into the code.
    least_normal, least, half, one = probes[0], probes[1], probes[2], probes[3]
    above_tie, below_tie = probes[4], probes[5]
    kept = least_normal * half > np.float32(0) and least + least > least
    to_nearest = one + above_tie > one and one + below_tie == one and -one - below_tie == -one
    return kept and to_nearest


def check_arithmetic() -> None:
    """RuntimeError if this thread flushes subnormals to zero or doesn't round to nearest.

    Both are modes of the CPU that other libraries in the process may change
    (`torch.set_flush_denormal`, shared objects linked with -ffast-math).
    """
    if not _follows_ieee(_PROBES):
        raise RuntimeError(
            "this thread's floating-point mode flushes subnormals or doesn't round to nearest, so results "
            "would differ between machines; has something called torch.set_flush_denormal(True)?"
        )
