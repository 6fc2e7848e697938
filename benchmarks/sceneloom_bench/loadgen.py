"""MLPerf's LoadGen against a served model: one run in a process of its own, and its summary.

LoadGen cannot run twice at once, cannot be stopped, and a failure ends its process.

Minima of a run, from the MLPerf Inference Rules (mlcommons/inference_policies,
inference_rules.adoc): 600 s of every scenario and 24,576 samples of Offline (section Scenarios).
The other scenarios stop early (appendix Early stopping, tolerance 0, confidence 0.99). Their fewest
queries are those with none late, p^n <= 0.01: 459 for a 99th percentile. A single stream discards
its slowest query: 64 for a 90th percentile, 662 for a 99th.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from sceneloom.errors import EngineError, InputError, ServingError, require
from sceneloom.request import Request
from sceneloom.synthesizer import Synthesizer
from sceneloom.triton.client import TransportChoice, TritonSynthesizer
from sceneloom.triton.transport import MAX_SECONDS, Timeouts
from sceneloom_bench.child_process import AnswerTimeoutError, ChildProcess
from sceneloom_bench.harness import bench_maps

Scenario = Literal["SingleStream", "Server", "Offline"]
SECONDS = 600.0
"""Shortest run of any scenario by the rules."""
QUERIES: dict[Scenario, int] = {"SingleStream": 64, "Server": 459, "Offline": 24_576}
"""Fewest queries by the rules; samples of Offline's single query."""
_PREFIX = "mlperf_log_"
_HEADROOM = 2.0
"""Divisor of the expected latency, from which LoadGen derives the number of prepared queries."""
_PATIENCE = 10.0
"""Limit of a run, in times of its requests one after the other."""
_START = 600.0
"""Seconds to import, connect and prepare the maps."""
_PERCENTILE = re.compile(r"([\d.]+) percentile latency \(ns\)\s*:\s*(\d+)")
_EXTREME = re.compile(r"(Min|Max|Mean) latency \(ns\)\s*:\s*(\d+)")
_EARLY = re.compile(r"Early stopping ([\d.]+)th percentile estimate:\s*(\d+)")
_CHECK = re.compile(r"^  (\w[\w ]+?) satisfied\s*: (Yes|NO)$", re.MULTILINE)
_RATES = {
    "completed": r"Completed samples per second\s*:\s*([\d.e+]+)",
    "scheduled": r"Scheduled samples per second\s*:\s*([\d.e+]+)",
    "offline": r"^Samples per second\s*:\s*([\d.e+]+)",
    "with_overhead": r"QPS w/ loadgen overhead\s*:\s*([\d.e+]+)",
    "without_overhead": r"QPS w/o loadgen overhead\s*:\s*([\d.e+]+)",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """LoadGen's summary of one run."""

    text: str
    scenario: str
    valid: bool
    checks: Mapping[str, bool]
    """Condition of the verdict, such as ``Min duration`` -> satisfied."""
    recommendations: Sequence[str]
    early_stopping: Sequence[str]
    latencies_ms: Mapping[str, float]
    """``p50``, ``p90``, ``p95``, ``p97``, ``p99``, ``p99.9``, ``min``, ``max``, ``mean``."""
    early_ms: Mapping[str, float]
    """``p90``, ``p99``: estimates of SingleStream that hold with 99 % confidence."""
    rates: Mapping[str, float]
    """Per second: ``completed``, ``scheduled``, ``offline``, ``with_`` or ``without_overhead``."""
    parameters: Mapping[str, str]
    remarks: Sequence[str]

    @property
    def verdict(self) -> str:
        """``LoadGen: VALID``, or ``LoadGen: INVALID`` with the reasons."""
        if self.valid:
            return "LoadGen: VALID"
        missed = [f"not satisfied: {name}" for name, held in self.checks.items() if not held]
        return "; ".join(["LoadGen: INVALID", *missed, *self.recommendations])


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadGenRun:
    """One run."""

    scenario: Scenario
    address: str
    """Address of the server, for `TritonSynthesizer`."""
    model: str
    version: str = ""
    """Version of the model; empty for the latest."""
    transport: TransportChoice
    timeout: float
    """Limit of one request, in seconds."""
    size: tuple[int, int]
    """(height, width) of drawn maps."""
    maps: Path | None
    different_maps: int
    queries: int
    """``min_query_count``; samples for Offline."""
    seconds: float
    """``min_duration``."""
    expected_seconds: float
    """Measured latency of a single request."""
    rate: float
    """``target_qps`` of Server, ``offline_expected_qps`` of Offline."""
    latency_bound_ms: float
    """``target_latency`` of Server."""
    workers: int
    batch: int
    """Most samples of a request of Offline; 1 otherwise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of a run."""

    summary: Summary
    seconds: list[float]
    """Seconds of each request from issue to answer, in the order of answers."""
    samples: int
    failed: int
    """Samples whose request failed; any makes the run void."""
    first_error: str
    took: float
    """Seconds from the first query to the end."""


def longest(plan: LoadGenRun) -> float:
    """Limit of a run, in seconds, far above its expected duration."""
    asked = max(plan.queries, plan.rate * plan.seconds)
    expected = plan.seconds + asked * plan.expected_seconds
    return min(_START + _PATIENCE * expected, MAX_SECONDS)


def run_loadgen(plan: LoadGenRun, *, within: float | None = None) -> Outcome:
    """Run LoadGen in a child process for at most `within` (by default `longest`) seconds. Raises
    ServingError if it breaks or takes longer, InputError if its summary has no verdict.
    """
    require(("mlperf_loadgen",), extra="bench", purpose="sceneloom bench mlperf")
    within = longest(plan) if within is None else within
    with (
        tempfile.TemporaryDirectory(prefix="sceneloom-loadgen-") as folder,
        ChildProcess(longest=within) as child,
    ):
        try:
            return child.call(run_plan, plan, Path(folder))
        except AnswerTimeoutError:
            raise ServingError(
                f"LoadGen's {plan.scenario} did not end within {within:g} s: the server is far "
                "slower than before the run, or stopped answering"
            ) from None
        except EngineError as error:
            raise ServingError(f"LoadGen's {plan.scenario} broke: {error}") from None


def run_plan(plan: LoadGenRun, folder: Path) -> Outcome:
    """Run LoadGen in this process, with its logs in `folder`."""
    import mlperf_loadgen as loadgen

    library: list[Request] = []
    with TritonSynthesizer(
        plan.address,
        model=plan.model,
        version=plan.version,
        transport=plan.transport,
        timeouts=Timeouts(infer=plan.timeout),
    ) as client:
        count = plan.different_maps
        if plan.maps is not None:
            count = len(bench_maps(client.contract, plan.size, count, plan.maps))

        def load(indices: list[int]) -> None:
            assert set(indices) == set(range(count)), "LoadGen loads all samples"
            library[:] = bench_maps(client.contract, plan.size, count, plan.maps)

        def complete(numbers: Sequence[int]) -> None:
            loadgen.QuerySamplesComplete(
                [loadgen.QuerySampleResponse(number, 0, 0) for number in numbers]
            )

        system = SystemUnderTest(client, library, complete, workers=plan.workers, batch=plan.batch)
        tested = loadgen.ConstructSUT(
            lambda queries: system.issue([(query.id, query.index) for query in queries]),
            lambda: None,
        )
        samples = loadgen.ConstructQSL(count, count, load, lambda _: library.clear())
        settings = loadgen.TestSettings()
        settings.mode = loadgen.TestMode.PerformanceOnly
        settings.scenario = getattr(loadgen.TestScenario, plan.scenario)
        settings.min_query_count = plan.queries
        settings.min_duration_ms = round(1000 * plan.seconds)
        expected_ns = round(1e9 * plan.expected_seconds / _HEADROOM)
        settings.single_stream_expected_latency_ns = expected_ns
        settings.single_stream_target_latency_percentile = 0.9
        settings.server_target_qps = settings.offline_expected_qps = plan.rate
        settings.server_target_latency_ns = round(1e6 * plan.latency_bound_ms)
        settings.server_target_latency_percentile = 0.99
        output = loadgen.LogOutputSettings()
        output.outdir, output.prefix = str(folder), _PREFIX
        logs = loadgen.LogSettings()
        logs.log_output = output
        logs.enable_trace = False
        # The audit file configures a compliance test; a missing one is ignored.
        audit = str(folder / "no-audit")
        loadgen.StartTestWithLogSettings(tested, samples, settings, logs, audit)
        ended = time.perf_counter()
        system.close()
        loadgen.DestroyQSL(samples)
        loadgen.DestroySUT(tested)
        error = system.first_error.replace(client.transport.address, "the server")
    return Outcome(
        summary=parse_summary((folder / f"{_PREFIX}summary.txt").read_text("utf-8")),
        seconds=system.seconds,
        samples=system.samples,
        failed=system.failed,
        first_error=error,
        took=ended - (system.began or ended),
    )


class SystemUnderTest:
    """The served model behind a pool of threads: one request for each query, batches for Offline's
    single query. The issuing thread never waits.

    LoadGen waits for ever for a missing sample, so failed samples are completed too, and counted:
    they make a run void despite LoadGen's verdict.
    """

    def __init__(
        self,
        synthesizer: Synthesizer,
        library: Sequence[Request],
        complete: Callable[[Sequence[int]], None],
        *,
        workers: int,
        batch: int = 1,
    ) -> None:
        """Prepare the pool of `workers` threads.

        `library` has maps by sample index and is filled later. `complete` takes the ids of
        completed samples, from the pool's threads. `batch` limits the samples of a request.
        """
        self._synthesizer = synthesizer
        self._library = library
        self._complete = complete
        self._batch = batch
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="query")
        self._lock = threading.Lock()
        self.began: float | None = None
        """Moment of the first query, by `time.perf_counter`."""
        self.seconds: list[float] = []
        self.samples = self.failed = 0
        self.first_error = ""

    def issue(self, samples: Iterable[tuple[int, int]]) -> None:
        """Take a query as (id, library index) of its samples; samples of equal size are joined."""
        came = time.perf_counter()
        self.began = self.began or came
        groups: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for sample in samples:
            shape = self._library[sample[1]].size
            group = groups.setdefault(shape, [])
            group.append(sample)
            if len(group) == self._batch:
                self._pool.submit(self._ask, groups.pop(shape), came)
        for group in groups.values():
            self._pool.submit(self._ask, group, came)

    def _ask(self, samples: list[tuple[int, int]], came: float) -> None:
        error = ""
        try:
            self._synthesizer.run_requests([self._library[index] for _, index in samples])
        except Exception as caught:
            error = f"{type(caught).__name__}: {caught}"
        took = time.perf_counter() - came
        with self._lock:
            self.seconds.append(took)
            self.samples += len(samples)
            self.failed += len(samples) if error else 0
            self.first_error = self.first_error or error
        self._complete([number for number, _ in samples])

    def close(self) -> None:
        """Wait for all requests."""
        self._pool.shutdown()


