"""The files of a folder, searched to the bottom, and what a reader of a data set leaves out.

Links to folders are followed; hidden files and folders (names that begin with a dot) are left out.
Nothing is left out silently: a reader returns what it leaves out as `LeftOut`, for the summary of
its command.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

from sceneloom.text import printable

HIDDEN = "hidden"
"""Reason of a file or folder whose name begins with a dot."""
OTHER_KIND = "of a kind that is not read"
"""Reason of a file whose ending no reader knows."""
NAMED = 5
"""Names that a summary gives for each reason."""


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class LeftOut:
    """A file or folder that a data set does not take."""

    reason: str
    """Why, in words that can stand behind a count: "hidden", "of a kind that is not read"."""
    name: str
    """Its path, with slashes."""
    count: int = 1
    """How many there are, this one the first: archives of millions are not named one by one."""


def list_files(folder: str | Path) -> tuple[list[str], list[LeftOut]]:
    """List the files below a folder.

    Args:
        folder: where to search, to the bottom; links to folders are followed, but not into a
            folder that holds the link.

    Returns:
        names relative to `folder`, with slashes, sorted; links that lead nowhere are among them, so
        that reading them fails by name. And what is left out: hidden files, hidden folders (one
        entry for all they hold), links in a circle.

    Raises:
        OSError: a folder cannot be read.
    """
    files: list[str] = []
    left_out: list[LeftOut] = []
    status = Path(folder).stat()
    # (path, prefix of the names in it, identity of it and of the folders around it)
    pending: list[tuple[str, str, tuple[tuple[int, int], ...]]] = [
        (os.fspath(folder), "", ((status.st_dev, status.st_ino),))
    ]
    while pending:
        path, prefix, around = pending.pop()
        with os.scandir(path) as entries:
            for entry in entries:
                name = prefix + entry.name
                is_folder = _is_folder(entry)
                if entry.name.startswith("."):
                    left_out.append(LeftOut(reason=HIDDEN, name=name + "/" * is_folder))
                elif not is_folder:
                    files.append(name)
                else:
                    status = Path(entry.path).stat()
                    identity = (status.st_dev, status.st_ino)
                    if identity in around:
                        reason = "a link to a folder around it"
                        left_out.append(LeftOut(reason=reason, name=name + "/"))
                    else:
                        pending.append((entry.path, name + "/", (*around, identity)))
    return sorted(files), sorted(left_out)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere, such as one to itself: reading it fails by name
        return False


def split_hidden(names: Iterable[str]) -> tuple[list[str], list[LeftOut]]:
    """Tell hidden names from the others, where no folder can be searched: in stores and archives.

    Args:
        names: paths with slashes.

    Returns:
        the others, in their order; and what is hidden, one entry for all that a hidden folder
        holds.
    """
    others: list[str] = []
    hidden: set[str] = set()
    for name in names:
        parts = name.split("/")
        first = next((n for n, part in enumerate(parts) if is_hidden(part)), None)
        if first is None:
            others.append(name)
        else:
            hidden.add("/".join(parts[: first + 1]) + "/" * (first + 1 < len(parts)))
    return others, [LeftOut(reason=HIDDEN, name=name) for name in sorted(hidden)]


def is_hidden(part: str) -> bool:
    """Whether a file or folder of this name is hidden; ``..`` is not, it is refused elsewhere."""
    return part.startswith(".") and part not in (".", "..")


def describe(left_out: Iterable[LeftOut]) -> list[str]:
    """Lines for a summary, one for each reason: how many entries, and the first names."""
    by_reason: dict[str, list[LeftOut]] = {}
    for one in sorted(left_out):
        by_reason.setdefault(one.reason, []).append(one)
    lines = []
    for reason, entries in by_reason.items():
        count = sum(one.count for one in entries)
        named = ", ".join(printable(one.name) for one in entries[:NAMED])
        more = ", ..." if count > min(NAMED, len(entries)) else ""
        lines.append(f"left out: {count:,} {reason} ({named}{more})")
    return lines
