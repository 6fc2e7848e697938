"""Which format a location names: open a data set of maps, and a location for pictures.

    source = open_source("s3://bucket/shards/maps-{000000..000099}.tar", wants_instances=True)
    sink = open_sink("s3://bucket/pictures", "jpg", container="tar")

docs/rendering-formats.md says how each is laid out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Protocol

from sceneloom import locations
from sceneloom.contract import InputKind
from sceneloom.errors import InputError
from sceneloom.files import OTHER_KIND, LeftOut, split_hidden
from sceneloom.pairing import is_map_name
from sceneloom.pictures import Format
from sceneloom.rendering.folder import FileSource, FolderSink, FolderSource
from sceneloom.rendering.items import BrokenFile, MapItem, Sink, Source, look_ending, shard_of
from sceneloom.rendering.parquet import ParquetShards, ParquetSource
from sceneloom.rendering.settings import Container, ShardSettings
from sceneloom.rendering.shards import ShardSink
from sceneloom.rendering.tar import TarShards, TarSource
from sceneloom.rendering.training_set import TrainingSetSink
from sceneloom.rendering.zip import ZipSource
from sceneloom.text import reason

# pix2pixHD's layout.
_LABEL_FOLDER, _PICTURE_FOLDER, _INSTANCE_FOLDER = "test_label", "test_A", "test_inst"
_COMPRESSED_TAR = re.compile(r"\.(tgz|tbz2?|txz|tar\.(gz|bz2|xz|zst))$", re.IGNORECASE)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_FILES = 1_000_000


class LocatedSource(Source, Protocol):
    """A source that knows where its maps lie."""

    def holds(self, location: str) -> bool:
        """Whether pictures there would lie among the maps, or be taken for maps the next time."""


def open_source(
    location: str,
    *,
    labels: str | None = None,
    instances: str | None = None,
    wants_instances: bool = False,
    needs_instances: bool = True,
    training_ids: bool = False,
    kind: InputKind = "labels",
) -> LocatedSource:
    """Open a data set of maps.

    Args:
        location: path or URL of a folder of maps; of one label map; of a zip file; of tar files,
            one, several by ``maps-{000000..000099}.tar``, or a folder of them; of Parquet files,
            likewise.
        labels: the label maps: a folder inside a folder or zip file (or an absolute one), the
            middle of a tar file's member names (KEY.label.png), or a Parquet column. By default
            test_label, as in pix2pixHD, or ``label``.
        instances: the instance maps, likewise; by default test_inst or ``instance``. Of one label
            map: the instance map's path or URL.
        wants_instances: whether to look for instance maps at all.
        needs_instances: whether those not named by `instances` have to exist.
        training_ids: of label ids and training ids side by side, take the latter.
        kind: what lies in the place of label maps. Pictures lie by default in test_A or the folder
            itself, anywhere in a zip file, as KEY.jpg in tar files, or in a column ``picture``.

    Raises:
        InputError: no such location, no map in it, or two maps for one picture.
        MissingDependencyError: the location needs a package that is not installed.
    """
    ending = re.sub(r".*\.", "", location.lower())
    if _COMPRESSED_TAR.search(location):
        raise InputError(
            f"{location}: a compressed tar file, in which nothing can be found without unpacking "
            "all of it; maps are compressed already: give the .tar"
        )
    if ending in ("tar", "parquet"):
        files = _existing(location)
        return _sharded(location, files, labels, instances, wants_instances, needs_instances, kind)
    default = _LABEL_FOLDER if kind == "labels" else _PICTURE_FOLDER
    label_folder = locations.join(location, labels or default)
    try:
        if ending != "zip" and not locations.is_folder(location):
            if is_map_name(location):
                return _one_map(location, labels, instances, wants_instances, needs_instances)
            raise InputError(f"{location}: no such folder")
        if ending != "zip" and not locations.is_folder(label_folder):
            names, left_out = split_hidden(locations.file_names(location))
            folders = list(locations.folder_names(location))
            shards = [name for name in names if name.lower().endswith((".tar", ".parquet"))]
            if shards:
                others = sorted(set(names) - set(shards))
                left_out += [LeftOut(reason=OTHER_KIND, name=name) for name in others]
                among = "in a folder among the shards"
                left_out += [LeftOut(reason=among, name=f"{name}/") for name in folders]
                files = [locations.join(location, name) for name in shards]
                return _sharded(
                    location,
                    files,
                    labels,
                    instances,
                    wants_instances,
                    needs_instances,
                    kind,
                    left_out,
                )
            if kind == "labels" or labels is not None:
                held = ", ".join(folders[:8])
                raise InputError(
                    f"{label_folder}: no such folder; name the folder of label maps with --labels"
                    + (f" ({location} holds {held})" if held else " (. for the folder itself)")
                )
            label_folder = location
    except OSError as error:
        raise InputError(f"{location}: cannot be read ({reason(error)})") from None
    instance = None
    if wants_instances:
        instance = instances or (_INSTANCE_FOLDER if labels is None else None)
        if instance is None and needs_instances:
            raise InputError(
                "this model wants instance maps: name their folder with --instances, or take the "
                "edges of the label maps with --boundaries labels"
            )
    may_lack = instances is None and not needs_instances
    if ending == "zip":
        return ZipSource(
            location,
            labels or (_LABEL_FOLDER if kind == "labels" else "."),
            instance,
            training_ids=training_ids,
            may_lack_instances=may_lack,
            kind=kind,
        )
    instance_folder = None if instance is None else locations.join(location, instance)
    if instance_folder is not None and may_lack and not locations.is_folder(instance_folder):
        instance_folder = None
    return FolderSource(label_folder, instance_folder, training_ids=training_ids, kind=kind)


def _one_map(
    label: str,
    labels: str | None,
    instances: str | None,
    wants_instances: bool,
    needs_instances: bool,
) -> LocatedSource:
    if labels is not None:
        raise InputError(f"{label}: is a label map itself; leave --labels out")
    if wants_instances and needs_instances and instances is None:
        raise InputError(
            f"{label}: name its instance map's file with --instances, or take the edges of the "
            "label map with --boundaries labels"
        )
    return FileSource(label, instances if wants_instances else None)


def _sharded(
    location: str,
    files: list[str],
    labels: str | None,
    instances: str | None,
    wants_instances: bool,
    needs_instances: bool,
    kind: InputKind,
    left_out: Sequence[LeftOut] = (),
) -> LocatedSource:
    kinds = {file.rpartition(".")[2].lower() for file in files}
    if len(kinds) > 1:
        raise InputError(f"{location}: holds tar files and Parquet files; give one kind")
    instance = (instances or "instance") if wants_instances else None
    if kinds == {"tar"}:
        label = labels or ("label" if kind == "labels" else "")
        return TarSource(
            location, files, label=label, instance=instance, kind=kind, left_out=left_out
        )
    return ParquetSource(
        location,
        files,
        label=labels or ("label" if kind == "labels" else "picture"),
        instance=instance,
        may_lack_instances=instances is None and not needs_instances,
        left_out=left_out,
    )


def _existing(location: str) -> list[str]:
    """The files of a pattern; raises InputError if one is missing."""
    files = list(_expand(location))
    names: dict[str, set[str]] = {}
    for file in files:
        folder = locations.parent(file)
        if folder not in names:
            try:
                names[folder] = (
                    set(locations.file_names(folder)) if locations.is_folder(folder) else set()
                )
            except OSError as error:
                raise InputError(f"{file}: cannot be read ({reason(error)})") from None
        if locations.last_part(file) not in names[folder]:
            raise InputError(f"{file}: no such file")
    return files


def _expand(location: str) -> Iterator[str]:
    """``a-{08..10}.tar`` as its names; several ranges multiply."""
    match = _RANGE.search(location)
    if match is None:
        if "{" in location:
            raise InputError(f"{location}: a pattern is written {{000000..000099}}")
        yield location
        return
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < _MAX_FILES:
        raise InputError(f"{location}: {match[0]} does not count up, or counts too far")
    for number in range(first, last + 1):
        middle = str(number).zfill(len(match[1]))
        yield from _expand(location[: match.start()] + middle + location[match.end() :])


class ShardedSource:
    """One shard of a source, chosen by the keys alone: no two machines take the same map."""

    def __init__(self, source: LocatedSource, index: int, shards: int) -> None:
        """Choose shard `index` of 0 to `shards` - 1; raises InputError."""
        if not 0 <= index < shards:
            raise InputError(f"shard {index}/{shards}: shards are numbered 0 to {shards - 1}")
        self.whole, self._index, self._shards = source, index, shards
        self._count: int | None = None
        self.holds = source.holds

    def count(self) -> int:
        """The number of maps in this shard; the first call reads all keys."""
        if self._count is None:
            self._count = sum(1 for _ in self)
        return self._count

    @property
    def left_out(self) -> Sequence[LeftOut]:
        """The files that are no maps; they belong to no shard."""
        return self.whole.left_out

    def __iter__(self) -> Iterator[MapItem]:
        """The maps of this shard, in the source's order."""
        return (i for i in self.whole if shard_of(i.key, self._shards) == self._index)


