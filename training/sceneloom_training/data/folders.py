"""Finding a data set's files, and which belong together, without opening any of them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from sceneloom.errors import DataSetError

# What publishers append to the name that the files of one sample share.
_KIND = re.compile(
    r"([_-]gt(Fine|Coarse))?"
    r"[_-](labelIds|labelTrainIds|instanceIds|labels?|instances?|inst|leftImg8bit|img|images?)$",
    re.IGNORECASE,
)

_Of = TypeVar("_Of")


def check_folder(folder: Path, expected: str) -> Path:
    """The folder itself; raises DataSetError that says what was expected if it is not there."""
    if not folder.is_dir():
        raise DataSetError(f"{folder}: no such folder; expected {expected}")
    return folder


def check_split(split: str, valid: Sequence[str], layout: str) -> None:
    """Refuse a split that the layout does not have; raises DataSetError that lists those it has."""
    if split not in valid:
        raise DataSetError(f"{layout} has no split {split!r}; it has {', '.join(valid)}")


def sample_name(name: str) -> str:
    """The name of a sample: that of one of its files without what publishers append."""
    return _KIND.sub("", name)


def find_files(
    folder: Path, suffixes: Sequence[str], *, ending: str | None = None
) -> dict[str, Path]:
    """Find the files of a folder, searched to the bottom, by the name of their sample.

    Args:
        folder: where to search; hidden files are left out.
        suffixes: file endings to take, in lower case.
        ending: take only names that end with it, and strip it (``_leftImg8bit``, or nothing); None
            takes all names and strips what publishers append.

    Returns:
        sample's name (path below `folder`, with forward slashes) -> file, sorted by name.

    Raises:
        DataSetError: two files are of one sample.
    """
    found: dict[str, Path] = {}
    # Strings, not the Path objects of rglob: CelebAMask-HQ has some 390,000 masks.
    for parent, folders, names in os.walk(folder):
        folders.sort()
        below = os.path.relpath(parent, folder).replace(os.sep, "/")
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)  # noqa: PTH122
            if suffix.lower() not in suffixes or name.startswith("."):
                continue
            if ending is not None and not stem.endswith(ending):
                continue
            stem = sample_name(stem) if ending is None else stem.removesuffix(ending)
            key = stem if below == "." else f"{below}/{stem}"
            path = Path(parent, name)
            if key in found:
                raise DataSetError(f"{path} and {found[key]} would both be of the sample {key}")
            found[key] = path
    return dict(sorted(found.items()))


def check_partners(
    first: Mapping[str, Path], second: Mapping[str, Path], first_in: Path, second_in: Path
) -> None:
    """Refuse files without a partner of the same sample in the other folder.

    Raises:
        DataSetError: names the first such file, and how many more there are.
    """
    for here, there, folder in ((first, second, second_in), (second, first, first_in)):
        alone = [key for key in here if key not in there]
        if alone:
            more = f" ({len(alone) - 1} more like it)" if len(alone) > 1 else ""
            raise DataSetError(
                f"{here[alone[0]]}: has no partner; expected a file of {alone[0]} in {folder}{more}"
            )


def not_empty(found: Mapping[str, _Of], folder: Path, expected: str) -> Mapping[str, _Of]:
    """What was found; raises DataSetError that says what was expected if that is nothing."""
    if not found:
        raise DataSetError(f"{folder}: holds none of the files that were expected ({expected})")
    return found


def read_lines(path: Path, why: str) -> list[str]:
    """Lines of a publisher's list, without empty ones.

    Raises:
        DataSetError: the file is not there (`why` says what it is for) or is not text.
    """
    if not path.is_file():
        raise DataSetError(f"{path}: no such file; {why}")
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataSetError(f"{path}: not readable as text ({error})") from None
    return [line.strip() for line in lines if line.strip()]
