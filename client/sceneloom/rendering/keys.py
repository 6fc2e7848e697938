"""Keys: what names a picture, in its source, its manifest row and its place."""

from __future__ import annotations

import hashlib

from sceneloom.errors import InputError

_MOST_BYTES = 1024  # what object stores take


def check_key(key: str) -> None:
    """Check that a key names a place inside a folder, on every file system and in every archive.

    Raises:
        InputError: it is absolute, climbs out with ``..``, has an empty part, a backslash, a
            control character or what is no text, or is longer than 1024 bytes.
    """
    if reason := fault_of_key(key):
        raise InputError(f"{key!r:.200}: cannot name a picture ({reason})")


def fault_of_key(key: str) -> str | None:
    """Why a key is refused by `check_key`, or None where it is fine."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "not UTF-8"
    if size > _MOST_BYTES:
        return f"{size} bytes; {_MOST_BYTES} at most"
    if "\\" in key or any(character < " " or character == "\x7f" for character in key):
        return "a backslash or a control character in it"
    if key.startswith("/"):
        return "an absolute path"
    for part in key.split("/"):
        if part in ("", ".", ".."):
            return f"a part that is {part!r}"
    return None


def shard_of(key: str, shards: int) -> int:
    """Which of so many shards a map belongs to: by the SHA-256 of its key, 0 to `shards` - 1, the
    same on every machine.
    """
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % shards
