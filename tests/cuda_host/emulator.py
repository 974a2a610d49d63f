"""CUDA sources built for this CPU by g++ (`cuda_host.hpp` says how), and their kernels run on NumPy arrays.

emulator = build(Path("kernel.cu").read_text())
emulator.launch("scale", (2,), (64,), (values, np.float32(3), np.int32(values.size)))
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
# No -march: contraction is off, fmaf is the C library's, exact with FMA and without.
FLAGS = [
    *"-std=c++17 -O1 -g1 -ffp-contract=off -fno-strict-aliasing -fPIC -shared".split(),
    *"-fsanitize=undefined -fsanitize-undefined-trap-on-error".split(),
    *"-Wall -Wextra -Werror -Wno-unused-function -Wno-unused-variable -Wno-unknown-pragmas".split(),
]
# (most threads of a block, name)
_KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\((\d+)[^)]*\)\s+)?(\w+)\s*\(')


class LaunchError(RuntimeError):
    """The launch failed: divergence, deadlock, an illegal access, undefined behavior, or wrong arguments."""


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="cuda-host-")


@cache
def build(code: str, include: tuple[Path, ...] = ()) -> Emulator:
    """The CUDA source `code`, with all its `extern "C" __global__` functions as kernels.

    include: folders of what it includes. Raises RuntimeError with the compiler's messages.
    """
    folder = Path(tempfile.mkdtemp(dir=_folder().name))
    kernels = {name: int(bound or 1024) for bound, name in _KERNEL.findall(code)}
    exports = "".join(f"CUDA_HOST_EXPORT({name})\n" for name in kernels)
    source, library = folder / "kernels.cpp", folder / "kernels.so"
    source.write_text(f'#include "cuda_host.hpp"\n#line 1 "kernels.cu"\n{code}\n{exports}')
    paths = [f"-I{path}" for path in (HERE, *include)]
    done = subprocess.run(
        ["g++", *FLAGS, *paths, source, "-o", library, "-ldl"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return Emulator(library, kernels)


class Emulator:
    """The kernels of one library."""

    def __init__(self, library: Path, kernels: dict[str, int]) -> None:
        self._path, self._library = library, ctypes.CDLL(str(library))
        self._kernels = kernels
        self._library.cuda_host_launch.restype = ctypes.c_char_p

    def parameters(self, name: str) -> list[int]:
        """The sizes in bytes of a kernel's parameters. Raises KeyError."""
        sizes = (ctypes.c_size_t * 64)()
        count = self._library.cuda_host_parameters(name.encode(), sizes, len(sizes))
        if count < 0:
            raise KeyError(name)
        return sizes[:count]

    def launch(
        self,
        name: str,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        *,
        shared: int = 0,
        cooperative: bool = False,
        seed: int = 0,
    ) -> None:
        """Runs a kernel. args: arrays (passed as their address), NumPy scalars and records (by value).

        shared: bytes of dynamic shared memory. seed: of the order in which threads take turns. Raises
        LaunchError, and TypeError for an argument whose size isn't its parameter's.
        """
        values = []
        for value in args:
            if isinstance(value, np.ndarray):
                value = np.uint64(value.ctypes.data)
            if not isinstance(value, np.generic):
                raise TypeError(f"{name}: arguments are arrays and NumPy scalars, not {type(value).__name__}")
            values.append(np.array(value))
        sizes = [value.nbytes for value in values]
        if sizes != self.parameters(name):
            raise TypeError(f"{name}: arguments of {sizes} bytes, parameters of {self.parameters(name)}")
        if prod(block) > self._kernels[name]:
            raise LaunchError(f"{name}: blocks of {block} threads, its bound is {self._kernels[name]}")
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        shape = [(ctypes.c_uint * 3)(*lengths, *[1] * (3 - len(lengths))) for lengths in (grid, block)]
        message = self._library.cuda_host_launch(
            name.encode(),
            *shape,
            ctypes.c_size_t(shared),
            ctypes.c_int(cooperative),
            ctypes.c_uint64(seed),
            pointers,
        )
        if message is not None:
            raise LaunchError(f"{name}: {message.decode()}{self._line(message.decode())}")

    def _line(self, message: str) -> str:
        place = re.search(r"code at (0x[0-9a-f]+)", message)
        if not place:
            return ""
        command = ["addr2line", "-Cfpie", str(self._path), place[1]]
        return "\n" + subprocess.run(command, capture_output=True, text=True, check=False).stdout
