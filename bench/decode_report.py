"""What `quadrans bench decode` shows: a table for each size of images, and a plot of times over sizes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from .decoders import PARTS

if TYPE_CHECKING:
    from .decode import Row


def table(rows: list[Row]) -> Table:
    """One size's rows, each compared with the first, a serial decoder of today where one was run."""
    first = rows[0]
    parts = [part for part in PARTS if any(part in row.parts_ms for row in rows)]
    result = Table(
        title=f"{first.width}x{first.height} pixels, {first.symbols:,} symbols",
        title_justify="left",
        caption="speed-up: over the first row; the parts' times are shares of the whole",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for header in ("decoder", "model", "order"):
        result.add_column(header, no_wrap=True)
    for header in ("steps", "device", "threads", "ms", "speed-up", *parts, "bytes", "bits/symbol"):
        result.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        where = row.device, "" if row.threads is None else str(row.threads)
        about = row.decoder, row.model, row.order, f"{row.steps:,}", *where
        if row.ms is None or row.bytes is None:
            result.add_row(*about, "FAILED", style="bold red")
            continue
        result.add_row(
            *about,
            _number(row.ms),
            _number(first.ms / row.ms) if first.ms else "",
            *(_number(row.parts_ms[part]) if part in row.parts_ms else "" for part in parts),
            f"{row.bytes:,}",
            f"{8 * row.bytes / row.symbols:.3f}",
        )
    return result


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}"


def plot(rows: list[Row], path: Path) -> None:
    """PNG: ms over pixels, both logarithmic; a picture for each device and number of threads."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    places = list(dict.fromkeys((row.device, row.threads) for row in rows))
    figure = Figure(figsize=(max(5.4 * len(places), 7), 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    sizes = {row.width * row.height: f"{row.width}x{row.height}" for row in rows}
    handles: dict[str, Any] = {}
    axes = figure.subplots(1, len(places), squeeze=False, sharex=True, sharey=True)[0]
    for axis, (device, threads) in zip(axes, places, strict=True):
        lines: dict[tuple[str, str], list[tuple[int, float]]] = {}
        for row in rows:
            if (row.device, row.threads) == (device, threads) and row.ms:
                points = lines.setdefault((row.decoder, row.order), [])
                points.append((row.width * row.height, row.ms))
        for (decoder, order), points in lines.items():
            (line,) = axis.plot(*zip(*sorted(points), strict=True), **_style(decoder, order))
            handles.setdefault(order if decoder == "quadrans" else f"{decoder}, serial", line)
        title = device if threads is None else f"{device}, {threads} thread{'s' if threads > 1 else ''}"
        axis.set(title=title, xlabel="pixels of the image", xscale="log", yscale="log")
        axis.set_xticks(list(sizes), sizes.values(), rotation=45, ha="right")
        axis.minorticks_off()
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("ms from z to y_hat")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=130, format="png")


def _style(decoder: str, order: str) -> dict[str, Any]:
    """Ours in strong colours, thick and on top, by order; others thin and pale."""
    if decoder == "quadrans":
        return {"color": _ORDERS[order], "marker": "o", "linewidth": 2.2, "markersize": 6, "zorder": 3}
    return {
        "color": _OTHERS.get(decoder),
        "marker": "s",
        "linestyle": "--",
        "linewidth": 1.3,
        "markersize": 5,
    }


_ORDERS = {
    "raster": "#1d4ed8",
    "wavefront": "#0b6e4f",
    "checkerboard": "#22b5c5",
    "parallel": "#8fce00",
    "quadtree": "#7c3aed",
    "slices_checkerboard": "#db2777",
}
_OTHERS = {"torch": "#c2763e", "compressai": "#7a7a7a"}
