"""`sceneloom bench`: its names, its help, and the documents in step with both."""

from __future__ import annotations

import re

import pytest
from support import CHECKOUT, run_command

from sceneloom_bench.bench_command import BENCHMARKS, run

FLAG = r"--[a-z][a-z0-9.-]*[a-z0-9]"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_reference_names_exactly_the_flags_there_are(name: str) -> None:
    text = (CHECKOUT / "docs" / "benchmarks.md").read_text("utf-8")
    sections = re.split(r"^## sceneloom bench ", text, flags=re.MULTILINE)[1:]
    (section,) = [s for s in sections if s.split()[0] == name]
    documented = set(re.findall(rf"`({FLAG})", section))
    shown = run_command("bench", name, "--help").stdout
    assert documented == set(re.findall(rf"(?<![\w-])({FLAG})", shown)) - {"--help"}


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
