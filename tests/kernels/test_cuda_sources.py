"""NVRTC compiles every CUDA source for its GPUs, without a device, to code that rounds as it must."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import nvrtc
import pytest
from emulator import build

from quadrans.entropy import _lanes_loops, _symbols
from quadrans.kernels import _fma, _quantize, cuda, quantization
from quadrans.kernels.cuda import _lanes, decoder, encoder, serial
from quadrans.kernels.cuda._module import OPTIONS
from quadrans.kernels.cuda._source import source
from quadrans.kernels.program import Function

FOLDER = Path(cuda.__file__).parent
SOURCES = sorted(path.name for path in FOLDER.glob("*.cu"))
KERNELS = {
    "program.cu": {"all_instructions", "one_instruction"},
    "quantize.cu": {"dequantize_latent", "index_latent", "quantize_latent"},
    "rans.cu": {"decode_lanes", "encode_lanes", "finish_lanes", "join_words", "to_codes"},
    "serial.cu": {"walk_latent"},
}


def test_all_kernels_are_known():
    """What the next test is parametrized by: a file or kernel that it didn't find would not be tested."""
    assert sorted(KERNELS) == SOURCES


@pytest.mark.parametrize("arch", ["compute_80", "compute_90"])
@pytest.mark.parametrize("name", SOURCES)
def test_it_compiles_and_rounds_exactly(name, arch):
    ptx = nvrtc.compile_ptx(source(name), arch, OPTIONS)
    assert set(re.findall(r"\.entry (\w+)\(", ptx)) == KERNELS[name]
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


def in_cpp(expressions: list[str]) -> list[int]:
    """Integers as the kernels' sources have them."""
    body = "".join(f"out[{i}] = static_cast<long long>({one});\n" for i, one in enumerate(expressions))
    code = (
        '#include "serial.cuh"\n#include "rans.cu"\n'
        f'extern "C" __global__ void constants(long long* out) {{ {body} }}'
    )
    found = np.zeros(len(expressions), np.int64)
    build(code, include=(FOLDER,)).launch("constants", (1,), (1,), (found,))
    return found.tolist()


def camel(name: str) -> str:
    return "k" + "".join(part.capitalize() for part in name.split("_"))


def test_constants_of_functions_latents_and_streams():
    """What Python and C++ both say, but for programs."""
    statuses = "OK BAD_INDEX TRUNCATED BAD_NIBBLES BAD_ESCAPE BAD_CODE BAD_STATE MAX_NIBBLES".split()
    progress = "POSITION END ROUNDS TAIL MARK PROGRESS".split()
    tasks = "DECODE QUANTIZE PARAMETERS REFINE".split()
    expected = {
        **{camel(one.name): one.value for one in Function},
        "program::BLOCK_TERMS": _fma.BLOCK,
        "latent::LATENT_LIMIT": quantization.LATENT_LIMIT,
        "latent::MEAN_LIMIT": _quantize.MEAN_LIMIT,
        **{f"rans::{name}": getattr(_symbols, name) for name in statuses},
        **{f"rans::{name}": getattr(_lanes_loops, name) for name in progress},
        "rans::LOW": _symbols.LANE_LOW,
        "rans::MAX_LANES": _lanes.MAX_LANES,
        "rans::WARP": _lanes.WARP,
        **{f"serial::{name}": getattr(serial, name) for name in tasks},
        "serial::TICKS": serial._TICKS,
    }
    assert dict(zip(expected, in_cpp([*expected]), strict=True)) == expected


def test_layouts_of_structures():
    """Each field is where Python puts it, so that names exchanged on one side show."""
    job = [*serial.JOB, "counters", "failure", "results", "ticks"]
    expected = {f"__builtin_offsetof(serial::Job, {name})": 8 * at for at, name in enumerate(job)}
    expected["sizeof(serial::Job)"] = 8 * len(job)
    expected["serial::JOB_BYTES"] = serial.JOB_BYTES
    # A stream's part of a launch begins with what its groups share.
    for struct, inner, record in (("Pass", "pass", decoder._PASS), ("Source", "source", encoder._SOURCE)):
        shared = {"symbols", "indexes", "codes"} | ({"first", "size"} if struct == "Pass" else set())
        for name in record.names:
            if not name.startswith("_"):
                path = f"{inner}.{name}" if name in shared else name
                expected[f"__builtin_offsetof(rans::Stream{struct}, {path})"] = record.fields[name][1]
        expected[f"sizeof(rans::Stream{struct})"] = record.itemsize
    assert dict(zip(expected, in_cpp([*expected]), strict=True)) == expected
