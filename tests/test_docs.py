"""The pages of docs/ say what the code has."""

from __future__ import annotations

import re
from pathlib import Path

from quadrans.nets.listing import systems

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "systems.md").read_text()


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
