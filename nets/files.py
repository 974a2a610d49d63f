"""Safe writing of output files: a temporary name first, then a rename; never over a file unasked."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def check_writable(path: Path, force: bool) -> None:
    """Raise OSError unless `path` may be written: a new name, or with `force` a regular file's."""
    if os.path.lexists(path):
        if not force:
            raise FileExistsError(f"{path} exists; --force overwrites it")
        if not path.is_file():
            raise FileExistsError(f"{path} is not a regular file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a folder")


def write_file(path: Path, write: Callable[[Path], object], force: bool) -> None:
    """Call `write` with a temporary path beside `path`, then rename it. Leaves nothing behind on failure."""
    check_writable(path, force)
    temporary = path.parent / f".quadrans-{secrets.token_hex(8)}.tmp"
    try:
        temporary.touch(exist_ok=False)
        write(temporary)
        check_writable(path, force)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
