"""The codec: the same latent in every order, size, process and thread count; safe on bad files."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quadrans.entropy import CorruptStream, TableMismatch
from quadrans.nets.codec import ImageCodec, ModelMismatch, latent_table
from quadrans.nets.container import Container
from quadrans.nets.latents import Latents
from quadrans.nets.tiling import tiled
from quadrans.nets.weights import Weights, write_weights

ORDERS = ("wavefront", "raster", "checkerboard", "parallel")
X86 = platform.machine() in ("x86_64", "AMD64")


def assert_equal(a: Latents, b: Latents) -> None:
    assert a.same_bits(b)


LATENT_TABLE_DIGEST = "ebee4ecf4e75cdda1b2e164546f6128f76159a0501f4880efa5854e2840df56d"


def test_latent_table_digest() -> None:
    """Golden: every machine must build these integers."""
    assert len(latent_table().offsets) == 1024
    assert latent_table().digest == LATENT_TABLE_DIGEST


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [(1, 1), (1, 130), (65, 63), (128, 64)])
def test_any_size_in_any_order(small_codec: ImageCodec, size: tuple[int, int], order: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    latents = small_codec.analyse(pixels)
    data = small_codec.compress(pixels, order)
    assert_equal(small_codec.decode(Container.from_bytes(data)), latents)
    assert small_codec.decompress(data).shape == pixels.shape


def test_the_latent_is_busy(small_codec: ImageCodec, photo: np.ndarray) -> None:
    """Guards the tests here: a latent of zeros would round-trip through a broken coder."""
    latents = small_codec.analyse(photo)
    assert len(np.unique(latents.y)) > 20
    assert len(np.unique(latents.sides["z"])) > 5


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.sampled_from(ORDERS), st.sampled_from([1, 300, 10**6, 2**24]))
def test_any_latent_in_any_order(small_codec: ImageCodec, seed: int, order: str, largest: int) -> None:
    rng = np.random.default_rng(seed)
    y_hat = rng.integers(-largest, largest + 1, (8, 12, 12)).astype(np.float32)
    z = rng.integers(-2000, 2001, (2, 3, 8)).astype(np.int32)
    latents = Latents(y_hat, {"z": z})
    container = small_codec.encode(latents, 150, 70, order)
    assert_equal(small_codec.decode(container), latents)


@pytest.mark.parametrize("order", ORDERS)
def test_size_is_what_the_tables_say(bundled_codec: ImageCodec, photo: np.ndarray, order: str) -> None:
    latents = bundled_codec.analyse(photo)
    data = bundled_codec.compress(photo, order)
    inspection = bundled_codec.inspect(Container.from_bytes(data))
    ideal = inspection.bits / 8
    assert ideal <= len(data) <= 1.003 * ideal + 64
    # What integer scales, means and frequencies cost over the network's own densities.
    model = bundled_codec.model_bits(latents, latents, order)
    assert inspection.bits == pytest.approx(sum(model.values()), rel=0.005)


def test_cost_says_where_bits_go(small_codec: ImageCodec, photo: np.ndarray) -> None:
    latents = small_codec.analyse(photo)
    inspection = small_codec.inspect(small_codec.encode(latents, *photo.shape[1::-1]))
    assert inspection.sections["y"].bits.shape == latents.y.shape
    assert inspection.bits == pytest.approx(sum(one.bits.sum() for one in inspection.sections.values()))
    assert inspection.latents.same_bits(latents)
    for section in inspection.sections.values():
        assert section.report().table_bits == pytest.approx(section.bits.sum())


DECODE = """
import hashlib, pathlib, sys, torch
from quadrans.nets import codec, container, weights

torch.set_num_threads(int(sys.argv[1]))
c = codec.ImageCodec(weights.read_weights(pathlib.Path("small.safetensors")))
for order in sys.argv[2:]:
    file = pathlib.Path(f"{order}.qdr").read_bytes()
    latents = c.decode(container.Container.from_bytes(file))
    print(hashlib.sha256(latents.sides['z'].tobytes() + latents.y.tobytes()).hexdigest())
