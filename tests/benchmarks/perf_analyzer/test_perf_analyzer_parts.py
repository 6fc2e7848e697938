"""perf_analyzer's files as real runs wrote them, finding it, and what is made of both tools."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import numpy as np
import pytest

from sceneloom.errors import InputError, MissingDependencyError, ServingError
from sceneloom_bench.bench_inputs import bench_maps
from sceneloom_bench.noop_server import NOOP_CONTRACT
from sceneloom_bench.perf_analyzer.binary import (
    Target,
    find_perf_analyzer,
    find_program,
    run_closed,
)
from sceneloom_bench.perf_analyzer.fetch import fetch
from sceneloom_bench.perf_analyzer.inputs import write_inputs
from sceneloom_bench.perf_analyzer.output import Opinion, read_moments, read_opinion
from sceneloom_bench.perf_analyzer.pairs import Load, Rounds, explain
from sceneloom_bench.perf_analyzer.perf_analyzer_command import PerfAnalyzerSettings
from sceneloom_bench.reports.report import Figure
from sceneloom_bench.served import ServedSettings

STORED = Path(__file__).parent


def stored(name: str) -> Opinion:
    said = (STORED / f"{name}_said.txt").read_text()
    return read_opinion(said, STORED / f"{name}.csv", STORED / f"{name}_export.json")


def test_an_open_loop_through_shared_memory() -> None:
    found = stored("shm")
    assert found.milliseconds == {
        "p50": 7.413,
        "p90": 11.990,
        "p99": 14.759,
        "mean": 8.697,
        "total": 7.812,
        "queue": 0.079,
        "compute_input": 0.050,
        "compute": 7.327,
        "compute_output": 0.348,
    }
    assert found.delayed == 0.77
    # The table's percentiles and those of the moments are of the same requests.
    milliseconds = 1000 * np.sort(found.seconds)
    assert len(milliseconds) == 100
    assert milliseconds[50] == pytest.approx(7.413, abs=0.001)
    assert milliseconds.mean() == pytest.approx(8.697, abs=0.001)
    figures = found.figures()
    assert figures["transfer"].value == pytest.approx(8.697 - 7.812)
    assert not {"mean", "total"} & figures.keys()
    # perf_analyzer says 49.98: it divides 100 requests by two whole seconds.
    assert figures["rate"].value > 75


def test_moments_between_tensors_that_are_written_out() -> None:
    export = STORED / "grpc_export.json"
    requests = json.loads(export.read_text())["experiments"][0]["requests"]
    assert read_moments(export) == [
        (one["timestamp"], one["response_timestamps"][0]) for one in requests
    ]
    said = (STORED / "grpc_said.txt").read_text()
    assert "rate" not in read_opinion(said, STORED / "grpc.csv", None).figures()
    assert stored("grpc").delayed == 0


def test_files_of_another_form_are_refused(tmp_path: Path) -> None:
    header, row = (STORED / "grpc.csv").read_text().splitlines()
    table, export = tmp_path / "figures.csv", tmp_path / "export.json"
    for text, reason in (
        ("", "0 loads"),
        (f"{header}\n{row}\n{row}\n", "2 loads"),
        (f"{header.replace('p99', 'p98')}\n{row}\n", "p99 latency"),
        (f"{header}\n{row.replace(',', ',x')}\n", "another form"),
    ):
        table.write_text(text)
        with pytest.raises(ServingError, match=reason):
            read_opinion("", table, None)
    with pytest.raises(ServingError, match="did not say what the server counted"):
        read_opinion("", STORED / "grpc.csv", None)
    export.write_text('{"requests":[{"timestamp":5,"response_timestamps":[]}]}')
    with pytest.raises(ServingError, match="1 requests and 0 answers"):
        read_moments(export)


def test_inputs_are_our_maps(tmp_path: Path) -> None:
    maps = bench_maps(NOOP_CONTRACT, (64, 128), 2)
    steps = json.loads(write_inputs(maps, tmp_path / "inputs.json").read_text())["data"]
    assert len(steps) == 2
    for step, request in zip(steps, maps, strict=True):
        assert step.keys() == {"label_map", "instance_map"}
        for name, dtype in (("label_map", np.uint8), ("instance_map", np.int32)):
            sent = np.frombuffer(base64.b64decode(step[name]["content"]["b64"]), dtype)
            assert np.array_equal(sent.reshape(step[name]["shape"]), getattr(request, name))


def write_program(folder: Path, script: str) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "lib").mkdir()
    (folder / "lib" / "libb64.so.0d").touch()
    program = folder / "bin" / "perf_analyzer"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def test_it_starts_with_its_libraries_and_nobody_else_does(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    script = f'echo "$LD_LIBRARY_PATH" > {seen}; echo "Perf Analyzer Version 9.9 (commit x)"'
    program = write_program(tmp_path / "made", script)
    before = dict(os.environ)
    found = find_program(tmp_path / "made")
    assert (found.path, found.version) == (program, "9.9")
    assert seen.read_text().split(":")[0].strip() == str(tmp_path / "made" / "lib")
    assert dict(os.environ) == before
    assert fetch(tmp_path / "made") == program  # nothing is downloaded again


def test_without_it_the_error_says_how_to_get_it(tmp_path: Path) -> None:
    assert find_perf_analyzer(tmp_path / "nowhere") is None
    with pytest.raises(MissingDependencyError, match=r"is not at .*nowhere.*perf_analyzer\.fetch"):
        find_program(tmp_path / "nowhere")
    script = "echo 'error while loading shared libraries: libb64.so.0d'; exit 127"
    with pytest.raises(MissingDependencyError, match=r"libb64.*perf_analyzer\.fetch"):
        find_program(write_program(tmp_path / "broken", script))
    (tmp_path / "text").write_text("no program")
    with pytest.raises(MissingDependencyError, match="does not start: Permission"):
        find_program(tmp_path / "text")


def test_what_it_says_when_it_fails_is_the_error(tmp_path: Path) -> None:
    script = (
        '[ "$1" = --version ] && echo "Perf Analyzer Version 9.9" && exit\n'
        "echo ' Successfully read data'; echo 'Thread [0] had error: 127.0.0.1:5 is gone'; exit 99"
    )
    target = Target(
        address="127.0.0.1:5",
        model="synthesis",
        way="grpc",
        inputs=tmp_path / "inputs.json",
        largest_pixels=64,
        timeout=20,
    )
    program = find_program(write_program(tmp_path / "made", script))
    with pytest.raises(ServingError, match=r"with 99: Thread \[0\] had error: the server is gone"):
        run_closed(program, target, in_flight=1, requests=2)


def figures(p50: float, transfer: float) -> dict[str, Figure]:
    values = {"p50": p50, "p90": 2 * p50, "p99": 3 * p50, "transfer": transfer}
    return {name: Figure(value=v, unit="ms", better="lower") for name, v in values.items()}


def test_pairs_are_compared_within_a_round() -> None:
    load: Load = {"mode": "closed", "in_flight": 1, "transport": "grpc", "batch": 1}
    pair = Rounds(load=load)
    for number in range(6):
        drift = 1 + number  # a machine that drifts, alike for both
        pair.perf_analyzer.append(figures(10 * drift, 1 + number / 10))
        pair.sceneloom.append(figures(12 * drift, 2 + number / 10))
        pair.marks.append([f"late: by {number} ms"] if number > 3 else [])
    theirs, ours = pair.measurements()
    assert (theirs.name, ours.name) == ("perf_analyzer", "sceneloom")
    assert ours.figures["p50_ratio"] == Figure(
        value=pytest.approx(1.2), unit="x", low=pytest.approx(1.2), high=pytest.approx(1.2)
    )
    assert ours.figures["transfer_more"].value == pytest.approx(1)
    assert "p50_ratio" not in theirs.figures
    assert "rate" not in theirs.figures  # no round had one
    assert ours.marks == ["in 2 of 6 rounds: late: by 5 ms"]
    (said,) = explain([theirs, ours])
    assert said.startswith("gRPC, 1 in flight: outside of what the server counts a request spends ")
    assert said.endswith("1.25 ms with perf_analyzer's client in C++ and 2.25 ms with ours in "
                         "Python: +1 ms (+1 to +1)")  # fmt: skip


def test_what_the_rounds_do_not_show_is_not_claimed() -> None:
    load: Load = {"mode": "closed", "in_flight": 1, "transport": "grpc-shm", "batch": 1}
    pair = Rounds(load=load)
    for number in range(6):
        pair.perf_analyzer.append(figures(10, 1 + number % 2))
        pair.sceneloom.append(figures(10, 2 - number % 2))
    (said,) = explain(pair.measurements())
    assert said.endswith("which the rounds do not tell from none")
    del pair.perf_analyzer[3:], pair.sceneloom[3:]
    (said,) = explain(pair.measurements())
    assert said.endswith("too few rounds to say whether they differ")


def test_requests_that_were_sent_late_are_named() -> None:
    load: Load = {"mode": "open", "arrivals": "poisson", "rate": 50.0, "transport": "http"}
    pair = Rounds(load=load, perf_analyzer=[figures(1, 1)], sceneloom=[figures(2, 1)])
    pair.delayed.append(0.0)
    assert explain(pair.measurements()) == []
    pair.delayed[0] = 0.31
    (said,) = explain(pair.measurements())
    assert said.startswith("HTTP, poisson at 50/s: perf_analyzer sent 31.0% of the requests late")
    assert said.endswith("p99 3 and 6 ms")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"transports": ()}, "transports"),
        ({"in_flight": (0,)}, "in_flight is 0"),
        ({"rounds": 0}, "rounds is 0"),
        ({"rate": 0.0}, "rate is 0"),
        ({"size": "big"}, "WIDTHxHEIGHT"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], reason: str) -> None:
    with pytest.raises((InputError, ValueError), match=reason):
        PerfAnalyzerSettings(
            server=ServedSettings(url="127.0.0.1:1"),
            **settings,  # type: ignore[arg-type]
        )