class LooksSource:
    """A source whose maps come several times each, once for each look."""

    def __init__(self, source: Source, looks: int) -> None:
        self.whole, self._looks = source, looks

    def count(self) -> int:
        """The number of pictures."""
        return self.whole.count() * self._looks

    @property
    def left_out(self) -> Sequence[LeftOut]:
        """The files that are no maps."""
        return self.whole.left_out

    def __iter__(self) -> Iterator[MapItem]:
        """The maps in the source's order; an unreadable part of it comes once."""
        for item in self.whole:
            if isinstance(item.label, BrokenFile):
                yield item
                continue
            for look in range(self._looks):
                yield dataclasses.replace(item, key=item.key + look_ending(look), look=look)


def all_maps(source: Source) -> Source:
    """The maps of all shards, each once, whatever its looks."""
    while isinstance(source, ShardedSource | LooksSource):
        source = source.whole
    return source


def open_sink(
    location: str,
    format: Format,
    *,
    container: Container = "folder",
    shards: ShardSettings = ShardSettings(),  # noqa: B008 - frozen
    stem: str = "shard",
    copies: bool = False,
) -> Sink:
    """Choose a location for pictures; the sink's `open` is the first to write.

    Args:
        location: path or URL of a folder.
        format: of the pictures.
        container: a file for each picture, or shards.
        shards: the size of shards.
        stem: the start of the shards' names, unique among the runs that share a folder: a sink
            removes from its shards the pictures unknown to its manifest.
        copies: whether copies of the maps come with the pictures, in folders.

    Raises:
        InputError: the location has the name of a file, or its kind is unknown.
        MissingDependencyError: it needs a package that is not installed.
    """
    if location.lower().endswith((".tar", ".zip", ".parquet", ".tgz", ".tar.gz")):
        raise InputError(
            f"{location}: pictures go to a folder; for tar or Parquet shards in it, --container "
            "tar or --container parquet"
        )
    if not stem or "/" in stem:
        raise InputError(f"{stem!r}: no beginning for the names of shards")
    if locations.is_remote(location):
        with locations.filesystem(location):  # names a missing package at once
            pass
    if container == "folder":
        if copies:
            return TrainingSetSink(location, format)
        return FolderSink(location, format)
    if container not in ("tar", "parquet"):
        raise InputError(f"container is {container!r}; it is folder, tar or parquet")
    kind = TarShards(format) if container == "tar" else ParquetShards(format)
    return ShardSink(
        location, kind, stem=stem, max_pictures=shards.pictures, max_bytes=shards.bytes
    )
