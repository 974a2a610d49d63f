"""As much of CuPy as quadrans uses, on the emulator: arrays in this machine's memory, kernels on its CPU.

`install` puts it in CuPy's place. Arrays that it makes begin or end at a page that no one may touch and are
never clean, so a kernel that reads or writes beyond them, or reads what it didn't write, fails. What a real
CuPy wouldn't accept (an argument of another size, too much shared memory, host arrays) is refused.
"""

from __future__ import annotations

import ctypes
import sys
import tempfile
from contextlib import contextmanager
from itertools import count
from math import prod
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from emulator import build
from guarded import Guarded

PROCESSORS = 3
_DEFAULT_SHARED, _MOST_SHARED = 48 << 10, 232448
_guarded = Guarded()
# Of the order in which threads take turns: each launch has another.
_seeds = count(1)


class ndarray(np.ndarray):  # noqa: N801
    """An array "on the device"."""

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.__array_interface__["data"][0])

    @property
    def device(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(id=0)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.__array_interface__

    def get(self) -> np.ndarray:
        return np.array(self)

    def copy(self, order: Any = "C") -> ndarray:
        return asarray(np.array(self))


def empty(shape: Any, dtype: Any = np.float64) -> ndarray:
    return _guarded.empty(shape, dtype).view(ndarray)


def empty_like(array: ndarray) -> ndarray:
    return empty(array.shape, array.dtype)


def zeros(shape: Any, dtype: Any = np.float64) -> ndarray:
    return _guarded.zeros(shape, dtype).view(ndarray)


def asarray(values: Any) -> ndarray:
    """A copy of host arrays, a view of what has `__cuda_array_interface__`."""
    if isinstance(values, ndarray):
        return values
    interface = getattr(values, "__cuda_array_interface__", None)
    if interface is None:
        host = np.asarray(values)
        array = empty(host.shape, host.dtype)
        array[...] = host
        return array
    shape, dtype = interface["shape"], np.dtype(interface["typestr"])
    if interface.get("strides") is not None:
        raise NotImplementedError("strides")
    memory = (ctypes.c_char * (prod(shape) * dtype.itemsize)).from_address(interface["data"][0])
    return np.frombuffer(memory, dtype).reshape(shape).view(ndarray)


def ascontiguousarray(array: ndarray) -> ndarray:
    return array if array.flags.c_contiguous else asarray(np.array(array, order="C"))


def concatenate(arrays: Any) -> ndarray:
    return asarray(np.concatenate([array.view(np.ndarray) for array in arrays]))


def _as_strided(array: ndarray, shape: Any, strides: Any) -> ndarray:
    return np.lib.stride_tricks.as_strided(array, shape, strides, subok=True)


lib = SimpleNamespace(stride_tricks=SimpleNamespace(as_strided=_as_strided))


def asnumpy(array: ndarray) -> Any:
    return np.array(array, subok=False)


def from_dlpack(values: Any) -> ndarray:
    return np.from_dlpack(values).view(ndarray)


_compiled = tempfile.TemporaryDirectory()


class _Kernel:
    def __init__(self, emulator: Any, name: str, cooperative: bool) -> None:
        self._emulator, self._name, self._cooperative = emulator, name, cooperative
        self.max_dynamic_shared_size_bytes = _DEFAULT_SHARED

    def __call__(self, grid: Any, block: Any, args: Any, shared_mem: int = 0) -> None:
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise ValueError(
                f"{shared_mem} bytes of shared memory, {self.max_dynamic_shared_size_bytes} allowed"
            )
        values = []
        for value in args:
            if not isinstance(value, ndarray | np.generic):
                raise TypeError(f"{self._name}: an argument is a {type(value).__name__}")
            values.append(np.uint64(value.data.ptr) if isinstance(value, ndarray) else value)
        self._emulator.launch(
            self._name,
            grid,
            block,
            values,
            shared=shared_mem,
            cooperative=self._cooperative,
            seed=next(_seeds),
        )


class RawModule:
    """path: of what the fake NVRTC gave, which is the source."""

    def __init__(self, *, path: str, enable_cooperative_groups: bool = False) -> None:
        self._emulator = build(Path(path).read_text(encoding="utf-8"))
        self._cooperative = enable_cooperative_groups
        self._kernels: dict[str, _Kernel] = {}

    def get_function(self, name: str) -> _Kernel:
        self._emulator.parameters(name)
        return self._kernels.setdefault(name, _Kernel(self._emulator, name, self._cooperative))


class _Device:
    compute_capability = "90"

    def __init__(self, number: int = 0) -> None:
        self.id = number
        self.attributes = {
            "CooperativeLaunch": 1,
            "MaxSharedMemoryPerBlockOptin": _MOST_SHARED,
            "MultiProcessorCount": PROCESSORS,
        }

    def __enter__(self) -> _Device:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _Nvrtc:
    """NVRTC that takes exact options alone and whose cubins are the source."""

    class NVRTCError(RuntimeError):
        pass

    @staticmethod
    def getVersion() -> tuple[int, int]:  # noqa: N802
        return 13, 0

    @staticmethod
    def getSupportedArchs() -> list[int]:  # noqa: N802
        return [80, 90]

    @staticmethod
    def createProgram(code: str, name: str, headers: Any, names: Any) -> dict[str, Any]:  # noqa: N802
        assert '#include "' not in code
        return {"code": code}

    @staticmethod
    def compileProgram(program: dict[str, Any], options: tuple[str, ...]) -> None:  # noqa: N802
        assert {"-ftz=false", "-fmad=false", "-arch=sm_90"} < set(options)
        assert not {"-ftz=true", "-use_fast_math", "--use_fast_math"} & set(options)

    @staticmethod
    def getCUBIN(program: dict[str, Any]) -> bytes:  # noqa: N802
        return program["code"].encode()

    @staticmethod
    def destroyProgram(program: dict[str, Any]) -> None:  # noqa: N802
        pass


streams: list[int] = []
"""The streams that work was done on since it was cleared, as numbers."""


@contextmanager
def _external_stream(number: int, device: int = -1) -> Any:
    streams.append(number)
    yield


class _Stream:
    @staticmethod
    def from_external(stream: Any) -> Any:
        version, number = stream.__cuda_stream__()
        assert version == 0
        return _external_stream(number)


class _OldStream:
    """CuPy's before version 14."""


def _null_stream() -> Any:
    return SimpleNamespace(synchronize=lambda: None)


def install(monkeypatch: Any, version: int = 14) -> ModuleType:
    """The fake as `cupy`, 13 or 14, until the test ends."""
    cuda = SimpleNamespace(Device=_Device, Stream=_Stream, get_current_stream=_null_stream)
    if version < 14:
        cuda.Stream, cuda.ExternalStream = _OldStream, _external_stream
    fake = sys.modules[__name__]
    monkeypatch.setattr(fake, "cuda", cuda, raising=False)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setenv("CUPY_CACHE_DIR", _compiled.name)
    for name in ("cupy_backends", "cupy_backends.cuda", "cupy_backends.cuda.libs"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs.nvrtc", _Nvrtc)
    return fake
