"""Checked dataclasses, and JSON documents read into them."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Interval, MinLen

from sceneloom.errors import CheckpointError, InputError, SizeError
from sceneloom.validation import checked, read_json


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    rate: Annotated[float, Interval(ge=0, lt=1)] = 0.5
    kind: Literal["one", "two"] = "one"


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
    count: Annotated[int, Interval(ge=1, le=8)]
    name: Annotated[str, MinLen(1)] = "name"
    flag: bool = False
    path: Path | None = None
    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        if self.count == 7:
            raise SizeError("count is 7; it is not 7")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"count": 0}, "count is 0; it is at least 1"),
        ({"count": 9}, "count is 9; it is at most 8"),
        ({"count": True}, "count is True; it is a whole number"),
        ({"count": 1.0}, "count is 1.0; it is a whole number"),
        ({"count": 1, "name": ""}, "name is ''; it is not empty"),
        ({"count": 1, "flag": 1}, "flag is 1; it is true or false"),
        ({"count": 0, "flag": 1}, "count is 0; it is at least 1; flag is 1; it is true or false"),
        ({}, "count is missing"),
        ({"count": 1, "counts": 2}, "unknown key counts"),
        ({"count": 1, "path": "a"}, "path is 'a'; "),
    ],
)
def test_values_that_do_not_fit(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError) as refused:
        Whole(**values)
    assert str(refused.value).startswith(reason)


@pytest.mark.parametrize("rate", [1, -0.1, float("nan"), float("inf"), "0"])
def test_numbers_are_finite_and_within_their_range(rate: Any) -> None:
    with pytest.raises(InputError, match=r"^rate is .*; it is "):
        Part(rate=rate)


def test_an_error_of_this_package_passes_as_it_is() -> None:
    with pytest.raises(SizeError, match=r"^count is 7; it is not 7$"):
        Whole(count=7)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"count": 1, "parts": [{}, {"rate": 2}]}', r"parts[1].rate is 2; it is less than 1.0"),
        ('{"count": 1, "parts": [{"kind": "x"}]}', "parts[0].kind is 'x'; it is 'one' or 'two'"),
        ('{"count": 1, "parts": {}}', "parts is {}; it is a list"),
        ('{"count": 1, "parts": [3]}', "parts[0] is 3; it is an object"),
        ('{"count": 7}', "count is 7; it is not 7"),
        ("[]", "the document is []; it is an object"),
        ("{", "not readable as JSON ("),
        ("[" * 100_000, "not readable as JSON (recursion limit exceeded"),
    ],
)
def test_documents_that_do_not_fit(text: str, reason: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        read_json(Whole, text, source="run.json", error=CheckpointError)
    assert str(refused.value).startswith(f"run.json: {reason}")


def test_documents_that_fit() -> None:
    text = b'{"count": 2, "path": "a/b", "parts": [{"rate": 0}]}'
    expected = Whole(count=2, path=Path("a/b"), parts=(Part(rate=0.0),))
    assert read_json(Whole, text, source="run.json") == expected
    assert read_json(Whole, {"count": 2}, source="run.json") == Whole(count=2)


def test_they_are_dataclasses() -> None:
    whole = Whole(count=2)
    assert pickle.loads(pickle.dumps(whole)) == whole
    assert dataclasses.asdict(whole)["count"] == 2
    with pytest.raises(InputError, match="count is 9"):
        dataclasses.replace(whole, count=9)
    with pytest.raises(dataclasses.FrozenInstanceError):
        whole.count = 3  # type: ignore[misc]
