"""The same bytes from code that Numba compiles for older CPUs than this one."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from quadrans.entropy._simd import levels

HERE = Path(__file__).parent
X86 = platform.machine().lower() in ("x86_64", "amd64")


@pytest.mark.skipif(not X86, reason="this is no x86 CPU")
@pytest.mark.parametrize(
    ("cpu", "features", "expected"),
    [
        ("nehalem", "+sse4.2,+popcnt", ["scalar"]),
        ("haswell", "+sse4.2,+popcnt,+avx,+avx2,+bmi,+bmi2,+fma,+lzcnt", ["scalar", "avx2"]),
    ],
    ids=["nehalem", "haswell"],
)
def test_golden_streams(cpu, features, expected):
    """What the code of each level needs is all that its level says."""
    if expected[-1] not in levels():
        pytest.skip(f"this CPU has no {expected[-1]}")
    environment = {**os.environ, "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features, "QUADRANS_SIMD": ""}
    command = [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider"]
    command += [HERE / "test_stream_format.py", "-k", "test_golden_streams and 64"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    for level in levels():
        assert (f"test_golden_streams[{level}-64] PASSED" in run.stdout) == (level in expected)
