"""What an evaluation says, for programs (JSON, CSV) and for people (tables)."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import StringIO
from typing import Any

from rich import box
from rich.table import Table

from .curves import METRICS, BdRate, Point
from .rows import TIMES, Row
from .run import Evaluation


def as_json(found: Evaluation, curves: Mapping[str, Sequence[Point]], bd: Sequence[BdRate]) -> str:
    """Everything: environment, rows, means, BD-rates. What isn't a finite number is null."""
    content = {
        "environment": found.environment,
        "left_out": found.left_out,
        "rows": [_row(row) for row in found.rows],
        "means": [
            asdict(point) | {"ms_ssim_db": point.ms_ssim_db} for points in curves.values() for point in points
        ],
        "bd_rate": {"anchor": found.anchor, "rates": [asdict(one) for one in bd]},
    }
    return json.dumps(_finite(content), indent=1, allow_nan=False) + "\n"


def _row(row: Row) -> dict[str, Any]:
    return asdict(row) | {"bpp": row.bpp, "ms_ssim_db": row.ms_ssim_db}


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {key: _finite(one) for key, one in value.items()}
        case list() | tuple():
            return [_finite(one) for one in value]
        case float() if not math.isfinite(value):
            return None
    return value


def as_csv(rows: Sequence[Row]) -> str:
    """A line for each row, streams and times in columns of their own; empty where there is no figure."""
    sections = list(dict.fromkeys(name for row in rows for name in row.sections))
    plain = [*("photo", "curve", "point", "order", "width", "height", "bytes", "bpp", "psnr", "ms_ssim")]
    plain += ["ms_ssim_db", "model_bytes", "ideal_bytes"]
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*plain, *(f"bytes_{name}" for name in sections), *(f"seconds_{name}" for name in TIMES)])
    for row in rows:
        values = [getattr(row, name) for name in plain]
        values += [row.sections.get(name) for name in sections]
        writer.writerow([*values, *(row.seconds.get(name) for name in TIMES)])
    return out.getvalue()


def means_table(curves: Mapping[str, Sequence[Point]]) -> Table:
    """Means over photos; a file's excess over its ideals; seconds, transforms + exact part."""
    table = Table(title="means over photos", title_justify="left", box=box.SIMPLE_HEAD)
    for header in ("curve", "point"):
        table.add_column(header)
    numbers = ("bpp", "PSNR", "MS-SSIM", "dB", "over model", "over tables", "encode s", "decode s")
    for header in numbers:
        table.add_column(header, justify="right")
    for points in curves.values():
        for one in points:
            analysis, encoding, decoding, synthesis = (one.seconds.get(name) for name in TIMES)
            table.add_row(
                *(one.curve, one.point, f"{one.bpp:.4f}", f"{one.psnr:.2f}"),
                *(_number(one.ms_ssim, ".4f"), _number(one.ms_ssim_db, ".2f")),
                *(_excess(one.bytes, one.model_bytes), _excess(one.bytes, one.ideal_bytes)),
                *(_sum(analysis, encoding), _sum(synthesis, decoding)),
            )
        table.add_section()
    return table


def bd_table(rates: Sequence[BdRate], anchor: str) -> Table:
    """BD-rates against the anchor."""
    table = Table(title=f"BD-rate against {anchor}", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("curve")
    for metric in METRICS:
        table.add_column(metric, justify="right")
        table.add_column("range shared", justify="right")
    lines: dict[str, list[str]] = {}
    for one in rates:
        figures = (_number(one.percent, "+.2f", " %"), f"{100 * one.overlap:.0f} %")
        lines.setdefault(one.curve, []).extend(figures if not one.reason else ("-", ""))
    for curve, figures_ in lines.items():
        table.add_row(curve, *figures_)
    return table


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def _excess(size: int, ideal: float | None) -> str:
    return f"{100 * (size / ideal - 1):+.2f} %" if ideal else ""


def _sum(transforms: float | None, exact: float | None) -> str:
    return "" if transforms is None or exact is None else f"{transforms:.3f} + {exact:.3f}"
