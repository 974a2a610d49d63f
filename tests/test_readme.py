"""The README's examples run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()
EXAMPLES = dict(re.findall(r"<!-- example: (\w+) -->\n```python\n(.*?)```", README, re.DOTALL))


def test_examples_are_found() -> None:
    assert README.count("```python") == len(EXAMPLES) == 5


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str) -> None:
    exec(compile(EXAMPLES[name], f"README example {name}", "exec"), {})
