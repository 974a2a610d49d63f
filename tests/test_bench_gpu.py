"""bench/gpu_coder.py over the emulator: what it times is right, whatever the times are."""

from __future__ import annotations

from types import SimpleNamespace

import fake_cupy
import pytest

from quadrans.bench import gpu_coder
from quadrans.kernels import cuda
from quadrans.kernels.cuda import _module


@pytest.fixture(autouse=True)
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_cupy.install(monkeypatch)
    monkeypatch.setattr(fake._Device, "synchronize", lambda self: None, raising=False)
    _module._module.cache_clear()


def test_measure() -> None:
    times = gpu_coder.measure(2, 300, 8, 2, 1)
    assert len(times) == 3
    assert all(ms > 0 for ms in times.values())


def test_a_wrong_symbol_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: object) -> list[object]:
        return [one + 1 for one in decode(*arguments)]

    decode = cuda.decode_batch
    names = {name: getattr(cuda, name) for name in ("import_cupy", "encode_batch", "Decoder")}
    monkeypatch.setattr(gpu_coder, "cuda", SimpleNamespace(**names, decode_batch=wrong))
    with pytest.raises(RuntimeError, match="symbols differ"):
        gpu_coder.measure(1, 300, 8, 2, 1)
