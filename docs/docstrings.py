"""Docstrings for the site. They are plain sentences, so that little is to be done.

Lines that begin with `name:` become items of a list, and characters that Markdown would take for markup are
escaped, except in code: in backticks or indented by four spaces.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_NAMED = re.compile(r"([a-z]\w*(?:, \w+)*): ")
_ERRORS = re.compile(r"(?:Raises|Returns) ")


class PlainSentences(griffe.Extension):
    """Turns every docstring that is loaded to Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(docstring: str) -> str:
    """The docstring's paragraphs as Markdown."""
    return "\n\n".join(map(_paragraph, docstring.split("\n\n")))


def _paragraph(text: str) -> str:
    if text.startswith("    "):
        return text
    lines: list[str] = []
    listed = named = False
    for line in text.split("\n"):
        match = _NAMED.match(line)
        item = line.lstrip().startswith("- ")
        if match or (item and not named):
            # Markdown begins a list only behind an empty line.
            lines += [""] if lines and not listed else []
            listed, named = True, named or bool(match)
        elif listed and _ERRORS.match(line):
            lines.append("")
            listed = named = False
        if match:
            names = ", ".join(f"`{name}`" for name in match[1].split(", "))
            lines.append(f"- {names}: {_escaped(line[match.end() :])}")
        elif named:
            lines.append(" " * (4 if item else 2) + _escaped(line.lstrip() if item else line))
        else:
            lines.append(_escaped(line.lstrip() if item else line))
    return "\n".join(lines)


def _escaped(line: str) -> str:
    """What isn't in backticks without markup."""
    parts = re.split(r"(`[^`]*`)", line)
    escape = re.compile(r"([*\\\[\]|])")
    return "".join(
        part if part[:1] == "`" else escape.sub(r"\\\1", part.replace("<", "&lt;")) for part in parts
    )