"""


@pytest.mark.parametrize(("threads", "cpu"), [("1", None), ("5", "x86-64-v3" if X86 else None)])
def test_another_process_thread_count_and_cpu(
    small_codec: ImageCodec,
    small_weights: Weights,
    photo: np.ndarray,
    tmp_path: Path,
    threads: str,
    cpu: str | None,
) -> None:
    write_weights(tmp_path / "small.safetensors", small_weights)
    latents = small_codec.analyse(photo)
    for order in ORDERS:
        (tmp_path / f"{order}.qdr").write_bytes(small_codec.compress(photo, order))
    environment = dict(os.environ)
    if cpu is not None:
        environment |= {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", DECODE, threads, *ORDERS]
    out = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout
    expected = hashlib.sha256(latents.sides["z"].tobytes() + latents.y.tobytes()).hexdigest()
    assert out.split() == [expected] * len(ORDERS)


def test_other_weights_are_refused_by_name(
    small_codec: ImageCodec, small_weights: Weights, photo: np.ndarray
) -> None:
    data = small_codec.compress(photo)
    tensors = {key: value.copy() for key, value in small_weights.tensors.items()}
    tensors["h_s.0.bias"][0] += 1
    for other in (
        dataclasses.replace(small_weights, tensors=tensors),
        dataclasses.replace(small_weights, name="big"),
    ):
        with pytest.raises(ModelMismatch, match=f"made with model small .* not with {other.name} "):
            ImageCodec(other).decompress(data)


def test_other_tables_are_refused(small_codec: ImageCodec, photo: np.ndarray) -> None:
    container = Container.from_bytes(small_codec.compress(photo))
    with pytest.raises(TableMismatch):
        small_codec.decode(dataclasses.replace(container, table_digest=bytes(8)))


@settings(max_examples=150)
@given(st.data())
def test_damage_behind_right_checksums(
    small_codec: ImageCodec, damage_target: Container, data: st.DataObject
) -> None:
    """A forger can fix the checksums: then a typed error or some latent, never anything else."""
    section = data.draw(st.sampled_from(["z", "y"]))
    stream = bytearray(damage_target.sections[section])
    match data.draw(st.sampled_from(["flip", "cut", "grow", "noise"])):
        case "flip":
            for _ in range(data.draw(st.integers(1, 4))):
                bit = data.draw(st.integers(0, 8 * len(stream) - 1))
                stream[bit // 8] ^= 1 << bit % 8
        case "cut":
            del stream[data.draw(st.integers(0, len(stream) - 1)) :]
        case "grow":
            stream += data.draw(st.binary(min_size=1, max_size=8))
        case "noise":
            stream[2:] = data.draw(st.binary(max_size=400))
    sections = {**damage_target.sections, section: bytes(stream)}
    forged = dataclasses.replace(damage_target, sections=sections)
    try:
        latents = small_codec.decode(Container.from_bytes(forged.to_bytes()))
    except (CorruptStream, TableMismatch):
        return
    assert latents.y.shape == (8, 8, 12)


@pytest.fixture(scope="module", params=ORDERS)
def damage_target(request: pytest.FixtureRequest, small_codec: ImageCodec, photo: np.ndarray) -> Container:
    return Container.from_bytes(small_codec.compress(photo[:128, :128], request.param))


def test_bad_pixels(small_codec: ImageCodec) -> None:
    for pixels in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))):
        with pytest.raises(ValueError, match="pixels must be"):
            small_codec.compress(pixels)
    for empty in (np.zeros((0, 4, 3), np.uint8), np.zeros((4, 0, 3), np.uint8)):
        with pytest.raises(ValueError, match="no pixels"):
            small_codec.compress(empty)


def test_latents_must_fit_the_size(small_codec: ImageCodec, photo: np.ndarray) -> None:
    latents = small_codec.analyse(photo)
    with pytest.raises(
        ValueError, match=r"y_hat of shape \(20, 32, 12\) float32; 64x64 pixels have \(4, 4, 12\)"
    ):
        small_codec.encode(latents, 64, 64)
    with pytest.raises(ValueError, match="pixels have"):
        small_codec.synthesise(latents.y[:4, :4], 1000, 1000)


def test_tiles_equal_the_whole(small_codec: ImageCodec, photo: np.ndarray) -> None:
    """Up to torch's rounding: a tile that read too little around it would differ by far more."""
    x = torch.from_numpy(photo[:256, :384]).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        y = small_codec.system.g_a(x)
        torch.testing.assert_close(tiled(small_codec.system.g_a, x, 16, 1, tile=5), y, rtol=1e-4, atol=1e-3)
        whole, tiles = (
            f(y) for f in (small_codec.system.g_s, lambda y: tiled(small_codec.system.g_s, y, 1, 16, 5))
        )
    torch.testing.assert_close(tiles, whole, rtol=1e-4, atol=1e-4)


def test_unusable_device(small_weights: Weights) -> None:
    with pytest.raises(ValueError, match="can't use device 'nonsense'"):
        ImageCodec(small_weights, "nonsense")


def test_mirrored_view(small_codec: ImageCodec, photo: np.ndarray) -> None:
    assert small_codec.compress(photo[:, ::-1]) == small_codec.compress(photo[:, ::-1].copy())


def test_extreme_latent_still_gives_pixels(small_codec: ImageCodec) -> None:
    pixels = small_codec.synthesise(np.full((4, 4, 12), 2.0**24, np.float32), 64, 64)
    assert pixels.dtype == np.uint8
