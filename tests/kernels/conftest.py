"""What the kernel tests share: random weights, small models, comparison of bits."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from quadrans import kernels

FloatArray = NDArray[np.float32]


def _bits(x: FloatArray) -> NDArray[np.uint32]:
    return np.where(np.isnan(x), np.float32(np.nan), x).astype(np.float32).view(np.uint32)


@pytest.fixture(scope="session")
def assert_same_bits() -> Callable[[FloatArray, FloatArray], None]:
    """Equal shapes and bits, NaN payloads apart."""

    def check(a: FloatArray, b: FloatArray) -> None:
        assert a.dtype == b.dtype == np.float32
        assert a.shape == b.shape
        np.testing.assert_array_equal(_bits(a), _bits(b))

    return check


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20181210)


@pytest.fixture
def normal(rng: np.random.Generator) -> Callable[..., FloatArray]:
    return lambda *shape: rng.standard_normal(shape).astype(np.float32)


@pytest.fixture
def model(normal: Callable[..., FloatArray]) -> kernels.ContextModel:
    """M = 3 latent channels, 6 hyper features, 7 context channels, hidden layers of 18 and 5."""
    widths = [13, 18, 5, 6]
    convs = [kernels.Conv2d(normal(d, c, 1, 1), normal(d)) for c, d in pairwise(widths)]
    head: list[kernels.Layer] = [convs[0], kernels.LeakyReLU(), convs[1], kernels.LeakyReLU(0.2), convs[2]]
    thresholds = np.geomspace(0.11, 256, 64)[:-1].astype(np.float32)
    return kernels.ContextModel(normal(7, 3, 5, 5), normal(7), kernels.Sequential(head), thresholds)
