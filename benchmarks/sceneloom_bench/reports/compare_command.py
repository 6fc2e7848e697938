"""`sceneloom bench compare`: two reports, with a verdict where their intervals separate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from sceneloom.errors import InputError
from sceneloom_bench.reports.report import read_report


def main(
    a: Annotated[Path, Positional, arg(metavar="A.json")],
    b: Annotated[Path, Positional, arg(metavar="B.json")],
    *,
    other_inputs: Annotated[bool, FlagCreatePairsOff] = False,
    fail_on_regression: Annotated[bool, FlagCreatePairsOff] = False,
) -> int:
    """Compare two reports of one benchmark, figure by figure; the last line is one JSON document.

    Args:
        a: the report that B is judged against.
        b: the other.
        other_inputs: judge although the inputs differ.
        fail_on_regression: exit code 1 where a figure of B is worse and the intervals separate, or
            where nothing could be judged.
    """
    from sceneloom_bench.reports.compare import compare, describe_comparison

    found = compare(read_report(a), read_report(b), other_inputs=other_inputs)
    print(describe_comparison(found))
    print(json.dumps(found.to_json()))
    if not fail_on_regression:
        return 0
    if not any(figure.verdict in ("better", "worse", "not told") for figure in found.figures):
        raise InputError(f"no figure of {b} could be judged: whether it is worse is not known")
    return 1 if found.worse else 0
