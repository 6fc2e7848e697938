"""Names of what a killed process leaves behind, by which the next one knows that it may remove it.

They are ``sceneloom-<pid>-<n>-<namespace>-...`` of the process that owns them. Containers can share
/dev/shm without sharing process ids: the same number is another process there, so only what
carries our own pid namespace can be judged.
"""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
"""Where the system has its shared memory."""
OWNED_NAME = re.compile(r"sceneloom-(\d+)-\d+-(\d+)-.*")
_NAMESPACE_LINK = Path("/proc/self/ns/pid")
_numbers = itertools.count(1)


def new_prefix() -> str:
    """Prefix of names for what belongs to one thing of this process, such as a server."""
    return f"sceneloom-{os.getpid()}-{next(_numbers)}-{_namespace()}-"


def is_ownerless(name: str) -> bool:
    """Whether this is the name of something whose owner ran among our own processes and is gone."""
    match = OWNED_NAME.fullmatch(name)
    return match is not None and int(match[2]) == _namespace() and not _alive(int(match[1]))


def _namespace() -> int:
    """Number of the pid namespace that this process is in; 0 where the system does not tell."""
    try:
        return _NAMESPACE_LINK.stat().st_ino
    except OSError:
        return 0


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
