"""Codecs of the literature over `quadrans.entropy` and `quadrans.kernels`, and `EntropyBackend` for others.

Importing this package imports no torch; the modules that need it (`codec`, `training`, the systems
themselves, `backend`) do when they are imported, and the names below when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import EntropyBackend, IndexMismatch, StaleWeights

__all__ = ["EntropyBackend", "IndexMismatch", "StaleWeights"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import backend

    return getattr(backend, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
