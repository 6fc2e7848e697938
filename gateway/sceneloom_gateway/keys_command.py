"""`sceneloom gateway-keys`: add, list and remove the API keys of a gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from sceneloom.errors import InputError, require
from sceneloom.text import counted, printable

require(("argon2",), extra="gateway", purpose="the gateway's keys")

from sceneloom_gateway.keys import Limits, new_key, read_keys, write_keys  # noqa: E402


def main(
    action: Annotated[Literal["add", "list", "remove"], Positional],
    file: Annotated[Path, Positional, arg(metavar="FILE")],
    name: Annotated[str, Positional, arg(metavar="NAME")] = "",
    *,
    limits: Annotated[Limits, OmitArgPrefixes] = Limits(),  # noqa: B008 - frozen
) -> int:
    """Add an API key and print it, list the keys, or remove one. The file holds hashes only: a key
    is shown once, when it is made. A running gateway reads the changed file within a second.

    Args:
        action: add, list or remove.
        file: file of the keys; add makes it.
        name: holder of the key to add or to remove.
        limits: of the key to add.
    """
    if (action == "list") == bool(name):
        raise InputError("list takes no name" if name else f"{action} takes the name of a holder")
    keys = read_keys(file) if action != "add" or file.exists() else ()
    names = [key.name for key in keys]
    if action == "list":
        for key in keys:
            print(
                f"{key.id}  {printable(key.name)}: {key.limits.rate:g} requests a second, "
                f"{counted(key.limits.in_flight, 'request')} at the same time"
            )
    elif action == "add":
        if name in names:
            raise InputError(f"{file}: has a key of {name!r}; remove it first, or name another")
        entry, text = new_key(name, limits)
        write_keys(file, (*keys, entry))
        print(text)
    else:
        if name not in names:
            raise InputError(f"{file}: has no key of {name!r}; it has {', '.join(names) or 'none'}")
        write_keys(file, tuple(key for key in keys if key.name != name))
        print(f"removed {printable(name)}")
    return 0
