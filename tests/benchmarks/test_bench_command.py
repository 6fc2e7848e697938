"""`sceneloom bench`: its names, its help, and the documents in step with both."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from support import CHECKOUT

from sceneloom_bench.bench_command import BENCHMARKS, run


def test_the_page_has_a_section_for_each_benchmark() -> None:
    text = (CHECKOUT / "docs" / "benchmarks.md").read_text("utf-8")
    sections = re.findall(r"^## sceneloom bench (\w+)", text, re.MULTILINE)
    assert sorted(sections) == sorted(BENCHMARKS)


def test_help_names_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in BENCHMARKS)
    assert run([]) == 2


def test_a_misspelt_benchmark_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["engines"]) == 2
    assert "did you mean 'engine'?" in capsys.readouterr().err


def test_a_benchmark_of_former_versions_names_its_successor(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, path in (
        ("stall", "benchmarks/experiments/stalls.py"),
        ("perf-analyzer", "docs/perf-analyzer.md"),
    ):
        assert run([name]) == 2
        assert path in capsys.readouterr().err
        assert (CHECKOUT / path).is_file()


def test_sigterm_ends_a_benchmark_as_ctrl_c_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "terminated_bench.py").write_text(
        "import os, signal, time\n"
        "def main() -> int:\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(30)\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)  # one more while things are put in order\n"
        "        open(os.environ['TIDIED'], 'w').close()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TIDIED", str(tmp_path / "tidied"))
    monkeypatch.setitem(BENCHMARKS, "page", ("terminated_bench", ""))
    before = signal.getsignal(signal.SIGTERM)
    assert run(["page"]) == 128 + signal.SIGTERM
    assert (tmp_path / "tidied").exists()
    assert signal.getsignal(signal.SIGTERM) == before
