"""Programs on the emulated GPU, beside the table oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import table_oracle as oracle
from emulator import Emulator, build
from guarded import Guarded

from quadrans.kernels import cuda
from quadrans.kernels.builder import Builder
from quadrans.kernels.cuda.table import MEETS, device_table, pack, shared_bytes
from quadrans.kernels.placement import Value
from quadrans.kernels.program import FloatArray, Program, WeightStore

CUDA = Path(cuda.__file__).parent

Emit = Callable[[Builder], Value]
Positions = tuple[Sequence[int], Sequence[int], bool]


@cache
def emulator(name: str) -> Emulator:
    return build((CUDA / name).read_text(), include=(CUDA,))


def programs(emit: Emit, capacity: int) -> tuple[Program, Program]:
    """The program whose output "y" is what `emit` gives: for the oracle, and for the GPU."""
    made = []
    for packing in (oracle.pack, pack):
        builder = Builder(WeightStore(packing), capacity)
        builder.output("y", emit(builder))
        made.append(builder.build())
    return made[0], made[1]


def fill(
    program: Program, memory: FloatArray, n: int, rng: np.random.Generator, planes: Sequence[str]
) -> None:
    """Random values, some of them extreme, in all inputs and planes."""
    special = np.array([0.0, -0.0, 1e-45, -1e-38, 1e38, np.inf, np.nan], np.float32)
    for name in sorted(set(program.places) - {"y"}):
        view = oracle.read(program, memory, name, 1 if name in planes else n)
        # Attention tells scores of about 1 apart; one NaN makes NaN of a sequence.
        power, rare = (rng.integers(-2, 1), 0.0001) if name in "qkv" else (rng.integers(-20, 20), 0.02)
        view[...] = rng.standard_normal(view.shape) * 2.0**power
        odd = rng.random(view.shape) < rng.choice([0, 0, rare])
        view[odd] = rng.choice(special, odd.sum())


def run(
    program: Program,
    memory: FloatArray,
    n: int,
    positions: Positions | None,
    shape: tuple[int, int],
    seed: int = 0,
    one_launch: bool = True,
    meets: bool = True,
) -> None:
    """Run it as the emulated kernels do. shape: (blocks, threads of each); not meets: without barriers."""
    guarded = Guarded()
    blocks, threads = shape
    table, ints = device_table(program)
    table[:, MEETS] *= meets
    rows, cols, context = positions or ([], [], False)
    arrays = [table, ints, program.store.floats, memory, np.array(rows, np.int64), np.array(cols, np.int64)]
    table, ints, floats, own, r, c = (guarded.copy(array) for array in arrays)
    step: tuple[Any, ...] = (floats, own, np.int32(n), r, c, np.int32(context))
    how: dict[str, Any] = {"shared": shared_bytes(threads), "seed": seed}
    launch = emulator("program.cu").launch
    if one_launch:
        ticks = np.zeros(len(table), np.int64)
        arguments = table, np.int32(len(table)), ints, *step, guarded.zeros(1, np.uint32), ticks
        launch("all_instructions", (blocks,), (threads,), arguments, cooperative=True, **how)
        assert (ticks > 0).all()
    else:
        for number in range(len(table)):
            launch("one_instruction", (blocks,), (threads,), (table, np.int32(number), ints, *step), **how)
    memory[...] = own


def both(
    emit: Emit,
    n: int,
    rng: np.random.Generator,
    *,
    capacity: int | None = None,
    positions: Positions | None = None,
    planes: Sequence[str] = (),
    shapes: Sequence[tuple[int, int]] = ((3, 64),),
    one_launch: bool = True,
) -> tuple[FloatArray, list[FloatArray]]:
    """The oracle's output, and the GPU's for each (blocks, threads). Memory that nobody wrote is NaN."""
    expected, program = programs(emit, capacity or n)
    memory = np.full(program.size, np.nan, np.float32)
    fill(program, memory, n, rng, planes)
    memories = [memory.copy() for _ in shapes]
    oracle.execute(expected, memory, n, positions)
    for seed, (shape, own) in enumerate(zip(shapes, memories, strict=True)):
        run(program, own, n, positions, shape, seed, one_launch)
    got = [oracle.read(program, own, "y", n) for own in memories]
    return oracle.read(expected, memory, "y", n).copy(), got
