"""`sceneloom bench page`: tables, plots and a page from the reports of a folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from sceneloom.errors import InputError
from sceneloom_bench.reports.report import SCHEMA, Report, read_document, read_report, say


def main(folder: Annotated[Path, Positional, arg(metavar="DIR")]) -> int:
    """Write DIR/index.html, DIR/README.md and the plots from the reports that lie in DIR; they
    follow from the reports alone.

    Args:
        folder: holds the reports.
    """
    from sceneloom_bench.reports.page import write_page

    reports, others = read_reports(folder)
    for path in others:
        say(f"not a report of {SCHEMA}, left alone: {path.name}")
    written = write_page(folder, reports)
    print(f"wrote {', '.join(path.name for path in written)} from {len(reports)} reports")
    print(f"open {folder / 'index.html'}")
    return 0


def read_reports(folder: Path) -> tuple[dict[str, Report], list[Path]]:
    """The reports of a folder by their files' names without ending, and its other JSON files.

    Raises:
        InputError: it is no folder, holds no report, or one that is broken.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder")
    files = sorted(path for path in folder.glob("*.json") if path.is_file())
    others = [path for path in files if not _says_report(path)]
    reports = {path.stem: read_report(path) for path in files if path not in others}
    for name in reports:
        if not name.isprintable():  # bytes that are no text, or line ends
            raise InputError(f"{folder}: a page cannot name {name!a}.json; rename it")
    if not reports:
        raise InputError(
            f"{folder}: holds no report; sceneloom bench engine --out {folder} makes one"
        )
    return reports, others


def _says_report(path: Path) -> bool:
    """Whether a file calls itself a report, whole or not."""
    name = SCHEMA.split("/")[0]
    try:
        document = read_document(path)
    except InputError:
        with path.open("rb") as file:  # one that was cut off still begins as a report does
            return bool(re.match(rf'\s*{{\s*"schema"\s*:\s*"{name}/'.encode(), file.read(200)))
    said = document.get("schema") if isinstance(document, dict) else None
    return isinstance(said, str) and said.split("/")[0] == name
