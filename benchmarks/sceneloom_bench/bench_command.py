"""`sceneloom bench NAME ...`: one benchmark, each with flags of its own.

SIGTERM and SIGHUP end it as Ctrl-C does: servers and engines that it started are stopped, and its
files in /tmp and /dev/shm are removed. The exit code is 143 and 129 then.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

from sceneloom import cli, progress
from sceneloom.errors import require

BENCHMARKS = {
    "engine": (
        "sceneloom_bench.engine_command",
        "every engine of this machine beside its peers, in turn",
    ),
    "server": (
        "sceneloom_bench.server_command",
        "a Triton server under closed and open loops of requests",
    ),
    "mlperf": ("sceneloom_bench.mlperf_command", "a Triton server under MLPerf's LoadGen"),
    "render": ("sceneloom_bench.render_command", "a data set rendered from end to end"),
    "compare": (
        "sceneloom_bench.reports.compare",
        "two reports, with a verdict where their intervals separate",
    ),
    "page": ("sceneloom_bench.reports.page", "tables, plots and a page from reports of a folder"),
    "suite": (
        "sceneloom_bench.suite_command",
        "all of them on this machine, and the page: benchmarks/results",
    ),
}
"""Benchmark -> the module whose `main` it runs, and one line of help."""
MOVED = {
    "stall": "python benchmarks/experiments/stalls.py in the checkout",
    "perf-analyzer": "docs/perf-analyzer.md says how to run perf_analyzer itself",
}
"""Former benchmark -> its successor."""


def run(arguments: Sequence[str]) -> int:
    """Run a benchmark: the command line after ``sceneloom bench``; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print("usage: sceneloom bench BENCHMARK [ARGUMENTS]", end="\n\n")
        for name, (_, summary) in BENCHMARKS.items():
            print(f"  {name:16}{summary}")
        print("\nsceneloom bench BENCHMARK --help shows its arguments.")
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name, BENCHMARKS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(BENCHMARKS)}"
        hint = MOVED.get(name, hint)
        print(f"sceneloom bench: no benchmark {name!r}; {hint}", file=sys.stderr)
        return 2
    require(("psutil", "matplotlib", "jinja2"), extra="bench", purpose="sceneloom bench")
    try:
        with stoppable(), progress.shown():
            benchmark = importlib.import_module(BENCHMARKS[name][0])
            return cli.run_command(benchmark.main, prog=f"sceneloom bench {name}", arguments=rest)
    except StoppedError as stopped:
        return 128 + stopped.number


class StoppedError(KeyboardInterrupt):
    """A signal asked for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Raise `StoppedError` at the first SIGTERM or SIGHUP; ignore the next ones meanwhile."""
    numbers = (signal.SIGTERM, signal.SIGHUP)

    def stop(number: int, frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise StoppedError(number)

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
