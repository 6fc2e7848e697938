"""Artefacts on disk: their identity, and how a folder of them appears whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from sceneloom.errors import SceneLoomError
from sceneloom.held_place import HeldPlace
from sceneloom.json_text import parse_json


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def replace_folder(
    folder: Path, *, marker: str, files: frozenset[str], kind: str, error: type[SceneLoomError]
) -> Iterator[Path]:
    """Write a folder beside its place and rename it into it once the block has ended well.

    Args:
        folder: the place. Nothing, an empty folder, or an older one of this kind may be there: one
            that holds `marker`, written by SceneLoom, and nothing but `files`. Anything else is
            refused.
        marker: JSON file by which the kind is known; it says ``"sceneloom": VERSION``.
        files: names of everything that belongs into such a folder.
        kind: what it is called in errors, such as ``a checkpoint bundle``.
        error: class of the errors.

    Yields:
        the folder to write into.

    Raises:
        SceneLoomError: of the class `error`: the place is taken by something else, or cannot be
            written.
    """
    try:
        folder = folder.resolve()
        if folder == Path.cwd():
            raise error(f"{folder}: is the current folder; name one inside it")
        _sweep(folder)
        if folder.exists() and not _may_be_replaced(folder, marker, files):
            raise error(f"{folder}: exists and is not {kind}; choose another place")
        fresh = folder.with_name(f".{folder.name}.{os.getpid()}.new")
        fresh.mkdir(parents=True)
        held = HeldPlace(fresh)
        try:
            yield fresh
            held.check()  # writers may have made it again, without what was in it
            _share(fresh)
            _flush(fresh)
            _swap(fresh, folder)
        finally:
            held.close()
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as reason:
        if isinstance(reason, SceneLoomError):
            raise
        raise error(f"{folder}: cannot be written ({reason.strerror or reason})") from None


def _may_be_replaced(folder: Path, marker: str, files: frozenset[str]) -> bool:
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    if not names:
        return True
    try:
        description = parse_json((folder / marker).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return names <= files and isinstance(description, dict) and "sceneloom" in description


def _share(folder: Path) -> None:
    """Give files the permissions that the process gives any new one: writers of weights make them
    their owner's alone, and a server often runs as somebody else.
    """
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def _flush(folder: Path) -> None:
    """Have everything on the disk before the name points to it: also after a power cut."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _swap(fresh: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Clear up after writers of this folder that were killed."""
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.*"):
        pid, _, stage = path.name.removeprefix(f".{folder.name}.").partition(".")
        if not pid.isdecimal() or stage not in ("new", "old") or _alive(int(pid)):
            continue
        if stage == "old" and not folder.exists():
            path.rename(folder)  # killed between the two renames
        else:
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    return pid != os.getpid() and Path(f"/proc/{pid}").exists()
