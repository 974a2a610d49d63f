"""Compiled CUDA modules: kept for later processes, and made without a cache where none can be written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import fake_cupy
import pytest

from quadrans.kernels.cuda import _module


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fake_cupy.install(monkeypatch)
    _module._module.cache_clear()
    yield
    _module._module.cache_clear()


def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is compiled from now on."""
    names: list[str] = []
    compile_ = _module._compile
    monkeypatch.setattr(_module, "_compile", lambda name, arch: names.append(name) or compile_(name, arch))
    return names


def test_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "new"))
    names = compiled(monkeypatch)
    for _ in range(2):
        _module.module("quantize.cu")
        _module._module.cache_clear()
    assert names == ["quantize.cu"]
    assert [path.suffix for path in (tmp_path / "new").iterdir()] == [".cubin"]


def test_other_source_or_device_is_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    names = compiled(monkeypatch)
    _module._compiled("quantize.cu", 90)
    monkeypatch.setattr(_module, "source", lambda name: "// changed")
    _module._compiled("quantize.cu", 90)
    assert names == ["quantize.cu"] * 2
    assert len(list(tmp_path.iterdir())) == 2


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "file" / "folder"))
    assert _module._compiled("quantize.cu", 90).parent == Path(_module._folder())


@pytest.mark.parametrize("step", ["write", "replace"])
def test_what_cannot_be_written_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: str
) -> None:
    """A full disk, as writing sees it, or moving the file to its place."""

    class Full:
        def __init__(self, descriptor: int, mode: str) -> None:
            self._descriptor = descriptor

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            os.close(self._descriptor)

        def write(self, code: bytes) -> int:
            os.write(self._descriptor, code[:7])
            raise OSError(errno.ENOSPC, "no space left")

    def replace(source: str, target: Path) -> None:
        assert Path(source).read_bytes() == b"some code"
        raise OSError(errno.EXDEV, "not moved")

    if step == "write":
        monkeypatch.setattr(_module, "open", Full, raising=False)
    else:
        monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match=r"no space|not moved"):
        _module._write(tmp_path / "folder" / "x.cubin", b"some code")
    assert list((tmp_path / "folder").iterdir()) == []
