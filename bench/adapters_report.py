"""What `quadrans bench adapters` shows: a table for each comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from .adapters_ways import Comparison, Load

if TYPE_CHECKING:
    from .adapters import Row


def table(comparison: Comparison, load: Load, rows: Sequence[Row]) -> Table:
    """A comparison's rows, with what each gains over the first."""
    first = rows[0]
    compared = comparison.compared and len(rows) > 1
    about = comparison.about
    if not first.table.startswith("torchac"):
        about += f", {load.width}x{load.height} pixels, N={load.n}, M={load.m}"
    result = Table(
        title=f"{first.table}: {about}, {max(row.symbols for row in rows):,} symbols",
        title_justify="left",
        caption="times as fast as the first; same: its bytes and values to the bit" if compared else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    result.add_column("", no_wrap=True)
    gains = ("enc gain", "dec gain") if compared else ()
    for header in ("enc ms", "dec ms", *gains, "bytes", "bits/symbol", *(("same",) if compared else ())):
        result.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        if row.encode_ms is None or row.decode_ms is None or row.bytes is None:
            result.add_row(row.way, "FAILED", style="bold red")
            continue
        cells = [_number(row.encode_ms), _number(row.decode_ms)]
        if compared:
            cells += [_gain(first.encode_ms, row.encode_ms), _gain(first.decode_ms, row.decode_ms)]
        cells += [f"{row.bytes:,}", f"{8 * row.bytes / row.symbols:.3f}"]
        if compared:
            cells.append("yes" if row.same else "")
        result.add_row(row.way, *cells)
    return result


def _gain(before: float | None, after: float) -> str:
    return f"{_number(before / after)}x" if before else ""


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
