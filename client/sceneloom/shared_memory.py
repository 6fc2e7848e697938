"""Regions of system shared memory, which the server reads requests from and writes answers to.

A region is a file in /dev/shm, removed with its transport, when the process ends, or, after a
SIGKILL, by the next process that opens one.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import secrets
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sceneloom.files import SHARED_MEMORY, is_ownerless, new_prefix

_MARK = "client-"
_STEP = 1 << 20


def new_region_prefix() -> str:
    """Prefix for the regions of one connection.

    Nobody can guess it: a server on another host has no file of such a name, even where a client of
    the same process id runs there.
    """
    return f"{new_prefix()}{_MARK}{secrets.token_hex(8)}-"


def is_ownerless_region(name: str) -> bool:
    """Whether this is the name of a region whose client is gone."""
    return f"-{_MARK}" in name and is_ownerless(name)


def sweep_regions() -> list[str]:
    """Remove the regions of clients that are gone; the names removed."""
    gone = [path for path in SHARED_MEMORY.glob("sceneloom-*") if is_ownerless_region(path.name)]
    for path in gone:
        with contextlib.suppress(FileNotFoundError, PermissionError):
            path.unlink()
    return [path.name for path in gone]


class Region:
    """One region: as long as it is there, both processes can use its memory."""

    def __init__(self, name: str, size: int) -> None:
        """Make a region.

        Args:
            name: file name in /dev/shm.
            size: bytes it must have; rounded up to whole MiB.

        Raises:
            OSError: there is no shared memory here, or not enough is left.
        """
        self.name = name
        self.size = -(-size // _STEP) * _STEP
        self.registered = False
        """Whether the server knows it, as far as its client does."""
        path = SHARED_MEMORY / name
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self._remove = weakref.finalize(self, _unlink, path, os.getpid())
        try:
            # ftruncate would promise memory that is not there, and writing to it would end the
            # process with SIGBUS.
            os.posix_fallocate(file, 0, self.size)
            self._memory = mmap.mmap(file, self.size)
        except BaseException:
            self._remove()
            raise
        finally:
            os.close(file)

    def register(self, client: Any, timeout: float) -> None:
        """Make it known to the server of a tritonclient; raises InferenceServerException."""
        client.register_system_shared_memory(
            self.name, f"/{self.name}", self.size, client_timeout=timeout
        )

    def write(self, offset: int, array: npt.NDArray[Any]) -> None:
        """Copy an array of numbers to `offset`."""
        np.copyto(self._view(offset, array.dtype, array.shape), array)

    def read(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """A copy of the array at `offset`."""
        return self._view(offset, dtype, shape).copy()

    def remove(self) -> None:
        """Remove the file; who has its memory open keeps it. Calling it twice is fine."""
        self._remove()

    def _view(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        return np.frombuffer(self._memory, dtype, math.prod(shape), offset).reshape(shape)


def _unlink(path: Path, owner: int) -> None:
    # A child that was forked ends while its parent goes on.
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            path.unlink()
