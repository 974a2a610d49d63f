"""NVRTC of the package nvidia-cuda-nvrtc: it compiles CUDA C++ without a device or a driver."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.metadata import distributions


class CompileError(RuntimeError):
    """The source doesn't compile; the compiler's log."""


@cache
def _library() -> ctypes.CDLL:
    for package in distributions():
        if (package.metadata["Name"] or "").replace("_", "-").startswith("nvidia-cuda-nvrtc"):
            for file in package.files or ():
                if file.name.startswith("libnvrtc.so"):
                    return ctypes.CDLL(str(package.locate_file(file)))
    raise RuntimeError("NVRTC isn't installed: pip install nvidia-cuda-nvrtc")


def compile_ptx(source: str, arch: str, options: tuple[str, ...] = ()) -> str:
    """The PTX of a source that includes nothing, for a virtual architecture such as compute_90.

    Raises CompileError; RuntimeError where NVRTC isn't installed.
    """
    library, program = _library(), ctypes.c_void_p()
    arguments = [option.encode() for option in (*options, f"-arch={arch}")]
    values = (ctypes.c_char_p * len(arguments))(*arguments)
    _check(library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None))
    try:
        if library.nvrtcCompileProgram(program, len(arguments), values):
            raise CompileError(_text(program, library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog))
        return _text(program, library.nvrtcGetPTXSize, library.nvrtcGetPTX)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _text(program: ctypes.c_void_p, get_size: ctypes._CFuncPtr, get: ctypes._CFuncPtr) -> str:  # type: ignore[name-defined]
    size = ctypes.c_size_t()
    _check(get_size(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(get(program, buffer))
    return buffer.value.decode()


def _check(result: int) -> None:
    if result:
        raise RuntimeError(f"NVRTC fails with {result}")
