"""Exact arithmetic between a network's features and the integers that the entropy coder sees.

ARITHMETIC.md is the contract. `layers` and `blocks` describe sub-networks, `orders` and `taps` what is coded
when and what it may read, `models` how distributions follow, and `latent` is the loop around them;
`reference` is the contract in plain NumPy, and `cuda` computes the same on a GPU.
The names below load on first use, so that importing quadrans doesn't import Numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..entropy._compiled import import_compiled

if TYPE_CHECKING:
    from .attentions import LinearAttention, LocalAttention
    from .blocks import (
        Concat,
        Constant,
        CrossAttention,
        Input,
        Multiply,
        Residual,
        Sequential,
        Slice,
        WindowAttention,
    )
    from .latent import decode_latent, encode_latent, latent_mixtures, latent_parameters, latent_symbols
    from .layers import (
        GELU,
        Abs,
        Conv2d,
        ConvTranspose2d,
        DepthwiseConv2d,
        Exp,
        Layer,
        LayerNorm,
        LeakyReLU,
        Linear,
        PixelShuffle,
        PixelUnshuffle,
        ReLU,
        Sigmoid,
        Softplus,
        Sqrt,
        Tanh,
    )
    from .models import ContextModel, PositionModel, WindowModel
    from .network import Network
    from .orders import (
        Order,
        check_order,
        checkerboard,
        even_slices,
        parallel,
        quadtree,
        raster,
        slices,
        slices_checkerboard,
        wavefront,
    )
    from .parity import Checkerboard
    from .quantization import FRACTION_BITS, FRACTIONS, MixtureQuantization, Quantization
    from .step_models import StepModel
    from .steps import Step, Steps
    from .taps import (
        Taps,
        causal_mask,
        checkerboard_mask,
        empty_mask,
        mask_taps,
        wavefront_lag,
        window_taps,
    )

ARITHMETIC = 2
"""The version of ARITHMETIC.md that this build computes."""

__all__ = [
    "ARITHMETIC",
    "FRACTIONS",
    "FRACTION_BITS",
    "GELU",
    "Abs",
    "Checkerboard",
    "Concat",
    "Constant",
    "ContextModel",
    "Conv2d",
    "ConvTranspose2d",
    "CrossAttention",
    "DepthwiseConv2d",
    "Exp",
    "Input",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LinearAttention",
    "LocalAttention",
    "MixtureQuantization",
    "Multiply",
    "Network",
    "Order",
    "PixelShuffle",
    "PixelUnshuffle",
    "PositionModel",
    "Quantization",
    "ReLU",
    "Residual",
    "Sequential",
    "Sigmoid",
    "Slice",
    "Softplus",
    "Sqrt",
    "Step",
    "StepModel",
    "Steps",
    "Tanh",
    "Taps",
    "WindowAttention",
    "WindowModel",
    "causal_mask",
    "check_order",
    "checkerboard",
    "checkerboard_mask",
    "decode_latent",
    "empty_mask",
    "encode_latent",
    "even_slices",
    "latent_mixtures",
    "latent_parameters",
    "latent_symbols",
    "mask_taps",
    "parallel",
    "quadtree",
    "raster",
    "slices",
    "slices_checkerboard",
    "wavefront",
    "wavefront_lag",
    "window_taps",
]

_NAMES = {
    "attentions": "LinearAttention LocalAttention",
    "blocks": "Concat Constant CrossAttention Input Multiply Residual Sequential Slice WindowAttention",
    "latent": "decode_latent encode_latent latent_mixtures latent_parameters latent_symbols",
    "layers": "GELU Abs Conv2d ConvTranspose2d DepthwiseConv2d Exp Layer LayerNorm LeakyReLU Linear"
    " PixelShuffle PixelUnshuffle ReLU Sigmoid Softplus Sqrt Tanh",
    "models": "ContextModel PositionModel WindowModel",
    "network": "Network",
    "orders": "Order check_order checkerboard even_slices parallel quadtree raster slices slices_checkerboard"
    " wavefront",
    "parity": "Checkerboard",
    "quantization": "FRACTION_BITS FRACTIONS MixtureQuantization Quantization",
    "step_models": "StepModel",
    "steps": "Step Steps",
    "taps": "Taps causal_mask checkerboard_mask empty_mask mask_taps wavefront_lag window_taps",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_compiled(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
