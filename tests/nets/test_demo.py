"""The demo with any system: its table and last lines say what is true, its picture has every part's bits."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image
from rich.console import Console

from quadrans.nets import demo
from quadrans.nets.codec import ImageCodec
from quadrans.nets.container import Container
from quadrans.nets.export import export_weights
from quadrans.nets.images import read_image
from quadrans.nets.latents import Latents
from quadrans.nets.weights import Weights

SIZE = WIDTH, HEIGHT = 75, 42


@pytest.fixture
def drawn(photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple]:
    """What the picture is drawn of; a photo lies in the folder."""
    Image.fromarray(photo[:HEIGHT, :WIDTH]).save(tmp_path / "photo.png")
    seen, draw = {}, demo._draw

    def recording(path: Path, *arguments) -> None:
        seen["arguments"] = arguments
        draw(path, *arguments)

    monkeypatch.setattr(demo, "_draw", recording)
    return seen


def run(weights: Weights, folder: Path) -> list[str]:
    """The lines that it prints."""
    text = io.StringIO()
    console = Console(file=text, width=200)
    demo.run_demo(weights, folder / "photo.png", folder, True, console)
    return text.getvalue().splitlines()


def untrained(name: str, **config) -> Weights:
    return export_weights(tiny.small(name, **config), name, {}, "float32")


@pytest.mark.parametrize(
    ("name", "stride", "orders"),
    [("lee2019-hybrid", 16, "wavefront, raster"), ("theis2017", 8, "parallel"), ("dca2024", 16, "quadtree")],
)
def test_any_system(name: str, stride: int, orders: str, tmp_path: Path, drawn: dict[str, tuple]) -> None:
    weights = untrained(name)
    lines = run(weights, tmp_path)
    assert lines[-1] == f"all latents agree to the bit, decoded and encoded: {orders}"
    assert sum(line.endswith(" dB, in every order") for line in lines) == 1

    codec, pixels = ImageCodec(weights), read_image(tmp_path / "photo.png").pixels
    data = (tmp_path / "demo.qdr").read_bytes()
    assert data == codec.compress(pixels)
    sections = codec.inspect(Container.from_bytes(data)).sections
    parts = list(codec.system.parts()) or ["y"]
    original, decoded, cost, found = drawn["arguments"]
    assert (found, cost.shape) == (stride, codec.system.positions(*SIZE))
    assert cost.sum() == pytest.approx(sum(sections[part].bits.sum() for part in parts))
    np.testing.assert_array_equal(original, pixels)
    np.testing.assert_array_equal(decoded, codec.decompress(data))
    with Image.open(tmp_path / "demo.png") as image:
        assert np.asarray(image).std() > 5


def test_orders_that_round_to_other_latents(tmp_path: Path, drawn: dict[str, tuple]) -> None:
    """Residuals about means that depend on the order."""
    orders = ("wavefront", "raster", "checkerboard")
    lines = run(untrained("minnen2018", rounding="residual", orders=orders), tmp_path)
    assert lines[-1].endswith(": wavefront, raster, checkerboard")
    (at,) = (i for i, line in enumerate(lines) if line.endswith(" dB, in order wavefront"))
    assert lines[at + 1] == "checkerboard: other means to round about, so other latents and pixels"


def test_a_latent_that_differs_is_an_error(
    tmp_path: Path, drawn: dict[str, tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    true = ImageCodec.decode

    def wrong(codec: ImageCodec, container: Container) -> Latents:
        latents = true(codec, container)
        latents.y[0, 0, 0] += container.order == "raster"
        return latents

    monkeypatch.setattr(ImageCodec, "decode", wrong)
    with pytest.raises(ValueError, match=r"^order raster: the decoded latent differs$"):
        run(untrained("lee2019-hybrid"), tmp_path)
