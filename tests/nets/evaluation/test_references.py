"""Pillow's codecs as curves."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import features

from quadrans.nets.evaluation.curves import METRICS, MIN_POINTS, curves
from quadrans.nets.evaluation.references import REFERENCES, measure_reference, select


@pytest.fixture(scope="module")
def crop(photo: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(photo[60:240, 100:301])


@pytest.fixture(scope="module")
def found(crop: np.ndarray) -> dict:
    return curves(row for name in REFERENCES for row in measure_reference(name, crop, "cat"))


@pytest.mark.parametrize("name", REFERENCES)
def test_curves_rise(name: str, found: dict) -> None:
    points = found[name]
    assert len(points) == len(REFERENCES[name].settings) >= MIN_POINTS
    assert [one.point for one in points] == list(REFERENCES[name].settings)
    for metric in METRICS:
        values = [getattr(one, metric) for one in points]
        assert values == sorted(values)


def test_jpeg2000_has_the_rates_it_was_asked_for(found: dict) -> None:
    for point in found["jpeg2000"]:
        assert point.bpp == pytest.approx(float(point.point.removesuffix(" bpp")), rel=0.05)


def test_jpeg2000_decorrelates_colors(found: dict) -> None:
    """It is better than JPEG, which it is not without its color transform."""
    jpeg, jpeg2000 = (
        np.interp(0.75, [one.bpp for one in points], [one.psnr for one in points])
        for points in (found["jpeg"], found["jpeg2000"])
    )
    assert jpeg2000 > jpeg + 1


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (40, 17)])
def test_tiny_photos(name: str, shape: tuple[int, int], photo: np.ndarray) -> None:
    rows = list(measure_reference(name, np.ascontiguousarray(photo[: shape[0], : shape[1]])))
    assert all((row.height, row.width) == shape and row.ms_ssim is None for row in rows)
    assert all(row.bytes > 0 for row in rows)


def test_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    assert select("webp,jpeg,webp") == (["webp", "jpeg"], {})
    assert select("none") == ([], {})
    with pytest.raises(ValueError, match="unknown reference 'bpg', ''; known: jpeg, jpeg2000, webp"):
        select("jpeg,bpg,")
    there = features.check
    monkeypatch.setattr(features, "check", lambda name: name != "jpg_2000" and there(name))
    chosen, left_out = select("jpeg,jpeg2000,webp")
    assert chosen == ["jpeg", "webp"]
    assert left_out == {"jpeg2000": "this Pillow was built without JPEG2000"}


def test_what_a_codec_refuses_is_named() -> None:
    with pytest.raises(ValueError, match=r"long\.png: webp, quality 1, of 16384x1 pixels"):
        list(measure_reference("webp", np.zeros((1, 16384, 3), np.uint8), "long.png"))
