"""What coders must offer to the loops over latents, and what the loops share around them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..entropy import mixture
from ..entropy._passes import PassDecoder, PassEncoder
from ..entropy.mixture import Mixtures
from .arrays import ready
from .quantization import LATENT_LIMIT, MixtureQuantization, Quantization

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


class MixtureEncoder(Protocol):
    """What `encode_latent` needs of `quadrans.entropy.mixture.Encoder`."""

    def put(self, symbols: Int32Array, mixtures: Mixtures) -> Any: ...


class MixtureDecoder(Protocol):
    """What `decode_latent` needs of `quadrans.entropy.mixture.Decoder`."""

    def get(self, mixtures: Mixtures) -> Int32Array: ...


def check_coder(coder: Any, quantization: Quantization | MixtureQuantization) -> None:
    """TypeError for a coder of the package whose symbols are distributed in another way than the model's."""
    mixed = isinstance(coder, (mixture.Encoder, mixture.Decoder))
    if isinstance(quantization, MixtureQuantization):
        wrong, needed = isinstance(coder, (PassEncoder, PassDecoder)) and not mixed, "under mixtures, with"
        module = "quadrans.entropy.mixture"
    else:
        wrong, needed, module = mixed, "under a table, as with", "quadrans.entropy"
    if wrong:
        kind = type(coder)
        raise TypeError(
            f"the model's symbols are coded {needed} {module}.{kind.__name__}, "
            f"not with {kind.__module__}.{kind.__name__}"
        )


def get_symbols(decoder: SymbolDecoder | MixtureDecoder, given: Any) -> Int32Array:
    """The next pass, int32, of the indexes' or mixtures' shape. ValueError if the decoder gives another."""
    symbols = ready(decoder.get(given), np.int32)
    if symbols.shape != given.shape:
        raise ValueError(f"the decoder gave symbols of shape {symbols.shape}, not {given.shape}")
    return symbols


def too_large(value: Any, where: tuple[Any, ...]) -> ValueError:
    at = tuple(int(i) for i in where)
    return ValueError(f"y is {value} at {at}: a latent or its symbol would lie beyond +-{LATENT_LIMIT}")
