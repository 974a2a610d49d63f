"""What commands share: consoles, progress, and errors turned into lines and exit codes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

FAILURE = 2
"""The exit code."""

# Markup off everywhere: file names and model names are data.
console = Console(markup=False, highlight=False, soft_wrap=True)
errors = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)

Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite files that exist.")]


def clean(text: str) -> str:
    """The text in one line, without anything that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


@contextmanager
def reported(where: Path | str = "") -> Iterator[list[str]]:
    """Turn the errors that a user can cause into one line on stderr, noted in the list that it gives."""
    failures: list[str] = []
    try:
        yield failures
    except (ValueError, OSError, ImportError, MemoryError, ArithmeticError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.strerror:
            text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        if where and str(where) not in text:
            text = f"{where}: {text or type(error).__name__}"
        errors.print(f"quadrans: {clean(text) or type(error).__name__}")
        failures.append(text)


def fail_if(failed: Iterable[Any]) -> None:
    """Exit with FAILURE if anything failed."""
    if any(failed):
        raise typer.Exit(FAILURE)


def progress_bar(disable: bool = False) -> Progress:
    """Shown on terminals alone, and gone when it is done."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=console, disable=disable or not console.is_terminal, transient=True)


def wide() -> Console:
    """For tables of figures, which are of no use with their columns cut."""
    return Console(markup=False, highlight=False, soft_wrap=True, width=max(console.width, 180))


def fail_if_any(failed: list[str], wrong: list[str]) -> None:
    """As `fail_if`, after a line for all that a benchmark found wrong."""
    for line in wrong:
        errors.print(f"quadrans: {clean(line)}")
    fail_if([*failed, *wrong])
