"""The page: all reports of a folder, the same bytes each time, nothing in them becomes HTML."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from bench_reports import GPU, all_reports, engine_report, render_report, report_of, server_report
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from sceneloom.errors import InputError
from sceneloom_bench.bench_command import BENCHMARKS
from sceneloom_bench.engine_command import EngineBenchSettings
from sceneloom_bench.harness import ServedSettings, elsewhere, served_flags
from sceneloom_bench.mlperf_command import MlperfSettings
from sceneloom_bench.render_command import RenderBenchSettings
from sceneloom_bench.reports.page import (
    GPU_NOTICE,
    command_of,
    html_page,
    main,
    markdown_page,
    on_a_gpu,
    read_reports,
    write_page,
)
from sceneloom_bench.reports.report import (
    Figure,
    Kind,
    Measurement,
    Report,
    flags_of,
    write_report,
)
from sceneloom_bench.server_command import ServerBenchSettings
from stalls import StallSettings


class Reader(HTMLParser):
    """Tags, links and texts of a page; fails where tags do not match."""

    VOID = ("meta", "img")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


REPORTS = all_reports() | {"server": server_report(transports=("grpc",))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports of every kind, and their page."""
    folder = tmp_path_factory.mktemp("results")
    for stem, report in REPORTS.items():
        write_report(report, folder, stem)
    (folder / "other.json").write_text('{"schema": "another"}')
    assert main(folder) == 0
    return folder


def test_everything_is_on_the_page_in_its_order(folder: Path) -> None:
    page = (folder / "index.html").read_text("utf-8")
    reader = Reader(page)
    titles = [report.title for report in REPORTS.values()]
    places = [page.index(f"<h2>{title.replace(chr(39), '&#39;')}</h2>") for title in titles]
    assert places == sorted(places)
    rows = sum(len(report.measurements) for report in REPORTS.values())
    assert page.count("<tr>") > rows
    plots = sorted(path.name for path in folder.glob("*.png"))
    assert len(plots) == 7
    assert sorted(link for link in reader.links if link.endswith(".png")) == plots
    for link in reader.links:
        assert link[1:] in REPORTS if link[0] == "#" else (folder / link).is_file()
    assert "(26.5 to 27.8)" in page
    assert "sceneloom bench mlperf --out build/bench --size 512x256" in page
    assert "src=http" not in page.replace('"', "")


def test_the_readme_has_the_same_tables_and_plots(folder: Path) -> None:
    text = (folder / "README.md").read_text("utf-8")
    html = MarkdownIt("gfm-like", {"linkify": False}).render(text)
    page = (folder / "index.html").read_text("utf-8")
    assert html.count("<table>") == page.count("<table>")
    assert html.count("<tr>") == page.count("<tr>")
    assert html.count("<img") == page.count("<img")


