"""The examples run as they stand, each in a process of its own; they assert what they claim."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
NOTEBOOK = ROOT / "examples" / "notebook.ipynb"

# For CompressAI's example: the packages that its data sets and training would import aren't installed here.
RUN = """
import runpy, sys
import compressai_stub
compressai_stub.stub_unused()
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def test_all_are_listed() -> None:
    page = (ROOT / "examples" / "README.md").read_text()
    assert all(f"| `{name}` |" in page for name in (*SCRIPTS, NOTEBOOK.name))


@pytest.mark.parametrize("name", SCRIPTS)
def test_script(name: str) -> None:
    paths = [str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-c", RUN, str(ROOT / "examples" / name)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout


def test_notebook_without_outputs() -> None:
    """Outputs are not kept: they would be another machine's."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


def test_notebook() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
