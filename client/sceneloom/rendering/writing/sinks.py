"""Opens a place for pictures: files in a folder, or tar or Parquet shards, local or remote.

    sink = open_sink("s3://bucket/pictures", "jpg", container="tar")

docs/rendering-formats.md says how each is laid out.
"""

from __future__ import annotations

from sceneloom.errors import InputError
from sceneloom.locations import filesystem, is_remote
from sceneloom.pictures import Format
from sceneloom.rendering.interfaces import Sink
from sceneloom.rendering.settings import Container, ShardSettings
from sceneloom.rendering.writing.folder_sink import FolderSink
from sceneloom.rendering.writing.parquet_shards import ParquetShards
from sceneloom.rendering.writing.shard_sink import ShardSink
from sceneloom.rendering.writing.tar_shards import TarShards

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
