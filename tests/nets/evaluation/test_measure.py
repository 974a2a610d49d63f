"""One photo under one model: every figure against what it is made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from quadrans.nets.codec import ImageCodec
from quadrans.nets.container import Container
from quadrans.nets.density import SCALE_MIN
from quadrans.nets.evaluation import pictures
from quadrans.nets.evaluation.measure import Measurement, measure
from quadrans.nets.evaluation.quality import psnr
from quadrans.nets.evaluation.rows import TIMES
from quadrans.nets.export import export_weights
from quadrans.nets.latents import Latents


@pytest.fixture(scope="module")
def crop(photo: np.ndarray) -> np.ndarray:
    """Of odd size, large enough for MS-SSIM."""
    return np.ascontiguousarray(photo[60:229, 100:283])


def untrained(name: str) -> ImageCodec:
    return ImageCodec(export_weights(tiny.small(name), name, {}, "float32"))


def check_sums(found: Measurement, codec: ImageCodec) -> None:
    """What any measurement must add up to."""
    row = found.row
    assert set(row.seconds) == set(TIMES)
    assert min(row.seconds.values()) > 0
    assert list(row.sections) == list(found.bits)
    assert sum(bits.sum() for bits in found.bits.values()) / 8 == pytest.approx(row.ideal_bytes)
    assert row.ideal_bytes < row.bytes
    assert set(row.steps) == set(found.normalized) == set(codec.system.parts())
    for name, steps in row.steps.items():
        size, values = found.bits[name].size, found.normalized[name]
        assert len(steps.symbols) == len(steps.bits) == len(found.orders[name])
        assert sum(steps.symbols) == size == values.size
        assert sum(steps.bits) == pytest.approx(found.bits[name].sum())
        assert min(steps.minimum) == values.min()
        assert max(steps.maximum) == values.max()


@pytest.mark.parametrize("order", ["wavefront", "checkerboard"])
def test_a_row_is_what_the_codec_gives(bundled_codec: ImageCodec, crop: np.ndarray, order: str) -> None:
    found = measure(bundled_codec, crop, order, "cat.png", "curve", "point")
    check_sums(found, bundled_codec)
    row, data = found.row, bundled_codec.compress(crop, order)
    assert (row.photo, row.curve, row.point, row.order) == ("cat.png", "curve", "point", order)
    assert (row.height, row.width) == crop.shape[:2]
    assert row.bytes == len(data)
    assert row.bpp == 8 * len(data) / (169 * 183)
    sections = Container.from_bytes(data).sections
    assert row.sections == {name: len(stream) for name, stream in sections.items()}
    assert row.psnr == psnr(crop, bundled_codec.decompress(data))
    assert row.ms_ssim is not None
    assert found.covered == (192, 192)
    # Integers cost what the network's densities say, and the coder hardly more.
    assert row.model_bytes == pytest.approx(row.ideal_bytes, rel=0.01)


def test_normalized_latents_by_hand(small_codec: ImageCodec, crop: np.ndarray) -> None:
    found = measure(small_codec, crop, "checkerboard")
    latents = small_codec.analyse(crop)
    _, coded = small_codec.densities(latents, latents, "checkerboard")
    means, scales = (one[0].permute(1, 2, 0).numpy() for one in (coded["y"].means, coded["y"].scales))
    expected = (latents.y - means) / scales
    assert scales.min() == np.float32(SCALE_MIN)
    np.testing.assert_allclose(found.normalized["y"], expected, rtol=1e-6)
    rows, cols = np.indices(latents.y.shape[:2])
    anchors = (rows + cols) % 2 == 1
    for step, chosen in enumerate((anchors, ~anchors)):
        values = expected[chosen].astype(np.float64)
        steps = found.row.steps["y"]
        assert steps.symbols[step] == values.size
        assert steps.bits[step] == pytest.approx(found.bits["y"][chosen].sum())
        assert steps.minimum[step] == pytest.approx(values.min())
        assert steps.maximum[step] == pytest.approx(values.max())
        assert steps.deviation[step] == pytest.approx(values.std())


@pytest.mark.parametrize("name", ["balle2017", "lee2019-hybrid", "charm2020", "cheng2020"])
def test_other_kinds_of_systems(name: str, crop: np.ndarray, tmp_path: Path) -> None:
    """Without side information, of two parts, with refinement, with mixtures: figures and pictures."""
    codec = untrained(name)
    found = measure(codec, crop)
    check_sums(found, codec)
    pictures.bit_allocation(tmp_path / "bits.png", crop, found)
    if found.normalized:
        pictures.normalized_latents(tmp_path / "normalized.png", found)
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            assert min(image.size) > 200
            assert np.asarray(image).std() > 5


def test_photos_too_small_for_ms_ssim(small_codec: ImageCodec, photo: np.ndarray) -> None:
    row = measure(small_codec, np.ascontiguousarray(photo[:1, :3])).row
    assert (row.ms_ssim, row.ms_ssim_db) == (None, None)


@pytest.mark.parametrize("method", ["decode", "inspect"])
def test_a_latent_that_differs_is_an_error(
    small_weights, crop: np.ndarray, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    codec = ImageCodec(small_weights)
    true = codec.decode

    def wrong(container: Container) -> Latents:
        latents = true(container)
        latents.y[3, 2, 1] = np.nextafter(latents.y[3, 2, 1], np.float32(9))
        return latents

    if method == "decode":
        monkeypatch.setattr(codec, "decode", wrong)
    else:
        inner = codec.cpu.decode_from

        def from_decoder(*arguments):
            y = inner(*arguments)
            y[3, 2, 1] += 1
            return y

        codec.cpu.decode_from = from_decoder
        monkeypatch.setattr(codec, "decode", lambda container: codec.analyse(crop))
    with pytest.raises(ValueError, match=r"cat\.png: the \d+ bytes of small in order wavefront decode to an"):
        measure(codec, crop, photo="cat.png")
