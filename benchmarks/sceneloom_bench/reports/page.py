"""A page from reports: index.html and README.md with the same tables, and the plots beside them.

The page follows from the reports alone: no clock, no machine, no order of files. Equal reports give
equal bytes.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sceneloom_bench.reports.plots import Plot, plots_of
from sceneloom_bench.reports.report import Report
from sceneloom_bench.reports.tables import (
    LEGEND,
    Cell,
    Description,
    Table,
    describe,
    description,
    escaped,
)
from sceneloom_bench.reports.wording import gpus_of, hardware_of

ORDER = ("engine", "server", "mlperf", "perf-analyzer", "render")
NOT_ON_A_GPU = "Not yet measured on a GPU."
HOW_ON_A_GPU = "make bench"
_ON_A_GPU = "On a machine with an NVIDIA GPU, this measures all of it there:"
_TITLE = "Benchmarks of SceneLoom"
_STYLE = Path(__file__).with_name("page.css")
_OUT = "build/bench"
_MADE_BY = "Made by (paths without their folders):"
_PROGRAMS = {
    "server-stall": ("sceneloom", "bench", "stall"),
    "perf-analyzer-stalled": ("python", "-m", "sceneloom_bench.perf_analyzer.stalled"),
}
"""Name of the report's file -> what writes it, where that is not ``sceneloom bench KIND``."""
_ELSEWHERE = "the server ran elsewhere"
"""What the mark of a report begins with whose server was on another machine."""


def write_page(folder: Path, reports: Mapping[str, Report]) -> list[Path]:
    """Write FOLDER/index.html, FOLDER/README.md and the plots; their paths.

    Args:
        folder: where the reports lie.
        reports: name of the file without its ending -> report; one at least.
    """
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
    """The command line that measures it again, with every setting that has a value.

    Args:
        stem: name of its file without the ending.
        report: what was measured.
    """
    words = [*_PROGRAMS.get(stem, ("sceneloom", "bench", report.kind)), "--out", _OUT]
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
    return any(_ran_on_a_gpu(report) for report in reports)


def _ran_on_a_gpu(report: Report) -> bool:
    if report.kind == "engine":
        return report.subject.get("device") == "cuda"
    return bool(gpus_of(report)) and not any(m.startswith(_ELSEWHERE) for m in report.marks)


def _where(reports: Mapping[str, Report]) -> str:
    machines = dict.fromkeys(hardware_of(report) for report in reports.values())
    dates = sorted({report.date[:10] for report in reports.values()})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{'; '.join(machines)}; {when}"


def markdown_page(reports: Mapping[str, Report], plots: Mapping[str, Sequence[Plot]]) -> str:
    """README.md of a folder of results.

    Args:
        reports: in the order of the page.
        plots: of each.
    """
    lines = [f"# {_TITLE}", "", escaped(_where(reports)), ""]
    if not on_a_gpu(list(reports.values())):
        lines += [f"> **{NOT_ON_A_GPU}** {_ON_A_GPU} `{HOW_ON_A_GPU}`", ""]
    for stem, report in reports.items():
        lines += [describe(report)]
        for plot in plots[stem]:
            lines += [f"![{escaped(plot.says)}]({quote(file_of(stem, plot))})", ""]
        lines += [_MADE_BY, "", "```bash", _one_line(command_of(stem, report)), "```", ""]
        lines += [f"All of it: [{escaped(stem)}.json]({quote(stem)}.json)", ""]
    return "\n".join(lines)


def _one_line(command: str) -> str:
    """A command in a fenced block, which no value may end."""
    return " ".join(command.split()).replace("```", "'''")


def html_page(reports: Mapping[str, Report], plots: Mapping[str, Sequence[Plot]]) -> str:
    """index.html of a folder of results.

    Args:
        reports: in the order of the page.
        plots: of each.
    """
    links = "".join(
        f'<li><a href="#{quote(stem)}">{escape(report.title)}</a></li>'
        for stem, report in reports.items()
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
{"" if on_a_gpu(list(reports.values())) else _gpu_notice()}
<p class="quiet">{escape(LEGEND.replace("`", ""))}</p>
<nav><ul>{links}</ul></nav>
</header>
<main>
{sections}
</main>
</body>
</html>
"""


def _gpu_notice() -> str:
    return (
        f'<div class="notice"><strong>{NOT_ON_A_GPU}</strong> {_ON_A_GPU}'
        f"<pre><code>{HOW_ON_A_GPU}</code></pre></div>"
    )


def _section(stem: str, report: Report, plots: Sequence[Plot]) -> str:
    said = description(report)
    file = f"{quote(stem)}.json"
    parts = [
        f'<section id="{escape(stem)}">',
        f'<p class="kind">{escape(report.kind)}</p>',
        f"<h2>{escape(said.title)}</h2>",
        _marks(said),
        *(_plot(stem, plot) for plot in plots),
        *map(_table, said.tables),
        _sentences("Marks", said.row_marks),
        _sentences("Not measured", said.left_out),
        "<h3>On what, and how</h3>",
        "<dl>" + "".join(f"<dt>{escape(n)}</dt><dd>{escape(v)}</dd>" for n, v in said.facts),
        f'<dt>Report</dt><dd><a href="{file}">{escape(stem)}.json</a></dd></dl>',
        f"<p>{_MADE_BY}</p>",
        f"<pre><code>{escape(command_of(stem, report))}</code></pre>",
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _marks(said: Description) -> str:
    if not said.marks:
        return ""
    items = "".join(f"<li>{escape(mark)}</li>" for mark in said.marks)
    return f'<div class="notice"><strong>Read this first</strong><ul>{items}</ul></div>'


def _sentences(heading: str, found: Sequence[tuple[str, str]]) -> str:
    if not found:
        return ""
    items = "".join(f"<li><b>{escape(name)}</b>: {escape(says)}</li>" for name, says in found)
    return f'<h3>{heading}</h3>\n<ul class="marks">{items}</ul>'


def _plot(stem: str, plot: Plot) -> str:
    says = escape(plot.says)
    return (
        f'<figure><img src="{quote(file_of(stem, plot))}" alt="{says}" loading="lazy">'
        f"<figcaption>{says}</figcaption></figure>"
    )


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
