"""Arguments of another type than documented, refused before they are used."""

from __future__ import annotations

from sceneloom.errors import InputError


def check_kind(value: object, kinds: type | tuple[type, ...], belongs: str) -> None:
    """Check that an argument is of its documented type.

    Args:
        value: the argument.
        kinds: the types it may have; a bool is no number.
        belongs: what it should be, with its article: "the label schema".

    Raises:
        InputError: it is of another type, such as one of swapped arguments.
    """
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        raise InputError(f"a value of {type(value).__name__} where {belongs} belongs")
