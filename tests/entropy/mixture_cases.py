"""Mixtures for tests: Hypothesis strategies, a latent's workload, and the reference's form of both."""

import hashlib

import numpy as np
from hypothesis import strategies as st

from quadrans.entropy.mixture import Mixtures

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1

# (scale, spread) of `workload`.
REGIMES = [(None, 1), (0.11, 5), (0.4, 0), (1.0, 300), (6.0, 30), (64.0, 1), (64.0, 20), (1000.0, 3)]


def digest(*arrays):
    return hashlib.sha256(b"".join(a.astype(f"<{a.dtype.str[1:]}").tobytes() for a in arrays)).hexdigest()


def rows(mixtures):
    """Each symbol's mixture as the reference takes it."""
    flat = mixtures.components, -1
    parts = (mixtures.weights, mixtures.means, mixtures.inverse_scales)
    weights, means, codes = (part.reshape(flat).T.tolist() for part in parts)
    return [list(zip(*one, strict=True)) for one in zip(weights, means, codes, strict=True)]


def from_rows(mixtures):
    return Mixtures(*np.array(mixtures, np.int64).reshape(len(mixtures), -1, 3).transpose(2, 1, 0))


@st.composite
def component_sets(draw, least_code=256):
    """One mixture: components near each other or far apart, weights down to 0, any scale from the code on."""
    count = draw(st.integers(1, 4))
    cuts = sorted(draw(st.lists(st.integers(0, 1 << 14), min_size=count - 1, max_size=count - 1)))
    weights = np.diff([0, *cuts, 1 << 14]).tolist()
    middle = draw(st.integers(-(1 << 21), 1 << 21) | st.sampled_from([-(1 << 29), 1 << 29]))
    offset = st.integers(-3000, 3000) | st.integers(-(1 << 20), 1 << 20)
    means = [int(np.clip(middle + draw(offset), -(1 << 29), 1 << 29)) for _ in range(count)]
    codes = [draw(st.integers(least_code, 1023)) for _ in range(count)]
    return list(zip(weights, means, codes, strict=True))


@st.composite
def jobs(draw, max_size=20):
    """(symbols, mixtures): symbols near the components, in gaps between them, and anywhere in int32."""
    count = draw(st.integers(1, 4))
    fixed = component_sets().filter(lambda one: len(one) == count)
    mixtures = draw(st.lists(fixed, min_size=1, max_size=4))
    size = draw(st.integers(1, max_size))
    chosen = [mixtures[draw(st.integers(0, len(mixtures) - 1))] for _ in range(size)]
    symbols = []
    for one in chosen:
        near = (one[draw(st.integers(0, count - 1))][1] >> 10) + draw(st.integers(-30, 30))
        anywhere = st.integers(INT32_MIN, INT32_MAX) | st.sampled_from([INT32_MIN, INT32_MAX])
        symbols.append(draw(st.just(near) | st.just(near) | anywhere))
    return np.array(symbols, np.int32), from_rows(chosen)


def workload(size, components=3, scale=None, spread=1.0, seed=0):
    """(symbols, weights, means, scales): a latent of some 0.9 bit for each symbol if `scale` is None."""
    rng = np.random.default_rng(seed)
    base = np.clip(np.exp(rng.normal(-1.6, 1.0, size)), 0.11, 20.0) if scale is None else np.full(size, scale)
    shape = components, size
    weights = rng.dirichlet(np.ones(components), size).T
    means = rng.uniform(-1000, 1000, size) + spread * base * rng.normal(size=shape)
    scales = np.maximum(base * np.exp(0.4 * (components > 1) * rng.normal(size=shape)), 0.11)
    chosen = (rng.random(size) > np.cumsum(weights, 0)[:-1]).sum(0)[None]
    mean, scale = np.take_along_axis(means, chosen, 0), np.take_along_axis(scales, chosen, 0)
    symbols = np.rint(mean + scale * rng.normal(size=size))[0].astype(np.int32)
    return symbols, weights.astype(np.float32), means.astype(np.float32), scales.astype(np.float32)


def golden_job():
    """(symbols, weights, means, scales) of the golden streams, by integers: the same with every NumPy."""
    size = 2000
    noise = np.arange(1, 7 * size + 1, dtype=np.uint64) * 2654435761 * 40503 >> np.uint64(16) & np.uint64(
        0xFFFF
    )
    noise = noise.astype(np.int64).reshape(7, size)
    weights = (1 + noise[:3] // 7) / 1024
    means = (noise[3] - 32768) / 64 + (noise[:3] % 509 - 254) / 128
    scales = 2.0 ** (noise[4:] % 9 - 4) * (1 + noise[4:] / 65536)
    symbols = np.floor(means[0] + scales[0] * (noise[6] % 41 - 20) / 8).astype(np.int32)
    symbols[:4] = INT32_MIN, INT32_MAX, 0, -5000
    return symbols, weights, means, scales
