"""JSON that is nested too deeply is a ValueError, as everything is that is wrong with it."""

from __future__ import annotations

import json

import pytest

from sceneloom.text import MAX_LEVELS, parse_json


@pytest.mark.parametrize("depth", [MAX_LEVELS + 1, 900, 60_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nested_too_deeply(depth: int, opening: str, closing: str) -> None:
    with pytest.raises(ValueError, match="nested more than 100 deep"):
        parse_json(opening * depth + "1" + closing * depth)


def test_what_files_hold_is_parsed() -> None:
    deep = "[" * MAX_LEVELS + "1" + "]" * MAX_LEVELS
    assert json.dumps(parse_json(deep)) == deep
    assert parse_json(b'{"a": [1, {"b": null}], "c": []}') == {"a": [1, {"b": None}], "c": []}
    with pytest.raises(ValueError, match="Expecting value"):
        parse_json("")
