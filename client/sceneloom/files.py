"""One way for each operation on files: write whole, replace, hold, sweep, list.

A file is written under a hidden name beside its place and renamed into it. Names of parts and of
shared memory hold their process, so that later processes can remove the leftovers of killed ones.
`list_files` searches a folder to the bottom and reports the files that it leaves out.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
from collections.abc import Iterable, Iterator
from pathlib import Path

from sceneloom.errors import SceneLoomError
from sceneloom.text import parse_json, printable

SHARED_MEMORY = Path("/dev/shm")
"""Folder of the system's shared memory."""
OWNED_NAME = re.compile(r"sceneloom-(\d+)-\d+-(\d+)-.*")
_prefixes = itertools.count(1)
try:
    _NAMESPACE = Path("/proc/self/ns/pid").stat().st_ino  # of this process's pids
except OSError:
    _NAMESPACE = 0


def new_prefix() -> str:
    """Prefix of names for one thing of this process, such as a server."""
    return f"sceneloom-{os.getpid()}-{next(_prefixes)}-{_NAMESPACE}-"


def is_ownerless(name: str) -> bool:
    """Whether the process in a name is of our own pid namespace and has ended."""
    match = OWNED_NAME.fullmatch(name)
    return match is not None and int(match[2]) == _NAMESPACE and not alive(int(match[1]))


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
    """A new name for a part in a folder."""
    return folder / f".sceneloom-{os.getpid()}-{_TOKEN}-{next(_parts)}.{_HOST}.part"


def write_whole(path: Path, data: bytes | Iterable[bytes], *, flush: bool = False) -> None:
    """Write a file in one step, from bytes or pieces; make missing folders, replace an older file.

    With `flush` the file is whole even after a power cut, see `publish`. Raises OSError if the
    place cannot be written; nothing is left there.
    """
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = new_part(path.parent)
        with part.open("wb") as stream:
            stream.writelines([data] if isinstance(data, bytes) else data)
        if flush:
            publish(part, path)
        else:
            part.replace(path)
    except BaseException as error:
        if part is not None:
            remove_part(part)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def publish(part: Path, path: Path) -> None:
    """Flush a finished part to the disk and rename it into its place: it is whole there even after
    a power cut. Raises OSError if the place cannot be written; the part stays.
    """
    _flush(part)
    part.replace(path)
    with contextlib.suppress(OSError):  # some file systems cannot flush folders
        _flush(path.parent)


def remove_part(part: Path) -> None:
    """Remove a part, if it exists."""
    with contextlib.suppress(OSError):
        part.unlink()


def sweep(folder: Path, *, deep: bool) -> None:
    """Remove the parts of ended processes from a folder, and from its folders if `deep`; parts of
    other machines after a day.
    """
    for root, _, names in os.walk(folder):
        for path, match in ((Path(root) / name, _PART.fullmatch(name)) for name in names):
            if match is None:
                continue
            pid, token, host = int(match[1]), match[2], match[3]
            ended = token != _TOKEN if pid == os.getpid() else not alive(pid)
            with contextlib.suppress(OSError):
                if host != _HOST:
                    ended = time.time() - path.stat().st_mtime > _FOREIGN_SECONDS
                if ended:
                    path.unlink()
        if not deep:
            return


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_MAY_PASS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE),
    *(errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.EHOSTDOWN),
}


class HeldLocation:
    """A folder or file of this machine, held open: until `close` its inode number is not reused."""

    def __init__(self, path: Path) -> None:
        """Hold it; raises OSError if it does not exist."""
        self._path = path.absolute()
        self._name = path
        self._descriptor: int | None = os.open(self._path, os.O_PATH | os.O_CLOEXEC)
        self._first = os.fstat(self._descriptor)

    def check(self) -> None:
        """Raise OSError if its path leads to it no more (removed, moved or replaced: an error
        without a number) or cannot be reached.
        """
        try:
            same = os.path.samestat(self._path.stat(), self._first)
        except (FileNotFoundError, NotADirectoryError):
            same = False
        except OSError as error:
            raise OSError(
                f"{self._name}: cannot be reached any more ({error.strerror or str(error)})"
            ) from None
        if not same:
            raise gone(self._name)

    def close(self) -> None:
        """Let go of it; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def gone(name: Path | str) -> OSError:
    """The error of a folder or file that vanished; without a number, since no call failed."""
    return OSError(f"{name}: was removed or moved while the run was on")


def reason_against(folder: Path, error: OSError) -> str:
    """Reason why a folder cannot be made or written to, without its name."""
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        for part in (folder, *folder.parents):
            if part.is_symlink() and not part.exists():
                return f"{part} is a link that leads nowhere"
            if part.exists() and not part.is_dir():
                return f"{part} is not a folder"
    return error.strerror or str(error)


def may_pass(error: OSError) -> bool:
    """Whether the next try may succeed: the place is full or away."""
    return error.errno in _MAY_PASS


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

    The place may be empty, missing, or an older folder of this `kind` (its name in errors): one
    with nothing but `files`, whose JSON file `marker` has the key ``sceneloom``. Anything else is
    refused.

    Raises `error` if the place is taken by something else or cannot be written.
    """
    try:
        folder = folder.resolve()
        if folder == Path.cwd():
            raise error(f"{folder}: is the current folder; name one inside it")
        _sweep_folders(folder)
        if folder.exists() and not _may_be_replaced(folder, marker, files):
            raise error(f"{folder}: exists and is not {kind}; choose another place")
        fresh = folder.with_name(f".{folder.name}.{os.getpid()}.new")
        fresh.mkdir(parents=True)
        held = HeldLocation(fresh)
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


