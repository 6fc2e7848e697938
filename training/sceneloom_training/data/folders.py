"""Finding a data set's files, and which belong together, without opening any of them."""

from __future__ import annotations

import dataclasses
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from sceneloom.errors import DataSetError
from sceneloom.file_tree import OTHER_KIND, LeftOut, describe, list_files
from sceneloom.text import reason

OTHER_NAME = "of a name that is not looked for"
"""Reason of a file that does not end as those of its folder do: Cityscapes' ``_color.png``."""

# What publishers append to the name that the files of one sample share.
_KIND = re.compile(
    r"([_-]gt(Fine|Coarse))?"
    r"[_-](labelIds|labelTrainIds|instanceIds|labels?|instances?|inst|leftImg8bit|img|images?)$",
    re.IGNORECASE,
)


def check_folder(folder: Path, expected: str) -> Path:
    """The folder itself; raises DataSetError that says what was expected if it is not there."""
    if not folder.is_dir():
        raise DataSetError(f"{folder}: no such folder; expected {expected}")
    return folder


def has_folder(folder: Path) -> bool:
    """Whether a folder that a data set may have is there.

    Raises:
        DataSetError: something else has its name, or a folder has it in another case: without a
            word, a model would be trained without what is in it.
    """
    if folder.is_dir():
        return True
    for other in folder.parent.iterdir() if folder.parent.is_dir() else ():
        if other.name.casefold() != folder.name.casefold():
            continue
        if other.name != folder.name:
            raise DataSetError(f"{other}: is not read; rename it to {folder.name}")
        kind = "a link that leads nowhere" if other.is_symlink() else "not a folder"
        raise DataSetError(f"{other}: {kind}; expected a folder, or nothing of this name")
    return False


def check_split(split: str, valid: Sequence[str], layout: str) -> None:
    """Refuse a split that the layout does not have; raises DataSetError that lists those it has."""
    if split not in valid:
        raise DataSetError(f"{layout} has no split {split!r}; it has {', '.join(valid)}")


def sample_name(name: str) -> str:
    """The name of a sample: that of one of its files without what publishers append."""
    return _KIND.sub("", name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """The files of a folder that belong to samples."""

    folder: Path
    """Where they were searched."""
    files: dict[str, Path]
    """Sample's name (path below `folder`, with forward slashes) -> file, sorted by name."""
    suffixes: tuple[str, ...]
    """File endings that were taken, in lower case."""
    left_out: tuple[LeftOut, ...]
    """What else is there; names are paths that begin with `folder`."""


def find_files(folder: Path, suffixes: Sequence[str], *, ending: str | None = None) -> Found:
    """Find the files of a folder, searched to the bottom, by the name of their sample.

    Args:
        folder: where to search (`sceneloom.file_tree`).
        suffixes: file endings to take, in lower case.
        ending: take only names that end with it, and strip it (``_leftImg8bit``, or nothing); None
            takes all names and strips what publishers append.

    Raises:
        DataSetError: two files are of one sample, or a folder cannot be read.
    """
    try:
        names, left_out = list_files(folder)
    except OSError as error:
        raise DataSetError(
            f"{error.filename or folder}: cannot be read ({reason(error)})"
        ) from None
    prefix = os.path.join(folder, "")  # noqa: PTH118 - strings: CelebAMask-HQ has 390,000 masks
    others = []
    found: dict[str, Path] = {}
    for name in names:
        key, suffix = os.path.splitext(name)  # noqa: PTH122
        if suffix.lower() not in suffixes:
            others.append(LeftOut(reason=OTHER_KIND, name=prefix + name))
            continue
        if ending is not None and not key.endswith(ending):
            others.append(LeftOut(reason=OTHER_NAME, name=prefix + name))
            continue
        below, slash, stem = key.rpartition("/")
        stem = sample_name(stem) if ending is None else stem.removesuffix(ending)
        key = below + slash + stem
        if key in found:
            raise DataSetError(f"{prefix}{name} and {found[key]} would both be of the sample {key}")
        found[key] = Path(prefix + name)
    hidden = [dataclasses.replace(each, name=prefix + each.name) for each in left_out]
    return Found(
        folder=folder,
        files=dict(sorted(found.items())),
        suffixes=tuple(suffixes),
        left_out=tuple(hidden + others),
    )


def check_partners(first: Found, second: Found) -> None:
    """Refuse files without a partner of the same sample in the other folder.

    Raises:
        DataSetError: names the first such file, what is there in its partner's place, and how many
            more there are.
    """
    for here, there in ((first, second), (second, first)):
        alone = [key for key in here.files if key not in there.files]
        if alone:
            more = f" ({len(alone) - 1} more like it)" if len(alone) > 1 else ""
            raise DataSetError(
                f"{here.files[alone[0]]}: has no partner; expected a file of {alone[0]} in "
                f"{there.folder}{of_another_kind(alone[0], there)}"
                f"{_of_another_spelling(alone[0], there)}{more}"
            )


def of_another_kind(key: str, found: Found) -> str:
    """Words on a sample's file that is not of the kinds that are read; empty where none is."""
    for other in found.left_out:
        path = Path(other.name)
        below = path.relative_to(found.folder).with_suffix("").as_posix()
        if other.reason == OTHER_KIND and key in (below, sample_name(below)):
            return f", where {path.name} is none of the kinds that are read: " + ", ".join(
                found.suffixes
            )
    return ""


def _of_another_spelling(key: str, found: Found) -> str:
    """Words on a file whose name differs in case, or in how an accent is encoded."""

    def plain(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()

    for other, path in found.files.items():
        if plain(other) == plain(key):
            return f", where {path.name} is spelled differently ({other!a}, not {key!a})"
    return ""


def not_empty(found: Found, expected: str) -> Found:
    """What was found; raises DataSetError that says what was expected if that is nothing."""
    if not found.files:
        others = describe(found.left_out)
        raise DataSetError(
            f"{found.folder}: holds none of the files that were expected ({expected})"
            + "".join(f"; {line}" for line in others)
        )
    return found


def unused(*searches: Found) -> tuple[LeftOut, ...]:
    """What several searches of a data set's folders left out, and none of them took; each once."""
    taken = {str(path) for found in searches for path in found.files.values()}
    others = {each.name: each for found in searches for each in found.left_out}
    return tuple(each for name, each in sorted(others.items()) if name not in taken)


def read_lines(path: Path, why: str) -> list[str]:
    """Lines of a publisher's list, without empty ones.

    Raises:
        DataSetError: the file is not there (`why` says what it is for) or is not text.
    """
    if not path.is_file():
        raise DataSetError(f"{path}: no such file; {why}")
    try:
        lines = path.read_text("utf-8-sig").splitlines()  # Windows' editors put a BOM
    except (OSError, UnicodeDecodeError) as error:
        raise DataSetError(f"{path}: not readable as text ({error})") from None
    return [line.strip() for line in lines if line.strip()]
