"""`sceneloom runtimes`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from sceneloom.contract import MODEL_NAME
from sceneloom.text import printable
from sceneloom_serving.bundle import bundle_hash, load_references, verify_repository
from sceneloom_serving.choice import (
    Measured,
    fastest,
    measure_engines,
    precisions_left_out,
    recall,
    remember,
)
from sceneloom_serving.engines import ENGINES, unavailable
from sceneloom_serving.parity import CLASSES, PrecisionClass


def main(
    repository: Annotated[Path | None, Positional, arg(metavar="REPOSITORY")] = None,
    *,
    measure: bool = False,
    json_lines: bool = False,
) -> int:
    """List the engines: which can run on this machine, and why not for the others.

    Args:
        repository: folder that sceneloom export wrote; also says which engines it has, and which
            one serve takes here: * exact, + fast where that is another.
        measure: render the repository's reference maps with every engine that can run: difference
            from PyTorch, and time. The fastest of each precision that serve takes is remembered.
        json_lines: one JSON object per engine instead of a table.
    """
    if measure and repository is None:
        text = "--measure renders the maps of a repository, and none is named"
        print(f"sceneloom runtimes: {text}", file=sys.stderr)
        return 2
    version = None if repository is None else repository / MODEL_NAME / "1"
    if repository is not None and version is not None:
        verify_repository(repository)
    if measure and repository is not None and version is not None:
        found = measure_engines(
            version, load_references(repository), without=precisions_left_out(repository)
        )
        chosen = {kind: fastest(found, kind) for kind in CLASSES}
        for kind in CLASSES:
            remember(bundle_hash(repository), found, version, precision=kind)
    else:
        left_out = {} if repository is None else precisions_left_out(repository)
        found = [
            Measured(engine=name, reason=left_out.get(one.precision) or unavailable(one, version))
            for name, one in ENGINES.items()
        ]
        chosen = {}
        if repository is not None and version is not None:
            known = {
                kind: recall(bundle_hash(repository), version, precision=kind) for kind in CLASSES
            }
            chosen = {kind: engine for kind, engine in known.items() if engine is not None}
    for one in found:
        print(_json(one, chosen) if json_lines else printable(_line(one, chosen)))
    return 0


def _line(one: Measured, chosen: Mapping[PrecisionClass, str]) -> str:
    fast = "+" if one.engine == chosen.get("fast") else " "
    mark = "*" if one.engine == chosen.get("exact") else fast
    name = f"{mark} {one.engine:26} {ENGINES[one.engine].precision}"
    if one.reason is not None:
        return f"{name} no: {one.reason}"
    if one.seconds is None:
        return f"{name} yes"
    return f"{name} yes: {one.seconds:.3g} s a picture; {one.parity}"


def _json(one: Measured, chosen: Mapping[PrecisionClass, str]) -> str:
    known = {
        "engine": one.engine,
        "precision": ENGINES[one.engine].precision,
        "runs": one.reason is None,
        "chosen": one.engine == chosen.get("exact"),
        "chosen_fast": one.engine == chosen.get("fast"),
    }
    return json.dumps({**known, **one.to_json()})
