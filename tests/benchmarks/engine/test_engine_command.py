"""`sceneloom bench engine` from its settings to a report, with networks that draw nothing much."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sceneloom import cli, progress
from sceneloom.errors import EngineError
from sceneloom.synthesizer import Synthesizer
from sceneloom_bench.child_process import ChildProcess
from sceneloom_bench.engine_candidates import SERVED, Candidate, candidates
from sceneloom_bench.engine_case import Bundle, read_case
from sceneloom_bench.engine_command import EngineBenchSettings, Prepared, prepare, take_turns
from sceneloom_bench.harness import bench_maps
from sceneloom_bench.reports.report import read_report
from sceneloom_export.bundle import Exported
from sceneloom_serving.engines import ENGINES

SIZE = (64, 128)


@pytest.fixture(autouse=True)
def _one_cpu() -> Iterator[None]:
    """Two threads that wait for each other on a machine at work take many times as long."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    yield
    os.sched_setaffinity(0, allowed)


def open_nothing() -> Synthesizer:
    raise EngineError("there is no such thing")


class Said(io.StringIO):
    """Lines on stderr, and those that came before there was a report."""

    def __init__(self, report: Path) -> None:
        super().__init__()
        self._report = report
        self.before: list[str] = []

    def write(self, text: str) -> int:
        if not self._report.is_file():
            self.before += text.splitlines()
        return super().write(text)


@pytest.mark.slow
def test_pytorch_alone_from_the_command_line_to_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Said(tmp_path / "engine-small.json")
    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.setattr(progress, "HEARTBEAT", 0.5)
    small = ["--ngf", "4", "--blocks", "1", "--size", "128x64", "--rounds", "2", "--maps", "2"]
    chosen = ["--engines", "torch-fp32", "tensorrt-fp16", "--name", "small"]
    arguments = ["bench", "engine", "--out", str(tmp_path), *small, *chosen]
    assert cli.main(arguments) == 0
    shown = capsys.readouterr()
    report = read_report(tmp_path / "engine-small.json")
    assert shown.out.splitlines()[-2:] == [
        "No engine that passed was measured beside PyTorch eager.",
        f"report: {tmp_path / 'engine-small.json'}",
    ]
    begun = [re.sub(r", \d+ s so far.*", " ...", line) for line in said.before]
    expected = [
        "look for a GPU ...",
        "prepare the checkpoint ...",
        "draw 2 maps of 128x64 ...",
        "load torch-fp32 (1 of 1) ...",
        "batch 1, warm-up, torch-fp32 (1 of 3) ...",
        "batch 1, round 2 of 2, torch-fp32 (3 of 3) ...",
        "measure the matrix product and the copy again ...",
    ]
    assert [line for line in dict.fromkeys(begun) if line in expected] == expected
    # PyTorch's import in the child takes longer than half a second.
    assert re.search(r"^look for a GPU, \d+ s so far \.\.\.$", said.getvalue(), re.MULTILINE)
    assert (report.kind, report.baseline) == ("engine", "torch-fp32")
    eager = report.named("torch-fp32", batch=1)
    assert [len(block) for block in eager.samples] == [1, 1]
    assert eager.figures["p50"].value > 0
    assert eager.figures["peak_memory"].value > 50
    assert 0 < eager.figures["peak_share"].value < 1.5
    for name in ("matrix product float32", "memory copy"):
        for when in ("before", "after"):
            assert report.named(name, when=when).figures
    assert report.subject["weights"] == "random"
    assert report.subject["device"] in ("cpu", "cuda")
    assert report.subject["bundle_sha256"] is None
    assert report.subject["gflop"] > 0
    if not ENGINES["tensorrt-fp16"].gpu or not Path("/proc/driver/nvidia/version").is_file():
        assert "tensorrt" in report.extra["cannot_run"]["tensorrt-fp16"]
    assert SERVED in report.extra["cannot_run"]
    assert str(tmp_path) not in json.dumps(report.to_json())


@pytest.mark.triton
def test_an_engine_and_its_server_in_turn(checkpoint: Path, exported: Exported) -> None:
    settings = EngineBenchSettings(size="128x64", batch=(1, 2), rounds=2, maps=2)
    bundle = Bundle(
        repository=exported.repository,
        engine="openvino-fp32",
        sha256=exported.contract.bundle_hash,
        left_out={},
    )
    names = ["torch-fp32", "openvino-fp32"]
    found, cannot = candidates(names, "cpu", checkpoint, bundle, 2)
    assert cannot == {}
    gone = Candidate(name="openvino-int8", precision="int8", how="not", open=open_nothing)
    single = candidates(["torch-fp32"], "cpu", checkpoint, bundle, 1)[0][0]
    single = dataclasses.replace(single, name="single")
    prepared = Prepared(
        device="cpu",
        case=read_case(checkpoint, SIZE, random=False),
        maps=bench_maps(exported.contract, SIZE, settings.needed_maps("cpu")),
        bundle=bundle,
        candidates=[*found, gone, single],
    )
    with ChildProcess() as child:
        rows, cannot = take_turns(settings, prepared, child)
    assert [(row.name, row.batch) for row in rows] == [
        *((name, 1) for name in (*names, "single", SERVED)),
        *((name, 2) for name in (*names, SERVED)),
    ]
    assert cannot == {
        "openvino-int8": "there is no such thing",
        "single, batch 2": "takes at most 1 pictures at once",
    }
    for row in rows:
        assert len(row.timings.seconds) == 2
        assert row.memory_mib["peak_memory"] > 10
        assert (row.parity is None) == (row.name == "torch-fp32")
        assert row.parity is None or row.parity.max <= 1
        assert (row.bare is None) == (row.name != SERVED)


