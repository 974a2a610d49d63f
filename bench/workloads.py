"""The workloads of `quadrans bench coder`: symbols, and the distributions that they were drawn from.

Nothing here is drawn from a codec: a workload must be the same on every machine, at any rate and size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from ..entropy import default_scales, scale_thresholds
from ..entropy.gaussian import normal_tail

BASE = 491_520  # a latent of 320 x 32 x 48
CALLS, PER_CALL = 500, 192  # a serial decoder: one call for each position, one symbol for each channel

# Scales are log-normal with this standard deviation of their logarithm, clipped to these limits.
_LOG_STD = 1.0
_LEAST_SCALE, _MOST_SCALE = 0.11, 20.0


@dataclass(frozen=True, eq=False)
class Gaussians:
    """Symbols under rounded zero-mean Gaussians, whose scales were indexed.

    symbols, indexes: int32 of one shape, (n,), or (calls, n / calls) where each row is a call of its own,
    whose indexes a decoder knows only after the call before. scales: float64 (64,), that of each index.
    """

    symbols: NDArray[np.int32]
    indexes: NDArray[np.int32]
    scales: NDArray[np.float64]

    @cached_property
    def bound(self) -> int:
        """The least alphabet -bound .. bound, for the peers that have no escape."""
        return max(1, int(np.abs(self.symbols).max()))

    @cached_property
    def ideal_bits(self) -> float:
        """-log2 of the probability of all symbols, in floats."""
        masses = cell_mass(np.arange(self.bound + 1), 0.0, self.scales[:, None])
        return -float(np.log2(np.maximum(masses, 1e-300))[self.indexes, np.abs(self.symbols)].sum())


@dataclass(frozen=True, eq=False)
class Mixture:
    """Symbols under rounded mixtures of K Gaussians, one mixture for each symbol.

    symbols: int32 (n,). weights, means, scales: float32 (K, n), as a network gives them; weights sum to 1.
    """

    symbols: NDArray[np.int32]
    weights: NDArray[np.float32]
    means: NDArray[np.float32]
    scales: NDArray[np.float32]

    @cached_property
    def bound(self) -> int:
        """The least alphabet -bound .. bound, for the peers that have no escape."""
        return max(1, int(np.abs(self.symbols).max()))

    @cached_property
    def ideal_bits(self) -> float:
        """-log2 of the probability of all symbols, in floats."""
        mass = np.zeros(self.symbols.size)
        for weight, mean, scale in zip(self.weights, self.means, self.scales, strict=True):
            mass += weight * cell_mass(self.symbols, mean.astype(np.float64), scale.astype(np.float64))
        return -float(np.log2(mass / self.weights.sum(0, dtype=np.float64)).sum())


Load = Gaussians | Mixture


@dataclass(frozen=True)
class Workload:
    """kind: what a coder must be able to do; sizes: symbols, unless others are asked for; make: n -> data."""

    kind: str
    sizes: tuple[int, ...]
    make: Callable[[int], Load]
    about: str


def cell_mass(symbol: NDArray, mean: NDArray | float, scale: NDArray) -> NDArray[np.float64]:
    """The normal's mass between symbol - .5 and symbol + .5; the arguments broadcast."""
    low, high = (symbol - mean - 0.5) / scale, (symbol - mean + 0.5) / scale
    tails = normal_tail(np.abs(low)), normal_tail(np.abs(high))
    # Tails are subtracted on the side where they are small, so that nothing cancels.
    return np.where((low < 0) & (high > 0), 1 - tails[0] - tails[1], np.abs(tails[0] - tails[1]))


@cache
def log_mean(rate: float) -> float:
    """The mean of the scales' logarithm at which a symbol costs `rate` bits, by bisection."""
    scales = default_scales()
    reach = np.arange(-300, 301)
    mass = cell_mass(reach, 0.0, scales[:, None])
    entropies = -(mass * np.log2(np.maximum(mass, 1e-300))).sum(1)
    thresholds = np.log(scale_thresholds(scales).astype(np.float64))
    top = int((thresholds < np.log(_MOST_SCALE)).sum())

    def expected(mean: float) -> float:
        z = (thresholds[:top] - mean) / _LOG_STD
        below = np.where(z < 0, normal_tail(np.abs(z)), 1 - normal_tail(np.abs(z)))
        return float(np.diff(below, prepend=0.0, append=1.0) @ entropies[: top + 1])

    low, high = np.log(_LEAST_SCALE), np.log(_MOST_SCALE)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if expected(middle) < rate else (low, middle)
    return float(low)


def gaussians(rate: float, n: int, per_call: int | None = None) -> Gaussians:
    """n symbols at about `rate` bits each; with per_call, whole calls of so many, one row for each."""
    rng = np.random.default_rng(n)
    shape = (n,) if per_call is None else (max(1, n // per_call), per_call)
    scales = default_scales()
    drawn = np.exp(log_mean(rate) + _LOG_STD * rng.standard_normal(shape))
    clipped = np.clip(drawn, _LEAST_SCALE, _MOST_SCALE).astype(np.float32)
    indexes = np.searchsorted(scale_thresholds(scales), clipped).astype(np.int32)
    symbols = np.rint(scales[indexes] * rng.standard_normal(shape)).astype(np.int32)
    return Gaussians(symbols, indexes, scales)


def mixture(n: int, components: int = 3) -> Mixture:
    """n symbols under mixtures; scales stay below 3, which keeps the peers' dense alphabets small."""
    rng = np.random.default_rng(n)
    shape = components, n
    weights = np.ascontiguousarray(rng.dirichlet(np.ones(components), n).T, np.float32)
    means = rng.normal(0, 1.5, shape).astype(np.float32)
    scales = np.clip(np.exp(rng.normal(np.log(0.6), 0.6, shape)), _LEAST_SCALE, 3).astype(np.float32)
    chosen = (rng.random(n) > np.cumsum(weights, 0)[:-1]).sum(0)
    mean, scale = means[chosen, np.arange(n)], scales[chosen, np.arange(n)]
    symbols = np.rint(mean + scale * rng.standard_normal(n)).astype(np.int32)
    return Mixture(symbols, weights, means, scales)


RATES = (0.3, 0.6, 1.5, 2.5, 4.0)

WORKLOADS = {
    f"{rate:g}": Workload(
        "gaussians",
        (1000, 30_000, BASE, 8_000_000) if rate == 0.6 else (BASE,),
        lambda n, rate=rate: gaussians(rate, n),  # type: ignore[misc]
        f"zero-mean Gaussians by index, {rate:g} bits/symbol",
    )
    for rate in RATES
} | {
    "mixture": Workload("mixture", (BASE,), mixture, "mixtures of 3 Gaussians"),
    "serial": Workload(
        "serial",
        (CALLS * PER_CALL,),
        lambda n: gaussians(0.6, n, PER_CALL),
        f"0.6 bits/symbol, a call for every {PER_CALL} symbols",
    ),
}
