"""Whether a document is of the form that `schema.json` beside this file describes: the part of JSON
Schema that it uses, so that reading a report needs no package, and some that a schema cannot say.
A number is finite and of a size that something can be measured at, and a text can be shown.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

SCHEMA_FILE = Path(__file__).with_name("schema.json")
LARGEST = 1e30
"""No number of a report is further from 0: what is written of it would overflow."""
_DEEPEST = 50
_TYPES: dict[str, Callable[[object], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and float(value).is_integer(),
    "number": lambda value: _is_number(value),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


def check_form(document: Any) -> None:
    """Refuse a document that is no report.

    Raises:
        ValueError: what is wrong with its first part that is, and where.
    """
    wrong = next(_unfit(document, ""), None) or next(_wrong(document, _schema(), ""), None)
    if wrong is not None:
        raise ValueError(wrong)


def _schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(SCHEMA_FILE.read_text("utf-8"))
    definitions = found["$defs"]

    def resolved(part: Any) -> Any:
        if isinstance(part, list):
            return [resolved(one) for one in part]
        if not isinstance(part, dict):
            return part
        named = part.get("$ref")
        rest = {key: resolved(one) for key, one in part.items() if key not in ("$ref", "$defs")}
        return rest if named is None else resolved(definitions[named.split("/")[-1]]) | rest

    whole: dict[str, Any] = resolved(found)
    return whole


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


def _wrong(value: Any, schema: Mapping[str, Any], place: str) -> Iterator[str]:
    """Where a value is not as a schema describes it, in sentences."""
    where = place or "it"
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(_TYPES[one](value) for one in types):
        yield f"{where} is {_short(value)}, which is no {' or '.join(types)}"
        return
    known = [schema["const"]] if "const" in schema else schema.get("enum", [value])
    if value not in known:
        yield f"{where} is {_short(value)}, which is none of {', '.join(map(str, known))}"
    if isinstance(value, str):
        yield from _wrong_text(value, schema, where)
    elif _is_number(value):
        yield from _wrong_number(value, schema, where)
    elif isinstance(value, list):
        yield from _wrong_list(value, schema, place)
    elif isinstance(value, dict):
        yield from _wrong_object(value, schema, place)


def _wrong_text(value: str, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    if len(value) < schema.get("minLength", 0):
        yield f"{where} is empty"
    if not re.search(schema.get("pattern", ""), value):
        yield f"{where} is {_short(value)}, which is not of its form"


def _wrong_number(value: float, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    above = schema.get("exclusiveMinimum", -math.inf)
    if not schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf):
        yield f"{where} is {_short(value)}, which is out of its range"
    elif value <= above:
        yield f"{where} is {_short(value)}; it is above {above}"


def _wrong_list(value: list[Any], schema: Mapping[str, Any], place: str) -> Iterator[str]:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf):
        yield f"{place} has {len(value)} values"
    first = schema.get("prefixItems", [])
    for number, part in enumerate(value):
        form = first[number] if number < len(first) else schema.get("items", {})
        yield from _wrong(part, form, f"{place}[{number}]")


def _wrong_object(value: Mapping[str, Any], schema: Mapping[str, Any], place: str) -> Iterator[str]:
    for key in schema.get("required", []):
        if key not in value:
            yield f"{_inside(place, key)} is missing"
    described = schema.get("properties", {})
    others = schema.get("additionalProperties", {})
    for key, part in value.items():
        inside = _inside(place, key)
        yield from _wrong(key, schema.get("propertyNames", {}), f"the name {inside}")
        if key not in described and others is False:
            yield f"nobody knows {inside}"
        else:
            yield from _wrong(part, described.get(key, others), inside)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _inside(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _short(value: object) -> str:
    said = repr(value)
    return said if len(said) <= 60 else f"{said[:60]}..."