def below_minimum(scenario: Scenario, *, seconds: float, queries: int) -> list[str]:
    """A sentence for each of the rules' minima that a run misses."""
    lacks = []
    if seconds < SECONDS:
        lacks.append(f"below the rules' minimum: {seconds:.1f} s of {SECONDS:.0f} s")
    if queries < QUERIES[scenario]:
        unit = "samples" if scenario == "Offline" else "queries"
        lacks.append(f"below the rules' minimum: {queries} {unit} of {QUERIES[scenario]}")
    return lacks


def parse_summary(text: str) -> Summary:
    """Parse ``mlperf_log_summary.txt``; raises InputError if it has no verdict."""
    verdict = re.search(r"^Result is : (VALID|INVALID)$", text, re.MULTILINE)
    scenario = re.search(r"^Scenario : (\w+)", text, re.MULTILINE)
    if not verdict or not scenario:
        raise InputError("LoadGen's summary has no verdict: the run did not reach its end")
    head, _, rest = text.partition("Additional Stats")
    extremes = {name.lower(): int(ns) / 1e6 for name, ns in _EXTREME.findall(rest)}
    percentiles = {f"p{float(name):g}": int(ns) / 1e6 for name, ns in _PERCENTILE.findall(rest)}
    rates = {name: re.search(pattern, text, re.MULTILINE) for name, pattern in _RATES.items()}
    parameters = rest.partition("Test Parameters Used")[2]
    lines = [line.strip() for line in parameters.splitlines()]
    told = [line for line in lines if re.search(r"warning|error", line, re.IGNORECASE)]
    return Summary(
        text=text,
        scenario=scenario[1],
        valid=verdict[1] == "VALID",
        checks={name: said == "Yes" for name, said in _CHECK.findall(head)},
        recommendations=_bullets(head, "Recommendations:"),
        early_stopping=_bullets(head, "Early Stopping Result:"),
        latencies_ms={**percentiles, **extremes},
        early_ms={f"p{float(p):g}": int(ns) / 1e6 for p, ns in _EARLY.findall(head)},
        rates={name: float(found[1]) for name, found in rates.items() if found},
        parameters=dict(
            re.findall(r"^([a-z_]\w*(?: \(ms\)| \(ns\))?) ?: (\S+)$", parameters, re.M)
        ),
        remarks=[x for x in told if not re.match(r"No (warnings|errors) encountered", x)],
    )


def _bullets(text: str, heading: str) -> list[str]:
    """Sentences ``* ...`` below a heading. A line without a star continues the one before."""
    found: list[str] = []
    for line in text.partition(heading + "\n")[2].splitlines():
        if line.startswith(" * "):
            found.append(line[3:].strip())
        elif line.startswith(" ") and found:
            found[-1] += f" {line.strip()}"
        else:
            break
    return found
