"""Programs and layers on NVIDIA GPUs, through CuPy: a `network.Device`, and `Network` for CUDA arrays.

    layer_on_gpu = Network(layer)
    y = layer_on_gpu(x)               # x, y: CuPy arrays or torch CUDA tensors; equal to layer(x) to the bit

A program is one cooperative launch, in which the blocks wait for each other between instructions. A captured
graph of launches would wait no less, has to be captured again for each n and place in memory, and couldn't
leave out the waits between instructions that don't depend on each other.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from threading import Lock
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from ..layers import Layer
from ..program import Op, Program, WeightStore
from ._module import at, device_array, function, import_cupy
from .table import SHARED_BASE, SHARED_PER_WARP, device_table, pack, shared_bytes

__all__ = ["Network", "execute", "new_memory", "pack"]

MAX_THREADS = 512
"""Of a block: `__launch_bounds__` of the kernels."""


class Loaded(NamedTuple):
    """A program in a device's memory: its table for program.cuh, its integers and its weights."""

    table: Any
    ints: Any
    floats: Any


class PerDevice:
    """What has been made of objects for devices, as long as the objects live."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._made: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()

    def get(self, owner: Any, key: Any, make: Any) -> Any:
        with self._lock:
            own = self._made.setdefault(owner, {})
            if key not in own:
                own[key] = make()
            return own[key]


_weights, _programs = PerDevice(), PerDevice()


def _upload(store: WeightStore) -> Any:
    cupy = import_cupy()
    floats = store.floats
    # A store that has grown is sent anew; programs made before keep the old copy, whose offsets are the same.
    return _weights.get(store, (cupy.cuda.Device().id, len(floats)), lambda: cupy.asarray(floats))


def load(program: Program) -> Loaded:
    """The program on the current device, sent there once. ValueError as `table.device_table`."""
    cupy = import_cupy()

    def send() -> Loaded:
        table, ints = device_table(program)
        return Loaded(cupy.asarray(table), cupy.asarray(ints), _upload(program.store))

    return _programs.get(program, cupy.cuda.Device().id, send)


@cache
def _shape(device: int) -> tuple[int, int]:
    """(multiprocessors, bytes of shared memory that a block may have)."""
    found = import_cupy().cuda.Device(device)
    if int(found.compute_capability) < 80:
        raise RuntimeError(
            f"CUDA device {device} has compute capability {found.compute_capability}, the kernels need 80"
        )
    return found.attributes["MultiProcessorCount"], found.attributes["MaxSharedMemoryPerBlockOptin"]


def launch_shape(reserved: int = 0) -> tuple[int, int]:
    """(blocks, threads of each) that fill the current device, one block a multiprocessor.

    reserved: bytes of a block's shared memory that are for something else.
    """
    blocks, room = _shape(import_cupy().cuda.Device().id)
    warps = min(MAX_THREADS // 32, (room - SHARED_BASE - reserved) // SHARED_PER_WARP)
    if warps < 1:
        raise RuntimeError(f"a block of {room} bytes of shared memory is too small for the kernels")
    return blocks, 32 * warps


def shared_room() -> int:
    """Bytes of shared memory that a block may have on the current device."""
    return _shape(import_cupy().cuda.Device().id)[1]


def launch(file: str, name: str, blocks: int, threads: int, shared: int, arguments: tuple[Any, ...]) -> None:
    """A cooperative launch of a kernel on the current device and stream."""
    kernel = function(file, name, cooperative=True)
    kernel.max_dynamic_shared_size_bytes = shared
    kernel((blocks,), (threads,), arguments, shared_mem=shared)


def new_memory(size: int) -> Any:
    """That many floats of memory on the current device, +0."""
    cupy = import_cupy()
    return cupy.zeros(size, np.float32)


def execute(
    program: Program,
    memory: Any,
    n: int,
    threads: int = 1,
    positions: tuple[Any, Any, bool] | None = None,
    ticks: Any = None,
) -> None:
    """Run a program for n images, or positions of a step, in its memory on the current device and stream.

    memory: float32 CuPy array of program.size or more; positions: (rows, cols, context) of a step, (n,) int64
    CuPy arrays, for a program with CONTEXT or WINDOW. threads: of the CPU, none. ticks: int64 CuPy array
    (instructions,), each has its clock cycles added. Raises TypeError or ValueError for what doesn't fit.
    Positions must lie in their planes: they are not looked at.
    """
    cupy = import_cupy()
    _check_array("the memory", memory, np.float32, program.size)
    if memory.data.ptr % 16:
        raise ValueError("the memory must begin at a multiple of 16 bytes")
    if not 0 <= n <= program.capacity:
        raise ValueError(f"{n} images or positions for a program with room for {program.capacity}")
    if positions is None:
        if np.isin(program.table[:, 0], (Op.CONTEXT, Op.WINDOW)).any():
            raise ValueError("the program works at the positions of a step, and none are given")
        rows = cols = cupy.zeros(0, np.int64)
        context = False
    else:
        rows, cols, context = positions
        _check_array("rows", rows, np.int64, n)
        _check_array("cols", cols, np.int64, n)
    if ticks is None:
        ticks = np.uint64(0)
    else:
        _check_array("ticks", ticks, np.int64, len(program.table))
    loaded = load(program)
    step = np.int32(n), rows, cols, np.int32(context)
    table = loaded.table, np.int32(len(program.table)), loaded.ints, loaded.floats
    blocks, width = launch_shape()
    counter = cupy.zeros(1, np.uint32)
    launch(
        "program.cu",
        "all_instructions",
        blocks,
        width,
        shared_bytes(width),
        (*table, memory, *step, counter, ticks),
    )


def _check_array(name: str, array: Any, dtype: type, least: int) -> None:
    if not isinstance(array, import_cupy().ndarray) or array.dtype != dtype or array.ndim != 1:
        raise TypeError(f"{name} must be a 1-D CuPy array of {np.dtype(dtype)}")
    if array.size < least or not array.flags.c_contiguous:
        raise ValueError(f"{name} of {array.size} must have {least} elements or more, and be contiguous")


def part(program: Program, memory: Any, name: str, n: int) -> Any:
    """View of a program's named value in its memory: (n, height, width, channels)."""
    offset, pitch, height, width, channels = program.places[name]
    strides = [4 * count for count in (height * width * pitch, width * pitch, pitch, 1)]
    as_strided = import_cupy().lib.stride_tricks.as_strided
    return as_strided(memory[offset:], (n, height, width, channels), strides)


