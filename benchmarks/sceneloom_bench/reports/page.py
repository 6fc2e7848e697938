"""`sceneloom bench page`: index.html and README.md from the reports of a folder, and their plots.

The page depends on the reports only: equal reports give equal bytes.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import jinja2
from tyro.conf import Positional, arg

from sceneloom import progress
from sceneloom.errors import InputError
from sceneloom_bench.reports import tables
from sceneloom_bench.reports.plots import Plot, plots_of
from sceneloom_bench.reports.report import SCHEMA, Report, read_document, read_report

ORDER = ("engine", "server", "mlperf", "perf-analyzer", "render")
GPU_NOTICE = (
    "Not yet measured on a GPU.",
    "On a machine with an NVIDIA GPU, this command measures everything there:",
    "make bench",
)
_TITLE = "Benchmarks of SceneLoom"
_MADE_BY = "Made by (paths without their folders):"
_STALLS = ("python", "benchmarks/experiments/stalls.py")
_FORMER = "Made by a former version's `sceneloom bench perf-analyzer`: see docs/perf-analyzer.md."


def main(folder: Annotated[Path, Positional, arg(metavar="DIR")]) -> int:
    """Write DIR/index.html, DIR/README.md and the plots from the reports in DIR.

    Args:
        folder: folder of the reports.
    """
    reports, others = read_reports(folder)
    for path in others:
        print(f"not a report of {SCHEMA}, left alone: {path.name}", file=sys.stderr)
    with progress.stage("draw plots and write the page"):
        written = write_page(folder, reports)
    print(f"wrote {', '.join(path.name for path in written)} from {len(reports)} reports")
    print(f"report: {folder / 'index.html'}")
    return 0


def read_reports(folder: Path) -> tuple[dict[str, Report], list[Path]]:
    """Reports of a folder by their files' stems, and its other JSON files. Raises InputError if the
    folder is missing, has no report, or has a broken one.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder")
    files = sorted(path for path in folder.glob("*.json") if path.is_file())
    others = [path for path in files if not _claims_to_be_report(path)]
    reports = {path.stem: read_report(path) for path in files if path not in others}
    for name in reports:
        if not name.isprintable():  # bytes that are not text, or line ends
            raise InputError(f"{folder}: a page cannot name {name!a}.json; rename it")
    if not reports:
        raise InputError(f"{folder}: no report in it; sceneloom bench engine --out {folder}")
    return reports, others


def _claims_to_be_report(path: Path) -> bool:
    """Whether a file, even a broken one, states a report's schema."""
    name = SCHEMA.split("/")[0]
    try:
        document = read_document(path)
    except InputError:
        with path.open("rb") as file:  # a truncated report still begins like one
            return bool(re.match(rf'\s*{{\s*"schema"\s*:\s*"{name}/'.encode(), file.read(200)))
    said = document.get("schema") if isinstance(document, dict) else None
    return isinstance(said, str) and said.split("/")[0] == name


def write_page(folder: Path, reports: Mapping[str, Report]) -> list[Path]:
    """Write FOLDER/index.html, README.md and the plots of reports by stem; returns their paths."""
    ordered = dict(sorted(reports.items(), key=lambda one: (ORDER.index(one[1].kind), one[0])))
    plots = {stem: plots_of(report) for stem, report in ordered.items()}
    written = []
    for stem, found in plots.items():
        for plot in found:
            written.append(folder / file_of(stem, plot))
            plot.draw(written[-1])
    for name, text in (
        ("README.md", markdown_page(ordered, plots)),
        ("index.html", html_page(ordered, plots)),
    ):
        written.append(folder / name)
        written[-1].write_text(text, "utf-8")
    return written


def file_of(stem: str, plot: Plot) -> str:
    """File name of a plot."""
    return f"{stem}-{plot.name}.png"


def command_of(stem: str, report: Report) -> str:
    """The command that measures a report again; empty for a benchmark that no longer exists."""
    if report.kind == "perf-analyzer":
        return ""
    program = _STALLS if stem == "server-stall" else ("sceneloom", "bench", report.kind)
    words = [*program, "--out", "build/bench"]

    def add(settings: Mapping[str, Any]) -> None:
        for name, value in settings.items():
            flag = f"--{name.replace('_', '-')}"
            if isinstance(value, Mapping):
                add(value)
            elif isinstance(value, bool):
                words.append(flag if value else f"--no-{flag[2:]}")
            elif isinstance(value, list | tuple):
                words.extend([flag, *map(str, value)] if value else [])
            elif value not in (None, ""):
                words.extend([flag, str(value)])

    add(report.settings)
    return shlex.join(words)


def on_a_gpu(reports: Sequence[Report]) -> bool:
    """Whether a report measured a GPU, not only a machine that has one."""
    return any(
        report.subject.get("device") == "cuda"
        if report.kind == "engine"
        else tables.gpus_of(report)
        and not any("the server ran elsewhere" in m for m in report.marks)
        for report in reports
    )


def _where(reports: Mapping[str, Report]) -> str:
    machines = dict.fromkeys(tables.hardware_of(report) for report in reports.values())
    dates = sorted({report.date[:10] for report in reports.values()})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{'; '.join(machines)}; {when}"


def markdown_page(reports: Mapping[str, Report], plots: Mapping[str, Sequence[Plot]]) -> str:
    """README.md of a folder, from reports and plots by stem."""
    lines = [f"# {_TITLE}", "", tables.escaped(_where(reports)), ""]
    if not on_a_gpu(list(reports.values())):
        lines += ["> **{}** {} `{}`".format(*GPU_NOTICE), ""]
    for stem, report in reports.items():
        lines += [tables.describe(report)]
        for plot in plots[stem]:
            lines += [f"![{tables.escaped(plot.says)}]({quote(file_of(stem, plot))})", ""]
        # No value may end the block.
        command = " ".join(command_of(stem, report).split()).replace("```", "'''")
        lines += [_MADE_BY, "", "```bash", command, "```", ""] if command else [_FORMER, ""]
        lines += [f"All of it: [{tables.escaped(stem)}.json]({quote(stem)}.json)", ""]
    return "\n".join(lines)


def html_page(reports: Mapping[str, Report], plots: Mapping[str, Sequence[Plot]]) -> str:
    """index.html of a folder, from reports and plots by stem."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    sections = []
    for stem, report in reports.items():
        command = command_of(stem, report)
        sections.append(
            {
                "stem": stem,
                "kind": report.kind,
                "said": tables.description(report),
                "plots": [(file_of(stem, plot), plot.says) for plot in plots[stem]],
                "command": command,
                "made_by": _MADE_BY if command else _FORMER,
            }
        )
    return environment.get_template("page.html").render(
        title=_TITLE,
        where=_where(reports),
        gpu_notice=None if on_a_gpu(list(reports.values())) else GPU_NOTICE,
        legend=tables.LEGEND.replace("`", ""),
        sections=sections,
    )
