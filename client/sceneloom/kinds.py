"""Arguments of an undocumented type, refused before use."""

from __future__ import annotations

from sceneloom.errors import InputError


def check_kind(value: object, kinds: type | tuple[type, ...], belongs: str) -> None:
    """Check the type of an argument, such as one of two swapped ones; a bool is no number.

    Args:
        belongs: the argument's name with its article: "the label schema".

    Raises:
        InputError: it has another type.
    """
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        raise InputError(f"a value of {type(value).__name__} where {belongs} belongs")
