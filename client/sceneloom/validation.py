"""Dataclasses whose types and ranges pydantic checks, and JSON documents read into them.

A failure is one sentence of this package's own error family: the source, the field, its value and
the nearest valid choice.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable
from typing import Any, TypeVar

import pydantic
import pydantic.dataclasses

from sceneloom.errors import InputError, SceneLoomError

T = TypeVar("T")

_CONFIG = pydantic.ConfigDict(
    strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True
)
_WANTED = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "multiple_of": "a multiple of {multiple_of}",
    "literal_error": "{expected}",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "dataclass_type": "an object",
    "dict_type": "an object",
    "tuple_type": "a list",
    "list_type": "a list",
    "string_too_short": "not empty",
}


def checked(
    error: type[SceneLoomError] = InputError, *, sections: bool = False, noun: str = ""
) -> Callable[[type[T]], type[T]]:
    """Let pydantic check the fields of a frozen keyword-only dataclass at construction.

    Args:
        error: the class of the error of a value that does not fit. An error of this package that
            `__post_init__` raises passes unchanged.
        sections: check plain dataclasses in its fields, too: the error names section and field.
        noun: what a field is, for errors of fields whose names do not say it.
    """

    config: Any = {**_CONFIG, "revalidate_instances": "always" if sections else "never"}

    def decorate(plain: type[T]) -> type[T]:
        made: Any = pydantic.dataclasses.dataclass(plain, frozen=True, kw_only=True, config=config)
        construct = made.__init__

        def __init__(self: Any, **values: Any) -> None:
            try:
                construct(self, **values)
            except pydantic.ValidationError as invalid:
                raise _own_error(invalid, error, noun) from None

        made.__init__ = __init__
        return made  # type: ignore[no-any-return]

    return decorate


def read_json(
    kind: type[T], document: Any, *, source: str, error: type[SceneLoomError] = InputError
) -> T:
    """Read a JSON document into a checked dataclass.

    Args:
        kind: the dataclass.
        document: the document's text in UTF-8, or its parsed value.
        source: the start of an error's sentence, such as the file's path.
        error: the class of the error of a document that is not JSON or does not fit.
    """
    try:
        text = document if isinstance(document, str | bytes) else json.dumps(document)
        return pydantic.TypeAdapter(kind).validate_json(text)
    except pydantic.ValidationError as invalid:
        raise error(f"{source}: {_own_error(invalid, error)}") from None


def _own_error(
    invalid: pydantic.ValidationError, error: type[SceneLoomError], noun: str = ""
) -> SceneLoomError:
    for fault in invalid.errors():
        if isinstance(own := fault.get("ctx", {}).get("error"), SceneLoomError):
            return own
    return error("; ".join(_sentence(fault, noun) for fault in invalid.errors()[:3]))


def _sentence(fault: Any, noun: str) -> str:
    context = fault.get("ctx", {})
    kind, value = fault["type"], reprlib.repr(fault["input"])
    name = re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", ".".join(map(str, fault["loc"])))
    name = name.removesuffix(".[key]") or "the document"
    name = f"the {name} {noun}" if noun else name
    if kind == "missing":
        return f"{name} is missing"
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown key {name}"
    if kind == "json_invalid":
        return f"not readable as JSON ({context['error']})"
    if kind in ("value_error", "assertion_error"):
        return f"{name} is {value}; {context['error']}"
    if kind in _WANTED:
        return f"{name} is {value}; it is {_WANTED[kind].format(**context)}"
    return f"{name} is {value}; {fault['msg'].replace('Input', 'it', 1)}"


def check_kind(value: object, kinds: type | tuple[type, ...], belongs: str) -> None:
    """Check the type of an argument, such as one of two swapped ones; a bool is no number.

    Args:
        belongs: the argument's name with its article: "the label schema".

    Raises:
        InputError: it has another type.
    """
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        raise InputError(f"a value of {type(value).__name__} where {belongs} belongs")
