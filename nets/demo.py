"""The demo: one photo through every coding order, with the evidence that all decoded latents are exact."""

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

    Both are of the model's first order. Raises ValueError if a decoded latent is not the encoder's,
    FileExistsError before any work.
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
    failures, others = [], []
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
            kept, first, kept_inspection = data, decoded, inspection
        elif not decoded.same_bits(first):
            others.append(order)
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
    shown = codec.synthesise(first.y, width, height)
    which = f"in order {codec.orders[0]}" if others else "in every order"
    console.print(f"PSNR {psnr(pixels, shown):.2f} dB, {which}")
    if others:
        console.print(f"{', '.join(others)}: other means to round about, so other latents and pixels")
    costs = [kept_inspection.sections[name].bits.sum(-1) for name in codec.system.parts() or ("y",)]
    picture = pixels, shown, np.sum(costs, axis=0), codec.system.stride
    write_file(folder / "demo.png", lambda path: _draw(path, *picture), force)
    write_file(folder / "demo.qdr", lambda path: path.write_bytes(kept), force)
    console.print(f"wrote {' and '.join(str(folder / name) for name in OUTPUTS)}")
    if failures:
        raise ValueError("; ".join(failures))
    console.print(f"all latents agree to the bit, decoded and encoded: {', '.join(codec.orders)}")


def _draw(
    path: Path,
    original: NDArray[np.uint8],
    decoded: NDArray[np.uint8],
    cost: NDArray[np.float64],
    stride: int,
) -> None:
    """Original, decoded, and the bits of each latent position (rows, cols), side by side."""
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
    bits = np.kron(cost, np.ones((stride, stride)))[:height, :width]
    titles = ("original", f"decoded, {psnr(original, decoded):.2f} dB", f"bits per {stride}x{stride} pixels")
    for axis, image, title in zip(axes, (original, decoded, bits), titles, strict=True):
        shown = axis.imshow(image, cmap="magma", vmin=0)
        axis.set(title=title, xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes[2], shrink=0.8)
    figure.savefig(path, format="png", dpi=100)
    plt.close(figure)
