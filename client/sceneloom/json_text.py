"""JSON of a file or a server, as values; nested too deeply is a ValueError like all that is wrong.

The parser of the standard library raises RecursionError there, and what is just not too deep for it
is too deep for those who write it again.
"""

from __future__ import annotations

import json
from typing import Any

MOST_LEVELS = 100
"""Levels of arrays and objects within one another; no file of SceneLoom has ten."""


def parse_json(text: str | bytes | bytearray, **options: Any) -> Any:
    """Parse JSON.

    Args:
        text: the document.
        options: as `json.loads` takes them.

    Raises:
        ValueError: not JSON, not UTF-8, or nested more than `MOST_LEVELS` deep.
    """
    too_deep = f"arrays and objects are nested more than {MOST_LEVELS} deep"
    try:
        value = json.loads(text, **options)
    except RecursionError:
        raise ValueError(too_deep) from None
    level = [value]
    for _ in range(MOST_LEVELS + 1):
        containers = [each for each in level if isinstance(each, dict | list) and each]
        if not containers:
            return value
        level = [
            inner
            for each in containers
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    raise ValueError(too_deep)
