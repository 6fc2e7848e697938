"""One run of LoadGen, in a process of its own: it cannot be run twice at once, cannot be stopped,
and where it breaks it takes its process with it.

    python -m sceneloom_bench.mlperf.loadgen_process FOLDER PARENT < plan.json

writes LoadGen's logs and ``outcome.json`` into FOLDER, and dies with the process of the number
PARENT, which started it. `run_loadgen` does, and reads both.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sceneloom.errors import ServingError, require
from sceneloom.request import Request
from sceneloom.text import parse_json
from sceneloom.triton.client import TransportChoice, TritonSynthesizer
from sceneloom.triton.transport import MAX_SECONDS, Timeouts
from sceneloom_bench.bench_inputs import bench_maps
from sceneloom_bench.mlperf.rules import Scenario
from sceneloom_bench.mlperf.summary import Summary, parse_summary
from sceneloom_bench.mlperf.system_under_test import SystemUnderTest

_PREFIX = "mlperf_log_"
_HEADROOM = 2.0
"""LoadGen draws a single stream's queries before it starts, as many as the expected latency lets
fit; it is told half of what was measured, so that they do not run out.
"""
_PATIENCE = 10.0
"""A run may take so many times what it would if its requests came one after the other."""
_START = 600.0
"""Seconds to import, connect, and prepare the maps."""
_PR_SET_PDEATHSIG = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """One run, in full; goes to the child as JSON."""

    scenario: Scenario
    """Which."""
    address: str
    """Of the server, as `TritonSynthesizer` takes it."""
    model: str
    """Name of the served model."""
    transport: TransportChoice
    """How tensors travel."""
    timeout: float
    """Longest that one request may take, in seconds."""
    size: tuple[int, int]
    """(height, width) of drawn maps."""
    maps: str | None
    """Folder to read maps from instead."""
    different_maps: int
    """Maps in the sample library."""
    queries: int
    """``min_query_count``; samples for Offline."""
    seconds: float
    """``min_duration``."""
    expected_seconds: float
    """Latency of a single request, measured before."""
    rate: float
    """``target_qps`` of Server, expected one of Offline; not used by SingleStream."""
    latency_bound_ms: float
    """``target_latency`` of Server."""
    workers: int
    """Requests in flight at most."""
    batch: int
    """Samples of one request at most; 1 but for Offline."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run gave."""

    summary: Summary
    """LoadGen's own."""
    seconds: list[float]
    """Of each request, from its issue to its answer, in the order of answers."""
    samples: int
    """Samples that were completed."""
    failed: int
    """Samples whose request failed; more than none makes the run void."""
    first_error: str
    """What the first of them said; empty without one."""
    took: float
    """From the first query to the end, in seconds."""


def longest(plan: Plan) -> float:
    """Seconds after which a run is given up: far more than any that gets on."""
    asked = max(plan.queries, plan.rate * plan.seconds)
    expected = plan.seconds + asked * plan.expected_seconds
    return min(_START + _PATIENCE * expected, MAX_SECONDS)


