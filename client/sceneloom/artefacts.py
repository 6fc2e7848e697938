"""Artefacts on disk: their identity, and how a folder of them appears whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from sceneloom.errors import SceneLoomError


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def replace_folder(
    folder: Path, *, marker: str, kind: str, error: type[SceneLoomError]
) -> Iterator[Path]:
    """Write a folder beside its place and rename it into it once the block has ended well.

    Args:
        folder: the place. A folder there that holds `marker` is replaced, an empty one too;
            anything else is refused.
        marker: file by which the kind is known.
        kind: what it is called in errors, such as ``a checkpoint bundle``.
        error: class of the errors.

    Yields:
        the folder to write into.

    Raises:
        SceneLoomError: of the class `error`: the place is taken by something else, or cannot be
            written.
    """
    taken = folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
    if taken and not (folder / marker).is_file():
        raise error(f"{folder}: exists and is not {kind}; choose another place")
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        fresh.mkdir(parents=True)
        yield fresh
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    except OSError as reason:
        if isinstance(reason, SceneLoomError):
            raise
        raise error(f"{folder}: cannot be written ({reason.strerror or reason})") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
