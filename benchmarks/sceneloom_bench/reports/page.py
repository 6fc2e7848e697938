"""`sceneloom bench page`: a page from the reports of a folder, index.html and README.md with
the same tables, and the plots beside them.

The page follows from the reports alone: no clock, no machine, no order of files. Equal reports give
equal bytes.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from tyro.conf import Positional, arg

from sceneloom.errors import InputError
from sceneloom_bench.reports.plots import Plot, plots_of
from sceneloom_bench.reports.report import SCHEMA, Report, read_document, read_report, say
from sceneloom_bench.reports.tables import (
    LEGEND,
    Cell,
    Table,
    describe,
    description,
    escaped,
    gpus_of,
    hardware_of,
)

ORDER = ("engine", "server", "mlperf", "perf-analyzer", "render")
NOT_ON_A_GPU = "Not yet measured on a GPU."
HOW_ON_A_GPU = "make bench"
_ON_A_GPU = "On a machine with an NVIDIA GPU, this measures all of it there:"
_TITLE = "Benchmarks of SceneLoom"
_STYLE = Path(__file__).with_name("page.css")
_MADE_BY = "Made by (paths without their folders):"
_STALLS = ("python", "benchmarks/experiments/stalls.py")
_FORMER = "Made by a former version's `sceneloom bench perf-analyzer`: see docs/perf-analyzer.md."


def main(folder: Annotated[Path, Positional, arg(metavar="DIR")]) -> int:
    """Write DIR/index.html, DIR/README.md and the plots from the reports that lie in DIR; they
    follow from the reports alone.

    Args:
        folder: holds the reports.
    """
    reports, others = read_reports(folder)
    for path in others:
        say(f"not a report of {SCHEMA}, left alone: {path.name}")
    written = write_page(folder, reports)
    print(f"wrote {', '.join(path.name for path in written)} from {len(reports)} reports")
    print(f"open {folder / 'index.html'}")
    return 0


def read_reports(folder: Path) -> tuple[dict[str, Report], list[Path]]:
    """The reports of a folder by their files' names without ending, and its other JSON files.

    Raises:
        InputError: it is no folder, holds no report, or one that is broken.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder")
    files = sorted(path for path in folder.glob("*.json") if path.is_file())
    others = [path for path in files if not says_report(path)]
    reports = {path.stem: read_report(path) for path in files if path not in others}
    for name in reports:
        if not name.isprintable():  # bytes that are no text, or line ends
            raise InputError(f"{folder}: a page cannot name {name!a}.json; rename it")
    if not reports:
        raise InputError(
            f"{folder}: holds no report; sceneloom bench engine --out {folder} makes one"
        )
    return reports, others


def says_report(path: Path) -> bool:
    """Whether a file calls itself a report, whole or not."""
    name = SCHEMA.split("/")[0]
    try:
        document = read_document(path)
    except InputError:
        with path.open("rb") as file:  # one that was cut off still begins as a report does
            return bool(re.match(rf'\s*{{\s*"schema"\s*:\s*"{name}/'.encode(), file.read(200)))
    said = document.get("schema") if isinstance(document, dict) else None
    return isinstance(said, str) and said.split("/")[0] == name


def write_page(folder: Path, reports: Mapping[str, Report]) -> list[Path]:
    """Write FOLDER/index.html, FOLDER/README.md and the plots, from stem -> report; their paths."""
    ordered = sorted(reports.items(), key=lambda item: (ORDER.index(item[1].kind), item[0]))
    plots = {stem: plots_of(report) for stem, report in ordered}
    written = []
    for stem, found in plots.items():
        for plot in found:
            written.append(folder / file_of(stem, plot))
            plot.draw(written[-1])
    for name, text in (
        ("README.md", markdown_page(dict(ordered), plots)),
        ("index.html", html_page(dict(ordered), plots)),
    ):
        written.append(folder / name)
        written[-1].write_text(text, "utf-8")
    return written


def file_of(stem: str, plot: Plot) -> str:
    """Name of a plot's file."""
    return f"{stem}-{plot.name}.png"


def command_of(stem: str, report: Report) -> str:
    """The command line that measures it again, with every setting that has a value; empty for a
    kind that is measured no more.
    """
    if report.kind == "perf-analyzer":
        return ""
    program = _STALLS if stem == "server-stall" else ("sceneloom", "bench", report.kind)
    words = [*program, "--out", "build/bench"]
    for name, value in _flat(report.settings):
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, list | tuple):
            words += [flag, *map(str, value)] if value else []
        elif value not in (None, ""):
            words += [flag, str(value)]
    return shlex.join(words)


