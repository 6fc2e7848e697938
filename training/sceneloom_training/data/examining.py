"""Looking at a whole data set before its first sample is used: what is left out, which files do not
fit together by their headers, which photographs are turned.

    for line in examine(data, settings.root):
        print(line)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sceneloom.errors import DataSetError, ImageReadError
from sceneloom.file_tree import LeftOut, describe
from sceneloom.text import printable
from sceneloom_training.data.headers import read_header
from sceneloom_training.data.sample import DataSet, size_difference

_THREADS = 8
"""They wait for the disk or the network, each for a file."""
_LISTED = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Seen:
    """A sample's headers."""

    problem: str | None = None
    """What is wrong with its files, or None."""
    turned: Path | None = None
    """Its photograph, where that has an orientation other than 1."""


def examine(data: DataSet, root: Path | None) -> list[str]:
    """Look at the headers of all files.

    Args:
        data: the data set.
        root: its folder, which names of what is left out are shortened by.

    Returns:
        lines for the summary of a command.

    Raises:
        DataSetError: files of one sample differ in size, or cannot be read; lists the first ten.
    """
    files = [each for each in map(data.files_of_one_size, range(len(data))) if each]
    with ThreadPoolExecutor(_THREADS) as pool:
        seen = list(pool.map(_look, files))
    problems = [each.problem for each in seen if each.problem is not None]
    if problems:
        raise DataSetError(_listed(problems))
    turned = [each.turned for each in seen if each.turned is not None]
    return [*describe_left_out(data.left_out, root), *_describe_turned(turned)]


def describe_left_out(left_out: Sequence[LeftOut], root: Path | None) -> list[str]:
    """Lines of what is left out, with names that begin below `root`."""
    below = "" if root is None else f"{root}/"
    return describe(
        dataclasses.replace(each, name=each.name.removeprefix(below)) for each in left_out
    )


def _look(files: tuple[Path, ...]) -> _Seen:
    photo, *others = files
    try:
        first = read_header(photo)
        for other in others:
            found = read_header(other)
            if first and found and found.size != first.size:
                return _Seen(problem=size_difference(photo, first.size, other, found.size))
    except ImageReadError as error:
        return _Seen(problem=str(error))
    return _Seen(turned=photo if first and first.orientation != 1 else None)


def _listed(problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    return f"{len(problems)} samples cannot be used: {'; '.join(problems[:_LISTED])}{more}"


def _describe_turned(photos: Sequence[Path]) -> list[str]:
    if not photos:
        return []
    names = ", ".join(printable(path.name) for path in photos[:3]) + (
        ", ..." if len(photos) > 3 else ""
    )
    have = "photograph has" if len(photos) == 1 else "photographs have"
    return [
        f"{len(photos):,} {have} an EXIF orientation other than 1 ({names}), which is not applied: "
        "label maps are taken to lie on the pixels as they are stored. If yours were drawn on the "
        "turned pictures, turn the photographs first: mogrify -auto-orient FILES, or exiftran -ai"
    ]
