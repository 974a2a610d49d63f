"""The pages of docs/ say what the code has, and what the records have."""

from __future__ import annotations

import json
import re
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from quadrans.nets.listing import systems

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGE = (DOCS / "systems.md").read_text()
RECORD = json.loads((ROOT / "bench" / "results" / "rocketlake.json").read_text())


def test_every_system_is_listed_with_its_figures() -> None:
    listed = {
        row[0]: row
        for row in re.findall(r"^\| `([^`]+)` \| ([^|]+) \| ([\d,]+) \| ([^|]+) \| (\d*) \|$", PAGE, re.M)
    }
    expected = {
        row.name: (
            row.name,
            row.paper,
            f"{row.parameters:,}",
            row.order if row.steps else "none: it measures",
            str(row.steps or ""),
        )
        for row in systems()
    }
    assert listed == expected


@pytest.mark.parametrize(
    "package", ["entropy", "kernels", "kernels.cuda", "nets", "nets.adapters.compressai"]
)
def test_every_public_name_is_in_the_reference(package: str) -> None:
    pages = "".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))
    shown = set(re.findall(r"^::: quadrans\.(\S+)$", pages, re.M))
    names = import_module(f"quadrans.{package}").__all__
    assert {f"{package}.{name}" for name in names} <= shown


def test_times_by_order_are_the_record() -> None:
    page = (DOCS / "choosing.md").read_text()
    table = re.findall(r"^\| [^|]+ \| (\w+) \| (\d+) \| (\d+) \| (\d+) \|$", page, re.M)
    times: dict[tuple[str, str, int], dict[int, float]] = {}
    for row in RECORD["rows"]:
        if row["decoder"] != "torch":
            steps = times.setdefault((row["decoder"], row["order"], row["steps"]), {})
            steps[row["threads"]] = row["ms"]
    expected = [
        (order, str(steps), *(f"{ms[threads]:.0f}" for threads in (1, 2)))
        for (_, order, steps), ms in times.items()
    ]
    assert table == expected


def test_times_of_coders_are_those_of_the_readme() -> None:
    """No record has them; `quadrans bench coder` prints them."""
    pages = [(ROOT / "README.md").read_text(), (DOCS / "choosing.md").read_text()]
    rows = [
        re.findall(r"^\| ([^|]+) \| ([*\d.]+)[^|]* \| ([*\d.]+)[^|]* \| (\S+ %)", page, re.M)
        for page in pages
    ]
    ours, here = ({row[0]: row[1:] for row in found} for found in rows)
    mixtures = {name for name in here if "mixture" in name}
    assert len(here) == 5
    assert {name: here[name] for name in here.keys() - mixtures}.items() <= ours.items()
    (mixture,) = (here[name] for name in mixtures)
    row = re.search(r"^\| mixture of 3 .*entropy.mixture` \| (\S+) \| (\S+) \|$", pages[0], re.M)
    peers = re.search(r"^\| the same: constriction / .* \| (\d+) / .* \| (\d+) / .* \|$", pages[0], re.M)
    assert row
    assert peers
    assert mixture[:2] == row.groups()
    assert "constriction takes {} ms to encode and {} to decode the same".format(*peers.groups()) in pages[1]


def test_times_of_adapters_are_the_record() -> None:
    page = (DOCS / "choosing.md").read_text()
    block = page.partition("<!-- figures of `quadrans bench adapters` -->")[2].partition(
        "<!-- end of figures"
    )[0]
    table = re.findall(r"^\| ([^|]+) \| ([\d.,]+) \| ([\d.,]+) \| ([\d,]+) \|$", block, re.M)
    rows = json.loads((ROOT / "bench" / "results" / "adapters-rocketlake.json").read_text())["rows"]
    assert table == [
        (row["way"], _number(row["encode_ms"]), _number(row["decode_ms"]), f"{row['bytes']:,}")
        for row in rows
    ]
    said = dict(re.findall(r"With (\w+), (\S+ times as fast to encode and \S+ to\sdecode)", page))
    for what, name in (("floats", "torchac-float"), ("integers", "torchac-int16")):
        theirs, ours = (row for row in rows if row["table"] == name)
        encode, decode = (theirs[f"{kind}_ms"] / ours[f"{kind}_ms"] for kind in ("encode", "decode"))
        assert said[what] == f"{encode:.1f} times as fast to encode and {decode:.1f} to decode"


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


DOCSTRING = """First line, of 2**8 cells[i] <= n.

    code(**kwargs)

name, other: what they are,
and more of it: all.
kind: one of
  - a * b
Raises ValueError.
"""
RENDERED = """First line, of 2\\*\\*8 cells\\[i\\] &lt;= n.

    code(**kwargs)

- `name`, `other`: what they are,
  and more of it: all.
- `kind`: one of
    - a \\* b

Raises ValueError.
"""


def test_docstrings_become_markdown() -> None:
    spec = spec_from_file_location("docstrings", DOCS / "docstrings.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.markdown(DOCSTRING) == RENDERED


PAGES = [ROOT / "README.md", *DOCS.rglob("*.md"), *ROOT.glob("*/[A-Z]*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^()\s]+)\)", text):
        assert "://" in target or (page.parent / target.partition("#")[0]).exists(), target
