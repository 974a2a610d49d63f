"""The packages that only an evaluation needs, and the error that says how to get them."""

from __future__ import annotations

import importlib.util
from importlib import import_module
from typing import Any

_NAMES = {"pytorch_msssim": "pytorch-msssim", "bjontegaard": "bjontegaard", "matplotlib": "matplotlib"}


def check(module: str) -> None:
    """Raise ImportError, naming the extra, unless one of these packages is installed. Imports nothing."""
    if not importlib.util.find_spec(module):
        raise ImportError(f"an evaluation needs {_NAMES[module]}: pip install 'quadrans[eval]'")


def require(module: str) -> Any:
    """The package, imported. Raises as `check`."""
    check(module)
    return import_module(module)
