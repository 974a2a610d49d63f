"""torchac's four functions, for torch tensors and NumPy arrays.

    import quadrans.nets.adapters.torchac as torchac

    stream = torchac.encode_float_cdf(cdf_float, sym, needs_normalization=True, check_input_bounds=False)
    sym = torchac.decode_float_cdf(cdf_float, stream, needs_normalization=True)

The same bytes, arguments and shapes; nothing is compiled by a C++ compiler. Decoders return int16, a tensor
for a tensor and an array for an array. Errors are those of `quadrans.entropy.torchac`, which does the work;
tensors must be on the CPU, as torchac's, else ValueError.
"""

from __future__ import annotations

from typing import Any, TypeGuard, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...entropy import torchac as _arrays

Values = TypeVar("Values", Tensor, NDArray[Any])


def encode_float_cdf(
    cdf_float: Values, sym: Values, needs_normalization: bool = True, check_input_bounds: bool = False
) -> bytes:
    """As `quadrans.entropy.torchac.encode_float_cdf`; bfloat16 tensors too."""
    symbols = _array(sym, "Symbols")
    if _is_bfloat16(cdf_float):
        if check_input_bounds:
            _arrays.check_bounds(_array(cdf_float.float(), "CDF"), symbols)
        return _arrays.encode_int16_normalized_cdf(_integers(cdf_float, needs_normalization), symbols)
    return _arrays.encode_float_cdf(
        _array(cdf_float, "CDF"), symbols, needs_normalization, check_input_bounds
    )


def decode_float_cdf(
    cdf_float: Values, byte_stream: _arrays.Stream, needs_normalization: bool = True
) -> Values:
    """As `quadrans.entropy.torchac.decode_float_cdf`; bfloat16 tensors too."""
    if _is_bfloat16(cdf_float):
        cdf = _integers(cdf_float, needs_normalization)
        return _like(cdf_float, _arrays.decode_int16_normalized_cdf(cdf, byte_stream))
    cdf = _array(cdf_float, "CDF")
    return _like(cdf_float, _arrays.decode_float_cdf(cdf, byte_stream, needs_normalization))


def encode_int16_normalized_cdf(cdf_int: Values, sym: Values) -> bytes:
    """As `quadrans.entropy.torchac.encode_int16_normalized_cdf`."""
    return _arrays.encode_int16_normalized_cdf(_array(cdf_int, "CDF"), _array(sym, "Symbols"))


def decode_int16_normalized_cdf(cdf_int: Values, byte_stream: _arrays.Stream) -> Values:
    """As `quadrans.entropy.torchac.decode_int16_normalized_cdf`."""
    return _like(cdf_int, _arrays.decode_int16_normalized_cdf(_array(cdf_int, "CDF"), byte_stream))


def _array(values: Values, name: str) -> NDArray[Any]:
    """The memory of a tensor as an array."""
    if not isinstance(values, Tensor):
        return values
    if values.device.type != "cpu":
        raise ValueError(f"{name} must be on CPU, not on {values.device}")
    return values.detach().numpy()


def _is_bfloat16(values: object) -> TypeGuard[Tensor]:
    return isinstance(values, Tensor) and values.dtype == torch.bfloat16


def _integers(cdf: Tensor, needs_normalization: bool) -> NDArray[np.int16]:
    """All of a bfloat16 CDF as torchac converts it, for NumPy has no such type."""
    columns = cdf.shape[-1] if cdf.ndim else 0
    slope = int(bool(needs_normalization))
    factor = torch.tensor(65536.0 - slope * (columns - 1), dtype=torch.float32, device="cpu")
    scaled = _array(cdf.mul(factor).round().float(), "CDF")
    if not np.isfinite(scaled).all():
        raise ValueError("cdf_float holds values that are not finite")
    return (scaled.astype(np.int64) + slope * np.arange(columns)).astype(np.int16)


def _like(values: Any, symbols: NDArray[np.int16]) -> Any:
    return torch.from_numpy(symbols) if isinstance(values, Tensor) else symbols