@pytest.mark.slow
def test_a_package_of_aotinductor_has_a_row(least_checkpoint: Path, compiled: Path) -> None:
    settings = EngineBenchSettings(size="96x64", batch=(1, 2), rounds=2, maps=2, served=False)
    bundle = Bundle(repository=compiled, engine="aoti-fp32", sha256="0", left_out={})
    found, cannot = candidates(
        ["torch-fp32", "aoti-fp16", "aoti-fp32"], "cpu", least_checkpoint, bundle, 2
    )
    assert cannot == {"aoti-fp16": "model.pt2 is of fp32, not of fp16"}
    case = read_case(least_checkpoint, (64, 96), random=False)
    prepared = Prepared(
        device="cpu",
        case=case,
        maps=bench_maps(case.contract, (64, 96), settings.needed_maps("cpu")),
        bundle=bundle,
        candidates=found,
    )
    with ChildProcess() as child:
        rows, cannot = take_turns(settings, prepared, child)
    assert [(row.name, row.batch) for row in rows] == [
        *(("torch-fp32", 1), ("aoti-fp32", 1), ("torch-fp32", 2))
    ]
    assert cannot["aoti-fp32, batch 2"] == "takes at most 1 pictures at once"
    row = rows[1]
    assert (row.how, row.marks) == ("model.pt2 in aoti-fp32", [])
    assert row.parity is not None
    assert row.parity.max <= 1
    assert "model.pt2" in bundle.file_hashes()


def test_an_export_that_fails_in_any_way_leaves_pytorch(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modules").mkdir()
    broken = 'raise RuntimeError("this module is broken\\n\\nadvice")\n'
    (tmp_path / "modules" / "onnx.py").write_text(broken)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    chosen = ("onnxruntime-fp32",)
    settings = EngineBenchSettings(
        checkpoint=checkpoint, size="128x64", device="cpu", engines=chosen, rounds=1, maps=2
    )
    with ChildProcess() as child:
        prepared, cannot = prepare(settings, tmp_path, child)
    assert [one.name for one in prepared.candidates] == ["torch-fp32"]
    assert cannot == {
        "onnxruntime-fp32": "there is no bundle for it: RuntimeError: this module is broken"
    }


def test_without_the_baseline_there_is_no_measurement(checkpoint: Path) -> None:
    settings = EngineBenchSettings(size="128x64", served=False)
    prepared = Prepared(
        device="cpu",
        case=read_case(checkpoint, SIZE, random=False),
        maps=[],
        bundle=None,
        candidates=[
            Candidate(name="torch-fp32", precision="fp32", how="not", open=open_nothing),
        ],
    )
    with (
        ChildProcess() as child,
        pytest.raises(EngineError, match="the baseline, torch-fp32: there is"),
    ):
        take_turns(settings, prepared, child)


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.timeout(900)
def test_everything_from_export_to_the_report(tmp_path: Path) -> None:
    small = ["--ngf", "4", "--blocks", "1", "--size", "128x64", "--rounds", "2", "--maps", "2"]
    kept = tmp_path / "exports" / "bundle"
    assert cli.main(["bench", "engine", "--out", str(tmp_path), *small, "--keep", str(kept)]) == 0
    report = read_report(tmp_path / "engine.json")
    wanted = {"torch-fp32", "onnxruntime-fp32", "openvino-fp32", "openvino-int8", SERVED}
    wanted.add("aoti-fp32")
    assert wanted <= {m.name for m in report.measurements}
    compiled = "torch-fp32-compiled"
    assert compiled in {m.name for m in report.measurements} | set(report.extra["cannot_run"])
    assert report.named("openvino-fp32").figures["difference"].value <= 1
    assert report.named(SERVED).figures["overhead_ratio"].value > 0
    assert report.extra["engine_files_sha256"]["onnxruntime.onnx"]
    assert report.extra["engine_files_sha256"]["int8.onnx"]
    assert len(report.subject["bundle_sha256"]) == 64
    assert cli.main(["verify", str(kept)]) == 0
