"""The exact kernels, the lanes coder and the loop over latents on NVIDIA GPUs, equal to the CPU's to the bit.

`network` (layers), `serial` (latents), `encoder` and `decoder` (streams) take CuPy arrays and torch CUDA
tensors, read them where they are, and leave their results on the device. `quantization` is for codecs whose
networks run elsewhere, in torch say: `quantize`, `to_indexes` and `dequantize` are a kernel each between such
networks' scales, means and latents, as CuPy arrays, and the symbols and indexes of streams.

All need CuPy, which `import_cupy` gives: `pip install 'quadrans[cuda]'`. The names below load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...entropy._compiled import import_compiled

if TYPE_CHECKING:
    from ._module import import_cupy
    from .decoder import Decoder, decode, decode_batch
    from .encoder import Encoder, encode, encode_batch
    from .network import Network, execute, new_memory, pack
    from .quantization import dequantize, quantize, to_indexes
    from .serial import decode_latent, encode_latent, latent_parameters

__all__ = [
    "Decoder",
    "Encoder",
    "Network",
    "decode",
    "decode_batch",
    "decode_latent",
    "dequantize",
    "encode",
    "encode_batch",
    "encode_latent",
    "execute",
    "import_cupy",
    "latent_parameters",
    "new_memory",
    "pack",
    "quantize",
    "to_indexes",
]

_MODULES = {
    "_module": ("import_cupy",),
    "decoder": ("Decoder", "decode", "decode_batch"),
    "encoder": ("Encoder", "encode", "encode_batch"),
    "network": ("Network", "execute", "new_memory", "pack"),
    "quantization": ("dequantize", "quantize", "to_indexes"),
    "serial": ("decode_latent", "encode_latent", "latent_parameters"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_compiled(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
