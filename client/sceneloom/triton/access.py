"""A client's access to servers: an API key, trusted certificates, headers.

connect("https://host", access=Access(api_key=key))
sceneloom render ... --url https://host --api-key FILE --ca authority.pem
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, arg

from sceneloom.errors import InputError
from sceneloom.validation import checked

KEY_VARIABLE = "SCENELOOM_API_KEY"
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_LARGEST_FILE = 1 << 20
_TLS = ("https://", "grpcs://")


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Access:
    """A client's access to a server."""

    api_key: str = dataclasses.field(default="", repr=False)
    """Key of a gateway; empty for none."""
    ca: str = ""
    """Trusted certificates as PEM text, of https:// and grpcs://; empty for the system's."""
    headers: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)
    """Further headers of every request, as a proxy may want them."""

    def __post_init__(self) -> None:
        if not all(" " < c <= "~" for c in self.api_key):
            raise InputError("the API key has a space or a character outside ASCII")
        for name, value in self.headers.items():  # an error never shows a value: it may be secret
            if not _NAME.fullmatch(name):
                raise InputError(f"{name[:40]!r} is not the name of a header")
            if not value or not all(" " <= c <= "~" for c in value):
                raise InputError(f"the value of header {name} is empty or not printable ASCII")


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class AccessFlags:
    """Access to servers; secrets are in files or in the environment, for every user of a machine
    can read command lines.
    """

    api_key: Annotated[Path | None, arg(metavar="FILE")] = None
    """File with the API key of a gateway; without it the environment variable SCENELOOM_API_KEY
    has the key.
    """
    ca: Annotated[Path | None, arg(metavar="FILE")] = None
    """Certificates to trust, as PEM, with https:// and grpcs://; the system's without it."""
    headers: Annotated[Path | None, arg(metavar="FILE")] = None
    """File of further headers of every request, a line NAME: VALUE for each."""

    def read(self, urls: Sequence[str]) -> Access:
        """The access to servers at these addresses.

        Raises InputError if a file cannot be read, is of a wrong form, or fits none of them.
        """
        for flag, given, schemes in (
            ("--api-key", self.api_key, ("https://", "http://")),
            ("--ca", self.ca, _TLS),
        ):
            if given is not None and not any(url.startswith(schemes) for url in urls):
                raise InputError(f"{flag} is for servers at {' and '.join(schemes)}")
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if self.api_key is not None:
            # A path that is not there may be the key itself, and is not repeated.
            name = str(self.api_key) if self.api_key.exists() else "--api-key"
            key = _read(self.api_key, name).strip()
            if not key or len(key.split()) > 1:
                raise InputError(f"{name}: holds no API key, which is one word")
        ca = "" if self.ca is None else _read(self.ca, str(self.ca))
        if self.ca is not None and "BEGIN CERTIFICATE" not in ca:
            raise InputError(f"{self.ca}: holds no certificate in PEM form")
        headers: dict[str, str] = {}
        if self.headers is not None:
            lines = _read(self.headers, str(self.headers)).splitlines()
            for number, line in enumerate(lines, 1):
                name, colon, value = line.partition(":")
                if not line.strip():
                    continue
                if not colon or name.lower() in map(str.lower, headers):
                    fault = "gives a header twice" if colon else "is not NAME: VALUE"
                    raise InputError(f"{self.headers}: line {number} {fault}")
                headers[name] = value.strip()
        return Access(api_key=key, ca=ca, headers=headers)


AccessArguments = Annotated[AccessFlags, OmitArgPrefixes, arg(name="access")]
"""`AccessFlags` as a parameter of a command."""


def _read(path: Path, name: str) -> str:
    try:
        with path.open(encoding="utf-8") as stream:
            return stream.read(_LARGEST_FILE)
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror}); name a file") from None
    except UnicodeDecodeError:
        raise InputError(f"{name}: not a text in UTF-8") from None
