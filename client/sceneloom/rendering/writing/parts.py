"""Files that appear whole: written under a hidden name beside their place and renamed into it.

A part's name says which process writes it, so that the parts of killed ones can be swept and those
of others are left alone.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

_PART = re.compile(r"\.sceneloom-(\d+)-([0-9a-f]+)-\d+\.(.+)\.part")
_HOST = socket.gethostname() or "localhost"
_TOKEN = secrets.token_hex(4)  # a later process of this number has another one
_numbers = itertools.count()
_FOREIGN_SECONDS = 86400.0


def new_part(folder: Path) -> Path:
    """A name for a part of this process in a folder; each call gives another one."""
    return folder / f".sceneloom-{os.getpid()}-{_TOKEN}-{next(_numbers)}.{_HOST}.part"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file in one step; missing folders are made, an older file is replaced.

    Raises:
        OSError: the place cannot be written; nothing is left there.
    """
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = new_part(path.parent)
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        if part is not None:
            remove_part(part)
        raise OSError(error.errno, error.strerror, str(path)) from None


def publish(part: Path, path: Path) -> None:
    """Have a finished part on the disk, and rename it into its place: also after a power cut it is
    whole there.

    Raises:
        OSError: the place cannot be written; the part is still there.
    """
    _flush(part)
    part.replace(path)
    with contextlib.suppress(OSError):  # some file systems cannot flush folders
        _flush(path.parent)


def remove_part(part: Path) -> None:
    """Remove a part, if it is there."""
    with contextlib.suppress(OSError):
        part.unlink()


def sweep(folder: Path, *, deep: bool) -> None:
    """Remove the parts of processes that are gone; what cannot be removed stays.

    Args:
        folder: where to look.
        deep: look in its folders, too.
    """
    for path in _files(folder, deep):
        match = _PART.fullmatch(path.name)
        if match and _is_gone(path, int(match[1]), match[2], match[3]):
            remove_part(path)


def _files(folder: Path, deep: bool) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        yield from (Path(root) / name for name in names)
        if not deep:
            return


def _is_gone(part: Path, pid: int, token: str, host: str) -> bool:
    """Whether the process that wrote a part is gone; of another machine's, after a day."""
    if host != _HOST:
        try:
            return time.time() - part.stat().st_mtime > _FOREIGN_SECONDS
        except OSError:
            return False
    if pid == os.getpid():
        return token != _TOKEN
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # somebody else's
        return False
    return False


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
