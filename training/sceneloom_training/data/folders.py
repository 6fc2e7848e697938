"""Finding a data set's files, and which belong together, without opening any of them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from typing_extensions import Self

from sceneloom.errors import DataSetError, InputError
from sceneloom.files import OTHER_KIND, LeftOut, describe, list_files
from sceneloom.map_reading import MapReader
from sceneloom.maps import InstanceMap, LabelMap, OnUnknown
from sceneloom.photographs import read_picture
from sceneloom.schema import LabelSchema
from sceneloom.text import reason
from sceneloom_training.data.sample import DataSet, Sample, check_same_size

OTHER_NAME = "of a name that is not looked for"
"""Reason of a file with another ending than those of its folder: Cityscapes' ``_color.png``."""

# Endings that publishers append to the name of a sample.
_KIND = re.compile(
    r"([_-]gt(Fine|Coarse))?"
    r"[_-](labelIds|labelTrainIds|instanceIds|labels?|instances?|inst|leftImg8bit|img|images?)$",
    re.IGNORECASE,
)
# Isaac Replicator's names begin with the kind.
_REPLICATOR_KIND = re.compile(r"^(rgb|semantic_segmentation|instance_segmentation)_(?=\d+$)")


def check_folder(folder: Path, expected: str) -> Path:
    """Return the folder. Raises DataSetError with the expected contents if it is missing."""
    if not folder.is_dir():
        raise DataSetError(f"{folder}: no such folder; expected {expected}")
    return folder


def has_folder(folder: Path) -> bool:
    """Whether an optional folder exists. Raises DataSetError if it is misspelled or no folder."""
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


def split_folder(root: Path, split: str, contents: Mapping[str, str]) -> Path:
    """Return the folder ``<split><ending>`` of the first ending in `contents`, ending -> files
    there. Raises DataSetError with the splits, or all expected folders without one.
    """
    ending, files = next(iter(contents.items()))
    listed = ", ".join(f"{split}{each} ({of})" for each, of in contents.items())
    check_folder(root, f"a folder with {listed}")
    folder = root / f"{split}{ending}"
    if not folder.is_dir():
        splits = sorted(p.name.removesuffix(ending) for p in root.glob(f"*{ending}") if p.is_dir())
        others = f"the splits are {', '.join(splits)}"
        if not splits:
            others = f"no <split>{ending} exists; expected in {root}: {listed}"
        raise DataSetError(f"{folder}: no such folder of {files}; {others}")
    return folder