def like(result: Any, given: Any) -> Any:
    """A CuPy array as what the caller works with: a torch tensor of the same memory if `given` is one."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(given, torch.Tensor):
        return torch.from_dlpack(result)
    return result


def finite(name: str, values: Any) -> Any:
    """The array; ValueError if not all of it is finite."""
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise ValueError(f"{name} of shape {values.shape} has {bad} values that are not finite")
    return values


class Network:
    """A layer that can be called on arrays of a GPU. Threads may share it.

    Results equal those of the CPU's `network.Network` to the bit.
    """

    def __init__(self, layer: Layer) -> None:
        from ...entropy._compiled import import_compiled

        network = import_compiled("..network", __package__)
        self.layer = layer
        self._programs = network.Network(layer, sys.modules[__name__])
        self._result = network.RESULT

    def __call__(self, x: Any, inputs: Mapping[str, Any] | None = None, *, check: bool = True) -> Any:
        """The layer's values for float32 x, (H, W, C) or (N, H, W, C), on a GPU, as the same kind of array.

        x, inputs: CuPy arrays, torch CUDA tensors, or others with DLPack; no copy is made on the way, and
        torch's current stream is used. Arguments and errors else as `network.Network`; check waits for the
        device.
        """
        arrays = {name: device_array(name, one) for name, one in {"x": x, **(inputs or {})}.items()}
        with at(arrays["x"].device.id):
            return like(self._run(arrays, check), x)

    def _run(self, arrays: dict[str, Any], check: bool) -> Any:
        given = arrays["x"]
        for name, array in arrays.items():
            if array.dtype != np.float32:
                raise TypeError(f"{name} must be float32, not {array.dtype}")
            if array.ndim not in (3, 4) or array.ndim != given.ndim:
                raise ValueError(
                    f"{name} of shape {array.shape} must be (H, W, C) or (N, H, W, C), as x {given.shape}"
                )
            if check:
                finite(name, array)
        batches = {name: array if array.ndim == 4 else array[None] for name, array in arrays.items()}
        n = len(batches["x"])
        if any(len(batch) != n for batch in batches.values()):
            raise ValueError(f"inputs of {[len(batch) for batch in batches.values()]} images")
        shapes = tuple((name, batch.shape) for name, batch in sorted(batches.items()))
        program = self._programs.program(shapes)
        memory = import_cupy().empty(program.size, np.float32)
        for name, batch in batches.items():
            part(program, memory, name, n)[...] = batch
        execute(program, memory, n)
        result = part(program, memory, self._result, n).copy()
        return result if given.ndim == 4 else result[0]
