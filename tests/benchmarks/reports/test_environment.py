"""What a report says of GPUs before and after a run, from an nvidia-smi that is a script."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bench_reports import report_of

from sceneloom_bench.reports.environment import Environment
from sceneloom_bench.reports.report import read_report, write_report
from sceneloom_bench.reports.tables import machine_line

SMI = """#!/bin/sh
case "$*" in *utilization.gpu*) ;; *) exit 1 ;; esac
rest='700.00 W, 34, 81559 MiB, Enabled, [N/A]'
sm='345 MHz' used={used}
if [ -e '{seen}' ]; then sm='1980 MHz' used='99 %'; fi
: > '{seen}'
for number in 0 1; do
    echo "NVIDIA H100, 570.86.15, $sm, 1980 MHz, 2619 MHz, $rest, $used"
    used='0 %'
done
"""


def watched(folder: Path, used: str, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """A run on two GPUs, whose first was used so much before it."""
    smi = folder / "nvidia-smi"
    smi.write_text(SMI.format(used=f"'{used}'", seen=folder / "seen"))
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    with Environment() as environment:
        pass
    return environment


def test_clocks_are_those_before_and_after_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = watched(tmp_path, "37 %", monkeypatch)
    document = found.to_json()
    assert document["gpu_details"] == document["before"]["gpus"]
    assert [gpu["clocks.sm"] for gpu in document["before"]["gpus"]] == ["345 MHz"] * 2
    assert [gpu["clocks.sm"] for gpu in document["after"]["gpus"]] == ["1980 MHz"] * 2
    marks = [mark for mark in found.marks() if "GPU" in mark]
    assert marks == [
        "not a quiet GPU: NVIDIA H100 (number 0) was at work for 37% of the time before the run"
    ]
    line = machine_line(report_of("engine", "t", [], environment=document))
    said = "SM clock 345 MHz before and 1980 MHz after, at most 1980 MHz"
    assert line.count(said) == 2
    assert "used 37 % before and 99 % after, at 34 °C" in line
    report = report_of("engine", "t", [], environment=document)
    assert read_report(write_report(report, tmp_path, "t")).environment == document


@pytest.mark.parametrize("used", ["10 %", "0 %", "[N/A]"])
def test_a_gpu_that_rests_or_does_not_say_is_not_marked(
    used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = watched(tmp_path, used, monkeypatch)
    assert not [mark for mark in found.marks() if "GPU" in mark]