def test_equal_reports_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    reports, others = read_reports(folder)
    assert [path.name for path in others] == ["other.json"]
    few = {stem: reports[stem] for stem in ("render", "engine")}
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        few = dict(reversed(few.items()))
        write_page(tmp_path / name, few)
    (plot,) = (tmp_path / "first").glob("*.png")
    for file in (plot.name, "index.html", "README.md"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    assert plot.read_bytes() == (folder / plot.name).read_bytes()


def test_other_files_are_left_alone_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_report(render_report(), tmp_path, "render")
    for name, text in (("list.json", "[1]"), ("broken.json", "{"), ("notes.txt", "")):
        (tmp_path / name).write_text(text)
    main(tmp_path)
    said = capsys.readouterr().err
    assert "list.json" in said
    assert "broken.json" in said
    assert "notes.txt" not in said
    assert "list.json" not in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"schema": "sceneloom-bench/1"}', "not a whole report"),
        ('{"schema": "sceneloom-bench/2"}', "not a report of sceneloom-bench/1"),
        ('{\n "schema": "sceneloom-bench/1",\n "kind', "not JSON"),  # cut off
    ],
)
def test_a_broken_report_is_not_left_out_silently(tmp_path: Path, text: str, says: str) -> None:
    write_report(render_report(), tmp_path, "render")
    (tmp_path / "engine.json").write_text(text)
    with pytest.raises(InputError, match=rf"engine\.json.*{says}"):
        main(tmp_path)
    assert not (tmp_path / "index.html").exists()


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        ({"kind": "gpu"}, r"kind is 'gpu'; it is 'engine', 'server'"),
        ({"value": "12 ms"}, r"\[0\]\.figures\.rate\.value is '12 ms'; it is a number"),
        ({"value": float("nan")}, "NaN is not a number"),
    ],
)
def test_reports_with_other_values_are_refused(
    tmp_path: Path, break_it: dict[str, object], says: str
) -> None:
    document = render_report().to_json()
    place = document if "kind" in break_it else document["measurements"][0]["figures"]["rate"]
    place.update(break_it)
    (tmp_path / "render.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=says):
        read_reports(tmp_path)


def test_a_name_that_no_page_can_hold_is_refused(tmp_path: Path) -> None:
    write_report(render_report(), tmp_path, os.fsdecode(b"caf\xe9"))
    with pytest.raises(InputError, match=r"cannot name 'caf.*; rename it"):
        main(tmp_path)


def test_a_folder_without_reports_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no report in it"):
        main(tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        main(tmp_path / "missing")


def test_whether_a_gpu_was_measured_is_said() -> None:
    cpu, gpu = {"a": engine_report()}, {"a": engine_report(environment=GPU)}
    for write in (html_page, markdown_page):
        assert GPU_NOTICE[0] in write(cpu, {"a": []})
        assert "make bench" in write(cpu, {"a": []})
        assert GPU_NOTICE[0] not in write(gpu, {"a": []})
        assert GPU_NOTICE[0] not in write(cpu | {"b": gpu["a"]}, {"a": [], "b": []})


def test_a_machine_that_has_a_gpu_has_not_measured_it() -> None:
    told = [
        report_of("engine", "t", [], environment=GPU, subject=s) for s in ({}, {"device": "cpu"})
    ]
    server = report_of("server", "t", [], environment=GPU)
    far = dataclasses.replace(server, marks=elsewhere(ServedSettings(url="gpu1:8001")))
    assert on_a_gpu([engine_report(environment=GPU)])
    assert not on_a_gpu(told)
    assert on_a_gpu([far, server])
    assert not on_a_gpu([far])


def test_the_command_has_every_setting_that_has_a_value() -> None:
    settings = {
        "server": {"url": "HOST:PORT", "repository": None, "model": "a b"},
        "batches": (1, 2),
        "engines": [],
        "open": False,
        "served": True,
        "warm_up": 0,
        "name": "",
    }
    report = report_of("server", "t", [], settings=settings)
    assert command_of("server-it", report) == (
        "sceneloom bench server --out build/bench --url HOST:PORT --model 'a b' --batches 1 2 "
        "--no-open --served --warm-up 0"
    )


DEMO = ServedSettings(repository=Path("build/demo"))
RESOLVED: dict[str, tuple[Kind, type, dict[str, Any]]] = {
    "engine": ("engine", EngineBenchSettings, flags_of(EngineBenchSettings())),
    "server-batches": (
        "server",
        ServerBenchSettings,
        served_flags(ServerBenchSettings(server=DEMO)),
    ),
    "server-stall": ("server", StallSettings, flags_of(StallSettings())),
    "mlperf-demo": ("mlperf", MlperfSettings, served_flags(MlperfSettings(server=DEMO))),
    "render": ("render", RenderBenchSettings, served_flags(RenderBenchSettings(server=DEMO))),
}
"""Name of a file -> its kind, the settings that its command has, and those of a report."""


def flags_in(settings: type) -> set[str]:
    """Of a command with these settings."""
    found: set[str] = set()
    for name, form in get_type_hints(settings).items():
        nested = isinstance(form, type) and dataclasses.is_dataclass(form)
        found |= flags_in(form) if nested else {f"--{name.replace('_', '-')}"}
    return found


@pytest.mark.parametrize("stem", RESOLVED)
def test_the_command_has_flags_that_there_are(stem: str) -> None:
    kind, form, settings = RESOLVED[stem]
    reports = [report_of(kind, "t", [], settings=settings)]
    reports += [REPORTS[stem]] if stem in REPORTS else []
    for report in reports:
        words = shlex.split(command_of(stem, report))
        flags = {word.replace("--no-", "--") for word in words if word.startswith("--")}
        assert flags > {"--out"}
        assert flags <= flags_in(form) | {"--out"}
        if words[0] == "sceneloom":
            assert words[1] == "bench"
            module = importlib.import_module(BENCHMARKS[words[2]][0])
            assert getattr(module, form.__name__) is form
        else:
            assert words[:2] == ["python", f"benchmarks/experiments/{form.__module__}.py"]


@given(st.text(), st.text())
def test_nothing_of_a_report_becomes_html(text: str, other: str) -> None:
    def page(said: str, mark: str) -> str:
        said, mark = f"a{said}", f"b{mark}"
        one = Measurement(
            name=said,
            load={"way": said},
            figures={"p50": Figure(value=1, unit="ms")},
            marks=[mark],
        )
        report = report_of(
            "engine",
            said,
            [one, dataclasses.replace(one, name=f"{said}2", load={"way": mark})],
            settings={"name": mark},
            marks=[said],
            extra={"of_it": mark},
        )
        return html_page({said: report}, {said: []})

    assert Reader(page(text, other)).tags == Reader(page("plain", "other")).tags


@given(st.text())
def test_no_setting_ends_the_block_of_its_command(text: str) -> None:
    report: Report = report_of("engine", "t", [], settings={"checkpoint": f"a{text}"})
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(
        markdown_page({"t": report}, {"t": []})
    )
    assert [
        token.content.count("sceneloom bench engine") for token in tokens if token.type == "fence"
    ] == [1]
