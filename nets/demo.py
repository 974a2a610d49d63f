"""The demo: one photo through every coding order, with the evidence that all latents agree to the bit."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from .codec import ImageCodec
from .container import Container
from .evaluation.quality import psnr
from .files import check_writable, write_file
from .images import read_image
from .inspection import Inspection
from .weights import Weights

REPETITIONS = 3
OUTPUTS = ("demo.qdr", "demo.png")


def demo_photo() -> NDArray[np.uint8]:
    """The astronaut Eileen Collins, 512x512, as scikit-image installs it (NASA, public domain)."""
    try:
        from skimage import data
    except ImportError as error:
        raise ImportError("the demo's photo needs scikit-image: pip install 'quadrans[demo]'") from error
    return np.ascontiguousarray(data.astronaut())


def run_demo(weights: Weights, photo: Path | None, folder: Path, force: bool, console: Console) -> None:
    """Print a table, write `demo.qdr` and `demo.png` into the folder, over older ones only with `force`.

    Raises ValueError if any decoded latent differs, FileExistsError before any work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in OUTPUTS:
        check_writable(folder / name, force)
    pixels = demo_photo() if photo is None else read_image(photo).pixels
    height, width = pixels.shape[:2]
    codec = ImageCodec(weights)
    latents = codec.analyse(pixels)
    table = Table(title=f"{photo or 'astronaut'}, {width}x{height}, model {codec.name}")
    for column in ("order", "steps", "model", "tables", "file", "bpp", "decode", "latent"):
        table.add_column(column, justify="left" if column == "order" else "right")
    failures = []
    for order in codec.orders:
        container, coded = codec.code(latents, width, height, order)
        data = container.to_bytes()
        container = Container.from_bytes(data)
        decoded = codec.decode(container)
        inspection, model = codec.inspect(container), codec.model_bits(latents, coded, order)
        times = []
        for _ in range(REPETITIONS):
            start = time.perf_counter()
            codec.decode(container)
            times.append(time.perf_counter() - start)
        equal = decoded.same_bits(coded) and inspection.latents.same_bits(coded)
        if not equal:
            failures.append(f"order {order}: the decoded latent differs")
        if order == codec.orders[0]:
            kept, decoded_pixels, kept_inspection = (
                data,
                codec.synthesise(decoded.y, width, height),
                inspection,
            )
        table.add_row(
            order,
            str(codec.system.steps(order, width, height)),
            f"{sum(model.values()) / 8:.0f}",
            f"{inspection.bits / 8:.0f}",
            str(len(data)),
            f"{8 * len(data) / (width * height):.3f}",
            f"{1000 * sorted(times)[REPETITIONS // 2]:.1f} ms",
            "equal" if equal else "DIFFERS",
        )
    console.print(table)
    console.print("bytes by the model's own estimate, under the integer tables, and in the file")
    console.print(f"PSNR {psnr(pixels, decoded_pixels):.2f} dB (the pixels are the same in every order)")
    write_file(folder / "demo.png", lambda path: _draw(path, pixels, decoded_pixels, kept_inspection), force)
    write_file(folder / "demo.qdr", lambda path: path.write_bytes(kept), force)
    console.print(f"wrote {' and '.join(str(folder / name) for name in OUTPUTS)}")
    if failures:
        raise ValueError("; ".join(failures))
    console.print(
        "all latents agree to the bit: serial (raster), wavefront, checkerboard and context-free (parallel)"
    )


def _draw(
    path: Path, original: NDArray[np.uint8], decoded: NDArray[np.uint8], inspection: Inspection
) -> None:
    """Original, decoded, and the bits of each latent position, side by side."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("the demo's picture needs matplotlib: pip install 'quadrans[demo]'") from error
    height, width = original.shape[:2]
    # A strip of a photo must not ask for a picture of any height.
    panel_height = 5 * min(max(height / width, 0.2), 4)
    figure, axes = plt.subplots(1, 3, figsize=(15, panel_height + 0.6), layout="constrained")
    cost = inspection.sections["y"].bits.sum(-1)
    bits = np.kron(cost, np.ones((16, 16)))[:height, :width]
    titles = ("original", f"decoded, {psnr(original, decoded):.2f} dB", "bits per 16x16 pixels")
    for axis, image, title in zip(axes, (original, decoded, bits), titles, strict=True):
        shown = axis.imshow(image, cmap="magma", vmin=0)
        axis.set(title=title, xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes[2], shrink=0.8)
    figure.savefig(path, format="png", dpi=100)
    plt.close(figure)
