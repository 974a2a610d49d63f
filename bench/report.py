"""What `quadrans bench coder` shows: a table for each workload, and one plot of all speeds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from .coders import CODERS, PEERS
from .measure import Row
from .workloads import WORKLOADS


def table(rows: list[Row]) -> Table:
    """One workload's rows, each compared with the first, which is ours unless it was not asked for."""
    first = rows[0]
    ideal = f"{first.symbols:,} symbols, ideal {first.ideal_bytes:,.0f} bytes"
    if first.table_bytes is not None:
        ideal += f", under our integers {first.table_bytes:,.0f}"
    serial = first.calls > 1
    result = Table(
        title=f"{WORKLOADS[first.workload].about}: {ideal}",
        title_justify="left",
        caption=f"ratio: the time in units of {first.coder}'s" if len(rows) > 1 else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    result.add_column("coder", no_wrap=True)
    unit = "us/call" if serial else "Msym/s"
    for header in ("enc ms", "dec ms", f"enc {unit}", f"dec {unit}", "enc ratio", "dec ratio"):
        result.add_column(header, justify="right", no_wrap=True)
    for header in ("bytes", "over ideal", "peak MB"):
        result.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        if row.encode_ms is None or row.decode_ms is None or row.bytes is None:
            result.add_row(row.coder, "FAILED", style="bold red")
            continue
        times = row.encode_ms, row.decode_ms
        speeds = [1000 * t / row.calls if serial else row.symbols / t / 1000 for t in times]
        of_first = first.encode_ms, first.decode_ms
        ratios = [t / f if f else None for t, f in zip(times, of_first, strict=True)]
        peaks = row.encode_peak_bytes, row.decode_peak_bytes
        result.add_row(
            row.coder,
            *(f"{t:.3f}" if t < 10 else f"{t:,.1f}" for t in times),
            *(f"{s:,.1f}" for s in speeds),
            *("" if r is None else f"{r:.1f}" if r < 100 else f"{r:,.0f}" for r in ratios),
            f"{row.bytes:,}",
            f"{100 * (row.bytes / row.ideal_bytes - 1):+.2f} %" if row.ideal_bytes else "",
            " / ".join("?" if p is None else f"{p / 1e6:.0f}" for p in peaks),
        )
    return result


def plot(rows: list[Row], path: Path) -> None:
    """PNG: million symbols/s over rate, over size, and for the other workloads; decoding above encoding."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels([row for row in rows if not row.error])
    figure = Figure(figsize=(5.4 * len(panels), 9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(panels), squeeze=False, sharey=True)
    handles: dict[str, Any] = {}
    for verb, pictures in zip(("decode", "encode"), axes, strict=True):
        for axis, (title, label, x, chosen) in zip(pictures, panels, strict=True):
            by_coder: dict[str, list[tuple[Any, float]]] = {}
            for row in chosen:
                ms = row.decode_ms if verb == "decode" else row.encode_ms
                by_coder.setdefault(row.coder, []).append((x(row), row.symbols / (ms or math.inf) / 1000))
            for name, points in by_coder.items():
                style = _style(name) | ({} if label else {"linestyle": "none"})
                (line,) = axis.plot(*zip(*sorted(points), strict=True), **style)
                handles.setdefault(name, line)
            axis.set(title=f"{verb}, {title}", xlabel=label, yscale="log")
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
            axis.grid(alpha=0.3)
            if label == "symbols":
                axis.set_xscale("log")
            elif not label:
                axis.margins(x=0.3)
        pictures[0].set_ylabel("million symbols/s")
    named = {name: handles[name] for name in dict.fromkeys(name for _, name in CODERS) if name in handles}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=130, format="png")


def _panels(rows: list[Row]) -> list[tuple[str, str, Callable[[Row], Any], list[Row]]]:
    """(title, label of x, x of a row, rows) for each picture that the rows can fill."""
    rated = [row for row in rows if WORKLOADS[row.workload].kind == "gaussians"]
    others = [row for row in rows if WORKLOADS[row.workload].kind != "gaussians"]
    panels: list[tuple[str, str, Callable[[Row], Any], list[Row]]] = []
    if rated:
        # The size that was run at most rates, and the rate that was run at most sizes.
        pairs = list(dict.fromkeys((row.workload, row.symbols) for row in rated))
        size = Counter(size for _, size in pairs).most_common(1)[0][0]
        rate, sizes = Counter(rate for rate, _ in pairs).most_common(1)[0]
        at_size = [row for row in rated if row.symbols == size]
        panels.append((f"{size:,} symbols", "bits/symbol", lambda row: float(row.workload), at_size))
        if sizes > 1:
            at_rate = [row for row in rated if row.workload == rate]
            panels.append((f"{rate} bits/symbol", "symbols", lambda row: row.symbols, at_rate))
    if others:
        panels.append(("other workloads", "", lambda row: f"{row.workload}\n{row.symbols:,} symbols", others))
    return panels


def _style(name: str) -> dict[str, Any]:
    """Ours in strong colours, thick and on top; a peer's ways share a colour, not line and marker."""
    peers = {coder.name: coder.peer for coder in CODERS.values()}
    peer = peers[name]
    alike = [other for other in peers if peers[other] == peer]
    rank = alike.index(name)
    if peer is None:
        colour = _OURS[rank % len(_OURS)]
        return {"color": colour, "marker": "o", "linewidth": 2.2, "markersize": 6, "zorder": 3}
    colour = _PEERS[list(PEERS).index(peer) % len(_PEERS)]
    return {
        "color": colour,
        "marker": "sD^v"[rank % 4],
        "linestyle": ("-", "--", ":", "-.")[rank % 4],
        "linewidth": 1.3,
        "markersize": 5,
        "markerfacecolor": "white" if rank else colour,
    }


_OURS = ("#0b6e4f", "#22b5c5", "#8fce00", "#1d4ed8", "#7c3aed", "#db2777", "#f472b6")
_PEERS = ("#7a7a7a", "#c2763e", "#a07cc5")
