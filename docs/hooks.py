"""Pages that live beside the code, in the site: no text is kept twice."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "README.md": "index.md",
    "entropy/FORMAT.md": "format.md",
    "kernels/ARITHMETIC.md": "arithmetic.md",
    "nets/CONTAINER.md": "container.md",
}
"""The page of the site that a file of the repository is."""

EXAMPLES = "examples.md"
_SOURCES = {page: source for source, page in PAGES.items()}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
_CODE = re.compile(r"^```[\s\S]*?^```$|(?:^    .*\n)+", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that aren't in docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    files.append(File.generated(config, EXAMPLES, content=_examples()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links are those of the repository; here they lead to its page, or are text where it has none."""
    name = page.file.src_uri
    if name == EXAMPLES:
        return markdown
    source = _SOURCES.get(name, f"docs/{name}")
    parts, end = [], 0
    for code in _CODE.finditer(markdown):
        parts += [_linked(markdown[end : code.start()], name, source), code.group()]
        end = code.end()
    return "".join(parts) + _linked(markdown[end:], name, source)


def _linked(text: str, page: str, source: str) -> str:
    def replaced(link: re.Match[str]) -> str:
        image, label, target = link.groups()
        path, mark, anchor = target.partition("#")
        if not path or "://" in path:
            return link.group()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if not (ROOT / path).exists():
            return link.group()
        if path in ("examples", *(example for example in map(str, _scripts()))):
            path = f"docs/{EXAMPLES}"
        elif path in PAGES:
            path = f"docs/{PAGES[path]}"
        if not path.startswith("docs/"):
            return label
        there = posixpath.relpath(path.removeprefix("docs/"), posixpath.dirname(page) or ".")
        return f"{image}[{label}]({there}{mark}{anchor})"

    return _LINK.sub(replaced, text)


def _scripts() -> list[Path]:
    folder = ROOT / "examples"
    return [path.relative_to(ROOT) for path in sorted([*folder.glob("*.py"), *folder.glob("*.ipynb")])]


def _examples() -> str:
    """examples/ as one page: what a script's docstring says, and the script."""
    parts = [(ROOT / "examples/README.md").read_text()]
    for path in _scripts():
        text = (ROOT / path).read_text()
        parts.append(f"## {path.name}")
        if path.suffix == ".ipynb":
            for cell in json.loads(text)["cells"]:
                source = "".join(cell["source"])
                parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
        else:
            parts.append(f"```python\n{text.strip()}\n```")
    return "\n\n".join(parts)
