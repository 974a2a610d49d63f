"""Backends over CUDA tensors, and with their exact part on CUDA: the streams are the CPU's.

They need a GPU; what of them an emulator can run is in `test_backend_exact.py`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from backend_cases import M, images, modules, order_argument
from torch import Tensor

from quadrans.nets import EntropyBackend, IndexMismatch

pytestmark = pytest.mark.gpu

CUDA = "cuda"
KINDS = ["parallel", "wavefront", "checkerboard", "odd", "quadtree", "slices_checkerboard"]


def moved(given: dict[str, Any]) -> dict[str, Any]:
    """The modules of a backend on the GPU."""

    def move(value: Any) -> Any:
        if isinstance(value, list):
            return [move(one) for one in value]
        return value.to(CUDA) if isinstance(value, torch.nn.Module) else value

    return {name: move(value) for name, value in given.items()}


def check_there(
    backend: EntropyBackend, streams: list[bytes], y_hat: Tensor, y: Tensor, *given: Tensor
) -> None:
    """From tensors of the GPU a backend makes these streams, and of them this y_hat, on the GPU."""
    there = [tensor.to(CUDA) for tensor in (y, *given)]
    assert backend.compress(*there) == streams
    again, encoded = backend.encode(*there)
    assert again == streams
    decoded = backend.decompress(streams, *there[1:])
    for found in (encoded, decoded):
        assert (found.device.type, found.dtype) == (CUDA, torch.float32)
        assert torch.equal(found.cpu(), y_hat)


@pytest.mark.parametrize("rounding", ["residual", "integer"])
def test_parameters_given(rounding: str) -> None:
    generator = torch.Generator().manual_seed(0)
    y, mean, scale = (torch.randn(2, M, 5, 7, generator=generator) * 4 for _ in range(3))
    backend, scale = EntropyBackend(rounding=rounding), scale.abs() + 0.1
    streams = backend.compress(y, mean, scale)
    y_hat = backend.decompress(streams, mean, scale)
    check_there(backend, streams, y_hat, y, mean, scale)
    assert backend.compress(y.to(CUDA).half(), mean.to(CUDA), scale.to(CUDA)) == backend.compress(
        y.half(), mean, scale
    )


def halves(features: Tensor, *, y_hat: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """In additions, and products by powers of two: the same floats on every device."""
    assert y_hat.device == features.device
    around = y_hat.roll(1, 3) + y_hat.roll(1, 2) if step else torch.zeros_like(y_hat)
    return around / 4 + features / 2, features.abs() + around.abs() / 8 + 0.25


def test_checked_function() -> None:
    """One that gives the same floats everywhere: a stream of one device decodes on the other."""
    backend = EntropyBackend(halves, "checkerboard", channels=M)
    assert backend.mode == "checked"
    y, features = 6 * torch.randn(2, M, 4, 6), torch.randn(2, M, 4, 6)
    streams = backend.compress(y, features)
    check_there(backend, streams, backend.decompress(streams, features), y, features)


def test_checked_modules() -> None:
    """In torch on each device: what one wrote, the other reads, or says that it can't."""
    here = EntropyBackend(order="checkerboard", exact=False, **modules("checkerboard"))
    there = EntropyBackend(order="checkerboard", exact=False, **moved(modules("checkerboard")))
    y, z_hat = images((4, 6))
    on_gpu = y.to(CUDA), z_hat.to(CUDA)
    streams = there.compress(*on_gpu)
    y_hat = there.decompress(streams, on_gpu[1])
    assert y_hat.device.type == CUDA
    assert (y_hat - on_gpu[0]).abs().max() < 0.501
    try:
        found = here.decompress(streams, z_hat)
    except IndexMismatch:
        return
    torch.testing.assert_close(found, y_hat.cpu(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("kind", KINDS)
def test_exact(kind: str, device: str) -> None:
    """Kernels on either device, lowered from modules on either: all streams are one."""
    y, z_hat = images((4, 6))
    plain = EntropyBackend(order=order_argument(kind), **modules(kind))
    streams = plain.compress(y, z_hat)
    y_hat = plain.decompress(streams, z_hat)
    for given in (modules(kind), moved(modules(kind))):
        backend = EntropyBackend(order=order_argument(kind), device=device, **given)
        assert backend.mode == "exact"
        check_there(backend, streams, y_hat, y, z_hat)
        assert backend.compress(y, z_hat) == streams
        assert torch.equal(backend.decompress(streams, z_hat), y_hat)
