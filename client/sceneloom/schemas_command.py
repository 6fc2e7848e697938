"""`sceneloom schemas`."""

from __future__ import annotations

import json
from typing import Annotated

from tyro.conf import Positional, arg

from sceneloom.schema import builtin_schemas, load_schema


def main(name: Annotated[str | None, Positional, arg(metavar="NAME")] = None) -> int:
    """List the built-in label schemas, or print one as JSON to start your own from.

    Args:
        name: a built-in schema, or the path of a schema file to check.
    """
    if name is not None:
        print(json.dumps(load_schema(name).to_json(), indent=1))
        return 0
    width = max(map(len, builtin_schemas()))
    for builtin in builtin_schemas():
        schema = load_schema(builtin)
        unlabelled = "none" if schema.unlabelled is None else schema.unlabelled
        print(f"{builtin:{width}}  {schema.channels:3} labels, unlabelled: {unlabelled}")
    return 0
