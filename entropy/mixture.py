"""Coding under a mixture of K Gaussians for each symbol, of which no CDF row is ever built.

    mixtures = parameters(weights, means, scales)   # floats (K, *shape) -> integers, the same everywhere
    stream = encode(symbols, mixtures)              # integers of `shape` -> bytes
    symbols = decode(stream, mixtures)              # int32, of `shape`

Symbol v has the probability sum_k w_k (Phi((v + .5 - m_k) / s_k) - Phi((v - .5 - m_k) / s_k)): Cheng et
al. 2020, "Learned Image Compression with Discretized Gaussian Mixture Likelihoods", equation 8. K = 1
is a Gaussian with a free mean. Precision is 15; FORMAT.md, section 6, is the definition and
`reference_mixture.py` the same in plain Python.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arrays import as_int32
from ._compiled import import_compiled, simd_level
from ._lanes import LanesEncoder, LanesReader, Layout, check_threads, specialized
from ._passes import KIND_MIXTURE, Codes, Stream, StreamDecoder, check_stream
from .errors import CorruptStream
from .gaussian import normal_tail

WEIGHT_TOTAL = 1 << 14
MAX_MEAN = 1 << 29
INVERSE_SCALES = 1 << 10

_ESCAPE_FREQ = 2
PRECISION = 15
# Phi's table: 64 steps for each unit between -5 and 5, and so scaled that weights of 2^14 in all make a
# CDF that ends, 17 bits to the right, at 2^15 less the frequency of the escape.
_STEPS, _REACH = 64, 5
_PHI_END = (1 << 18) - (_ESCAPE_FREQ << 3)
_SLOPE_BITS = 11
_QUANTILES = 512


def encode(
    symbols: ArrayLike,
    mixtures: Mixtures,
    lanes: int | None = None,
    groups: int | None = None,
    *,
    compact: bool = False,
    threads: int = 1,
) -> bytes:
    """Stream of `symbols`, each under its own mixture.

    symbols: integer array of `mixtures.shape`, any strides; every int32 symbol is legal. The rest is as at
    `rans.encode`. Raises ValueError (shapes, values) or TypeError (not integers).
    """
    encoder = Encoder(lanes, groups, compact=compact, threads=threads)
    encoder.put(symbols, mixtures)
    return encoder.finish()


def decode(stream: Stream, mixtures: Mixtures, *, threads: int = 1) -> NDArray[np.int32]:
    """The symbols of a whole stream: int32 of `mixtures.shape`.

    threads: how many may work on the stream's groups at once. Raises CorruptStream, or TableMismatch for a
    stream of another precision.
    """
    decoder = Decoder(stream, threads=threads)
    symbols = decoder.get(mixtures)
    decoder.close()
    return symbols


@dataclass(frozen=True, eq=False, init=False)
class Mixtures:
    """The integer parameters of one mixture for each symbol; read-only arrays (K, *shape), K >= 1.

    weights: uint16, of sum 2**14 over the K.
    means: int32 in units of 2**-10, -2**29 .. 2**29.
    inverse_scales: uint16 codes c, 0 .. 1023, of 1 / scale = (64 + c % 64) * 2**(c // 64 - 17): so scales
    from 0.03 to 2048, in steps of 0.8 to 1.6 %.
    """

    weights: NDArray[np.uint16]
    means: NDArray[np.int32]
    inverse_scales: NDArray[np.uint16]

    def __init__(self, weights: ArrayLike, means: ArrayLike, inverse_scales: ArrayLike) -> None:
        """Copies integer arrays of one shape. Raises ValueError (shapes, values) or TypeError (type)."""
        arrays = {
            "weights": as_int32("weights", weights),
            "means": as_int32("means", means),
            "inverse_scales": as_int32("inverse_scales", inverse_scales),
        }
        _check_shapes(arrays)
        for name, limits in {
            "weights": (0, WEIGHT_TOTAL),
            "means": (-MAX_MEAN, MAX_MEAN),
            "inverse_scales": (0, INVERSE_SCALES - 1),
        }.items():
            _refuse((arrays[name] < limits[0]) | (arrays[name] > limits[1]), arrays[name], name)
        sums = arrays["weights"].sum(0, dtype=np.int64)
        _refuse(sums != WEIGHT_TOTAL, sums, "sums of weights")
        self._fill(
            arrays["weights"].astype(np.uint16),
            arrays["means"].copy(),
            arrays["inverse_scales"].astype(np.uint16),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the symbols."""
        return self.means.shape[1:]

    @property
    def components(self) -> int:
        """K."""
        return self.means.shape[0]

    def as_floats(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """(weights, means, scales) that the integers stand for: float64, of sum 1 over the K."""
        codes = self.inverse_scales.astype(np.int64)
        scales = np.ldexp(1.0 / (64 + codes % 64), (17 - codes // 64).astype(np.int32))
        return self.weights / WEIGHT_TOTAL, self.means / 1024, scales

    def symbol_bits(self, symbols: ArrayLike) -> NDArray[np.float64]:
        """Exact cost in bits of each symbol, escapes included: float64 of `shape`. Raises as `encode`."""
        codes = to_codes(symbols, self)
        freqs = codes.codes >> 16
        costs = PRECISION - np.log2(np.where(freqs > 0, freqs, _ESCAPE_FREQ))
        nibbles = sum((codes.raws >> shift > 0).astype(np.int64) for shift in range(0, 36, 4))
        costs[codes.places] += 4.0 * (1 + nibbles)
        return costs.reshape(self.shape)

    def __reduce__(self) -> tuple[Any, ...]:
        return Mixtures, (self.weights, self.means, self.inverse_scales)

    def _fill(
        self, weights: NDArray[np.uint16], means: NDArray[np.int32], scales: NDArray[np.uint16]
    ) -> Mixtures:
        fields: dict[str, NDArray[Any]] = {"weights": weights, "means": means, "inverse_scales": scales}
        for array in fields.values():
            array.flags.writeable = False
        self.__dict__.update(fields)
        return self

    def _flat(self) -> tuple[NDArray[np.uint16], NDArray[np.int32], NDArray[np.uint16]]:
        """The arrays as the loops take them: (K, n)."""
        flat = self.components, math.prod(self.shape)
        return self.weights.reshape(flat), self.means.reshape(flat), self.inverse_scales.reshape(flat)


class Encoder(LanesEncoder):
    """Collects passes; the stream depends on the symbols and their order, not on how `put` cuts them."""

    def __init__(
        self,
        lanes: int | None = None,
        groups: int | None = None,
        *,
        compact: bool = False,
        threads: int = 1,
    ) -> None:
        """Arguments and errors as at `rans.Encoder`, the table left out."""
        super().__init__(KIND_MIXTURE, PRECISION, Layout(lanes, groups, compact, threads))

    def put(self, symbols: ArrayLike, mixtures: Mixtures) -> None:
        """Adds one pass, and keeps no reference to the arrays. Arguments and errors as `encode`."""
        self._check_open()
        self._passes.append(to_codes(symbols, mixtures))


class Decoder(StreamDecoder):
    """Decodes a stream pass by pass, in the encoder's order; its cuts may differ from the encoder's."""

    def __init__(self, stream: Stream, *, threads: int = 1) -> None:
        """Reads the header. Raises CorruptStream, TableMismatch, or TypeError if `stream` isn't bytes."""
        self._reader = LanesReader(check_stream(stream, KIND_MIXTURE), PRECISION, "mixtures")
        self._threads = check_threads(threads)
        self._loop = _vectors().decoding_loop(*specialized(self._reader.shape[1]))

    def get(self, mixtures: Mixtures) -> NDArray[np.int32]:
        """Symbols of the next pass: int32 of `mixtures.shape`.

        Raises CorruptStream if the stream can't hold these symbols, which also ends the decoder.
        """
        self._check_open()
        _check_mixtures(mixtures)
        symbols = np.empty(mixtures.shape, np.int32)
        source = (*mixtures._flat(), packed_phi(), scale_table(), quantiles())
        status, detail = self._reader.decode(
            self._loop, source, self._symbol_count, symbols.reshape(-1), self._threads
        )
        if status == loops().HAS_CELL:
            self._closed = "at the end of a corrupt stream"
            raise CorruptStream(f"escape to {detail}, which has a cell")
        if status:
            self._fail(status, detail)
        self._symbol_count += symbols.size
        return symbols

    def _left_over(self) -> str:
        return self._reader.left_over(self._symbol_count)


def parameters(weights: ArrayLike | None, means: ArrayLike, scales: ArrayLike) -> Mixtures:
    """Quantizes the parameters of mixtures; equal floats give equal integers on every machine.

    weights, means, scales: real arrays (K, *shape), K >= 1, any strides. Weights are >= 0, are normalized
    here, and None stands for equal ones; means are clamped to +-2**19, scales to 0.03 .. 2048.
    Raises ValueError for shapes, and, with the position, for NaN, infinities, a negative weight, and
    weights whose sum is 0 or infinite; TypeError for what isn't real.
    """
    arrays = {"means": np.asarray(means), "scales": np.asarray(scales)}
    arrays["weights"] = (
        np.broadcast_to(1.0, arrays["means"].shape) if weights is None else np.asarray(weights)
    )
    _check_shapes(arrays)
    shape = arrays["means"].shape
    flat = shape[0], math.prod(shape[1:])
    out: dict[str, NDArray[Any]] = {}
    for name, quantize, kind in (
        ("weights", loops().quantize_weights, np.uint16),
        ("means", loops().quantize_means, np.int32),
        ("scales", loops().quantize_scales, np.uint16),
    ):
        floats, out[name] = _as_floats(name, arrays[name]), np.empty(shape, kind)
        if not quantize(floats.reshape(flat), out[name].reshape(flat)):
            _raise_illegal(name, floats)
        # The next copy needn't wait beside this one.
        del floats
    return Mixtures.__new__(Mixtures)._fill(**out)


def bits(symbols: ArrayLike, mixtures: Mixtures) -> float:
    """Exact cost in bits of coding all `symbols`, integers of `mixtures.shape`. Raises as `encode`."""
    return float(mixtures.symbol_bits(symbols).sum())


def to_codes(symbols: ArrayLike, mixtures: Mixtures) -> Codes:
    """Checks the symbols of one pass and returns their codes. Raises as `encode`."""
    _check_mixtures(mixtures)
    symbol = as_int32("symbols", symbols)
    if symbol.shape != mixtures.shape:
        raise ValueError(f"symbols have shape {symbol.shape}, mixtures {mixtures.shape}")
    symbol = symbol.reshape(-1)
    codes = np.empty(symbol.size, np.uint32)
    loop = _vectors().coding_loop(simd_level())
    room = symbol.size // 16 + 16
    while True:
        raws, places = np.empty((2, room), np.int64)
        escapes, cost = loop(symbol, *mixtures._flat(), packed_phi(), codes, raws, places)
        if escapes <= room:
            return Codes(codes, raws[:escapes], places[:escapes], cost)
        room = escapes


@cache
def phi_table() -> NDArray[np.int64]:
    """int64 (641,): Phi(i / 64 - 5) times 2**18 - 16, rounded; exactly 0 and 2**18 - 16 at the ends."""
    tail = normal_tail(np.arange(_REACH * _STEPS + 1) / _STEPS)
    below = np.floor(tail * _PHI_END + 0.5).astype(np.int64)
    return np.concatenate([below[::-1], _PHI_END - below[1:]])


@cache
def packed_phi() -> NDArray[np.uint32]:
    """uint32 (1281,): Phi from -10 to 10, above the 11 bits of its difference to the next."""
    phi = np.pad(phi_table(), _REACH * _STEPS, "edge")
    return (phi << _SLOPE_BITS | np.append(np.diff(phi), 0)).astype(np.uint32)


@cache
def scale_table() -> NDArray[np.int32]:
    """int32 (1024,): the scale of each code in units of 2**-10, rounded down; for guesses alone."""
    codes = np.arange(INVERSE_SCALES)
    return ((1 << 27) // ((64 + codes % 64) << codes // 64)).astype(np.int32)


@cache
def quantiles() -> NDArray[np.int32]:
    """int32 (512,): in entry b, where Phi passes (b + 1/2) / 512, in units of 1 / 64."""
    middles = (2 * np.arange(_QUANTILES) + 1) * _PHI_END // (2 * _QUANTILES)
    return (np.searchsorted(phi_table(), middles) - _REACH * _STEPS).astype(np.int32)


@cache
def loops() -> ModuleType:
    """The Numba loops of mixtures, at the first use: Numba takes long to import."""
    return import_compiled("._mixture_loops", __package__)


@cache
def _vectors() -> ModuleType:
    return import_compiled("._mixture_vector", __package__)


def _as_floats(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """float32 as float32, all else as float64, laid out as the loops need it."""
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be real numbers, not {array.dtype}")
    kind = np.float32 if array.dtype.kind == "f" and array.dtype.itemsize <= 4 else np.float64
    return np.require(array, kind, ("C", "ALIGNED", "WRITEABLE"))


def _check_shapes(arrays: dict[str, NDArray[Any]]) -> None:
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) > 1 or () in shapes or next(iter(shapes))[0] < 1:
        listed = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"{listed}: expected one shape (K, ...), K >= 1")


def _check_mixtures(mixtures: Mixtures) -> None:
    if not isinstance(mixtures, Mixtures):
        raise TypeError(f"mixtures must be Mixtures, as of `parameters`, not {type(mixtures).__name__}")


def _refuse(bad: NDArray[np.bool_], values: NDArray[Any], name: str) -> None:
    if bad.any():
        place = np.unravel_index(int(bad.argmax()), bad.shape)
        position = tuple(int(index) for index in place)
        raise ValueError(f"{name} hold {values[position]} at {position}")


def _raise_illegal(name: str, floats: NDArray[Any]) -> NoReturn:
    """Raises for the first of the floats that `parameters` can't take."""
    _refuse(~np.isfinite(floats), floats, name)
    _refuse(floats < 0, floats, name)
    with np.errstate(over="ignore"):
        sums = floats.sum(0, dtype=np.float64)
    position = int((~((sums > 0) & np.isfinite(sums))).argmax())
    raise ValueError(f"{name} have the sum {sums.reshape(-1)[position]} at {position} of {sums.size}")
