"""Files by a path or a URL: local ones directly, all others (s3://, gs://, memory://) by fsspec.

Errors of a remote file system become OSErrors with the file's name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from sceneloom.errors import InputError, MissingDependencyError, SceneLoomError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}
# Headers of archives lie far apart in a remote file: small blocks fetch little beside them.
_BLOCK = 1 << 16


def is_remote(location: str) -> bool:
    """Whether a location is a URL other than file://."""
    match = _URL.match(location)
    return match is not None and match[1].lower() != "file"


def local_path(location: str) -> Path:
    """Path of a local location, with or without ``file://``."""
    return Path(re.sub(r"^file://", "", location, flags=re.IGNORECASE))


def join(folder: str, name: str) -> str:
    """A location below a folder; an absolute path or URL stays unchanged."""
    if _URL.match(name) or name.startswith("/"):
        return name
    if not is_remote(folder):
        return str(local_path(folder) / name)
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "/".join([folder.rstrip("/"), *parts])


def last_part(location: str) -> str:
    """Name without folders."""
    return PurePosixPath(location).name


def parent(location: str) -> str:
    """Folder of a file."""
    if not is_remote(location):
        return str(local_path(location).parent)
    return location.rstrip("/").rpartition("/")[0]


def lies_in(location: str, folder: str) -> bool:
    """Whether a location is a folder or lies inside it, links followed."""
    if is_remote(location) or is_remote(folder):
        return (location.rstrip("/") + "/").startswith(folder.rstrip("/") + "/")
    # Not Path.resolve, which raises a RuntimeError at links in a circle.
    inner, outer = (os.path.realpath(local_path(one)) for one in (location, folder))
    return Path(inner).is_relative_to(outer)


@contextlib.contextmanager
def filesystem(location: str) -> Iterator[tuple[Any, str]]:
    """File system of a URL and the path in it; its errors become OSErrors with the file's name.

    Raises MissingDependencyError without the package for this kind of URL, InputError for an
    unknown kind.
    """
    import fsspec.core

    try:
        try:
            found = fsspec.core.url_to_fs(location)
        except ImportError as error:
            package = _PACKAGES.get(location.partition("://")[0].lower())
            line = f": pip install {package}" if package else f" ({error})"
            raise MissingDependencyError(
                f"{location} needs {package or 'a package'}, which is not installed{line}"
            ) from None
        except ValueError as error:
            raise InputError(f"{location}: no such kind of place ({error})") from None
        yield found
    except (SceneLoomError, MemoryError):
        raise
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise OSError(error.errno or errno.EIO, reason, location) from None
    except Exception as error:  # each store has a family of its own
        raise OSError(errno.EIO, str(error) or type(error).__name__, location) from None


def reason_of(error: OSError) -> str:
    """Reason of an error, without number and file name."""
    return error.strerror or str(error)


def is_folder(location: str) -> bool:
    """Whether a folder exists (in an object store: a file below this name); raises OSError if the
    location cannot be reached.
    """
    if not is_remote(location):
        return local_path(location).is_dir()
    with filesystem(location) as (fs, path):
        return bool(fs.isdir(path))


def is_file(location: str) -> bool:
    """Whether a file exists; raises OSError if the store cannot be reached."""
    if not is_remote(location):
        return local_path(location).is_file()
    with filesystem(location) as (fs, path):
        return bool(fs.isfile(path))


def file_names(folder: str) -> list[str]:
    """Names of the files in a folder, in order; raises OSError if it cannot be read."""
    if not is_remote(folder):
        return sorted(path.name for path in local_path(folder).iterdir() if not path.is_dir())
    return remote_files(folder, deep=False)


def remote_files(folder: str, *, deep: bool) -> list[str]:
    """Names of the files in a remote folder, or below it to the bottom, in order."""
    with filesystem(folder) as (fs, path):
        prefix = path.rstrip("/") + "/"
        names = fs.find(path, maxdepth=None if deep else 1)
        return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))


def folder_names(folder: str) -> list[str]:
    """Names of the folders in a folder, in order; raises OSError if it cannot be read."""
    if not is_remote(folder):
        return sorted(path.name for path in local_path(folder).iterdir() if path.is_dir())
    with filesystem(folder) as (fs, path):
        listed = fs.ls(path, detail=True)
        return sorted(last_part(one["name"]) for one in listed if one["type"] == "directory")


def open_binary(location: str) -> IO[bytes]:
    """Open a file for reading, seekable; raises OSError if it cannot be opened."""
    if not is_remote(location):
        return local_path(location).open("rb")
    with filesystem(location) as (fs, path):
        return cast("IO[bytes]", fs.open(path, "rb", block_size=_BLOCK, cache_type="readahead"))


def read_range(location: str, start: int, size: int) -> bytes:
    """Read `size` bytes from `start`, fewer at the file's end; raises OSError if that fails."""
    if not is_remote(location):
        with local_path(location).open("rb") as stream:
            stream.seek(start)
            return stream.read(size)
    with filesystem(location) as (fs, path):
        return bytes(fs.cat_file(path, start=start, end=start + size)) if size else b""


def put_remote(location: str, put: Callable[[Any, str], object]) -> None:
    """Put a file into a remote location; raises OSError if that fails.

    `put` writes it, to a file system and a path in it. It is called again once a missing folder is
    made, in stores with real folders.
    """
    with filesystem(location) as (fs, path):
        try:
            put(fs, path)
        except FileNotFoundError:
            fs.makedirs(parent(path), exist_ok=True)
            put(fs, path)
