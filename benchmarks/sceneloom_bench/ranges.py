"""What flags of benchmarks may hold: checked before anything is served, drawn or sent, so that no
run ends after an hour because of a number, or never.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sceneloom.errors import InputError

MOST_THREADS = 1024
"""Requests at once: each has a thread of its own here."""
MOST_REQUESTS = 10_000_000
"""Of one load: their moments are kept in memory."""
MOST_MAPS = 100_000
"""Drawn, and kept in memory."""
MOST_BATCH = 1024
"""Maps of a request, as exports take them at most."""
MOST_ROUNDS = 100_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_ranges(settings: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Refuse numbers of settings that are out of range, or no numbers.

    Args:
        settings: a dataclass.
        ranges: field -> least and most; a least of infinitely little above 0 is ``ABOVE_0``. A
            field is a number, several, or None, which is left alone.

    Raises:
        InputError: names the field, its value and its limit.
    """
    for field, (least, most) in ranges.items():
        value = getattr(settings, field)
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and not least <= number <= most:
                raise InputError(f"{field} is {number}; it is {_limit(number, least, most)}")


ABOVE_0 = math.ulp(0.0)
"""The least number that is above 0."""


def _limit(number: float, least: float, most: float) -> str:
    if number > most:
        return f"at most {most:,g}" if most >= 1e6 else f"at most {most:g}"
    return "above 0" if least == ABOVE_0 else f"at least {least:g}"


def check_different(settings: Any, *fields: str) -> None:
    """Refuse lists of settings that are empty, or name something twice: the same load would be
    measured again under the same name, and no report can hold that.

    Raises:
        InputError: names the field.
    """
    for field in fields:
        values = getattr(settings, field)
        if not values or len(set(values)) != len(values):
            raise InputError(f"{field} are one or several different values, not {values}")


def check_name(name: str | None) -> None:
    """Refuse what cannot be a part of a report's file name.

    Raises:
        InputError: it holds more than letters, digits, dots, hyphens and underscores.
    """
    if name and not _NAME.fullmatch(name):
        raise InputError(f"name {name!r}: write letters, digits, dots, hyphens and underscores")


def check_out(folder: Path, stem: str) -> None:
    """Refuse a folder that the report could not be written into, before it is measured.

    Args:
        folder: of the report; it may be missing.
        stem: the report's name without its ending.

    Raises:
        InputError: a file is in its place, or nothing may be written there.
    """
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if _is(place))
    if not there.is_dir():
        raise InputError(f"{there}: not a folder, so that no report can be written into {folder}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{there}: may not be written to, so that no report can be")
    report = folder / f"{stem}.json"
    if report.is_dir():
        raise InputError(f"{report}: is a folder, where the report is to be written")


def _is(place: Path) -> bool:
    return os.path.lexists(place)
