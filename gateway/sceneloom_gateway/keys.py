"""API keys: a file with their hashes (argon2id), and each key's limits.

    {"format": 1, "keys": [{"id": "k3f9...", "name": "alice", "hash": "$argon2id$...",
                            "limits": {"rate": 20.0, "in_flight": 8}}]}

A key is ID.SECRET; only the secret's hash is on the disk. A key that was right once is known by its
SHA-256 in memory, since argon2 takes tens of milliseconds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import json
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from pydantic import Field

from sceneloom.errors import InputError
from sceneloom.files import write_whole
from sceneloom.text import printable
from sceneloom.validation import checked, read_json
from sceneloom_gateway.problems import Problem

_LOOK_SECONDS = 1.0
_hasher = PasswordHasher()


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one key."""

    rate: Annotated[float, Field(gt=0, le=100_000)] = 20.0
    """Requests a second, over some seconds; twice as many at once."""
    in_flight: Annotated[int, Field(ge=1, le=10_000)] = 8
    """Requests at the same time."""


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Key:
    """One entry of the file."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,32}$")]
    """First part of the key; no secret."""
    name: Annotated[str, Field(min_length=1, max_length=64)]
    """Its holder, for lists and the access log."""
    hash: str
    """argon2id of the secret, in argon2's own text form."""
    limits: Limits = Limits()


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class _Document:
    format: Literal[1] = 1
    keys: tuple[Key, ...] = ()


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read a file of keys; raises InputError if it is missing or wrong."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); sceneloom gateway-keys add makes it"
        ) from None
    keys = read_json(_Document, data, source=str(path)).keys
    for kind in ("id", "name"):
        values = [getattr(key, kind) for key in keys]
        if twice := next((value for value in values if values.count(value) > 1), None):
            raise InputError(f"{path}: two keys have the {kind} {twice!r}")
    return keys


def write_keys(path: Path, keys: tuple[Key, ...]) -> None:
    """Write a file of keys whole; raises OSError if the place cannot be written."""
    document = {"format": 1, "keys": [dataclasses.asdict(key) for key in keys]}
    write_whole(path, (json.dumps(document, indent=1) + "\n").encode(), flush=True)


def new_key(name: str, limits: Limits) -> tuple[Key, str]:
    """Make a key: its entry for the file, and its text, which exists here alone."""
    id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    entry = Key(id=id, name=name, hash=_hasher.hash(secret), limits=limits)
    return entry, f"{id}.{secret}"


@dataclasses.dataclass(eq=False)
class _Use:
    """The used part of a key's limits."""

    left: float
    seen: float
    in_flight: int = 0


class Keys:
    """The keys of a running gateway. The file is read again when it changes; a damaged one leaves
    the last keys in force.
    """

    def __init__(self, path: Path) -> None:
        """Read the file; raises InputError."""
        self._path = path
        self._stamp = self._stat()
        self._keys = {key.id: key for key in read_keys(path)}
        self._known: dict[str, tuple[bytes, str]] = {}  # id -> SHA-256 of the secret, its hash
        self._uses: dict[str, _Use] = {}
        self._looked = time.monotonic()
        self._verifying = threading.Lock()  # one at a time: argon2 takes 64 MiB

    def find(self, text: str) -> Key:
        """The entry of a key; called from a thread, as argon2 takes its time. Raises Problem."""
        self._look_again()
        id, _, secret = text.partition(".")
        key = self._keys.get(id)
        if key is None or not self._is_right(key, secret):
            raise Problem(
                401,
                "this API key is not known",
                field="Authorization",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return key

    @contextlib.contextmanager
    def admitted(self, key: Key) -> Iterator[None]:
        """Count one request, on the event loop; raises Problem above a limit of the key."""
        now = time.monotonic()
        burst = max(1.0, 2 * key.limits.rate)
        use = self._uses.setdefault(key.id, _Use(left=burst, seen=now))
        use.left = min(burst, use.left + (now - use.seen) * key.limits.rate)
        use.seen = now
        if use.in_flight >= key.limits.in_flight:
            raise Problem(
                429,
                f"the key {key.name} has {use.in_flight} requests in flight, its limit",
                kind="InFlightLimit",
                retry_after=1,
            )
        if use.left < 1:
            raise Problem(
                429,
                f"the key {key.name} sends more than its {key.limits.rate:g} requests a second",
                kind="RateLimit",
                retry_after=(1 - use.left) / key.limits.rate,
            )
        use.left -= 1
        use.in_flight += 1
        try:
            yield
        finally:
            use.in_flight -= 1

    def _is_right(self, key: Key, secret: str) -> bool:
        digest = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
        known, of_hash = self._known.get(key.id, (b"", ""))
        if of_hash == key.hash and hmac.compare_digest(known, digest):
            return True
        with self._verifying, contextlib.suppress(VerificationError, InvalidHashError):
            _hasher.verify(key.hash, secret)
            self._known[key.id] = (digest, key.hash)
            return True
        return False

    def _look_again(self) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        if (stamp := self._stat()) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = {key.id: key for key in read_keys(self._path)}
        except InputError as error:
            print(
                f"sceneloom gateway: {printable(error)}; the last keys stay in force",
                file=sys.stderr,
                flush=True,
            )

    def _stat(self) -> tuple[int, int, int]:
        try:
            status = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return (status.st_ino, status.st_size, status.st_mtime_ns)
