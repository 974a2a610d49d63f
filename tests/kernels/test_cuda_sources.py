"""NVRTC compiles every CUDA source for its GPUs, without a device, to code that rounds as it must."""

from __future__ import annotations

import re
from pathlib import Path

import nvrtc
import pytest

from quadrans.kernels import cuda
from quadrans.kernels.cuda._module import OPTIONS
from quadrans.kernels.cuda._source import source

SOURCES = sorted(path.name for path in Path(cuda.__file__).parent.glob("*.cu"))


@pytest.mark.parametrize("arch", ["compute_80", "compute_90"])
@pytest.mark.parametrize("name", SOURCES)
def test_it_compiles_and_rounds_exactly(name, arch):
    ptx = nvrtc.compile_ptx(source(name), arch, OPTIONS)
    for kernel in re.findall(
        r'extern "C" __global__ void\s+(?:__launch_bounds__\(.*?\)\s+)?(\w+)', source(name)
    ):
        assert f".entry {kernel}(" in ptx
    # Nothing flushes subnormals, approximates or may be contracted; divisions and roots round to nearest.
    assert not re.findall(r"\.ftz|\.approx|\.full", ptx)
    assert not re.findall(r"\b(?:div|sqrt|mul|add|sub)\.f32\b", ptx)
    assert not re.findall(r"\.f64", ptx)


def test_options_decide():
    """What the test above looks for is there with other options."""
    code = 'extern "C" __global__ void k(float* x) { x[0] = x[1] / x[2] + x[3] * x[4]; }'
    exact = nvrtc.compile_ptx(code, "compute_90", OPTIONS)
    assert "div.rn.f32" in exact
    assert "fma" not in exact
    loose = nvrtc.compile_ptx(code, "compute_90", ("-use_fast_math",))
    assert "div.approx.ftz.f32" in loose
    assert "fma.rn.ftz.f32" in loose
    with pytest.raises(nvrtc.CompileError, match=r"kernels\.cu"):
        nvrtc.compile_ptx("int f( {", "compute_90")
