"""CuPy as these kernels use it: compiled modules, arrays of other frameworks, and the stream to work on."""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ._source import source

EXACT = "-ftz=false", "-prec-div=true", "-prec-sqrt=true", "-fmad=false"
# NVRTC 12 takes generic lambdas for host functions without the last.
OPTIONS = ("-std=c++17", *EXACT, "-default-device")
"""What NVRTC is given, and nothing else but the architecture: binary32 as ARITHMETIC.md has it."""


def import_cupy() -> Any:
    """The module `cupy`. Raises ImportError, with the remedy, where there is none."""
    try:
        return import_module("cupy")
    except ImportError as error:
        raise ImportError(
            "the CUDA kernels run through CuPy, which isn't installed: pip install 'quadrans[cuda]'"
        ) from error


def function(name: str, kernel: str, cooperative: bool = False) -> Any:
    """A kernel of a .cu file, for the current device; a cooperative one may use barriers for all blocks."""
    return module(name, cooperative).get_function(kernel)


def module(name: str, cooperative: bool = False) -> Any:
    """The `cupy.RawModule` of a .cu file, for the current device."""
    return _module(name, cooperative, import_cupy().cuda.Device().id)


@cache
def _module(name: str, cooperative: bool, device: int) -> Any:
    cupy = import_cupy()
    capability = int(cupy.cuda.Device(device).compute_capability)
    return cupy.RawModule(path=str(_compiled(name, capability)), enable_cooperative_groups=cooperative)


def _compiled(name: str, capability: int) -> Path:
    """A .cu file compiled for a device: by an earlier process, or now."""
    version = import_module("cupy_backends.cuda.libs.nvrtc").getVersion()
    key = sha256(repr((source(name), OPTIONS, version, capability)).encode()).hexdigest()[:32]
    paths = [folder / f"quadrans-{key}.cubin" for folder in (_cache_folder(), Path(_folder()))]
    for path in paths:
        if path.exists():
            return path
    code = _compile(name, capability)
    # Where this user's cache can't be written, each process compiles for itself.
    try:
        return _write(paths[0], code)
    except OSError:
        return _write(paths[1], code)


def _write(path: Path, code: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(code)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


@cache
def _folder() -> str:
    folder = tempfile.TemporaryDirectory(prefix="quadrans-")
    atexit.register(folder.cleanup)
    return folder.name


def _cache_folder() -> Path:
    """Where CuPy keeps what it compiles."""
    return Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")


def _compile(name: str, capability: int) -> bytes:
    # CuPy's own compilation adds -ftz=true to any options, which would flush subnormals.
    nvrtc = import_module("cupy_backends.cuda.libs.nvrtc")
    # Compiled for the device, or, where it is newer than NVRTC, for its driver to translate.
    known = max(nvrtc.getSupportedArchs())
    kind = f"sm_{capability}" if capability <= known else f"compute_{known}"
    program = nvrtc.createProgram(source(name), name, (), ())
    try:
        nvrtc.compileProgram(program, (*OPTIONS, f"-arch={kind}"))
        if capability <= known:
            return bytes(nvrtc.getCUBIN(program))
        ptx = nvrtc.getPTX(program)
        return ptx.encode() if isinstance(ptx, str) else bytes(ptx)
    except nvrtc.NVRTCError as error:
        raise RuntimeError(f"{name} doesn't compile:\n{nvrtc.getProgramLog(program)}") from error
    finally:
        nvrtc.destroyProgram(program)


@contextmanager
def at(device: int) -> Iterator[None]:
    """Within it, work is done on a device, and on torch's current stream there if torch uses CUDA."""
    cupy = import_cupy()
    with cupy.cuda.Device(device):
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_initialized():
            yield
            return
        address = torch.cuda.current_stream(device).cuda_stream
        # CuPy 14 has replaced the one by the other.
        if hasattr(cupy.cuda.Stream, "from_external"):
            stream = cupy.cuda.Stream.from_external(_Stream(address))
        else:
            stream = cupy.cuda.ExternalStream(address, device)
        with stream:
            yield


class _Stream:
    """Another framework's stream, by the CUDA stream protocol."""

    def __init__(self, address: int) -> None:
        self._address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._address


def device_array(name: str, values: Any) -> Any:
    """`values` as a CuPy array that shares their memory.

    values: anything with `__cuda_array_interface__`, or with DLPack from a CUDA device. Raises TypeError for
    what is not on one.
    """
    cupy = import_cupy()
    if isinstance(values, cupy.ndarray):
        return values
    if hasattr(values, "detach"):
        values = values.detach()
    if getattr(values, "is_cuda", True) and hasattr(values, "__cuda_array_interface__"):
        return cupy.asarray(values)
    # DLPack's kDLCUDA and kDLCUDAManaged.
    if hasattr(values, "__dlpack_device__") and int(values.__dlpack_device__()[0]) in (2, 13):
        return cupy.from_dlpack(values)
    raise TypeError(f"{name} must be an array on a CUDA device, not {type(values).__name__}")


def one_device(arrays: Sequence[Any]) -> int:
    """The number of the device that all arrays are on. Raises ValueError for several."""
    devices = sorted({array.device.id for array in arrays})
    if len(devices) > 1:
        raise ValueError(f"arrays on devices {devices}, not on one")
    return devices[0]


def as_int32(name: str, array: Any) -> Any:
    """`entropy._arrays.as_int32` on the device: no copy of what is contiguous int32."""
    cupy = import_cupy()
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, not {array.dtype}")
    if array.dtype == np.int32:
        return cupy.ascontiguousarray(array)
    narrow = array.astype(np.int32)
    if not np.can_cast(array.dtype, np.int32):
        bad = (narrow != array).reshape(-1)
        if bool(bad.any()):
            position = int(bad.argmax())
            value = int(array.reshape(-1)[position])
            raise ValueError(f"{name} holds {value} at {position}, outside int32")
    return cupy.ascontiguousarray(narrow)
