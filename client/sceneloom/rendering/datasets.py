"""Which format a location names: opens a data set of maps, and a place for pictures.

    source = open_source("s3://bucket/shards/maps-{000000..000099}.tar", wants_instances=True)
    sink = open_sink("s3://bucket/pictures", "jpg", container="tar")

docs/rendering-formats.md says how each is laid out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from sceneloom.errors import InputError
from sceneloom.file_tree import OTHER_KIND, LeftOut, split_hidden
from sceneloom.locations import (
    file_names,
    filesystem,
    folder_names,
    is_folder,
    is_remote,
    join,
    last_part,
    parent,
    reason_of,
)
from sceneloom.pictures import Format
from sceneloom.rendering.folder import FolderSink, FolderSource
from sceneloom.rendering.items import MapItem, Sink, Source, shard_of
from sceneloom.rendering.parquet import ParquetShards, ParquetSource
from sceneloom.rendering.settings import Container, ShardSettings
from sceneloom.rendering.shards import ShardSink
from sceneloom.rendering.tar import TarShards, TarSource
from sceneloom.rendering.zip import ZipSource

# pix2pixHD's layout.
_LABEL_FOLDER, _INSTANCE_FOLDER = "test_label", "test_inst"
_COMPRESSED_TAR = re.compile(r"\.(tgz|tbz2?|txz|tar\.(gz|bz2|xz|zst))$", re.IGNORECASE)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_FILES = 1_000_000


class DataSet(Source, Protocol):
    """A source that knows where its maps lie."""

    def holds(self, place: str) -> bool:
        """Whether pictures at this place would lie among the maps, or be taken for maps the next
        time.
        """


def open_source(
    place: str,
    *,
    labels: str | None = None,
    instances: str | None = None,
    wants_instances: bool = False,
    training_ids: bool = False,
) -> DataSet:
    """Open a data set of maps.

    Args:
        place: a path or URL: of a folder of maps; of a zip file; of a tar file, or several by
            ``maps-{000000..000099}.tar``, or a folder of them; of a Parquet file, likewise.
        labels: where the label maps are: the folder inside a folder or zip file (or absolute, for a
            folder), what stands between key and ending of a tar file's members, or the column of a
            Parquet file. By default test_label, as pix2pixHD has it, or ``label``.
        instances: where the instance maps are, likewise; by default test_inst or ``instance``.
        wants_instances: whether instance maps are looked for at all.
        training_ids: label maps hold training ids: where label ids and training ids lie side by
            side, as Cityscapes publishes them, the latter are taken.

    Raises:
        InputError: there is nothing of that name, no map in it, or it is ambiguous which map
            belongs where; the text names the file.
        MissingDependencyError: a package is not installed that this place needs.
    """
    ending = re.sub(r".*\.", "", place.lower())
    if _COMPRESSED_TAR.search(place):
        raise InputError(
            f"{place}: a compressed tar file, in which nothing can be found without unpacking all "
            "of it; maps are compressed already: give the .tar"
        )
    if ending == "zip":
        folders = _folders(labels, instances, wants_instances)
        return ZipSource(place, *folders, training_ids=training_ids)
    if ending in ("tar", "parquet"):
        return _sharded(place, _existing(place), labels, instances, wants_instances)
    return _open_folder(place, labels, instances, wants_instances, training_ids)


def _folders(
    labels: str | None, instances: str | None, wants_instances: bool
) -> tuple[str, str | None]:
    """The two folders; which of them are named goes by `sceneloom render`'s flags."""
    if not wants_instances:
        return labels or _LABEL_FOLDER, None
    if instances is None and labels is not None:
        raise InputError("this model wants instance maps: name their folder with --instances")
    return labels or _LABEL_FOLDER, instances or _INSTANCE_FOLDER


def _open_folder(
    place: str,
    labels: str | None,
    instances: str | None,
    wants_instances: bool,
    training_ids: bool,
) -> DataSet:
    try:
        if not is_folder(place):
            raise InputError(f"{place}: no such folder")
        label_folder = join(place, labels or _LABEL_FOLDER)
        if not is_folder(label_folder):
            names, left_out = split_hidden(file_names(place))
            shards = [name for name in names if name.lower().endswith((".tar", ".parquet"))]
            if shards:
                others = sorted(set(names) - set(shards))
                left_out += [LeftOut(reason=OTHER_KIND, name=name) for name in others]
                left_out += [
                    LeftOut(reason="in a folder among the shards", name=f"{name}/")
                    for name in folder_names(place)
                ]
                files = [join(place, name) for name in shards]
                return _sharded(place, files, labels, instances, wants_instances, left_out)
            there = ", ".join(folder_names(place)[:8])
            raise InputError(
                f"{label_folder}: no such folder; name the folder of label maps with --labels"
                + (f" ({place} holds {there})" if there else " (. for the folder itself)")
            )
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({reason_of(error)})") from None
    _, instance_folder = _folders(labels, instances, wants_instances)
    return FolderSource(
        label_folder,
        None if instance_folder is None else join(place, instance_folder),
        training_ids=training_ids,
    )


