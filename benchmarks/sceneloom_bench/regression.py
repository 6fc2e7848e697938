"""The regression check: ratios that must hold on every machine, measured in one run.

A small network (the demo's, at 256x128) by PyTorch, ONNX Runtime, OpenVINO and Triton in turn, and
a data set against a server of known speed. No absolute time is looked at. A figure fails only if
its whole interval lies outside its limit in benchmarks/regression_limits.json, so that a busy
machine, whose intervals are wide, does not fail by chance.

    python -m sceneloom_bench.regression --out build/bench-check
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

from sceneloom.errors import SceneLoomError
from sceneloom.json_text import parse_json
from sceneloom_bench.engine_measure import EngineBenchSettings
from sceneloom_bench.engine_measure import measure as measure_engines
from sceneloom_bench.harness import CHECKOUT, DEMO, ServedSettings
from sceneloom_bench.noop_server import NoopServer, write_noop_repository
from sceneloom_bench.render_command import RenderBenchSettings
from sceneloom_bench.render_command import measure as measure_rendering
from sceneloom_bench.reports.report import Report, write_report
from sceneloom_bench.reports.statistics import within

LIMITS = CHECKOUT / "benchmarks" / "regression_limits.json"
SERVER_SECONDS = 0.03
"""Of a picture, on the server that data sets are rendered through."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limit:
    """The range of a figure."""

    report: str
    measurement: str
    figure: str
    why: str
    """The fault that a broken limit points to."""
    least: float | None = None
    most: float | None = None


def main(*, out: Annotated[Path, tyro.conf.arg(metavar="DIR")], limits: Path = LIMITS) -> int:
    """Measure, write the reports, and print each figure beside its limit.

    Args:
        out: folder of the reports.
        limits: JSON file of the limits.
    """
    reports: dict[str, Report] = {report.kind: report for report in measure()}
    for kind, report in reports.items():
        write_report(report, out, kind)
    failed = judge(reports, read_limits(limits))
    return 1 if failed else 0


def measure() -> list[Report]:
    """The two measurements."""
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
    """The limits, as they are committed."""
    return [Limit(**entry) for entry in parse_json(path.read_text("utf-8"))]


def judge(reports: Mapping[str, Report], limits: Sequence[Limit]) -> list[Limit]:
    """Print each figure beside its limit; returns the limits that are not kept."""
    failed = []
    for limit in limits:
        try:
            figure = reports[limit.report].named(limit.measurement).figures[limit.figure]
        except KeyError:
            reason = reports[limit.report].extra.get("not_measured") or "no such figure"
            print(f"NOT KEPT: {limit.measurement}, {limit.figure}: not measured: {reason}")
            failed.append(limit)
            continue
        limits_of = {"least": limit.least, "most": limit.most}
        ends = {name: end for name, end in limits_of.items() if end is not None}
        kept = within(figure, ends)
        interval = ""
        if figure.low is not None and figure.high is not None:
            interval = f" ({figure.low:.3g} to {figure.high:.3g})"
        said = ", ".join(f"{name} {end:g}" for name, end in ends.items())
        print(
            f"{'kept' if kept else 'NOT KEPT'}: {limit.measurement}, {limit.figure} "
            f"{figure.value:.3g}{interval}, limit: {said}: {limit.why}"
        )
        if not kept:
            failed.append(limit)
    return failed


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main))
    except SceneLoomError as error:
        sys.exit(f"regression check: {error}")
