"""Exact arithmetic between a network's features and the integers that the entropy coder sees.

ARITHMETIC.md is the contract; `orders` (coding orders and masks), `conv` (exact layers) and
`parameters` (context model and latent loop) implement it; `reference` is it in plain NumPy.
The names below load on first use, so that importing quadrans doesn't import Numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..entropy._compiled import import_compiled

if TYPE_CHECKING:
    from .conv import Conv2d, ConvTranspose2d, Layer, LeakyReLU, ReLU, Sequential
    from .orders import (
        Order,
        Step,
        Taps,
        causal_mask,
        check_order,
        checkerboard,
        checkerboard_mask,
        empty_mask,
        mask_taps,
        parallel,
        raster,
        wavefront,
        wavefront_lag,
    )
    from .parameters import (
        FRACTION_BITS,
        FRACTIONS,
        ContextModel,
        decode_latent,
        encode_latent,
        latent_parameters,
        latent_symbols,
    )

ARITHMETIC = 1

__all__ = [
    "ARITHMETIC",
    "FRACTIONS",
    "FRACTION_BITS",
    "ContextModel",
    "Conv2d",
    "ConvTranspose2d",
    "Layer",
    "LeakyReLU",
    "Order",
    "ReLU",
    "Sequential",
    "Step",
    "Taps",
    "causal_mask",
    "check_order",
    "checkerboard",
    "checkerboard_mask",
    "decode_latent",
    "empty_mask",
    "encode_latent",
    "latent_parameters",
    "latent_symbols",
    "mask_taps",
    "parallel",
    "raster",
    "wavefront",
    "wavefront_lag",
]

_MODULES = {
    "conv": ("Conv2d", "ConvTranspose2d", "Layer", "LeakyReLU", "ReLU", "Sequential"),
    "parameters": (
        "FRACTIONS",
        "FRACTION_BITS",
        "ContextModel",
        "decode_latent",
        "encode_latent",
        "latent_parameters",
        "latent_symbols",
    ),
}
_HOME = dict.fromkeys(__all__, "orders") | {
    name: module for module, names in _MODULES.items() for name in names
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_compiled(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
