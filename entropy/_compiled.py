"""Import of the modules that Numba compiles."""

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
