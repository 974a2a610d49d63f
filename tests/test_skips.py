"""Where all packages are said to be installed, no test skips itself for the lack of one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
SKIPPING = """
import pytest

@pytest.mark.skipif(True, reason="torchac isn't installed")
def test_marked(): pass

def test_called(): pytest.skip("there is no such package")

def test_imported(): pytest.importorskip("no_such_package")

@pytest.mark.parametrize("nothing", [])
def test_without_cases(nothing): pass

@pytest.mark.skipif(True, reason="this CPU has no vectors")
def test_of_the_machine(): pass

@pytest.mark.xfail
def test_expected_to_fail(): assert False

def test_that_passes(): pass
"""
COLLECTED = "import pytest\npytest.importorskip('no_such_package')\n"


@pytest.mark.parametrize("all_packages", [True, False])
def test_skips(tmp_path: Path, all_packages: bool) -> None:
    (tmp_path / "test_one.py").write_text(SKIPPING)
    (tmp_path / "test_two.py").write_text(COLLECTED)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    environment["QUADRANS_ALL_PACKAGES"] = "1" if all_packages else ""
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "--continue-on-collection-errors"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    last = run.stdout.splitlines()[-1]
    counts = {kind.rstrip("s"): int(number) for number, kind in re.findall(r"(\d+) ([a-z]+)", last)}
    counts = {kind: counts.get(kind, 0) for kind in ("passed", "skipped", "xfailed", "failed", "error")}
    if all_packages:
        assert counts == {"passed": 1, "skipped": 1, "xfailed": 1, "failed": 2, "error": 3}, run.stdout
        assert "QUADRANS_ALL_PACKAGES is set, but: torchac isn't installed" in run.stdout
    else:
        assert counts == {"passed": 1, "skipped": 6, "xfailed": 1, "failed": 0, "error": 0}, run.stdout
