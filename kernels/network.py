"""A layer as a function of arrays: programs built once for each shape, and run on a device.

Importing this module imports Numba.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any, Protocol

import numpy as np

from . import cpu
from .builder import Builder
from .layers import Layer
from .program import ConvWeights, FloatArray, Program, WeightStore

MAX_PROGRAMS = 32
"""Programs that a network keeps, one for each shape of its inputs: the latest that were built."""

RESULT = "result"
"""Name of a program's output."""

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class Device(Protocol):
    """What runs programs: a module such as `cpu`. A memory is an array of the device's own kind."""

    def pack(self, weights: ConvWeights, /) -> tuple[FloatArray, FloatArray]: ...

    def new_memory(self, size: int, /) -> Any: ...

    def execute(self, program: Program, memory: Any, n: int, threads: int = 1) -> None: ...


class Network:
    """A layer that can be called on arrays. Threads may share it: every call has a memory of its own.

    Results are equal to the bit on any device, in any batch and with any number of threads. store: of the
    device's packing, which networks that have layers in common may share.
    """

    def __init__(self, layer: Layer, device: Device = cpu, store: WeightStore | None = None) -> None:
        self.layer, self.device = layer, device
        self._lock = Lock()
        self._store = store or WeightStore(device.pack)
        self._programs: dict[Shapes, Program] = {}

    def __call__(
        self,
        x: FloatArray,
        inputs: Mapping[str, FloatArray] | None = None,
        *,
        threads: int = 1,
        check: bool = True,
    ) -> FloatArray:
        """The layer's values for float32 x, (H, W, C) or (N, H, W, C), in as many dimensions.

        inputs: what the layer's `Input`s name, in as many dimensions and images as x. check: refuse NaN and
        infinity in what is given; without it they are values like any other. Raises TypeError for other
        dtypes, ValueError with the numbers for shapes that don't fit.
        """
        arrays = {"x": x, **(inputs or {})}
        if {"x", RESULT} & set(inputs or {}):
            raise ValueError(f"an input can't be named x or {RESULT}")
        for name, array in arrays.items():
            if array.dtype != np.float32:
                raise TypeError(f"{name} must be float32, not {array.dtype}")
            if array.ndim not in (3, 4) or array.ndim != x.ndim:
                expected = f"(H, W, C) or (N, H, W, C), as x {x.shape}"
                raise ValueError(f"{name} of shape {array.shape} must be {expected}")
        batches = {name: array if array.ndim == 4 else array[None] for name, array in arrays.items()}
        n = len(batches["x"])
        if any(len(batch) != n for batch in batches.values()):
            raise ValueError(f"inputs of {[len(batch) for batch in batches.values()]} images")
        program = self.program(tuple((name, batch.shape) for name, batch in sorted(batches.items())))
        for name, batch in batches.items() if check else ():
            bad = batch.size - int(np.isfinite(batch).sum())
            if bad:
                raise ValueError(f"{name} of shape {batch.shape} has {bad} values that are not finite")
        memory = self.device.new_memory(program.size)
        for name, batch in batches.items():
            _part(program, memory, name, n)[...] = batch
        self.device.execute(program, memory, n, threads=threads)
        result = _part(program, memory, RESULT, n).copy()
        return result if x.ndim == 4 else result[0]

    def program(self, shapes: Shapes) -> Program:
        """The program for inputs of these names and (N, H, W, C) shapes, x among them; it gives RESULT."""
        with self._lock:
            if shapes not in self._programs:
                if len(self._programs) == MAX_PROGRAMS:
                    del self._programs[next(iter(self._programs))]
                self._programs[shapes] = self._build(dict(shapes))
            return self._programs[shapes]

    def _build(self, shapes: dict[str, tuple[int, ...]]) -> Program:
        builder = Builder(self._store, shapes["x"][0])
        values = {name: builder.input(name, *shape[1:]) for name, shape in shapes.items()}
        builder.output(RESULT, self.layer.emit(builder, values["x"]))
        unused = sorted(set(shapes) - builder.used - {"x"})
        if unused:
            raise ValueError(f"inputs {unused} are not the layer's, which reads {sorted(builder.used)}")
        return builder.build()


def _part(program: Program, memory: Any, name: str, n: int) -> Any:
    """View of a program's named value in its memory: (n, height, width, channels)."""
    offset, pitch, height, width, channels = program.places[name]
    strides = [memory.itemsize * count for count in (height * width * pitch, width * pitch, pitch, 1)]
    as_strided = np.lib.stride_tricks.as_strided
    return as_strided(memory[offset:], (n, height, width, channels), strides)