def _sharded(
    place: str,
    files: list[str],
    labels: str | None,
    instances: str | None,
    wants_instances: bool,
    left_out: Sequence[LeftOut] = (),
) -> DataSet:
    kinds = {file.rpartition(".")[2].lower() for file in files}
    if len(kinds) > 1:
        raise InputError(f"{place}: holds tar files and Parquet files; give one kind")
    opener = TarSource if kinds == {"tar"} else ParquetSource
    instance = (instances or "instance") if wants_instances else None
    return opener(place, files, label=labels or "label", instance=instance, left_out=left_out)


def _existing(place: str) -> list[str]:
    """The files of a pattern, all of which must be there."""
    files = list(_expand(place))
    there: dict[str, set[str]] = {}
    for file in files:
        folder = parent(file)
        if folder not in there:
            try:
                there[folder] = set(file_names(folder)) if is_folder(folder) else set()
            except OSError as error:
                raise InputError(f"{file}: cannot be read ({reason_of(error)})") from None
        if last_part(file) not in there[folder]:
            raise InputError(f"{file}: no such file")
    return files


def _expand(place: str) -> Iterator[str]:
    """``a-{08..10}.tar`` as its names; several ranges multiply."""
    match = _RANGE.search(place)
    if match is None:
        if "{" in place:
            raise InputError(f"{place}: a pattern is written {{000000..000099}}")
        yield place
        return
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < _MOST_FILES:
        raise InputError(f"{place}: {match[0]} does not count up, or counts too far")
    for number in range(first, last + 1):
        middle = str(number).zfill(len(match[1]))
        yield from _expand(place[: match.start()] + middle + place[match.end() :])


class ShardedSource:
    """The maps of a source that belong to one of several shards, by their keys alone: every machine
    reads the whole list, and no two take the same map.
    """

    def __init__(self, source: DataSet, index: int, shards: int) -> None:
        """Choose a shard.

        Args:
            source: all maps.
            index: which shard, from 0.
            shards: how many there are.

        Raises:
            InputError: `index` is not below `shards`, or below zero.
        """
        if not 0 <= index < shards:
            raise InputError(f"shard {index}/{shards}: shards are numbered 0 to {shards - 1}")
        self._source, self._index, self._shards = source, index, shards
        self._count: int | None = None

    @property
    def name(self) -> str:
        """The source's, and which shard."""
        return f"{self._source.name} (shard {self._index}/{self._shards})"

    def count(self) -> int:
        """How many maps are in this shard; all keys are gone through the first time."""
        if self._count is None:
            self._count = sum(1 for _ in self)
        return self._count

    def __iter__(self) -> Iterator[MapItem]:
        """The maps of this shard, in the source's order."""
        return (i for i in self._source if shard_of(i.key, self._shards) == self._index)

    def left_out(self) -> Sequence[LeftOut]:
        """What the source leaves out: what is no map belongs to no shard."""
        return self._source.left_out()

    def holds(self, place: str) -> bool:
        """See `DataSet`."""
        return self._source.holds(place)


"""A file for each picture, or shards."""

_FILES = (".tar", ".zip", ".parquet", ".tgz", ".tar.gz")


def open_sink(
    place: str,
    format: Format,
    *,
    container: Container = "folder",
    shards: ShardSettings = ShardSettings(),  # noqa: B008 - frozen
    stem: str = "shard",
) -> Sink:
    """Choose a place for pictures; nothing is written before the sink's `open`.

    Args:
        place: path or URL of a folder.
        format: of the pictures.
        container: what is written into the folder.
        shards: how large shards become.
        stem: what the names of shards begin with. Runs that write to one folder side by side have
            different ones: a sink takes out of its shards what its manifest does not know.

    Raises:
        InputError: the place is named like a file, or there is no such kind of place.
        MissingDependencyError: a package is not installed that this place or container needs.
    """
    if place.lower().endswith(_FILES):
        raise InputError(
            f"{place}: pictures go to a folder; for tar or Parquet shards in it, --container tar "
            "or --container parquet"
        )
    if not stem or "/" in stem:
        raise InputError(f"{stem!r}: no beginning for the names of shards")
    if is_remote(place):
        filesystem(place)  # says at once which package is missing
    if container == "folder":
        return FolderSink(place, format)
    if container not in ("tar", "parquet"):
        raise InputError(f"container is {container!r}; it is folder, tar or parquet")
    kind = TarShards(format) if container == "tar" else ParquetShards(format)
    return ShardSink(place, kind, stem=stem, most_pictures=shards.pictures, most_bytes=shards.bytes)
