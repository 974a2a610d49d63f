"""The codec: the same latent in every order, size, process and thread count; safe on bad files."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadrans.entropy import CorruptStream, TableMismatch
from quadrans.nets.codec import ImageCodec, Latents, ModelMismatch, latent_table
from quadrans.nets.container import ORDERS, Container
from quadrans.nets.weights import Weights, write_weights


def assert_equal(a: Latents, b: Latents) -> None:
    assert np.array_equal(a.z, b.z)
    assert np.array_equal(a.y_hat, b.y_hat)


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
    assert len(np.unique(latents.y_hat)) > 20
    assert len(np.unique(latents.z)) > 5


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.sampled_from(ORDERS), st.sampled_from([1, 300, 10**6, 2**24]))
def test_any_latent_in_any_order(small_codec: ImageCodec, seed: int, order: str, largest: int) -> None:
    rng = np.random.default_rng(seed)
    y_hat = rng.integers(-largest, largest + 1, (8, 12, 12)).astype(np.float32)
    z = rng.integers(-2000, 2001, (2, 3, 8)).astype(np.int32)
    latents = Latents(y_hat, z)
    container = small_codec.encode(latents, 150, 70, order)
    assert_equal(small_codec.decode(container), latents)


@pytest.mark.parametrize("order", ORDERS)
def test_size_is_what_the_tables_say(bundled_codec: ImageCodec, photo: np.ndarray, order: str) -> None:
    latents = bundled_codec.analyse(photo)
    data = bundled_codec.compress(photo, order)
    ideal = bundled_codec.cost(latents, order).total / 8
    assert ideal <= len(data) <= 1.003 * ideal + 64


def test_cost_says_where_bits_go(small_codec: ImageCodec, photo: np.ndarray) -> None:
    latents = small_codec.analyse(photo)
    cost = small_codec.cost(latents)
    assert cost.y.shape == latents.y_hat.shape[:2]
    assert cost.total == pytest.approx(cost.z + cost.y.sum())


def test_another_process_and_thread_count(
    small_codec: ImageCodec, small_weights: Weights, photo: np.ndarray, tmp_path: Path
) -> None:
    write_weights(tmp_path / "small.safetensors", small_weights)
    expected = hashlib.sha256(small_codec.analyse(photo).y_hat.tobytes()).hexdigest()
    for order in ORDERS:
        (tmp_path / "photo.qdr").write_bytes(small_codec.compress(photo, order))
        for threads in (1, 5):
            code = (
                "import hashlib, sys, pathlib, torch; torch.set_num_threads(int(sys.argv[1]));"
                "from quadrans.nets import codec, container, weights;"
                "c = codec.ImageCodec(weights.read_weights(pathlib.Path('small.safetensors')));"
                "y = c.decode(container.Container.from_bytes(pathlib.Path('photo.qdr').read_bytes())).y_hat;"
                "print(hashlib.sha256(y.tobytes()).hexdigest())"
            )
            out = subprocess.run(
                [sys.executable, "-c", code, str(threads)],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=True,
            )
            assert out.stdout.strip() == expected


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
    stream = bytearray(getattr(damage_target, section))
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
    forged = dataclasses.replace(damage_target, **{section: bytes(stream)})
    try:
        latents = small_codec.decode(Container.from_bytes(forged.to_bytes()))
    except (CorruptStream, TableMismatch):
        return
    assert latents.y_hat.shape == (8, 8, 12)


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
