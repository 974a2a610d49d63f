"""Threads that run one program together, and the barrier at which they wait for each other.

A team is an int64 array: the number of members, and counters, each in cache lines of its own. Members
spin at a barrier: they must all run at once, so each is a thread started for the call.
"""

# Numba infers the types from the calls and ignores annotations.
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..entropy import _simd

IntArray = NDArray[np.int64]

_MEMBERS, _ARRIVED, _PASSED, _ABORTED, _SIZE = range(0, 5 * 16, 16)
MOST = max(16, 2 * (os.cpu_count() or 1))
"""Members of a team, at most: those without a core only hold up the others."""

# About 10 us, more than an instruction's members differ by where each has a core.
_SPINS = 1 << 9

_i32, _i64 = ir.IntType(32), ir.IntType(64)
_TRIPLE = cpu_target.target_context.codegen().magic_tuple()[0]
_YIELD = next(
    (name for name in ("sched_yield", "SwitchToThread") if llvmlite.binding.address_of_symbol(name)), None
)


@intrinsic
def _fetch_add(typing_context, array, index, value):
    """array[index] += value, atomically; the element before."""

    def generate(context, builder, signature, arguments):
        pointer = builder.gep(_simd.data_of(context, builder, array, arguments[0]), [arguments[1]])
        return builder.atomic_rmw("add", pointer, arguments[2], "acq_rel")

    return types.int64(array, types.int64, types.int64), generate


@intrinsic
def _load(typing_context, array, index):
    """array[index], and after it nothing that another thread wrote before is missed."""

    def generate(context, builder, signature, arguments):
        pointer = builder.gep(_simd.data_of(context, builder, array, arguments[0]), [arguments[1]])
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(array, types.int64), generate


@intrinsic
def _store(typing_context, array, index, value):
    """array[index] = value, and whoever sees it sees all that this thread wrote before."""

    def generate(context, builder, signature, arguments):
        pointer = builder.gep(_simd.data_of(context, builder, array, arguments[0]), [arguments[1]])
        builder.store_atomic(arguments[2], pointer, "release", 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), generate


@intrinsic
def _pause(typing_context):
    """The instruction for spinning threads, where there is one."""

    def generate(context, builder, signature, arguments):
        if _TRIPLE.startswith("x86_64"):
            _simd.call(builder, "llvm.x86.sse2.pause", ir.VoidType(), [])
        elif _TRIPLE.startswith(("aarch64", "arm64")):
            _simd.call(builder, "llvm.aarch64.hint", ir.VoidType(), [_i32(1)])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _give_way(typing_context):
    """Lets another thread have the core, where the system offers that."""

    def generate(context, builder, signature, arguments):
        if _YIELD:
            _simd.call(builder, _YIELD, _i32, [])
        return context.get_dummy_value()

    return types.void(), generate


@njit(nogil=True, cache=True)
def members(team):
    """How many a team has."""
    return team[_MEMBERS]


@njit(nogil=True, cache=True)
def barrier(team):
    """Waits until all members are here. False if the team was aborted."""
    members = team[_MEMBERS]
    if members == 1:
        return True
    passed = _load(team, _PASSED)
    if _fetch_add(team, _ARRIVED, 1) == members - 1:
        # No one arrives at the next barrier before this one is passed.
        _store(team, _ARRIVED, 0)
        _store(team, _PASSED, passed + 1)
    spins = 0
    while _load(team, _PASSED) == passed:
        if _load(team, _ABORTED):
            return False
        spins += 1
        if spins < _SPINS:
            _pause()
        else:
            _give_way()
    return True


def new_team(threads: int) -> IntArray:
    """The team of that many members, for one call."""
    team = np.zeros(_SIZE, np.int64)
    team[_MEMBERS] = threads
    return team


def together(threads: int, work: Callable[[IntArray, int], Any]) -> None:
    """work(team, member) in that many threads at once, but no more than MOST; member 0 in this one.

    If a member fails or can't be started, the others leave at their next barrier, and its error is raised.
    """
    if threads < 1:
        raise ValueError(f"a team has at least one thread, not {threads}")
    threads = min(threads, MOST)
    team = new_team(threads)
    errors: list[BaseException] = []

    def member(number: int) -> None:
        done = False
        try:
            work(team, number)
            done = True
        except BaseException as error:
            errors.append(error)
        finally:
            if not done:
                team[_ABORTED] = 1

    started = []
    done = False
    # A signal's handler may raise between any two lines: whatever happens, nobody is left spinning.
    try:
        for number in range(1, threads):
            thread = threading.Thread(target=member, args=(number,), name=f"quadrans-{number}")
            started.append(thread)
            thread.start()
        work(team, 0)
        done = True
    finally:
        if not done:
            team[_ABORTED] = 1
        for thread in started:
            if thread.ident is not None:
                thread.join()
    if errors:
        raise errors[0]
