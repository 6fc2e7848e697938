"""Files by a path or a URL: local ones directly, all others (s3://, gs://, memory://) by fsspec.

Whatever a remote file system raises becomes an OSError that holds the file's name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from sceneloom.errors import InputError, MissingDependencyError, require
from sceneloom.file_tree import LeftOut, list_files, split_hidden

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}
# Headers of archives lie far apart in a remote file: small blocks fetch little beside them.
_BLOCK = 1 << 16


def is_remote(place: str) -> bool:
    """Whether a place is a URL that is not file://."""
    match = _URL.match(place)
    return match is not None and match[1].lower() != "file"


def local_path(place: str) -> Path:
    """The path of a local place, ``file://`` in front of it or not."""
    return Path(re.sub(r"^file://", "", place, flags=re.IGNORECASE))


def join(folder: str, name: str) -> str:
    """A place below a folder; one that is absolute or a URL stays as it is."""
    if _URL.match(name) or name.startswith("/"):
        return name
    if not is_remote(folder):
        return str(local_path(folder) / name)
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "/".join([folder.rstrip("/"), *parts])


def last_part(place: str) -> str:
    """The file's own name."""
    return PurePosixPath(place).name


def parent(place: str) -> str:
    """The folder that a file lies in."""
    if not is_remote(place):
        return str(local_path(place).parent)
    return place.rstrip("/").rpartition("/")[0]


def lies_in(place: str, folder: str) -> bool:
    """Whether a place is this folder or inside it, links followed."""
    if is_remote(place) or is_remote(folder):
        return (place.rstrip("/") + "/").startswith(folder.rstrip("/") + "/")
    # Not Path.resolve, which raises a RuntimeError at links in a circle.
    inner, outer = (os.path.realpath(local_path(one)) for one in (place, folder))
    return Path(inner).is_relative_to(outer)


def filesystem(place: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        MissingDependencyError: fsspec, or its package for this kind of URL, is not installed.
        InputError: no such kind of URL.
    """
    require(("fsspec",), extra="datasets", purpose=place)
    import fsspec.core

    scheme = place.partition("://")[0].lower()
    try:
        fs, path = fsspec.core.url_to_fs(place)
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        line = f": pip install {package}" if package else f" ({error})"
        raise MissingDependencyError(
            f"{place} needs {package or 'a package'}, which is not installed{line}"
        ) from None
    except ValueError as error:
        raise InputError(f"{place}: no such kind of place ({error})") from None
    return fs, path


@contextlib.contextmanager
def named_errors(place: str) -> Iterator[None]:
    """Have whatever a remote file system raises as an OSError with the file's name."""
    try:
        yield
    except (InputError, MissingDependencyError, MemoryError):
        raise
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise OSError(error.errno or errno.EIO, reason, place) from None
    except Exception as error:  # each store has a family of its own
        raise OSError(errno.EIO, str(error) or type(error).__name__, place) from None


def reason_of(error: OSError) -> str:
    """What went wrong, without number and file name."""
    return error.strerror or str(error)


def is_folder(place: str) -> bool:
    """Whether there is a folder (in an object store: something below this name).

    Raises:
        OSError: the place cannot be reached.
    """
    if not is_remote(place):
        return local_path(place).is_dir()
    with named_errors(place):
        fs, path = filesystem(place)
        return bool(fs.isdir(path))


def is_file(place: str) -> bool:
    """Whether there is a file of this name.

    Raises:
        OSError: the store cannot be asked.
    """
    if not is_remote(place):
        return local_path(place).is_file()
    with named_errors(place):
        fs, path = filesystem(place)
        return bool(fs.isfile(path))


def file_names(folder: str) -> list[str]:
    """Names of the files that lie in a folder, in order.

    Raises:
        OSError: the folder cannot be read.
    """
    if not is_remote(folder):
        return sorted(path.name for path in local_path(folder).iterdir() if not path.is_dir())
    return _found(folder, deep=False)


def list_places(folder: str) -> tuple[list[str], list[LeftOut]]:
    """List the files below a folder, to the bottom.

    Args:
        folder: a path or a URL.

    Returns:
        names relative to it, with slashes, in order; and what is left out, as `list_files` says.

    Raises:
        OSError: the folder cannot be read.
    """
    if not is_remote(folder):
        return list_files(local_path(folder))
    return split_hidden(_found(folder, deep=True))


def _found(folder: str, *, deep: bool) -> list[str]:
    with named_errors(folder):
        fs, path = filesystem(folder)
        prefix = path.rstrip("/") + "/"
        names = fs.find(path, maxdepth=None if deep else 1)
        return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))


def folder_names(folder: str) -> list[str]:
    """Names of the folders in a folder, in order.

    Raises:
        OSError: the folder cannot be read.
    """
    if not is_remote(folder):
        return sorted(path.name for path in local_path(folder).iterdir() if path.is_dir())
    with named_errors(folder):
        fs, path = filesystem(folder)
        listed = fs.ls(path, detail=True)
        return sorted(last_part(one["name"]) for one in listed if one["type"] == "directory")


def open_binary(place: str) -> IO[bytes]:
    """Open a file for reading; it can be sought in.

    Raises:
        OSError: it cannot be opened.
    """
    if not is_remote(place):
        return local_path(place).open("rb")
    with named_errors(place):
        fs, path = filesystem(place)
        return cast("IO[bytes]", fs.open(path, "rb", block_size=_BLOCK, cache_type="readahead"))


def read_range(place: str, start: int, size: int) -> bytes:
    """Read so many bytes from `start` on, or fewer where the file ends.

    Raises:
        OSError: it cannot be read.
    """
    if not is_remote(place):
        with local_path(place).open("rb") as stream:
            stream.seek(start)
            return stream.read(size)
    with named_errors(place):
        fs, path = filesystem(place)
        return bytes(fs.cat_file(path, start=start, end=start + size)) if size else b""


def put_remote(place: str, put: Callable[[Any, str], object]) -> None:
    """Put a file into a remote place.

    Args:
        place: the file's URL.
        put: does it, with a file system and the path in it; done again where a store has real
            folders and the file's has to be made first.

    Raises:
        OSError: it cannot be put there.
    """
    with named_errors(place):
        fs, path = filesystem(place)
        try:
            put(fs, path)
        except FileNotFoundError:
            fs.makedirs(parent(path), exist_ok=True)
            put(fs, path)
