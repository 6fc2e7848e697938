"""`sceneloom runtimes`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from sceneloom import progress
from sceneloom.text import printable
from sceneloom_serving import choice
from sceneloom_serving.bundle import VERSION, bundle_hash, load_references, verify_repository
from sceneloom_serving.choice import Measured
from sceneloom_serving.engines import ENGINES, unavailable
from sceneloom_serving.parity import CLASSES, PrecisionClass


def main(
    repository: Annotated[Path | None, Positional, arg(metavar="REPOSITORY")] = None,
    *,
    measure: bool = False,
    json_lines: bool = False,
) -> int:
    """List the engines that can run on this machine, and the reason for the others.

    Args:
        repository: folder of an export, for its own engines. A mark shows the one that sceneloom
            serve takes on this machine: * for exact, + for fast if that is another one.
        measure: render the repository's reference maps with every engine that can run: difference
            from PyTorch, and time. Serve remembers the fastest of each precision.
        json_lines: one JSON object per engine instead of a table.
    """
    version, left_out = None, {}
    if repository is not None:
        version = repository / VERSION
        verify_repository(repository)
        left_out = choice.precisions_left_out(repository)
    elif measure:
        text = "--measure renders the maps of a repository, and none is named"
        print(f"sceneloom runtimes: {text}", file=sys.stderr)
        return 2
    chosen: dict[PrecisionClass, str | None] = {}
    if measure and repository is not None and version is not None:
        references = load_references(repository)
        with progress.shown():
            found = choice.measure_engines(version, references, without=left_out)
        for kind in CLASSES:
            chosen[kind] = choice.remember(bundle_hash(repository), found, version, precision=kind)
    else:
        found = [
            Measured(engine=name, reason=left_out.get(one.precision) or unavailable(one, version))
            for name, one in ENGINES.items()
        ]
        if repository is not None and version is not None:
            for kind in CLASSES:
                chosen[kind] = choice.recall(bundle_hash(repository), version, precision=kind)
    for one in found:
        if json_lines:
            known = {
                "engine": one.engine,
                "precision": ENGINES[one.engine].precision,
                "runs": one.reason is None,
                "chosen": one.engine == chosen.get("exact"),
                "chosen_fast": one.engine == chosen.get("fast"),
            }
            print(json.dumps({**known, **one.to_json()}))
        else:
            print(printable(_line(one, chosen)))
    return 0


def _line(one: Measured, chosen: Mapping[PrecisionClass, str | None]) -> str:
    fast = "+" if one.engine == chosen.get("fast") else " "
    mark = "*" if one.engine == chosen.get("exact") else fast
    name = f"{mark} {one.engine:26} {ENGINES[one.engine].precision}"
    if one.reason is not None:
        return f"{name} no: {one.reason}"
    if one.seconds is None:
        return f"{name} yes"
    return f"{name} yes: {one.seconds:.3g} s a picture; {one.parity}"
