"""Whether a folder or a file is still the one that a run began with; why one cannot be used."""

from __future__ import annotations

import errno
import os
from pathlib import Path

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
