"""What `quadrans bench systems` shows: a table of the systems, and the papers' tables beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from .published import HE_PARTS, KODAK, PAPER_ORDERS, TITAN_XP, V100, Count
from .systems_counts import Counted
from .systems_measure import PARTS, Row


def counts_table(counts: Sequence[Counted]) -> Table:
    """Parameters and steps, with what is published of them."""
    table = _table("parameters and steps", "steps: at 768x512 pixels, then at 1200x1200")
    for header in ("system", "parameters", "published", "source", "steps", "published"):
        number = header in ("parameters", "published")
        table.add_column(header, justify="right" if number else "left", no_wrap=True)
    for one in counts:
        known = one.published
        steps = "; ".join(f"{order} {small:,}, {large:,}" for order, (small, large) in one.steps.items())
        table.add_row(
            one.system,
            f"{one.parameters:,}",
            _count(known) if known else "",
            known.source if known else "",
            steps,
            str(one.published_steps or ""),
            style=None if one.agrees else "bold red",
        )
    return table


def systems_table(rows: Sequence[Row], verb: str) -> Table:
    """ms to "encode" or "decode", by part."""
    first, decoding = rows[0], verb == "decode"
    about = "analysis", "context and index are nets'"
    if decoding:
        about = "synthesis", "coder %: of the whole, from file to pixels, and of that to y_hat"
    table = _table(
        f"{verb}, {first.width}x{first.height} pixels, ms", f"transforms: {about[0]}, in torch; {about[1]}"
    )
    parts = [part for part in PARTS if decoding or part not in ("context", "index")]
    for header in ("system", "order"):
        table.add_column(header, no_wrap=True)
    for header in ("threads", "bits/symbol", "ms", *parts, *(("coder %", "") if decoding else ())):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        if row.error:
            table.add_row(row.system, row.order, str(row.threads), "FAILED", style="bold red")
            continue
        ms = row.decode_ms if decoding else row.encode_ms
        shares = (row.coder_share, row.coder_share_of_latents) if decoding else ()
        table.add_row(
            row.system,
            row.order,
            str(row.threads),
            f"{8 * row.bytes / row.symbols:.2f}",
            _number(sum(ms.values())),
            *(_number(ms[part]) for part in parts),
            *(f"{100 * share:.1f}" for share in shares),
        )
    return table


def he_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """Tables 2 and 3 of He 2021, of `systems.he_record`'s."""
    threads = records[0]["threads"]
    table = _table(
        f"He 2021, tables 2 and 3: ms of decoding, {threads} thread(s); the paper's: {TITAN_XP}",
        "total: without coding (table rows, coder, rest), as the paper's; its serial parts sum to 1324.66",
    )
    for header in ("system", "size", "order"):
        table.add_column(header, no_wrap=True)
    names = ("hyper synthesis", "parameter calculation", "latent synthesis")
    for header in (
        "steps",
        *(both for name in names for both in (name, "paper")),
        "total",
        "paper",
        "coding",
    ):
        table.add_column(header, justify="right")
    for record in records:
        about = record["system"], f"{record['width']}x{record['height']}", record["order"]
        if record["error"]:
            table.add_row(*about, "FAILED", style="bold red")
            continue
        ms = record["ms"]
        paper: Mapping[str, float] = {}
        if record["system"] == "minnen2018-large" and (record["width"], record["height"]) == KODAK:
            paper = HE_PARTS.get(PAPER_ORDERS[record["order"]], {})
        cells = [cell for name in names for cell in (_number(ms[name]), _number(paper.get(name)))]
        total = _number(sum(ms[name] for name in names))
        table.add_row(
            *about, f"{record['steps']:,}", *cells, total, _number(record["paper_ms"]), _number(ms["coding"])
        )
    return table


def dca_table(found: Sequence[Mapping[str, Any]], paper: Mapping[str, float]) -> Table:
    """Table 2 of DCA: a row for each number of threads, and the paper's."""
    table = _table(f"DCA 2024, table 2: ms; the paper's: {V100}", "c: all four steps")
    for header in ("", *paper):
        table.add_column(header, justify="right", no_wrap=True)
    for row in found:
        table.add_row(f"{row['threads']} thread(s)", *(_number(row[name]) for name in paper))
    table.add_row("paper", *(_number(ms) for ms in paper.values()))
    return table


def _number(value: float | None) -> str:
    """ms, or nothing."""
    if value is None:
        return ""
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _count(count: Count) -> str:
    return f"{count.parameters:,}" if count.unit == 1 else f"{count.parameters / 1e6:.2f} M"


def _table(title: str, caption: str) -> Table:
    return Table(
        title=title, title_justify="left", caption=caption, caption_justify="left", box=box.SIMPLE_HEAD
    )
