"""What a server has outside its repository: shared memory, a folder of backend files, stubs.

All carry the name ``sceneloom-<pid>-<n>-<namespace>-...`` of the process that owns them. They are
removed when the server stops, and swept by the next one if their owner was killed before it could.
Containers can share /dev/shm without sharing process ids: the same number is another process
there, so only what carries our own pid namespace is swept.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_NAMESPACE_LINK = Path("/proc/self/ns/pid")
_NAME = re.compile(r"sceneloom-(\d+)-\d+-(\d+)-.*")
_numbers = itertools.count(1)


def new_prefix() -> str:
    """Prefix for what belongs to one server of this process."""
    return f"sceneloom-{os.getpid()}-{next(_numbers)}-{_namespace()}-"


def new_folder(prefix: str) -> Path:
    """Make a folder of this prefix for temporary files."""
    return Path(tempfile.mkdtemp(prefix=prefix))


def remove(prefix: str) -> None:
    """Remove what belongs to one server."""
    for path in _named(prefix):
        _remove(path)


def sweep() -> list[str]:
    """Remove what belongs to processes that are gone; the names removed."""
    removed = []
    for pid, name in _stubs():
        if _ownerless(name):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
                removed.append(name)
    for path in _named("sceneloom-"):
        if _ownerless(path.name):
            _remove(path)
            removed.append(path.name)
    return removed


def _ownerless(name: str) -> bool:
    """Whether this is the name of something whose owner ran among our own processes and is gone."""
    match = _NAME.fullmatch(name)
    return match is not None and int(match[2]) == _namespace() and not _alive(int(match[1]))


def _namespace() -> int:
    """Number of the pid namespace that this process is in; 0 where the system does not tell."""
    try:
        return _NAMESPACE_LINK.stat().st_ino
    except OSError:
        return 0


def _stubs() -> list[tuple[int, str]]:
    """Processes of Triton's Python backend, and the name of their shared memory: a stub whose
    server was killed waits in it for ever.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if arguments[0].endswith("triton_python_backend_stub"):
                names = [a for a in arguments if _NAME.fullmatch(a)]
                found += [(int(process.name), name) for name in names[:1]]
    return found


def _named(prefix: str) -> list[Path]:
    folders = {SHARED_MEMORY, Path(tempfile.gettempdir())}
    return [path for folder in folders for path in folder.glob(prefix + "*")]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError, PermissionError):
            path.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