def _sweep_folders(folder: Path) -> None:
    """Remove the unfinished folders of killed writers, and put back the old one."""
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


HIDDEN = "hidden"
"""Reason of a file or folder whose name begins with a dot."""
OTHER_KIND = "of a kind that is not read"
"""Reason of a file with an unknown ending."""
NAMED = 5
"""Names in a summary for each reason."""


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class LeftOut:
    """A file or folder that a data set leaves out."""

    reason: str
    """Words that fit behind a count: "hidden", "of a kind that is not read"."""
    name: str
    """Path, with slashes."""
    count: int = 1
    """Number of such entries, this one the first: archives of millions are not listed."""


def list_files(folder: str | Path) -> tuple[list[str], list[LeftOut]]:
    """List the files below a folder, to the bottom; raises OSError if a folder cannot be read.

    Links to folders are followed, but not to a folder around the link. Returns names relative to
    the folder, with slashes, sorted, broken links included (reading them fails by name); and left
    out: hidden files, hidden folders (one entry each), links in a circle.
    """
    files: list[str] = []
    left_out: list[LeftOut] = []
    status = Path(folder).stat()
    # (path, prefix of the names in it, identity of it and of the folders around it)
    pending: list[tuple[str, str, tuple[tuple[int, int], ...]]] = [
        (os.fspath(folder), "", ((status.st_dev, status.st_ino),))
    ]
    while pending:
        path, prefix, around = pending.pop()
        with os.scandir(path) as entries:
            for entry in entries:
                name = prefix + entry.name
                try:
                    is_folder = entry.is_dir()
                except OSError:  # a link that leads nowhere, such as one to itself
                    is_folder = False
                if entry.name.startswith("."):
                    left_out.append(LeftOut(reason=HIDDEN, name=name + "/" * is_folder))
                elif not is_folder:
                    files.append(name)
                else:
                    status = Path(entry.path).stat()
                    identity = (status.st_dev, status.st_ino)
                    if identity in around:
                        reason = "a link to a folder around it"
                        left_out.append(LeftOut(reason=reason, name=name + "/"))
                    else:
                        pending.append((entry.path, name + "/", (*around, identity)))
    return sorted(files), sorted(left_out)


def split_hidden(names: Iterable[str]) -> tuple[list[str], list[LeftOut]]:
    """Split paths with slashes, of stores and archives, into visible names, in their order, and
    hidden ones, one entry for each hidden folder.
    """
    others: list[str] = []
    hidden: set[str] = set()
    for name in names:
        parts = name.split("/")
        first = next((n for n, part in enumerate(parts) if is_hidden(part)), None)
        if first is None:
            others.append(name)
        else:
            hidden.add("/".join(parts[: first + 1]) + "/" * (first + 1 < len(parts)))
    return others, [LeftOut(reason=HIDDEN, name=name) for name in sorted(hidden)]


def is_hidden(part: str) -> bool:
    """Whether a file or folder is hidden; ``..`` is not, it is refused elsewhere."""
    return part.startswith(".") and part not in (".", "..")


def describe(left_out: Iterable[LeftOut]) -> list[str]:
    """Lines for a summary, one for each reason: number of entries and first names."""
    by_reason: dict[str, list[LeftOut]] = {}
    for one in sorted(left_out):
        by_reason.setdefault(one.reason, []).append(one)
    lines = []
    for reason, entries in by_reason.items():
        count = sum(one.count for one in entries)
        named = ", ".join(printable(one.name) for one in entries[:NAMED])
        more = ", ..." if count > min(NAMED, len(entries)) else ""
        lines.append(f"left out: {count:,} {reason} ({named}{more})")
    return lines