def _flat(settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in settings.items():
        found += _flat(value) if isinstance(value, Mapping) else [(name, value)]
    return found


def on_a_gpu(reports: Sequence[Report]) -> bool:
    """Whether any of them measured a GPU, and not just a machine that has one."""
    return any(
        report.subject.get("device") == "cuda"
        if report.kind == "engine"
        else gpus_of(report) and not any("the server ran elsewhere" in m for m in report.marks)
        for report in reports
    )


def _where(reports: Mapping[str, Report]) -> str:
    machines = dict.fromkeys(hardware_of(report) for report in reports.values())
    dates = sorted({report.date[:10] for report in reports.values()})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{'; '.join(machines)}; {when}"


def markdown_page(reports: Mapping[str, Report], plots: Mapping[str, Sequence[Plot]]) -> str:
    """README.md of a folder of results, in the order of the reports."""
    lines = [f"# {_TITLE}", "", escaped(_where(reports)), ""]
    if not on_a_gpu(list(reports.values())):
        lines += [f"> **{NOT_ON_A_GPU}** {_ON_A_GPU} `{HOW_ON_A_GPU}`", ""]
    for stem, report in reports.items():
        lines += [describe(report)]
        for plot in plots[stem]:
            lines += [f"![{escaped(plot.says)}]({quote(file_of(stem, plot))})", ""]
        # No value may end the block.
        command = " ".join(command_of(stem, report).split()).replace("```", "'''")
        made = [_MADE_BY, "", "```bash", command, "```", ""] if command else [_FORMER, ""]
        lines += made
        lines += [f"All of it: [{escaped(stem)}.json]({quote(stem)}.json)", ""]
    return "\n".join(lines)


def html_page(reports: Mapping[str, Report], plots: Mapping[str, Sequence[Plot]]) -> str:
    """index.html of a folder of results, in the order of the reports."""
    links = "".join(
        f'<li><a href="#{quote(stem)}">{escape(report.title)}</a></li>'
        for stem, report in reports.items()
    )
    notice = ""
    if not on_a_gpu(list(reports.values())):
        notice = (
            f'<div class="notice"><strong>{NOT_ON_A_GPU}</strong> {_ON_A_GPU}'
            f"<pre><code>{HOW_ON_A_GPU}</code></pre></div>"
        )
    sections = "\n".join(_section(stem, report, plots[stem]) for stem, report in reports.items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_TITLE}: {escape(_where(reports))}</title>
<style>
{_STYLE.read_text("utf-8")}</style>
</head>
<body>
<header>
<h1>{_TITLE}</h1>
<p class="quiet">{escape(_where(reports))}</p>
{notice}
<p class="quiet">{escape(LEGEND.replace("`", ""))}</p>
<nav><ul>{links}</ul></nav>
</header>
<main>
{sections}
</main>
</body>
</html>
"""


def _section(stem: str, report: Report, plots: Sequence[Plot]) -> str:
    said = description(report)
    file = f"{quote(stem)}.json"
    marks = "".join(f"<li>{escape(mark)}</li>" for mark in said.marks)
    figures = []
    for plot in plots:
        says, source = escape(plot.says), quote(file_of(stem, plot))
        figures.append(
            f'<figure><img src="{source}" alt="{says}" loading="lazy">'
            f"<figcaption>{says}</figcaption></figure>"
        )
    command = command_of(stem, report)
    parts = [
        f'<section id="{escape(stem)}">',
        f'<p class="kind">{escape(report.kind)}</p>',
        f"<h2>{escape(said.title)}</h2>",
        marks and f'<div class="notice"><strong>Read this first</strong><ul>{marks}</ul></div>',
        *figures,
        *map(_table, said.tables),
        _sentences("Marks", said.row_marks),
        _sentences("Not measured", said.left_out),
        "<h3>On what, and how</h3>",
        "<dl>" + "".join(f"<dt>{escape(n)}</dt><dd>{escape(v)}</dd>" for n, v in said.facts),
        f'<dt>Report</dt><dd><a href="{file}">{escape(stem)}.json</a></dd></dl>',
        f"<p>{_MADE_BY}</p>" if command else f"<p>{escape(_FORMER)}</p>",
        command and f"<pre><code>{escape(command)}</code></pre>",
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _sentences(heading: str, found: Sequence[tuple[str, str]]) -> str:
    if not found:
        return ""
    items = "".join(f"<li><b>{escape(name)}</b>: {escape(says)}</li>" for name, says in found)
    return f'<h3>{heading}</h3>\n<ul class="marks">{items}</ul>'


def _table(table: Table) -> str:
    sides = [' class="number"' if number else "" for number in table.numbers]
    head = "".join(
        f'<th scope="col"{side}>{escape(h)}</th>'
        for side, h in zip(sides, table.headings, strict=True)
    )
    rows = []
    for row in table.rows:
        cells = [f"<td{side}>{_cell(cell)}</td>" for side, cell in zip(sides, row, strict=True)]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    title = f"<h3>{escape(table.title)}</h3>\n" if table.title else ""
    constant = f'<p class="quiet">{escape(table.constant)}</p>\n' if table.constant else ""
    body = "\n".join(rows)
    return (
        f'{title}{constant}<div class="scroll" tabindex="0"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _cell(cell: Cell) -> str:
    interval = f' <span class="interval">({escape(cell.interval)})</span>' if cell.interval else ""
    return escape(cell.text) + interval
