"""Safe writing of output files: a temporary name first, then a rename; never over a file unasked."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def check_writable(path: Path, force: bool) -> None:
    """Raise FileExistsError for a file that `force` does not release, FileNotFoundError for no folder."""
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists; --force overwrites it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a folder")


def write_file(path: Path, write: Callable[[Path], object], force: bool) -> None:
    """Call `write` with a temporary path beside `path`, then rename it. Leaves nothing behind on failure."""
    check_writable(path, force)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        # mkstemp makes files private to the user; an output gets the permissions that any new file would.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        check_writable(path, force)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