def sample_name(name: str) -> str:
    """Return a sample's name: a file's name without what publishers put before or behind it."""
    return _REPLICATOR_KIND.sub("", _KIND.sub("", name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """The files of a folder that belong to samples."""

    folder: Path
    files: dict[str, Path]
    """Sample's name (path below `folder`, with forward slashes) -> file, sorted by name."""
    suffixes: tuple[str, ...]
    """File endings of the search, in lower case."""
    left_out: tuple[LeftOut, ...]
    """All other files. Names are paths that begin with `folder`."""


def find_files(
    folder: Path, suffixes: Sequence[str], *, ending: str | None = None, expected: str = ""
) -> Found:
    """Find the files with some suffixes, at any depth, by the name of their sample. With an
    `ending` (``_leftImg8bit``), only names with it, stripped of it; with an empty one, all names as
    they are; None strips publishers' endings. Raises DataSetError if two files are of one sample, a
    folder cannot be read, or no file is found and `expected` has names for that error.
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
    if expected and not found:
        raise DataSetError(
            f"{folder}: holds none of the files that were expected ({expected})"
            + "".join(f"; {line}" for line in describe(hidden + others))
        )
    return Found(
        folder=folder,
        files=dict(sorted(found.items())),
        suffixes=tuple(suffixes),
        left_out=tuple(hidden + others),
    )


def match_partners(first: Found, *others: Found) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the samples with a file in every folder, in order, and the incomplete ones, each with
    a sentence.
    """
    alone: dict[str, list[str]] = {}
    for other in others:
        for here, there in ((other, first), (first, other)):
            for key in here.files:
                if key not in there.files:
                    alone.setdefault(key, []).append(
                        f"{here.files[key]}: has no partner; expected a file of {key} in "
                        f"{there.folder}{of_another_kind(key, there)}"
                        f"{_of_another_spelling(key, there)}"
                    )
    complete = tuple(key for key in first.files if key not in alone)
    return complete, {key: "; ".join(sentences) for key, sentences in alone.items()}


def of_another_kind(key: str, found: Found) -> str:
    """Describe a sample's file of another kind. Empty if none exists."""
    for other in found.left_out:
        path = Path(other.name)
        below = path.relative_to(found.folder).with_suffix("").as_posix()
        if other.reason == OTHER_KIND and key in (below, sample_name(below)):
            return f", where {path.name} is none of the kinds that are read: " + ", ".join(
                found.suffixes
            )
    return ""


def _of_another_spelling(key: str, found: Found) -> str:
    """Describe a file whose name differs in case or in the encoding of an accent."""

    def plain(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()

    for other, path in found.files.items():
        if plain(other) == plain(key):
            return f", where {path.name} is spelled differently ({other!a}, not {key!a})"
    return ""


def unused(*searches: Found) -> tuple[LeftOut, ...]:
    """Files that several searches of a data set's folders left out and none took, each once."""
    taken = {str(path) for found in searches for path in found.files.values()}
    others = {each.name: each for found in searches for each in found.left_out}
    return tuple(each for name, each in sorted(others.items()) if name not in taken)


def read_lines(path: Path, why: str) -> list[str]:
    """Read the non-empty lines of a publisher's list, read for `why`. Raises DataSetError."""
    if not path.is_file():
        raise DataSetError(f"{path}: no such file; {why}")
    try:
        lines = path.read_text("utf-8-sig").splitlines()  # Windows' editors put a BOM
    except (OSError, UnicodeDecodeError) as error:
        raise DataSetError(f"{path}: not readable as text ({error})") from None
    return [line.strip() for line in lines if line.strip()]


@dataclasses.dataclass(kw_only=True, eq=False)
class TripleDataSet(DataSet):
    """Photographs, label maps and perhaps instance maps in files of their own."""

    schema: LabelSchema
    files: Sequence[tuple[Path, ...]]
    """Photograph, label map and perhaps instance map of each sample."""
    reader: MapReader | None = None
    """Reader of the maps; by default of ids of the schema."""

    def __post_init__(self) -> None:
        if self.reader is None:
            self.reader = MapReader(self.schema, unknown=self.unknown)

    @classmethod
    def of(
        cls,
        photos: Found,
        labels: Found,
        instances: Found | None,
        *,
        schema: LabelSchema,
        unknown: OnUnknown,
    ) -> Self:
        """Join found files."""
        found = [photos, labels] if instances is None else [photos, labels, instances]
        keys, incomplete = match_partners(*found)
        return cls(
            keys=keys,
            incomplete=incomplete,
            files=[tuple(each.files[key] for each in found) for key in keys],
            schema=schema,
            unknown=unknown,
            has_instances=instances is not None,
            left_out=unused(*found),
        )

    def files_of_one_size(self, index: int) -> tuple[Path, ...]:
        """See `DataSet.files_of_one_size`."""
        return self.files[index]

    def inspect(self, index: int) -> tuple[Sample | None, list[InputError]]:
        """Read one sample, all files of it also where one is wrong. See `DataSet.inspect`."""
        photo_file, label_file, *instance_files = self.files[index]
        wrong: list[InputError] = []
        photo = label_map = instance_map = None
        with _noted(wrong):
            photo = read_picture(photo_file)
        with _noted(wrong):
            assert self.reader is not None
            label_map = self.reader.label_map(label_file)
            if photo is not None:
                check_same_size(photo, photo_file, label_map, label_file)
        for path in instance_files:
            with _noted(wrong):
                instance_map = self.read_instances(path, label_map, label_file)
                if photo is not None:
                    check_same_size(photo, photo_file, instance_map, path)
        if wrong:
            return None, wrong
        assert photo is not None
        return Sample(photo=photo, label_map=label_map, instance_map=instance_map), []

    def read(self, index: int) -> Sample:
        """Read one sample. See `DataSet.read`."""
        sample, wrong = self.inspect(index)
        if sample is None:
            raise wrong[0]
        return sample

    def read_instances(
        self, path: Path, label_map: LabelMap | None, label_file: Path
    ) -> InstanceMap:
        """Read the instance map, int32 [H, W], of the sample with this label map, None where that
        is wrong.
        """
        assert self.reader is not None
        return self.reader.instance_map(path)


@contextlib.contextmanager
def _noted(wrong: list[InputError]) -> Iterator[None]:
    """Collect the error of a file."""
    try:
        yield
    except InputError as error:
        wrong.append(error)
