"""Compiled convolutions and activations against the reference, to the bit."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from quadrans import kernels
from quadrans.kernels import compiled, reference

Normal = Callable[..., np.ndarray]
Same = Callable[[np.ndarray, np.ndarray], None]


@pytest.mark.parametrize(
    ("size", "inputs", "outputs", "kernel", "stride", "padding"),
    [
        ((1, 1), 1, 1, (1, 1), 1, 0),
        ((1, 1), 2, 3, (5, 5), 1, 2),
        ((5, 7), 3, 17, (5, 5), 1, 2),
        ((4, 3), 2, 65, (3, 3), 1, 1),
        ((7, 6), 2, 130, (3, 3), 2, 1),
        ((6, 9), 1, 5, (5, 5), 2, 2),
        ((8, 8), 2, 4, (2, 3), 3, 0),
        ((1, 9), 3, 2, (3, 3), 1, 3),
        ((15, 14), 2, 7, (1, 1), 1, 0),
    ],
)
def test_conv2d(
    size, inputs, outputs, kernel, stride, padding, normal: Normal, assert_same_bits: Same
) -> None:  # type: ignore[no-untyped-def]
    x, weight, bias = normal(*size, inputs), normal(outputs, inputs, *kernel), normal(outputs)
    layer = kernels.Conv2d(weight, bias, stride, padding)
    assert_same_bits(layer(x), reference.conv2d(x, weight, bias, stride, padding))


@pytest.mark.parametrize(
    "mask", [kernels.causal_mask(5), kernels.checkerboard_mask(5), kernels.empty_mask(5)]
)
def test_masked_conv2d(mask: np.ndarray, normal: Normal, assert_same_bits: Same) -> None:
    x, weight, bias = normal(4, 5, 3), normal(6, 3, 5, 5), normal(6)
    layer = kernels.Conv2d(weight, bias, padding=2, mask=mask)
    assert_same_bits(layer(x), reference.conv2d(x, weight, bias, 1, 2, mask))


@pytest.mark.parametrize(
    ("size", "inputs", "outputs", "kernel", "stride", "padding", "output_padding"),
    [
        ((1, 1), 2, 3, 5, 2, 2, 1),
        ((3, 5), 3, 18, 5, 2, 2, 1),
        ((2, 3), 2, 5, 3, 1, 1, 0),
        ((3, 2), 1, 4, 4, 3, 0, 2),
        ((2, 2), 2, 2, 2, 4, 1, 3),
    ],
)
def test_conv_transpose2d(  # type: ignore[no-untyped-def]
    size, inputs, outputs, kernel, stride, padding, output_padding, normal: Normal, assert_same_bits: Same
) -> None:
    x, weight, bias = normal(*size, inputs), normal(inputs, outputs, kernel, kernel), normal(outputs)
    shape = (stride, padding, output_padding)
    layer = kernels.ConvTranspose2d(weight, bias, *shape)
    assert_same_bits(layer(x), reference.conv_transpose2d(x, weight, bias, *shape))


def test_against_torch(normal: Normal) -> None:
    """The same operation as PyTorch's, up to its rounding: layouts, flips and paddings are right."""
    import torch

    x, weight, bias = normal(5, 4, 3), normal(6, 3, 5, 5), normal(6)
    image = torch.from_numpy(x).permute(2, 0, 1)[None]
    pairs = [
        (
            kernels.Conv2d(weight, bias, 2, 2)(x),
            torch.nn.functional.conv2d(image, torch.from_numpy(weight), torch.from_numpy(bias), 2, 2),
        ),
        (
            kernels.ConvTranspose2d(weight.swapaxes(0, 1), bias, 2, 2, 1)(x),
            torch.nn.functional.conv_transpose2d(
                image, torch.from_numpy(weight).transpose(0, 1), torch.from_numpy(bias), 2, 2, 1
            ),
        ),
    ]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs[0].permute(1, 2, 0).numpy(), rtol=1e-4, atol=1e-4)


