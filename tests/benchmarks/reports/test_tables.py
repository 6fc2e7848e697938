"""Reports in tables: what is measured can be read, and nothing in a report becomes Markdown."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from bench_reports import (
    GPU,
    all_reports,
    engine_report,
    mlperf_report,
    render_report,
    report_of,
    server_report,
)
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from sceneloom_bench.reports.report import Figure, Measurement, Report
from sceneloom_bench.reports.tables import (
    describe,
    duration,
    escaped,
    tables_of,
    value_of,
    with_unit,
)


def tables_in(markdown: str) -> list[list[list[str]]]:
    """Tables as a reader of Markdown finds them: rows of cells' texts."""
    tables: list[list[list[str]]] = []
    for token in MarkdownIt("gfm-like", {"linkify": False}).parse(markdown):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and token.level == 4 and tables:
            tables[-1][-1].append("".join(child.content for child in token.children or []))
    return tables


@pytest.mark.parametrize("report", all_reports().values(), ids=lambda r: r.kind)
def test_every_measurement_is_a_row_of_a_table_that_markdown_reads(report: Report) -> None:
    tables = tables_in(describe(report))
    assert {len(row) for table in tables for row in table if len(row) != len(table[0])} == set()
    own = [t for t in tables if not t[0][-1].startswith("transfer")]
    assert sum(len(table) - 1 for table in own) == len(report.measurements)


def test_what_was_measured_on_what_is_said() -> None:
    text = describe(engine_report(environment=GPU))
    for said in (
        "2048x1024, 3.9 M parameters",
        "bundle 9f86d081884c,",
        "16 cores of AMD EPYC (avx2); 128 GiB; NVIDIA H100 80GB HBM3 (driver 570.86.15",
        "governor performance",
        "clocks 2445 MHz before and 2445 to 2890 MHz after",
        "load average 0.12 before and 1.9 after",
        "torch 2.13.0+cpu",
        "- not a quiet machine: 31% of its cores",
        "never served: its pictures differ",
        "Not measured:\n\n- tensorrt-fp16: there is no GPU",
    ):
        assert said in text


def test_columns_are_what_varies_and_the_rest_is_said_once() -> None:
    closed, own, opened, _, highest = tables_of(server_report())
    assert closed.title == "Closed loop"
    assert closed.constant == "batch 1"
    assert closed.headings[:3] == ["transport", "in flight", "p50, ms"]
    assert closed.numbers[:3] == [False, True, True]
    assert own.title == "Closed loop: where the mean request's time goes"
    assert own.headings[2:5] == ["queue, ms", "compute input, ms", "compute, ms"]
    assert opened.constant == "gRPC, batch 1"
    assert highest.title == "Open loop: highest rate within the p99 bound"
    assert highest.headings == ["pictures/s"]
    assert opened.headings[:2] == ["arrivals", "planned rate, 1/s"]
    assert [t.title for t in tables_of(mlperf_report())] == ["SingleStream", "Server", "Offline"]
    (render,) = tables_of(render_report())
    assert [str(cell) for cell in render.rows[0]][2] == "3.80 (3.10 to 5.00)"
    engine, peaks = tables_of(engine_report(batches=(1, 2)))
    assert (engine.title, peaks.title) == ("", "Peak")
    assert peaks.headings == ["when", "arithmetic, TFLOP/s"]
    assert engine.headings[2] == "times faster than torch-fp32"
    assert str(engine.rows[0][2]) == "1 (the baseline)"


def test_the_encoded_paths_own_steps_stand_before_the_way_back() -> None:
    report = server_report(transports=("grpc",))
    steps = {"steps": Figure(value=31, unit="ms", better="lower")}
    first, *others = report.measurements
    first = dataclasses.replace(first, figures={**first.figures, **steps})
    own = tables_of(dataclasses.replace(report, measurements=[first, *others]))[1]
    said = ["compute output, ms", "encoded path's own steps, ms", "transfer, ms"]
    assert own.headings[-3:] == said
    assert [str(row[-2]) for row in own.rows] == ["31.0", "", "", "", ""]


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (Figure(value=12.34, unit="ms", low=12.1, high=12.91), "12.3 ms (12.1 to 12.9)"),
        (Figure(value=12.34, unit="ms", low=12.32, high=12.36), "12.34 ms (12.32 to 12.36)"),
        (Figure(value=12345.6, unit="ms", low=12000), "12,346 ms (at least 12,000)"),
        (Figure(value=0.4321, unit="x", high=0.5), "0.432x (at most 0.500)"),
        (Figure(value=31, unit="1/s"), "31.0/s"),
        (Figure(value=2793, unit="MiB"), "2,793 MiB"),
        (Figure(value=0.205, unit="share"), "20.5 %"),
        (Figure(value=0, unit="ms"), "0.00 ms"),
        (Figure(value=-0.001, unit="ms", low=-0.3, high=0.3), "-0.001 ms (-0.300 to 0.300)"),
        (Figure(value=459, unit="1"), "459"),
    ],
)
def test_figures_have_the_digits_that_they_are_known_to(figure: Figure, text: str) -> None:
    assert with_unit(figure) == text


def test_durations_change_their_unit_at_a_second() -> None:
    assert [duration(ms) for ms in (22350, 999, 45.3, 0.5)] == [
        "22.4 s",
        "999 ms",
        "45.3 ms",
        "0.500 ms",
    ]


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9), st.floats(0, 1e9))
def test_any_figure_can_be_written(value: float, below: float, above: float) -> None:
    figure = Figure(value=value, unit="ms", low=value - below, high=value + above)
    loss = max(1e-5, 0.01 * (below + above))
    assert float(value_of(figure).replace(",", "")) == pytest.approx(value, rel=0.01, abs=loss)
    assert "nan" not in with_unit(figure)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp"])))
def test_text_stays_text_inside_a_table(text: str) -> None:
    measurement = Measurement(name=f"a{text}z", figures={"p50": Figure(value=1, unit="ms")})
    report = report_of("engine", "t", [measurement, dataclasses.replace(measurement, name="b")])
    ((_, row, _),) = tables_in(describe(report))
    assert row[0] == f"a{text}z"


def test_units_that_differ_in_a_column_stand_in_the_cells() -> None:
    units: list[Any] = ["ms", "s"]
    measurements = [
        Measurement(name=unit, figures={"build": Figure(value=2, unit=unit)}) for unit in units
    ]
    (table,) = tables_of(report_of("engine", "t", measurements))
    assert table.headings == ["measured", "build"]
    assert [str(row[1]) for row in table.rows] == ["2.00 ms", "2.00 s"]


def test_a_report_without_measurements_is_described_too() -> None:
    text = describe(report_of("engine", "nothing | at all", []))
    assert escaped("nothing | at all") in text
