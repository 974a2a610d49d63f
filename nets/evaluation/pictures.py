"""Pictures of an evaluation: rate-distortion curves, and where one photo's bits and surprises are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .curves import METRICS, Point
from .measure import Measurement
from .packages import require
from .rows import Steps

MOST_PANELS = 20
"""More steps than these are shown together, and as a chart over the steps."""
_LABELS = {"psnr": "PSNR, dB", "ms_ssim_db": "MS-SSIM, dB"}
_MARKERS = "osD^vP*X"
_INCHES = 4.0


def rate_distortion(path: Path, found: Mapping[str, Sequence[Point]], references: Sequence[str]) -> None:
    """PNG: each metric over bits per pixel, a panel each; references dashed."""
    figure, axes = _panels(len(METRICS), 6.0, 4.8)
    for axis, metric in zip(axes, METRICS, strict=True):
        for number, (curve, points) in enumerate(found.items()):
            pairs = [(one.bpp, value) for one in points if (value := getattr(one, metric)) is not None]
            shown = [(bpp, value) for bpp, value in pairs if math.isfinite(value)]
            reference = curve in references
            axis.plot(
                *(zip(*shown, strict=True) if shown else ([], [])),
                label=curve,
                color=f"C{number % 10}",
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=3 if reference else 5,
                linestyle="--" if reference else "-",
                linewidth=1 if reference else 1.8,
            )
        axis.set(xlabel="bits per pixel", ylabel=_LABELS[metric])
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    axes[0].legend(loc="lower right")
    _save(figure, path)


def bit_allocation(path: Path, pixels: NDArray[np.uint8], found: Measurement) -> None:
    """PNG: the photo, and for each stream the bits of each of its positions, all channels together.

    Each position stands where its pixels are.
    """
    row, (width, height) = found.row, found.covered
    figure, axes = _panels(1 + len(found.bits), *_panel_size(pixels.shape))
    axes[0].imshow(pixels)
    axes[0].set_title(f"{row.photo}, {row.bpp:.3f} bpp, {row.psnr:.2f} dB")
    for axis, (name, bits) in zip(axes[1:], found.bits.items(), strict=True):
        shown = axis.imshow(bits.sum(2), cmap="magma", vmin=0, extent=(0, width, height, 0))
        axis.set_title(f"{name}: {row.sections[name]:,} bytes, bits by position")
        figure.colorbar(shown, ax=axis, shrink=0.7)
    for axis in axes:
        axis.set(xticks=[], yticks=[], xlim=(0, row.width), ylim=(row.height, 0))
    figure.suptitle(f"{row.point}, {row.order}")
    _save(figure, path)


def normalized_latents(path: Path, found: Measurement) -> None:
    """PNG: at each position the largest |y - mean| / scale of what a step codes there, a panel each step.

    found: of a system whose y has parts. All panels have one scale. A part of more than MOST_PANELS steps
    has one panel for all of them, and a chart over the steps. Source: Kim et al., "Diversify, contextualize,
    and adapt: efficient entropy modeling for neural image codec", NeurIPS 2024, Figure 6.
    """
    panels: list[tuple[str, NDArray[np.float32] | Steps]] = []
    for name, steps in found.row.steps.items():
        values, order = np.abs(found.normalized[name]), found.orders[name]
        if len(order) > MOST_PANELS:
            least, most = min(steps.minimum), max(steps.maximum)
            panels.append((f"{name}, all {len(order)} steps\n{least:.1f} .. {most:.1f}", values.max(2)))
            panels.append((f"{name}, by step", steps))
            continue
        for number, step in enumerate(order):
            plane = np.full(values.shape, -np.inf, np.float32)
            where = step.elements(values.shape[2])
            plane[where] = values[where]
            largest = plane.max(2)
            title = (
                f"{name}, step {number + 1}: {steps.bits[number] / 8:,.0f} bytes\n"
                f"{steps.minimum[number]:.1f} .. {steps.maximum[number]:.1f}, "
                f"deviation {steps.deviation[number]:.2f}"
            )
            panels.append((title, np.where(np.isneginf(largest), np.nan, largest)))
    maps = [panel for _, panel in panels if not isinstance(panel, Steps)]
    most = max(float(np.nanmax(panel)) for panel in maps)
    figure, axes = _panels(len(panels), *_panel_size(maps[0].shape))
    for axis, (title, panel) in zip(axes, panels, strict=True):
        axis.set_title(title, fontsize=9)
        if isinstance(panel, Steps):
            for label in ("minimum", "maximum", "deviation"):
                axis.plot(range(1, len(panel.symbols) + 1), getattr(panel, label), label=label, linewidth=1)
            axis.set_xlabel("step")
            axis.legend(fontsize=8)
        else:
            shown = axis.imshow(panel, cmap="magma", vmin=0, vmax=most)
            axis.set(xticks=[], yticks=[])
    figure.colorbar(shown, ax=list(axes), shrink=0.7, label="largest |y - mean| / scale")
    figure.suptitle(f"{found.row.photo}, {found.row.point}, {found.row.order}")
    _save(figure, path)


def _panel_size(shape: tuple[int, ...]) -> tuple[float, float]:
    """(width, height) in inches; a strip of a photo must not ask for a picture of any height."""
    return _INCHES, _INCHES * min(max(shape[0] / shape[1], 0.4), 2.5) + 0.6


def _panels(count: int, width: float, height: float) -> tuple[Any, Any]:
    """A figure and its axes, 1-D, in rows of at most five."""
    require("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cols = min(count, 5)
    rows = -(-count // cols)
    figure = Figure(figsize=(width * cols, height * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, cols, squeeze=False).reshape(-1)
    for axis in axes[count:]:
        axis.axis("off")
    return figure, axes[:count]


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110, format="png")
