"""What coders must offer to the loops over latents, and what the loops share around them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .arrays import ready
from .models import LATENT_LIMIT

Int32Array = NDArray[np.int32]

PARTS = ("index", "coder", "context", "nets")
"""Where time goes: making table rows; symbols and write-back; windows and convolutions of what is decoded;
the layers behind them."""


class SymbolEncoder(Protocol):
    """What `encode_latent` needs of `quadrans.entropy.Encoder`."""

    def put(self, symbols: Int32Array, indexes: Int32Array) -> Any: ...


class SymbolDecoder(Protocol):
    """What `decode_latent` needs of `quadrans.entropy.Decoder`."""

    def get(self, indexes: Int32Array) -> Int32Array: ...


def get_symbols(decoder: SymbolDecoder, indexes: Int32Array) -> Int32Array:
    """The next pass, int32 of indexes' shape. ValueError if the decoder gives another shape."""
    symbols = ready(decoder.get(indexes), np.int32)
    if symbols.shape != indexes.shape:
        raise ValueError(f"the decoder gave symbols of shape {symbols.shape}, not {indexes.shape}")
    return symbols


def too_large(value: Any, where: tuple[Any, ...]) -> ValueError:
    at = tuple(int(i) for i in where)
    return ValueError(f"y is {value} at {at}: a latent or its symbol would lie beyond +-{LATENT_LIMIT}")
