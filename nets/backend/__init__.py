"""Entropy coding for any torch codec: `EntropyBackend`, and its errors."""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("quadrans.nets.backend needs PyTorch: pip install 'quadrans[torch]'") from error

from ..stale import StaleWeights
from .checked import IndexMismatch
from .entropy_backend import EntropyBackend

__all__ = ["EntropyBackend", "IndexMismatch", "StaleWeights"]
