"""Progress lines: they come while the work runs."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest

from sceneloom import progress


def test_nothing_is_shown_unless_a_command_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.stage("work"):
        pass
    assert list(progress.steps([1, 2], "count")) == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_steps_are_counted() -> None:
    lines: list[str] = []
    with progress.shown(lines.append):
        for _ in progress.steps(["a", "b"], "measure"):
            lines.append("work")
    assert lines == ["measure a (1 of 2) ...", "work", "measure b (2 of 2) ...", "work"]


def test_the_time_left_follows_from_the_steps_done() -> None:
    lines: list[str] = []
    with progress.shown(lines.append):
        for _ in progress.steps("abc", "measure"):
            time.sleep(0.6)
    assert re.fullmatch(r"measure c \(3 of 3\), 1 s so far, about [01] s left \.\.\.", lines[-1])


def test_lines_come_while_the_work_runs() -> None:
    code = (
        "import time; from sceneloom import progress; progress.HEARTBEAT = 0.2\n"
        "with progress.shown(), progress.stage('work'): time.sleep(60)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    try:
        assert worker.stderr is not None
        assert worker.stderr.readline() == "work ...\n"
        assert worker.stderr.readline() == "work, 0 s so far ...\n"
        assert worker.poll() is None
    finally:
        worker.kill()
        worker.communicate()


def test_only_the_innermost_stage_repeats_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "HEARTBEAT", 1.0)  # long beside the begin and end of a stage
    lines: list[str] = []
    with progress.shown(lines.append), progress.stage("outer"), progress.stage("inner"):
        time.sleep(3.2)
    repeated = [line for line in lines if "so far" in line]
    assert len(repeated) > 1
    assert {line.split(",")[0] for line in repeated} == {"inner"}


def test_a_stage_of_known_length_counts_down() -> None:
    lines: list[str] = []
    with progress.shown(lines.append):
        with progress.stage("load", left=60):
            pass
        counted = progress.Steps(2)
        for name in "abc":  # one more than expected
            with counted.step(name):
                pass
    assert lines == [
        "load, about 60 s left ...",
        "a (1 of 2) ...",
        "b (2 of 2) ...",
        "c (3 of 3) ...",
    ]


def test_a_failed_stage_does_not_claim_its_end() -> None:
    lines: list[str] = []
    with progress.shown(lines.append), pytest.raises(ZeroDivisionError), progress.stage("work"):
        print(1 / 0)
    assert lines == ["work ..."]
