"""A small share of the fuzzing, the same streams each time; `make fuzz` does the rest."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import fuzz_targets
import pytest
from fuzz_targets import ACCEPTED, JOBS
from mutate import Totals, run_batch

from quadrans.entropy._compiled import simd_level

HERE = Path(__file__).parent
X86 = platform.machine().lower() in ("x86_64", "amd64")
OLD_CPU = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": "+sse4.2,+popcnt"} if X86 else {}


@pytest.fixture(autouse=True)
def _level(monkeypatch):
    monkeypatch.setenv("QUADRANS_SIMD", "")
    yield
    simd_level.cache_clear()


@pytest.mark.parametrize("name", JOBS)
def test_mutated_streams(name, monkeypatch):
    if name == "mixture":
        # Its loops take long to compile, and there is one for each level and number of lanes.
        monkeypatch.setattr(fuzz_targets, "LEVELS", ["scalar"])
    totals = Totals()
    for number in range(25):
        run_batch(0, number, [name], totals)
    assert totals.outcomes.keys() >= {(name, ACCEPTED), (name, "CorruptStream")}


def test_mutated_streams_with_bounds_checks_on_an_old_cpu(tmp_path):
    """Numba checks each access of the scalar loops, compiled for a CPU without AVX."""
    cache = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    environment = {**os.environ, **cache, **OLD_CPU, "QUADRANS_SIMD": ""}
    command = [sys.executable, HERE / "mutate.py", "--streams", "20000", "--only", "lanes", "range", "rans64"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "levels scalar; compiling" in run.stdout
    assert "no failure" in run.stdout


@pytest.mark.skipif(os.name != "posix", reason="mprotect is POSIX")
def test_mutated_streams_between_guarded_pages():
    """No load, store or gather of vectors reaches beyond an array's pages."""
    command = [sys.executable, HERE / "mutate.py", "--guarded", "--streams", "10000"]
    run = subprocess.run([*command, "--only", "lanes", "range", "rans64"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "no failure" in run.stdout
