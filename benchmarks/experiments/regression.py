"""The regression check: ratios that hold on every machine, measured in one run.

PyTorch, ONNX Runtime, OpenVINO and Triton render the demo's network at 256x128 in turn; a data set
is rendered through a server of known speed. A figure fails if its whole interval lies outside its
limit in benchmarks/regression_limits.json; absolute times have no limits.

    python benchmarks/experiments/regression.py --out build/bench-check
    make bench-check
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from noop_server import NoopServer, write_noop_repository
from sceneloom import progress
from sceneloom.errors import SceneLoomError
from sceneloom.validation import checked, read_json
from sceneloom_bench.engine_command import EngineBenchSettings
from sceneloom_bench.engine_command import measure as measure_engines
from sceneloom_bench.harness import CHECKOUT, DEMO, ServedSettings
from sceneloom_bench.render_command import RenderBenchSettings
from sceneloom_bench.render_command import measure as measure_rendering
from sceneloom_bench.reports.report import Report, write_report
from sceneloom_bench.reports.statistics import within
from sceneloom_bench.reports.tables import with_unit

LIMITS = CHECKOUT / "benchmarks" / "regression_limits.json"
SERVER_SECONDS = 0.03
"""Seconds of a picture on the data set's server."""


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Limit:
    """The range of a figure."""

    report: str
    measurement: str
    figure: str
    why: str
    """Likely fault behind a broken limit."""
    least: float | None = None
    most: float | None = None


def main(*, out: Annotated[Path, tyro.conf.arg(metavar="DIR")], limits: Path = LIMITS) -> int:
    """Measure, write the reports, and print each figure beside its limit.

    Args:
        out: folder of the reports.
        limits: JSON file of the limits.
    """
    with progress.shown():
        reports: dict[str, Report] = {report.kind: report for report in measure()}
    for kind, report in reports.items():
        write_report(report, out, kind)
    failed = judge(reports, read_limits(limits))
    return 1 if failed else 0


def measure() -> list[Report]:
    """Measure the engines and the data set."""
    engines = EngineBenchSettings(
        checkpoint=DEMO,
        size="256x128",
        engines=("onnxruntime-fp32", "openvino-fp32"),
        rounds=8,
        pictures=5,
    )
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sceneloom-check-"))
        repository = write_noop_repository(
            Path(folder) / "repository", dynamic_batching=True, delay_per_picture=SERVER_SECONDS
        )
        server = stack.enter_context(NoopServer(repository))
        settings = RenderBenchSettings(
            server=ServedSettings(url=server.grpc), size="512x256", count=64, formats=("jpg",)
        )
        rendered = measure_rendering(settings)
    return [measure_engines(engines), rendered]


def read_limits(path: Path) -> list[Limit]:
    """Read the limits; raises InputError if the file does not fit."""
    return list(read_json(tuple[Limit, ...], path.read_bytes(), source=str(path)))


def judge(reports: Mapping[str, Report], limits: Sequence[Limit]) -> list[Limit]:
    """Print each figure beside its limit; returns the broken limits."""
    failed = []
    for limit in limits:
        try:
            figure = reports[limit.report].named(limit.measurement).figures[limit.figure]
        except KeyError:
            reason = reports[limit.report].extra.get("not_measured") or "no such figure"
            print(f"NOT KEPT: {limit.measurement}, {limit.figure}: not measured: {reason}")
            failed.append(limit)
            continue
        given = {"least": limit.least, "most": limit.most}
        ends = {name: end for name, end in given.items() if end is not None}
        kept = within(figure, ends)
        said = ", ".join(f"{name} {end:g}" for name, end in ends.items())
        print(
            f"{'kept' if kept else 'NOT KEPT'}: {limit.measurement}, {limit.figure} "
            f"{with_unit(figure)}, limit: {said}: {limit.why}"
        )
        if not kept:
            failed.append(limit)
    return failed


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except SceneLoomError as error:
        sys.exit(f"regression check: {error}")
