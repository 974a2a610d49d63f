"""The exact kernels, the lanes coder and the loop over latents on NVIDIA GPUs, equal to the CPU's to the bit.

`network` (layers), `serial` (latents), `coder` (streams) and `quantize` take CuPy arrays and torch CUDA
tensors, read them where they are, and leave their results on the device. They need CuPy: `pip install
'quadrans[cuda]'`. The names below load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...entropy._compiled import import_compiled

if TYPE_CHECKING:
    from .coder import Decoder, Encoder, decode, decode_batch, encode, encode_batch
    from .network import Network, execute, new_memory, pack
    from .serial import decode_latent, encode_latent, latent_parameters

__all__ = [
    "Decoder",
    "Encoder",
    "Network",
    "decode",
    "decode_batch",
    "decode_latent",
    "encode",
    "encode_batch",
    "encode_latent",
    "execute",
    "latent_parameters",
    "new_memory",
    "pack",
]

_MODULES = {
    "coder": ("Decoder", "Encoder", "decode", "decode_batch", "encode", "encode_batch"),
    "network": ("Network", "execute", "new_memory", "pack"),
    "serial": ("decode_latent", "encode_latent", "latent_parameters"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_compiled(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
