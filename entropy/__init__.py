"""Entropy coding: integers in, bytes out, the same on every machine.

    table = gaussian_table()                        # 64 rows, scales 0.11 .. 256
    stream = encode(symbols, indexes, table)        # integer arrays of one shape -> bytes
    symbols = decode(stream, indexes, table)        # int32, of indexes' shape

`Encoder` and `Decoder` do the same pass by pass. `range_coder` has the same four names for streams
whose encoder must emit as it goes; `reference` is the format in plain Python integers (FORMAT.md).
Numba is imported at the first coding, not here.
"""

from . import range_coder, reference
from .errors import CorruptStream, TableMismatch
from .gaussian import default_scales, gaussian_table, scale_thresholds
from .rans import Decoder, Encoder, decode, encode
from .table import CdfTable

__all__ = [
    "CdfTable",
    "CorruptStream",
    "Decoder",
    "Encoder",
    "TableMismatch",
    "decode",
    "default_scales",
    "encode",
    "gaussian_table",
    "range_coder",
    "reference",
    "scale_thresholds",
]
