"""Whether a document is of the form that `schema.json` beside this file describes, and what a
schema cannot say: a number is finite and of a size that something can be measured at, and a text
can be shown.
"""

from __future__ import annotations

import functools
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sceneloom.errors import require
from sceneloom.text import one_line

SCHEMA_FILE = Path(__file__).with_name("schema.json")
LARGEST = 1e30
"""No number of a report is further from 0: what is written of it would overflow."""
_DEEPEST = 50
_LONGEST = 200


def check_form(document: Any) -> None:
    """Refuse a document that is no report.

    Raises:
        ValueError: what is wrong with one part of it, and where.
        MissingDependencyError: jsonschema is not installed.
    """
    wrong = next(_unfit(document, ""), None) or _against_schema(document)
    if wrong is not None:
        raise ValueError(wrong)


def _against_schema(document: Any) -> str | None:
    """Where a document is not as the schema describes it, the most telling place."""
    from jsonschema.exceptions import best_match

    error = best_match(_validator().iter_errors(document))
    if error is None:
        return None
    said = one_line(error.message, most=_LONGEST)
    place = error.json_path.removeprefix("$").removeprefix(".")
    return f"{place}: {said}" if place else said


@functools.cache
def _validator() -> Any:
    require(["jsonschema"], extra="bench", purpose="reading a report")
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(SCHEMA_FILE.read_text("utf-8")))


def _unfit(value: Any, place: str, depth: int = 0) -> Iterator[str]:
    """Numbers, texts and lists, wherever they are, that nothing can be made of."""
    if depth > _DEEPEST:
        yield "it has lists in lists, deeper than any report"
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _unfit(key, f"a key of {place or 'it'}")
            yield from _unfit(part, _inside(place, key), depth + 1)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _unfit(part, f"{place}[{number}]", depth + 1)
    elif isinstance(value, int | float) and not abs(value) <= LARGEST:
        yield f"{place} is too large a number, or none"
    elif isinstance(value, str) and any(map(_is_unseen, value)):
        yield f"{place} has characters that cannot be shown: {ascii(value)[:80]}"


def _is_unseen(character: str) -> bool:
    """Surrogates, which no file can hold, and what a terminal takes for a command."""
    return character not in "\n\r\t" and unicodedata.category(character) in ("Cc", "Cs")


def _inside(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key