def run_loadgen(plan: Plan, *, within: float | None = None) -> Outcome:
    """Run LoadGen in a child process and wait for its end.

    Args:
        plan: the run.
        within: seconds until it is given up; `longest` unless given.

    Raises:
        MissingDependencyError: LoadGen is not installed.
        ServingError: the child broke, and the text is the last that it said; or it was given up.
        InputError: LoadGen's summary has no verdict.
    """
    require(("mlperf_loadgen",), extra="bench", purpose="sceneloom bench mlperf")
    within = longest(plan) if within is None else within
    module = [sys.executable, "-m", "sceneloom_bench.mlperf.loadgen_process"]
    with tempfile.TemporaryDirectory(prefix="sceneloom-loadgen-") as folder:
        try:
            done = subprocess.run(
                [*module, folder, str(os.getpid())],
                input=json.dumps(dataclasses.asdict(plan)),
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=within,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ServingError(
                f"LoadGen's {plan.scenario} did not end within {within:g} s: the server answers "
                "far more slowly than before the run, or not at all"
            ) from None
        written = Path(folder) / "outcome.json"
        if done.returncode or not written.is_file():
            said = done.stdout.strip().splitlines() or ["nothing"]
            raise ServingError(f"LoadGen's process ended with {done.returncode}: {said[-1]}")
        summary = parse_summary((Path(folder) / f"{_PREFIX}summary.txt").read_text("utf-8"))
        return Outcome(summary=summary, **parse_json(written.read_text("utf-8")))


def main(arguments: Sequence[str]) -> int:
    """Run the plan on standard input; see the module."""
    _die_with(int(arguments[1]))
    # LoadGen waits outside of Python, where KeyboardInterrupt would not be seen.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    folder = Path(arguments[0])
    given = json.load(sys.stdin)
    plan = Plan(**{**given, "size": tuple(given["size"])})
    timeouts = Timeouts(infer=plan.timeout)
    with TritonSynthesizer(
        plan.address, model=plan.model, transport=plan.transport, timeouts=timeouts
    ) as client:
        outcome = _run(plan, client, folder)
    outcome["first_error"] = outcome["first_error"].replace(client.transport.address, "the server")
    (folder / "outcome.json").write_text(json.dumps(outcome), "utf-8")
    return 0


def _die_with(parent: int) -> None:
    """Be killed when the parent is (kill -9), or end now if that has happened already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that asked for this run is gone")


def _run(plan: Plan, client: TritonSynthesizer, folder: Path) -> dict[str, Any]:
    import mlperf_loadgen as loadgen

    library: list[Request] = []
    count = _library_size(plan, client)

    def load(indices: list[int]) -> None:
        drawn = bench_maps(client.contract, plan.size, count, _folder(plan))
        assert set(indices) == set(range(count)), "LoadGen loads what it performs on: all"
        library[:] = drawn

    def complete(numbers: Sequence[int]) -> None:
        loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(n, 0, 0) for n in numbers])

    system = SystemUnderTest(client, library, complete, workers=plan.workers, batch=plan.batch)
    tested = loadgen.ConstructSUT(
        lambda queries: system.issue([(query.id, query.index) for query in queries]), lambda: None
    )
    samples = loadgen.ConstructQSL(count, count, load, lambda _: library.clear())
    # The audit file is one of the rules' compliance tests; none is read where there is none.
    loadgen.StartTestWithLogSettings(
        tested, samples, _settings(loadgen, plan), _logs(loadgen, folder), str(folder / "no-audit")
    )
    ended = time.perf_counter()
    system.close()
    loadgen.DestroyQSL(samples)
    loadgen.DestroySUT(tested)
    return {
        "seconds": system.seconds,
        "samples": system.samples,
        "failed": system.failed,
        "first_error": system.first_error,
        "took": ended - (system.began or ended),
    }


def _folder(plan: Plan) -> Path | None:
    return None if plan.maps is None else Path(plan.maps)


def _library_size(plan: Plan, client: TritonSynthesizer) -> int:
    if plan.maps is None:
        return plan.different_maps
    return len(bench_maps(client.contract, plan.size, plan.different_maps, _folder(plan)))


def _settings(loadgen: Any, plan: Plan) -> Any:
    settings = loadgen.TestSettings()
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.scenario = getattr(loadgen.TestScenario, plan.scenario)
    settings.min_query_count = plan.queries
    settings.min_duration_ms = round(1000 * plan.seconds)
    settings.single_stream_expected_latency_ns = round(1e9 * plan.expected_seconds / _HEADROOM)
    settings.single_stream_target_latency_percentile = 0.9
    settings.server_target_qps = plan.rate
    settings.server_target_latency_ns = round(1e6 * plan.latency_bound_ms)
    settings.server_target_latency_percentile = 0.99
    settings.offline_expected_qps = plan.rate
    return settings


def _logs(loadgen: Any, folder: Path) -> Any:
    logs = loadgen.LogSettings()
    output = loadgen.LogOutputSettings()
    output.outdir, output.prefix = str(folder), _PREFIX
    logs.log_output = output
    logs.enable_trace = False
    return logs


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    # LoadGen's own threads may still be there; a process that ends by itself waits for them.
    os._exit(code)