def test_extreme_values(rng: np.random.Generator, assert_same_bits: Same) -> None:
    """Any bits as inputs, any finite bits as weights: subnormals, overflow, infinities, NaN, -0."""
    x = rng.integers(0, 2**32, (9, 11, 2), dtype=np.uint32).view(np.float32)
    x.flat[:6] = [np.inf, -np.inf, np.nan, -0.0, 2.0**-149, np.finfo(np.float32).max]
    weight = rng.integers(0, 2**32, (37, 2, 1, 1), dtype=np.uint32).view(np.float32).copy()
    bias = rng.integers(0, 2**32, 37, dtype=np.uint32).view(np.float32).copy()
    weight[~np.isfinite(weight)] = -0.0
    bias[~np.isfinite(bias)] = -0.0
    weight[::3] *= np.float32(2.0**-100)
    assert_same_bits(kernels.Conv2d(weight, bias)(x), reference.conv2d(x, weight, bias))
    for layer, expected in (
        (kernels.LeakyReLU(), reference.leaky_relu(x)),
        (kernels.LeakyReLU(0.3), reference.leaky_relu(x, 0.3)),
        (kernels.ReLU(), reference.relu(x)),
    ):
        assert_same_bits(layer(x), expected)


def test_absent_taps_are_not_zeros() -> None:
    """-0 stays -0 at a border, where adding a product of zero would give +0."""
    weight, bias = np.ones((1, 1, 3, 3), np.float32), np.full(1, -0.0, np.float32)
    out = kernels.Conv2d(weight, bias, padding=1)(np.full((1, 1, 1), -0.0, np.float32))
    assert np.signbit(out).all()


