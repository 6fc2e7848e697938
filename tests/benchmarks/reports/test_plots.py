"""Plots: which a report has, that something is on them, and that equal reports give equal bytes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import pytest
from bench_reports import all_reports, engine_report, report_of, server_report

from sceneloom_bench.reports.plots import (
    draw_latency_over_rate,
    draw_waterfall,
    plots_of,
    series_of,
)
from sceneloom_bench.reports.report import Figure, Measurement, Report

PLOTS = {
    "engine": ["waterfall"],
    "server": ["latency-over-rate", "throughput", "request-time", "percentiles"],
    "mlperf": [],
    "perf-analyzer": ["throughput", "request-time"],
    "render": [],
}


@pytest.mark.parametrize("report", all_reports().values(), ids=lambda r: r.kind)
def test_a_report_has_the_plots_that_it_has_figures_for(report: Report, tmp_path: Path) -> None:
    plots = plots_of(report)
    assert [plot.name for plot in plots] == PLOTS[report.kind]
    for plot in plots:
        plot.draw(tmp_path / "plot.png")
        picture = cv2.imread(str(tmp_path / "plot.png"))
        assert 1000 < picture.shape[1] < 2200
        assert (picture < 250).any(2).mean() > 0.02
        assert (picture[:3] == 255).all()  # nothing is cut off at the edges
        assert (picture[:, -3:] == 255).all()


def test_equal_reports_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (plot,) = plots_of(engine_report())
        plot.draw(tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_every_batch_has_its_own_bars() -> None:
    names = [plot.name for plot in plots_of(engine_report(batches=(1, 8)))]
    assert names == ["waterfall-batch-1", "waterfall-batch-8"]


def test_series_are_told_apart_by_what_differs() -> None:
    report = server_report()
    opened = [m for m in report.measurements if m.name == "open loop"]
    assert list(series_of(opened, ["rate"])) == ["constant arrivals", "Poisson arrivals"]
    closed = [m for m in report.measurements if m.load["mode"] == "closed"]
    assert list(series_of(closed, ["in_flight"])) == ["gRPC", "gRPC with shared memory", "HTTP"]
    assert list(series_of(closed[:5], ["in_flight"])) == [""]


@pytest.mark.parametrize("name", ["$x^2_{", "<b>", "名前", "a" * 60])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_any_name_can_be_drawn(name: str, tmp_path: Path) -> None:
    bars = [
        Measurement(name=name, figures={"p50": Figure(value=12, unit="ms")}),
        Measurement(name="other", figures={"p50": Figure(value=0, unit="ms")}),
    ]
    draw_waterfall(report_of("engine", "t", bars), bars, tmp_path / "plot.png")
    assert cv2.imread(str(tmp_path / "plot.png")).std() > 5


def test_one_point_without_an_interval_is_a_plot(tmp_path: Path) -> None:
    report = server_report()
    (one, *_) = (m for m in report.measurements if m.load["mode"] == "open")
    bare = {n: dataclasses.replace(f, low=None, high=None) for n, f in one.figures.items()}
    one = dataclasses.replace(one, figures={"p99": bare["p99"]})
    draw_latency_over_rate(report, [one], tmp_path / "plot.png")
    assert cv2.imread(str(tmp_path / "plot.png")).std() > 5


def test_the_encoded_paths_own_steps_are_part_of_a_request(tmp_path: Path) -> None:
    def has_steps(report: Report) -> bool:
        (plot,) = (plot for plot in plots_of(report) if plot.name == "request-time")
        plot.draw(tmp_path / "plot.png")
        picture = cv2.imread(str(tmp_path / "plot.png"))
        return bool((picture == (0xA7, 0x79, 0xCC)).all(2).any())

    report = server_report(transports=("grpc", "encoded"))
    steps = {"steps": Figure(value=31, unit="ms", better="lower")}
    measurements = [
        dataclasses.replace(m, figures={**m.figures, **steps})
        if m.load.get("transport") == "encoded"
        else m
        for m in report.measurements
    ]
    assert not has_steps(report)
    assert has_steps(dataclasses.replace(report, measurements=measurements))


@pytest.mark.parametrize("rates", [(1, 100), (100, 1)])
def test_no_panel_hides_a_rate_of_its_own(rates: tuple[float, float], tmp_path: Path) -> None:
    measurements = [
        Measurement(
            name="open loop",
            load={"mode": "open", "rate": rate, "transport": transport},
            figures={"p99": Figure(value=50, unit="ms")},
        )
        for rate, transport in zip(rates, ("grpc", "http"), strict=True)
    ]
    draw_latency_over_rate(server_report(), measurements, tmp_path / "plot.png")
    picture = cv2.imread(str(tmp_path / "plot.png"))
    green = (abs(picture.astype(int) - (0x73, 0x9E, 0x00)) < 20).all(2)[200:]
    middle = picture.shape[1] // 2
    assert green[:, :middle].any()
    assert green[:, middle:].any()
    lows = [column for half in (0, middle) for column in [green[:, half : half + middle].any(0)]]
    first, second = (column.nonzero()[0].mean() for column in lows)
    assert (first < second) == (rates[0] < rates[1])


def test_a_bar_whose_interval_is_long_has_its_label(tmp_path: Path) -> None:
    def ends_at(high: float) -> int:
        bars = [
            Measurement(name="a", figures={"p50": Figure(value=9, unit="ms", low=8, high=high)})
        ]
        draw_waterfall(report_of("engine", "t", bars), bars, tmp_path / "plot.png")
        bar = (cv2.imread(str(tmp_path / "plot.png")) == (0xB2, 0x72, 0x00)).all(2).any(0)
        return int(bar.nonzero()[0].max())

    assert ends_at(90) < 0.4 * ends_at(9.1)
