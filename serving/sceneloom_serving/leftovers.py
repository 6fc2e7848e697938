"""What a server has outside its repository: shared memory, a folder of backend files, stubs.

All carry the name of the process that owns them (`sceneloom.files`). They are removed when
the server stops, and swept by the next one if their owner was killed before it could.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from pathlib import Path

from sceneloom.files import OWNED_NAME, SHARED_MEMORY, is_ownerless, new_prefix

__all__ = ["SHARED_MEMORY", "new_folder", "new_prefix", "remove", "sweep"]


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
        if is_ownerless(name):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
                removed.append(name)
    for path in _named("sceneloom-"):
        if is_ownerless(path.name):
            _remove(path)
            removed.append(path.name)
    return removed


def _stubs() -> list[tuple[int, str]]:
    """Processes of Triton's Python backend, and the name of their shared memory: a stub whose
    server was killed waits in it for ever.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if arguments[0].endswith("triton_python_backend_stub"):
                names = [a for a in arguments if OWNED_NAME.fullmatch(a)]
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