def test_every_output_is_written(normal: Normal, assert_same_bits: Same) -> None:
    weight, bias = normal(9, 4, 21), normal(21)
    rows, cols = np.divmod(np.arange(30), 6)
    index = np.arange(9)
    place = (rows, cols, index, index // 3 - 1, index % 3 - 1, 1, 1, *compiled.pack(weight, bias))
    x = normal(5, 6, 4)
    outs = [np.full((30, 24), filler, np.float32) for filler in (np.nan, 0)]
    for out in outs:
        compiled.tap_conv(x, *place, out, 3)
    assert_same_bits(outs[0][:, 3:], outs[1][:, 3:])
    assert np.isnan(outs[0][:, :3]).all()
    assert np.isfinite(outs[0][:, 3:]).all()


def test_positions_are_independent(normal: Normal, assert_same_bits: Same) -> None:
    """All at once, in any order, or one by one: the same bits."""
    x, weight, bias = normal(17, 13, 3), normal(9, 3, 70), normal(70)
    index = np.arange(9)
    taps = (index, index // 3 - 1, index % 3 - 1, 1, 1, *compiled.pack(weight, bias))

    def at(positions: np.ndarray) -> np.ndarray:
        out = np.full((len(positions), 70), np.nan, np.float32)
        compiled.tap_conv(x, positions // 13, positions % 13, *taps, out, 0)
        return out

    everything = np.arange(17 * 13)
    expected = at(everything)
    shuffled = np.random.default_rng(5).permutation(everything)
    assert_same_bits(at(shuffled), expected[shuffled])
    for size in (1, 2, 3, 5, 7, 8, 11):
        assert_same_bits(
            np.concatenate([at(everything[a : a + size]) for a in range(0, 221, size)]), expected
        )


def test_threads(normal: Normal, assert_same_bits: Same) -> None:
    layers = kernels.Sequential(
        [
            kernels.ConvTranspose2d(normal(4, 20, 5, 5), normal(20), 2, 2, 1),
            kernels.LeakyReLU(),
            kernels.Conv2d(normal(8, 20, 3, 3), normal(8), 1, 1),
        ]
    )
    inputs = [normal(9, 10, 4) for _ in range(8)]
    expected = [layers(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for a, b in zip(pool.map(layers, inputs), expected, strict=True):
            assert_same_bits(a, b)


def test_input_layouts(normal: Normal, assert_same_bits: Same) -> None:
    layer = kernels.Conv2d(normal(3, 4, 3, 3), normal(3), padding=1)
    x = normal(5, 6, 4)
    frozen = x.copy()
    frozen.setflags(write=False)
    channels_first = np.ascontiguousarray(x.transpose(2, 0, 1))
    for same in (frozen, channels_first.transpose(1, 2, 0), np.repeat(x, 2, axis=1)[:, ::2]):
        assert_same_bits(layer(same), layer(x))


def test_refusals(normal: Normal) -> None:
    weight, bias = normal(4, 3, 3, 3), normal(4)
    with pytest.raises(ValueError, match=r"\(4, 3, 3, 3\) has 4 outputs, bias has 3"):
        kernels.Conv2d(weight, bias[:3])
    with pytest.raises(ValueError, match=r"\(4, 3, 3, 3\) has 3 outputs, bias has 4"):
        kernels.ConvTranspose2d(weight, bias)
    with pytest.raises(ValueError, match="1 values that are not finite"):
        kernels.Conv2d(weight, np.array([1, np.nan, 0, 0], np.float32))
    with pytest.raises(ValueError, match="2 values that are not finite"):
        kernels.Conv2d(np.where(np.arange(108).reshape(4, 3, 3, 3) < 2, np.float32(np.inf), weight), bias)
    with pytest.raises(TypeError, match="float64"):
        kernels.Conv2d(weight.astype(np.float64), bias)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="4 dimensions"):
        kernels.Conv2d(weight[0], bias)
    with pytest.raises(ValueError, match="empty axis"):
        kernels.Conv2d(weight[:, :0], bias)
    with pytest.raises(ValueError, match="stride"):
        kernels.Conv2d(weight, bias, stride=0)
    with pytest.raises(ValueError, match="doesn't fit the 3x3 kernel"):
        kernels.Conv2d(weight, bias, mask=kernels.causal_mask(5))
    with pytest.raises(ValueError, match="slope"):
        kernels.LeakyReLU(1.5)
    layer = kernels.Conv2d(weight, bias)
    with pytest.raises(ValueError, match=r"\(5, 5, 2\) doesn't fit: 3 channels"):
        layer(normal(5, 5, 2))
    with pytest.raises(ValueError, match="0x3 out"):
        layer(normal(2, 5, 3))
    with pytest.raises(TypeError, match="float64"):
        layer(np.zeros((5, 5, 3)))  # type: ignore[arg-type]


def test_flushed_subnormals_are_refused(normal: Normal) -> None:
    import torch

    layer = kernels.Conv2d(normal(1, 1, 1, 1), normal(1))

    def flushed() -> bool:
        if not torch.set_flush_denormal(True):
            return False
        try:
            with pytest.raises(RuntimeError, match="flushes subnormals"):
                layer(normal(1, 1, 1))
        finally:
            torch.set_flush_denormal(False)
        return True

    with ThreadPoolExecutor(1) as pool:
        if not pool.submit(flushed).result():
            pytest.skip("this CPU can't flush subnormals")


PROGRAM = """
import hashlib
import numpy as np
from quadrans import kernels
from quadrans.kernels import compiled
rng = np.random.default_rng(3)
normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
weight, bias = normal(70, 5, 3, 3), normal(70)
weight[::2] *= np.float32(2.0**-130)
out = kernels.Conv2d(weight, bias * np.float32(2.0**-130), padding=1)(normal(6, 7, 5))
print(compiled.LANES, hashlib.sha256(out.tobytes()).hexdigest())
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names x86 processors")
@pytest.mark.parametrize(
    ("cpu", "features", "lanes"), [("generic", "", 4), ("haswell", "+avx,+avx2,+fma", 8)]
)
def test_other_processors(cpu: str, features: str, lanes: int, tmp_path: Path) -> None:
    """Code without fused multiply-add instructions, or for AVX2, gives the bits of this CPU's."""

    def run(**settings: str) -> list[str]:
        command = [sys.executable, "-c", PROGRAM]
        environment = {**os.environ, **settings}
        return subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True
        ).stdout.split()

    other = run(NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=features, NUMBA_CACHE_DIR=str(tmp_path))
    assert other == [str(lanes), run()[1]]


def test_import_is_light() -> None:
    program = "import sys, quadrans.kernels; print('numba' in sys.modules, 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert result.stdout.split() == ["False", "False"]
    assert all(getattr(kernels, name) is not None for name in kernels.__all__)
