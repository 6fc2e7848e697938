"""The files of a folder, searched to the bottom, and the report on files left out.

Links to folders are followed; hidden files and folders (names that begin with a dot) are left out.
A reader returns everything that it leaves out as `LeftOut`, for the summary of its command.
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
"""Reason of a file with an unknown ending."""
NAMED = 5
"""Names in a summary for each reason."""


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class LeftOut:
    """A file or folder that a data set leaves out."""

    reason: str
    """Words that fit behind a count: "hidden", "of a kind that is not read"."""
    name: str
    """Path, with slashes."""
    count: int = 1
    """Number of such entries, this one the first: archives of millions are not listed."""


def list_files(folder: str | Path) -> tuple[list[str], list[LeftOut]]:
    """List the files below a folder, to the bottom; raises OSError if a folder cannot be read.

    Links to folders are followed, but not to a folder around the link. Returns names relative to
    the folder, with slashes, sorted, broken links included (reading them fails by name); and left
    out: hidden files, hidden folders (one entry each), links in a circle.
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
                try:
                    is_folder = entry.is_dir()
                except OSError:  # a link that leads nowhere, such as one to itself
                    is_folder = False
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


def split_hidden(names: Iterable[str]) -> tuple[list[str], list[LeftOut]]:
    """Split paths with slashes, of stores and archives, into visible names, in their order, and
    hidden ones, one entry for each hidden folder.
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
    """Whether a file or folder is hidden; ``..`` is not, it is refused elsewhere."""
    return part.startswith(".") and part not in (".", "..")


def describe(left_out: Iterable[LeftOut]) -> list[str]:
    """Lines for a summary, one for each reason: number of entries and first names."""
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
