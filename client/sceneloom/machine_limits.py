"""Errors of other libraries that say that the machine has not enough: memory, or threads.

They come as MemoryError, as RuntimeError, or as a class of the library's own, so that their text is
looked at.
"""

from __future__ import annotations

import re

from sceneloom.errors import OutOfResourcesError
from sceneloom.text import one_line

_MEMORY = re.compile(
    r"out of memory|not enough memory|insufficient memory|allocate memory|bad_?alloc"
    r"|alloc_failed|failed to allocate|outofmemory",
    re.IGNORECASE,
)
_THREADS = re.compile(
    r"can't start new thread|thread creation failed|resource temporarily unavailable"
    r"|pthread_create",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was not enough, on a GPU or beside it."""
    if isinstance(error, MemoryError):
        return True
    return bool(_MEMORY.search(f"{type(error).__name__} {error}"))


def out_of_resources(error: BaseException) -> OutOfResourcesError | None:
    """The error for one that says that the machine has not enough; None for all others."""
    if isinstance(error, OutOfResourcesError):
        return error
    if is_out_of_memory(error):
        return OutOfResourcesError(f"memory was not enough ({said(error)})")
    if isinstance(error, RuntimeError | OSError) and _THREADS.search(str(error)):
        return OutOfResourcesError(
            f"no further thread or process can be started ({said(error)}); the limit is that of "
            "ulimit -u, or of the container's pids"
        )
    return None


def said(error: BaseException) -> str:
    """The error's own words in one line, or the name of its kind."""
    return one_line(str(error)) or type(error).__name__
