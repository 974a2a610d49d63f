"""The layers import in one direction, and nothing heavy before it is used."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from quadrans.nets.container import Container

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("entropy", "kernels", "nets")


def imported_layers(path: Path) -> set[str]:
    """The layers that a module imports, wherever the import stands and however it is written."""
    package = ["quadrans", *path.relative_to(ROOT).parent.parts]
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names += [f"{base}.{alias.name}" for alias in node.names]
    return {parts[1] for name in names if (parts := name.split("."))[0] == "quadrans" and len(parts) > 1}


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_run_nets_kernels_entropy_only(layer: str) -> None:
    above = set(LAYERS[LAYERS.index(layer) + 1 :]) | {"cli", "cli_bench", "console"}
    files = list((ROOT / layer).rglob("*.py"))
    assert files
    wrong = {path.name: found for path in files if (found := imported_layers(path) & above)}
    assert not wrong


def test_the_check_sees_imports() -> None:
    assert imported_layers(ROOT / "nets" / "codec.py") >= {"entropy", "kernels", "nets"}


@pytest.mark.parametrize(
    "module",
    [
        "quadrans",
        "quadrans.entropy",
        "quadrans.kernels",
        "quadrans.nets",
        "quadrans.nets.container",
        "quadrans.nets.adapters",
        "quadrans.nets.adapters.compressai",
    ],
)
def test_light_imports(module: str) -> None:
    heavy = {"torch", "cupy", "numba", "PIL", "compressai"}
    code = f"import sys, {module}; print(*sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == ""


def test_info_needs_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "a.qdr"
    path.write_bytes(Container(3, 2, "raster", "any", bytes(8), bytes(8), {"z": b"z", "y": b"y"}).to_bytes())
    code = "import sys; from quadrans.cli import app; app(standalone_mode=False); assert 'torch' not in "
    code += "sys.modules"
    out = subprocess.run([sys.executable, "-c", code, "info", str(path)], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert "3x2 RGB" in out.stdout


@pytest.mark.parametrize("module", ["codec", "training", "systems"])
def test_missing_torch_is_named(module: str) -> None:
    code = f"import sys; sys.modules['torch'] = None; import quadrans.nets.{module}"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"quadrans.nets.{module} needs PyTorch: pip install 'quadrans[codec]'" in out.stderr


def test_every_name_of_kernels_loads() -> None:
    kernels = importlib.import_module("quadrans.kernels")
    assert all(getattr(kernels, name) is not None for name in kernels.__all__)
