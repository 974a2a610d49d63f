"""What the kernel tests share: random weights, small models, comparison of bits."""

from __future__ import annotations

from collections.abc import Callable

import latent_cases
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


@pytest.fixture(params=[4, None], ids=["integer", "residual"])
def bits(request: pytest.FixtureRequest) -> int | None:
    """Fraction bits of a model: both modes."""
    return request.param


@pytest.fixture
def model(rng: np.random.Generator, bits: int | None) -> kernels.ContextModel:
    """M = 3 latent channels, 6 hyper features, 7 context channels, hidden layers of 18 and 5."""
    return latent_cases.context_model(rng, bits)
