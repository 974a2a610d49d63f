"""Import of the modules that Numba compiles, and the vector instructions they use."""

import os
from functools import cache
from importlib import import_module
from types import ModuleType


def import_compiled(name: str, package: str | None) -> ModuleType:
    """Import a module of Numba functions. Raises RuntimeError, with the remedy, if none can be cached."""
    try:
        return import_module(name, package)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        raise RuntimeError(
            "Numba finds no folder that it may write its cache to: set NUMBA_CACHE_DIR to one"
        ) from error


@cache
def simd_level() -> int:
    """The level of `_simd.LEVELS` in use: the CPU's highest, or what QUADRANS_SIMD names.

    Raises ValueError if that is no level, or none that this CPU has.
    """
    simd = import_compiled("._simd", __package__)
    legal = simd.levels()
    name = os.environ.get("QUADRANS_SIMD") or legal[-1]
    if name not in legal:
        raise ValueError(f"QUADRANS_SIMD is {name!r}, this CPU has {', '.join(legal)}")
    return simd.LEVELS.index(name)
