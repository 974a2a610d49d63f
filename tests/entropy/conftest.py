"""Fixtures of the coders' tests: every SIMD level that this CPU has, and memory that is never clean."""

import numpy as np
import pytest

from quadrans.entropy import _lanes, _passes
from quadrans.entropy._compiled import simd_level
from quadrans.entropy._simd import levels


@pytest.fixture(params=levels())
def level(request, monkeypatch):
    """The name of a level, while the lanes coder runs at it."""
    monkeypatch.setenv("QUADRANS_SIMD", request.param)
    simd_level.cache_clear()
    yield request.param
    simd_level.cache_clear()


class _Poisoned:
    """NumPy, but what `empty` returns holds no zeros."""

    def __getattr__(self, name):
        return getattr(np, name)

    @staticmethod
    def empty(shape, dtype):
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[:] = 0xA5
        return array


@pytest.fixture
def poisoned(monkeypatch):
    """What the coders' memory holds before they write it shows."""
    for module in (_lanes, _passes):
        monkeypatch.setattr(module, "np", _Poisoned())
