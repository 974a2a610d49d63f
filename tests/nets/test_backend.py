"""Of `quadrans.nets`: names that load torch when they are used, and what is said without it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from quadrans import nets


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_names() -> None:
    assert {"EntropyBackend", "IndexMismatch", "StaleWeights"} <= set(dir(nets))
    assert all(getattr(nets, name).__name__ == name for name in nets.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Backend'"):
        _ = nets.Backend


def test_torch_is_imported_when_a_name_is_used() -> None:
    code = "import sys, quadrans.nets as n; before = 'torch' in sys.modules; n.EntropyBackend; "
    out = run(code + "print(before, 'torch' in sys.modules)")
    assert out.stdout.split() == ["False", "True"]


def test_missing_torch_is_named() -> None:
    out = run("import sys; sys.modules['torch'] = None; from quadrans.nets import EntropyBackend")
    assert "quadrans.nets.backend needs PyTorch: pip install 'quadrans[torch]'" in out.stderr


def test_torch_is_all_that_it_needs() -> None:
    """Nothing of the other extras."""
    code = "import sys; "
    for module in ("PIL", "safetensors", "typer", "rich", "cupy", "skimage", "matplotlib"):
        code += f"sys.modules['{module}'] = None; "
    code += "import torch; from quadrans.nets import EntropyBackend; x = torch.ones(1, 2, 3, 4); "
    code += "b = EntropyBackend(torch.nn.Conv2d(2, 4, 1)); print(b.decompress(b.compress(x, x), x).shape, b)"
    out = run(code)
    assert "Size([1, 2, 3, 4]) EntropyBackend(order=" in out.stdout, out.stderr
    assert "mode='exact'" in out.stdout
