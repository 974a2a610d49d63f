"""Entropy coding: integers in, bytes out, the same on every machine.

    table = gaussian_table()                        # 64 rows, scales 0.11 .. 256
    stream = encode(symbols, indexes, table)        # integer arrays of one shape -> bytes
    symbols = decode(stream, indexes, table)        # int32, of indexes' shape

`Encoder` and `Decoder` do the same pass by pass. The same four names are in `range_coder`, for streams
that are made and read while they travel; in `mixture`, for a mixture of Gaussians for each symbol; and in
`rans64`, for CompressAI's bitstream. `torchac` has the functions and the bitstream of that package.
`reference` is the format in plain Python integers (FORMAT.md).
Numba is imported at the first coding, not here.
"""

from . import mixture, range_coder, rans64, reference, torchac
from .accounting import Report, report
from .errors import CorruptStream, IncompleteStream, TableMismatch
from .gaussian import default_scales, gaussian_table, scale_thresholds
from .rans import Decoder, Encoder, decode, encode
from .symmetric import laplace_table, logistic_table
from .table import CdfTable

__all__ = [
    "CdfTable",
    "CorruptStream",
    "Decoder",
    "Encoder",
    "IncompleteStream",
    "Report",
    "TableMismatch",
    "decode",
    "default_scales",
    "encode",
    "gaussian_table",
    "laplace_table",
    "logistic_table",
    "mixture",
    "range_coder",
    "rans64",
    "reference",
    "report",
    "scale_thresholds",
    "torchac",
]
