"""Sizes as they are written for people: WIDTHxHEIGHT."""

from __future__ import annotations

import re

from sceneloom.errors import InputError


def parse_size(text: str, *, of: str) -> tuple[int, int]:
    """Parse WIDTHxHEIGHT, such as 512x256, to (height, width).

    Args:
        text: what the user wrote.
        of: name of the setting, for the error.

    Raises:
        InputError: it is not two whole numbers from 1 to 99999.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text, re.ASCII)
    if match is None:
        raise InputError(f"{of} is {text!r}; write WIDTHxHEIGHT, such as 512x256")
    return int(match[2]), int(match[1])
