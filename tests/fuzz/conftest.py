"""The fixture of the SIMD levels, as the coders' tests have it."""

import pytest
from fuzz_targets import use_level

from quadrans.entropy._compiled import simd_level
from quadrans.entropy._simd import levels


@pytest.fixture(params=levels())
def level(request, monkeypatch):
    """The name of a level, while the lanes coder runs at it."""
    monkeypatch.setenv("QUADRANS_SIMD", "")
    use_level(request.param)
    yield request.param
    simd_level.cache_clear()
