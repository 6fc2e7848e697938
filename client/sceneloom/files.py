"""One way for each operation on files: write whole, replace a folder, hold a place, see who lives.

A file is written under a hidden name beside its place and renamed into it. Names of parts and of
shared memory carry their process, so that the next one can sweep what a killed one left.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import itertools
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from sceneloom.errors import SceneLoomError
from sceneloom.text import parse_json

SHARED_MEMORY = Path("/dev/shm")
"""Where the system has its shared memory."""
OWNED_NAME = re.compile(r"sceneloom-(\d+)-\d+-(\d+)-.*")
_NAMESPACE_LINK = Path("/proc/self/ns/pid")
_prefixes = itertools.count(1)


def new_prefix() -> str:
    """Prefix of names for what belongs to one thing of this process, such as a server."""
    return f"sceneloom-{os.getpid()}-{next(_prefixes)}-{_namespace()}-"


def is_ownerless(name: str) -> bool:
    """Whether this is the name of something whose owner ran among our own processes and is gone."""
    match = OWNED_NAME.fullmatch(name)
    return match is not None and int(match[2]) == _namespace() and not alive(int(match[1]))


def _namespace() -> int:
    """Number of the pid namespace that this process is in; 0 where the system does not tell."""
    try:
        return _NAMESPACE_LINK.stat().st_ino
    except OSError:
        return 0


def alive(pid: int) -> bool:
    """Whether a process of this number lives, of any user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


_PART = re.compile(r"\.sceneloom-(\d+)-([0-9a-f]+)-\d+\.(.+)\.part")
_HOST = socket.gethostname() or "localhost"
_TOKEN = secrets.token_hex(4)  # a later process of this number has another one
_parts = itertools.count()
_FOREIGN_SECONDS = 86400.0


def new_part(folder: Path) -> Path:
    """A name for a part of this process in a folder; each call gives another one."""
    return folder / f".sceneloom-{os.getpid()}-{_TOKEN}-{next(_parts)}.{_HOST}.part"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file in one step; missing folders are made, an older file is replaced.

    Raises:
        OSError: the place cannot be written; nothing is left there.
    """
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = new_part(path.parent)
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        if part is not None:
            remove_part(part)
        raise OSError(error.errno, error.strerror, str(path)) from None


def publish(part: Path, path: Path) -> None:
    """Have a finished part on the disk, and rename it into its place: also after a power cut it is
    whole there.

    Raises:
        OSError: the place cannot be written; the part is still there.
    """
    _flush(part)
    part.replace(path)
    with contextlib.suppress(OSError):  # some file systems cannot flush folders
        _flush(path.parent)


def remove_part(part: Path) -> None:
    """Remove a part, if it is there."""
    with contextlib.suppress(OSError):
        part.unlink()


def sweep(folder: Path, *, deep: bool) -> None:
    """Remove the parts of processes that are gone; what cannot be removed stays.

    Args:
        folder: where to look.
        deep: look in its folders, too.
    """
    for root, _, names in os.walk(folder):
        for name in names:
            match = _PART.fullmatch(name)
            if match and _is_gone(Path(root) / name, int(match[1]), match[2], match[3]):
                remove_part(Path(root) / name)
        if not deep:
            return


def _is_gone(part: Path, pid: int, token: str, host: str) -> bool:
    """Whether the process that wrote a part is gone; of another machine's, after a day."""
    if host != _HOST:
        try:
            return time.time() - part.stat().st_mtime > _FOREIGN_SECONDS
        except OSError:
            return False
    return token != _TOKEN if pid == os.getpid() else not alive(pid)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_MAY_PASS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.ENOMEM,
    errno.EMFILE,
    errno.ENFILE,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ENODEV,
    errno.ENXIO,
    errno.EHOSTDOWN,
}


class HeldPlace:
    """A folder or file of this machine. It is held open: the number of a removed one goes to no
    other before that.
    """

    def __init__(self, path: Path) -> None:
        """Hold it.

        Raises:
            OSError: it is not there.
        """
        self._path = path.absolute()
        self._name = path
        self._descriptor: int | None = os.open(self._path, os.O_PATH | os.O_CLOEXEC)
        self._first = _identity(os.fstat(self._descriptor))

    def check(self) -> None:
        """Compare what its path leads to now.

        Raises:
            OSError: it was removed, moved or replaced; without a number, as for a place that is
                gone.
        """
        try:
            same = _identity(self._path.stat()) == self._first
        except (FileNotFoundError, NotADirectoryError):
            same = False
        except OSError as error:
            raise OSError(
                f"{self._name}: cannot be reached any more ({error.strerror or str(error)})"
            ) from None
        if not same:
            raise gone(self._name)

    def close(self) -> None:
        """Let go of it; calling it twice is fine."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def gone(name: Path | str) -> OSError:
    """The error of a folder or file that vanished; it has no number, since no call failed."""
    return OSError(f"{name}: was removed or moved while the run was on")


def reason_against(folder: Path, error: OSError) -> str:
    """Why a folder cannot be made or written to, without its name."""
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        for part in (folder, *folder.parents):
            if part.is_symlink() and not part.exists():
                return f"{part} is a link that leads nowhere"
            if part.exists() and not part.is_dir():
                return f"{part} is not a folder"
    return error.strerror or str(error)


def may_pass(error: OSError) -> bool:
    """Whether the reason why a place cannot be used may be gone at the next try: full, or away."""
    return error.errno in _MAY_PASS


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


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
            # Writers of weights make files their owner's alone, and servers have other users.
            mode = fresh.stat().st_mode & 0o666
            for path in fresh.rglob("*"):
                if path.is_file():
                    path.chmod(mode)
            for path in [*fresh.rglob("*"), fresh]:
                _flush(path)  # before the name points to it: also after a power cut
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
        if not pid.isdecimal() or stage not in ("new", "old"):
            continue
        if int(pid) != os.getpid() and alive(int(pid)):
            continue
        if stage == "old" and not folder.exists():
            path.rename(folder)  # killed between the two renames
        else:
            shutil.rmtree(path, ignore_errors=True)
