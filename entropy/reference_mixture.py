"""Mixtures in plain Python integers, in the order of FORMAT.md, section 6: slow, and meant to be read.

A mixture is a list of components, each three integers: (weight, mean, inverse scale). The fast code in
`mixture.py` is tested against it, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .errors import CorruptStream
from .mixture import phi_table
from .reference import KIND_MIXTURE, MAX_NIBBLES, Get, Interval, read_lanes, write_lanes

Mixture = Sequence[tuple[int, int, int]]

PRECISION = 15
ESCAPE_FREQ = 2
REGULAR = 2**PRECISION - ESCAPE_FREQ

# 6.1 Parameters


def quantize(weights: Sequence[float], means: Sequence[float], scales: Sequence[float]) -> Mixture:
    """The integers of one mixture. All values are finite, weights >= 0 and not all 0."""
    total = 0.0
    for weight in weights:
        total += weight
    mixture, partial, before = [], 0.0, 0
    for weight, mean, scale in zip(weights, means, scales, strict=True):
        partial += weight
        upto = math.floor(partial / total * 2**14 + 0.5)
        mixture.append((upto - before, quantize_mean(mean), quantize_scale(scale)))
        before = upto
    return mixture


def quantize_mean(mean: float) -> int:
    """The mean in units of 2^-10."""
    return math.floor(min(max(mean, -(2.0**19)), 2.0**19) * 2**10 + 0.5)


def quantize_scale(scale: float) -> int:
    """The code of the inverse scale."""
    mantissa, exponent = math.frexp(1.0 / max(scale, 2.0**-7))
    # 64 .. 128, where 128 is 64 of the next exponent.
    code = math.floor(mantissa * 128 + 0.5) + 64 * (exponent + 9)
    return min(max(code, 0), 1023)


def inverse_scale(code: int) -> int:
    """The inverse scale in units of 2^-17."""
    return (64 + code % 64) * 2 ** (code // 64)


# 6.2 Phi and the CDF


def phi(product: int) -> int:
    """Phi, times 2^18 - 16, of a product of distance and inverse scale, in units of 2^-27."""
    place = min(max(product // 2**5 + 5 * 2**22, 0), 10 * 2**22)
    step, rest = divmod(place, 2**16)
    table = phi_table()
    if step == len(table) - 1:
        return int(table[step])
    low, high = int(table[step]), int(table[step + 1])
    return low + (high - low) * rest // 2**16


def cdf(symbol: int, mixture: Mixture) -> int:
    """The start of the symbol's cell, 0 .. REGULAR; its end is the start of the next symbol's."""
    edge = symbol * 2**10 - 2**9
    total = sum(weight * phi((edge - mean) * inverse_scale(code)) for weight, mean, code in mixture)
    return (total + 2**16) // 2**17


# 6.3 Symbols, cells and escapes


def center(mixture: Mixture) -> int:
    """The symbol that escapes are counted from."""
    heaviest = max(weight for weight, _, _ in mixture)
    mean = next(mean for weight, mean, _ in mixture if weight == heaviest)
    return (mean + 2**9) // 2**10


def intervals_of(symbol: int, mixture: Mixture) -> list[Interval]:
    """What is coded for one symbol, in the decoder's order."""
    start, end = cdf(symbol, mixture), cdf(symbol + 1, mixture)
    if start < end:
        return [(start, end - start)]
    above = symbol - center(mixture)
    raw = 2 * above if above >= 0 else 2 * (-above - 1) + 1
    nibbles = []
    while raw:
        nibbles.append(raw & 15)
        raw >>= 4
    uniform = 2 ** (PRECISION - 4)
    payload = [(value * uniform, uniform) for value in [len(nibbles), *nibbles]]
    return [(REGULAR, ESCAPE_FREQ), *payload]


def cells_of(mixture: Mixture) -> dict[int, int]:
    """The frequency of every symbol that has a cell, in ascending order."""
    near: set[int] = set()
    for _, mean, code in mixture:
        # The CDF is flat where no component is within 5 scales.
        reach = 5 * 2**17 // inverse_scale(code) + 2
        near.update(range(mean // 2**10 - reach, mean // 2**10 + reach + 1))
    freqs = {symbol: cdf(symbol + 1, mixture) - cdf(symbol, mixture) for symbol in sorted(near)}
    return {symbol: freq for symbol, freq in freqs.items() if freq > 0}


def symbol_from(get: Get, mixture: Mixture, precision: int) -> int:
    """One symbol, its escape included."""
    cells = cells_of(mixture)
    cell = get((*cells.values(), ESCAPE_FREQ))
    if cell < len(cells):
        return list(cells)[cell]
    uniform = (2 ** (precision - 4),) * 16
    count = get(uniform)
    if count > MAX_NIBBLES:
        raise CorruptStream(f"escape of {count} nibbles, the most is {MAX_NIBBLES}")
    nibbles = [get(uniform) for _ in range(count)]
    raw = sum(nibble << (4 * i) for i, nibble in enumerate(nibbles))
    middle = center(mixture)
    symbol = middle - 1 - raw // 2 if raw & 1 else middle + raw // 2
    if nibbles[-1:] == [0] or not -(2**31) <= symbol < 2**31:
        raise CorruptStream(f"escape to {symbol}, outside int32 or with a zero as last nibble")
    if symbol in cells:
        raise CorruptStream(f"escape to {symbol}, which has a cell")
    return symbol


# Streams


def encode(symbols: Iterable[int], mixtures: Iterable[Mixture], lanes: int, groups: int = 1) -> bytes:
    """Stream of the symbols, equal to `quadrans.entropy.mixture.encode(..., lanes, groups)`."""
    todo = [intervals_of(v, mixture) for v, mixture in zip(symbols, mixtures, strict=True)]
    return write_lanes(todo, PRECISION, lanes, groups, KIND_MIXTURE)


def decode(stream: bytes, mixtures: Iterable[Mixture]) -> list[int]:
    """Symbols of a whole stream."""
    return read_lanes(stream, list(mixtures), PRECISION, KIND_MIXTURE, symbol_from)
