"""`quadrans bench systems`: systems of the registry at their published sizes, from photo to file and back.

Weights are random (`plausible`): counts, times and exactness need no training. The photo goes through the
transforms; what is coded is drawn from the model, since a photo's latents under random weights mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from ..nets import registry
from ..nets.files import check_writable, write_file
from .coder import environment, print_lines, select
from .decode import RESULTS, file_name, image_size, integers
from .published import DCA_PARTS, HE_PARTS, TITAN_XP, V100
from .systems_counts import counted
from .systems_measure import Row, measure_system
from .systems_papers import dca2024, he2021, he_record
from .systems_report import counts_table, dca_table, he_table, systems_table

TABLES = ("counts", "systems", "he2021", "dca2024")

CODER_LIMIT = 0.05
"""Of decoding, from file to pixels, at most the coder's."""

MINUTES = 20
"""About what everything takes on two cores of a desktop computer."""


def run_benchmark(
    systems: list[str],
    tables: list[str],
    size: str,
    threads: str,
    runs: int,
    json_path: Path | None,
    record: bool,
    force: bool,
    console: Console,
) -> list[str]:
    """Runs, prints and writes what is asked for: names or patterns of systems and of TABLES.

    Without names all tables: counts of all systems, times of the first of each architecture. With names of
    systems alone, these systems in the first two tables. size: of the systems' image,
    "768x512"; threads: "1,2". Returns a line for everything that failed. Raises ValueError for arguments that
    make no sense, OSError and ImportError for what can't be written or imported.
    """
    pixels, teams = image_size(size), integers(threads, "threads")
    if runs < 1:
        raise ValueError(f"runs must be at least 1, not {runs}")
    names = select(systems, registry.SYSTEMS, "system")
    chosen = select(tables or (TABLES[:2] if systems else ()), TABLES, "table")
    context = environment(runs, max(teams)) | {"threads": teams}
    target = RESULTS / f"systems-{file_name(context['cpu'])}.json"
    if record:
        RESULTS.mkdir(exist_ok=True)
    for path in (json_path, target if record else None):
        if path:
            check_writable(path, force)
    packages = (f"{name} {number}" for name, number in context["packages"].items())
    machine = "{cpu}, {simd}, load {load}, Python {python}".format(**context)
    console.print(", ".join([machine, *packages]))
    console.print(
        f"random weights, latents drawn from the models, median of {runs} run(s), every latent compared with "
        f"the encoder's; all systems and tables take about {MINUTES} minutes"
    )
    found: dict[str, Any] = {"environment": context}
    rows: list[Row] = []
    failures: list[str] = []
    if "counts" in chosen:
        counts = [counted(name) for name in names]
        found["counts"] = [{**asdict(one), "agrees": one.agrees} for one in counts]
        failures += [f"{one.system}: not as published" for one in counts if not one.agrees]
        console.print(counts_table(counts))
    if "systems" in chosen:
        for name in timed(names if systems else None):
            rows += measure_system(name, {}, (), (pixels,), teams, runs, console)
        found["systems"] = [asdict(row) for row in rows]
        if rows:
            for verb in ("encode", "decode"):
                console.print(systems_table(rows, verb))
        print_lines(console, verdicts(rows))
    if "he2021" in chosen:
        compared = he2021(teams, runs, console)
        rows += compared
        records = [he_record(row) for row in compared]
        found["he2021"] = {"paper": TITAN_XP, "paper_parts_ms": HE_PARTS, "rows": records}
        for team in teams:
            console.print(he_table([one for one in records if one["threads"] == team]))
    if "dca2024" in chosen:
        own, networks = dca2024(teams, runs, console)
        rows += own
        times = {"rows": [asdict(row) for row in own], "ms": networks}
        found["dca2024"] = {"paper": V100, "paper_ms": DCA_PARTS, **times}
        console.print(dca_table(networks, DCA_PARTS))
    failures += [f"{row.title}: {row.error}" for row in rows if row.error]
    text = json.dumps(found, indent=1)
    if json_path:
        write_file(json_path, lambda path: path.write_text(text), force)
    if record and not failures:
        write_file(target, lambda path: path.write_text(text), force)
    return failures


def timed(names: list[str] | None) -> list[str]:
    """Those that are codecs; of all systems, where none are named, the first of each architecture."""
    if names is not None:
        return [name for name in names if registry.SYSTEMS[name].codes]
    first: dict[str, str] = {}
    for name, row in registry.SYSTEMS.items():
        if row.codes:
            first.setdefault(row.architecture, name)
    return list(first.values())


def verdicts(rows: list[Row]) -> Iterator[str]:
    """Lines on the coder's share of decoding."""
    right = [row for row in rows if not row.error]
    above = [row for row in right if row.coder_share > CODER_LIMIT]
    for row in above:
        yield f"coder: {row.coder_share:.1%} of decoding, more than {CODER_LIMIT:.0%}: {row.title}"
    if right and not above:
        most = max(right, key=lambda row: row.coder_share)
        yield f"coder: at most {most.coder_share:.1%} of decoding, from file to pixels ({most.title})"
