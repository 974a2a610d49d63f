"""CUDA sources of this folder as one text each: with the headers inlined, no compiler needs a path."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_HERE = Path(__file__).parent
_INCLUDE = re.compile(r'^#include "([\w.]+)"\n', re.MULTILINE)


@cache
def source(name: str) -> str:
    """The text of a .cu file, with each of the headers it includes where that is included first."""
    seen: set[str] = set()

    def inlined(file: str) -> str:
        if file in seen:
            return ""
        seen.add(file)
        text = (_HERE / file).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return _INCLUDE.sub(lambda match: inlined(match[1]), text)

    return inlined(name)
