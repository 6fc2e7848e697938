"""MLPerf's LoadGen against a served model: one run in a process of its own, and its summary.

LoadGen cannot be run twice at once, cannot be stopped, and where it breaks it takes its process
with it. What its rules ask of a run is here, too, so that a shorter one says that it is short.

From the MLPerf Inference Rules (mlcommons/inference_policies, inference_rules.adoc): section
Scenarios wants 600 s of every scenario and at least 24,576 samples of Offline; since early stopping
(appendix of that name, tolerance 0, confidence 0.99) the number of queries of the others follows
from the latencies. The fewest with which it can succeed is where no query was late: p^n <= 0.01,
which is 459 queries for a 99th percentile. A single stream discards its slowest and needs at least
one to discard: 64 queries for a 90th percentile, 662 for a 99th. The 270,336 queries of older
rounds are today's "suggested starting point", not a minimum.
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
from typing import Any, Literal

from sceneloom.connect import TransportChoice
from sceneloom.errors import EngineError, InputError, ServingError
from sceneloom.extras import require
from sceneloom.synthesizer import Request, Synthesizer
from sceneloom.transport import MAX_SECONDS, Timeouts
from sceneloom.triton_client import TritonSynthesizer
from sceneloom_bench.child_process import AnswerTimeoutError, ChildProcess
from sceneloom_bench.harness import bench_maps

Scenario = Literal["SingleStream", "Server", "Offline"]
SECONDS = 600.0
"""Shortest run by the rules, of every scenario."""
QUERIES: dict[Scenario, int] = {"SingleStream": 64, "Server": 459, "Offline": 24_576}
"""Fewest queries with which early stopping can succeed; samples of Offline's single query."""
_PREFIX = "mlperf_log_"
_HEADROOM = 2.0
"""LoadGen draws a single stream's queries before it starts, as many as the expected latency lets
fit; it is told half of the measured one, so that they do not run out.
"""
_PATIENCE = 10.0
"""A run may take so many times what it would if its requests came one after the other."""
_START = 600.0
"""Seconds to import, connect, and prepare the maps."""
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
    """Condition of the verdict, such as ``Min duration`` -> whether it is satisfied."""
    recommendations: Sequence[str]
    early_stopping: Sequence[str]
    latencies_ms: Mapping[str, float]
    """``p50``, ``p90``, ``p95``, ``p97``, ``p99``, ``p99.9``, ``min``, ``max``, ``mean``."""
    early_ms: Mapping[str, float]
    """``p90``, ``p99``: its estimates that hold with 99 % confidence; of SingleStream only, those
    for which there were enough queries.
    """
    rates: Mapping[str, float]
    """Per second, as far as the scenario has them: ``completed``, ``scheduled`` (Server),
    ``offline``, ``with_overhead``, ``without_overhead`` (SingleStream).
    """
    parameters: Mapping[str, str]
    remarks: Sequence[str]

    @property
    def verdict(self) -> str:
        """``LoadGen: VALID``, or ``LoadGen: INVALID`` with everything that is not satisfied."""
        if self.valid:
            return "LoadGen: VALID"
        missed = [f"not satisfied: {name}" for name, held in self.checks.items() if not held]
        return "; ".join(["LoadGen: INVALID", *missed, *self.recommendations])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """One run, in full."""

    scenario: Scenario
    address: str
    """Of the server, as `TritonSynthesizer` takes it."""
    model: str
    transport: TransportChoice
    timeout: float
    """Longest that one request may take, in seconds."""
    size: tuple[int, int]
    """(height, width) of drawn maps."""
    maps: Path | None
    different_maps: int
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
    batch: int
    """Samples of one request at most; 1 but for Offline."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of a run."""

    summary: Summary
    seconds: list[float]
    """Of each request, from its issue to its answer, in the order of answers."""
    samples: int
    failed: int
    """Samples whose request failed; more than none makes the run void."""
    first_error: str
    took: float
    """From the first query to the end, in seconds."""


