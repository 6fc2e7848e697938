"""Shared memory regions of the embedded server: named for the process that owns them, swept if it
is gone.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from pathlib import Path

FOLDER = Path("/dev/shm")
_NAME = re.compile(r"sceneloom-(\d+)-.*")


_numbers = itertools.count(1)


def new_region_prefix() -> str:
    """Prefix for the regions of one server of this process: ``sceneloom-<pid>-<n>-``."""
    return f"sceneloom-{os.getpid()}-{next(_numbers)}-"


def remove_regions(prefix: str) -> None:
    """Remove the regions of one server."""
    for path in FOLDER.glob(prefix + "*"):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def sweep_regions() -> list[str]:
    """Remove the regions whose process is gone (killed before it could).

    Returns:
        the names removed.
    """
    removed = []
    for path in FOLDER.glob("sceneloom-*"):
        match = _NAME.fullmatch(path.name)
        if match and not _alive(int(match[1])):
            with contextlib.suppress(FileNotFoundError, PermissionError):
                path.unlink()
                removed.append(path.name)
    return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
