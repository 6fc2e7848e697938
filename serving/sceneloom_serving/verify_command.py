"""`sceneloom verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from sceneloom.text import printable
from sceneloom_serving.bundle import verify_repository


def main(
    repository: Annotated[Path, Positional, arg(metavar="REPOSITORY")],
    *,
    variant: str | None = None,
) -> int:
    """Check that a repository's files are as exported, and its plans as built.

    Compares the SHA-256 of every file with report.json, and of every plan with the record beside
    it. Needs the base install only.

    Args:
        repository: folder of an export.
        variant: configuration to be served, such as tensorrt; its file must exist too.
    """
    count = verify_repository(repository, variant)
    print(f"{printable(repository)}: all {count} files are as exported")
    return 0