def longest(plan: Plan) -> float:
    """Seconds after which a run is given up: far more than any that gets on."""
    asked = max(plan.queries, plan.rate * plan.seconds)
    expected = plan.seconds + asked * plan.expected_seconds
    return min(_START + _PATIENCE * expected, MAX_SECONDS)


def run_loadgen(plan: Plan, *, within: float | None = None) -> Outcome:
    """Run LoadGen in a child process and wait for its end, for `within` or `longest` seconds.

    Raises:
        MissingDependencyError: LoadGen is not installed.
        ServingError: the child broke, or was given up.
        InputError: LoadGen's summary has no verdict.
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
                f"LoadGen's {plan.scenario} did not end within {within:g} s: the server answers "
                "far more slowly than before the run, or not at all"
            ) from None
        except EngineError as error:
            raise ServingError(f"LoadGen's {plan.scenario} broke: {error}") from None


def run_plan(plan: Plan, folder: Path) -> Outcome:
    """Run LoadGen in this process; its logs go into `folder`."""
    import mlperf_loadgen as loadgen

    library: list[Request] = []
    with TritonSynthesizer(
        plan.address,
        model=plan.model,
        transport=plan.transport,
        timeouts=Timeouts(infer=plan.timeout),
    ) as client:
        count = plan.different_maps
        if plan.maps is not None:
            count = len(bench_maps(client.contract, plan.size, count, plan.maps))

        def load(indices: list[int]) -> None:
            assert set(indices) == set(range(count)), "LoadGen loads what it performs on: all"
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
        logs = loadgen.LogSettings()
        output = loadgen.LogOutputSettings()
        output.outdir, output.prefix = str(folder), _PREFIX
        logs.log_output = output
        logs.enable_trace = False
        # The audit file is one of the rules' compliance tests; none is read where there is none.
        audit = str(folder / "no-audit")
        loadgen.StartTestWithLogSettings(tested, samples, _settings(loadgen, plan), logs, audit)
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


class SystemUnderTest:
    """The served model, asked from a pool of threads: one request for each query, or batches of the
    one query that Offline is. The issuing thread never waits.

    LoadGen waits for ever for a sample that is not completed, so all samples are completed; the
    number of failed ones makes a run void whatever LoadGen says of it.
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
        """Start nothing yet. `library` holds the maps by sample index; `complete` is told the ids
        of completed samples from the pool's threads. A request above `workers` waits, its latency
        counts on.
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
        """Take a query: (id, index into the library) of its samples, joined where equal in size."""
        came = time.perf_counter()
        self.began = self.began or came
        groups: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for sample in samples:
            shape = self._library[sample[1]].label_map.shape
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
        """Wait for the requests in flight."""
        self._pool.shutdown()


def below_minimum(scenario: Scenario, *, seconds: float, queries: int) -> list[str]:
    """A sentence for each minimum of the rules that a run is below."""
    lacks = []
    if seconds < SECONDS:
        lacks.append(f"below the rules' minimum: {seconds:.1f} s of {SECONDS:.0f} s")
    if queries < QUERIES[scenario]:
        unit = "samples" if scenario == "Offline" else "queries"
        lacks.append(f"below the rules' minimum: {queries} {unit} of {QUERIES[scenario]}")
    return lacks


def parse_summary(text: str) -> Summary:
    """Read LoadGen's summary, ``mlperf_log_summary.txt``.

    Raises:
        InputError: it has no verdict: LoadGen was interrupted, or it is another file.
    """
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
    """The sentences ``* ...`` under a heading; a line without a star belongs to the one before."""
    found: list[str] = []
    for line in text.partition(heading + "\n")[2].splitlines():
        if line.startswith(" * "):
            found.append(line[3:].strip())
        elif line.startswith(" ") and found:
            found[-1] += f" {line.strip()}"
        else:
            break
    return found
