"""One way to the server, in batches of one size, under one load after the other: warm-up, the load,
the server's statistics around it, and the marks that a reader must know.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sceneloom.synthesizer import Request
from sceneloom_bench.latencies import latency_extra, load_figures, p99_upper_end_ms, samples_of
from sceneloom_bench.load_requests import Connection, TransportName
from sceneloom_bench.loops import (
    Arrivals,
    Load,
    LoadFailedError,
    count_for,
    plan_arrivals,
    run_closed,
    run_open,
)
from sceneloom_bench.reports.report import Figure, Measurement, say
from sceneloom_bench.reports.statistics import percentile
from sceneloom_bench.server_statistics import Counters, ServerView, Watch

LATE_SHARE = 0.1
"""A generator whose p99 of lateness is more than this share of the p50 of latency is marked."""
CLOSED, OPEN = "closed loop", "open loop"
P99_REQUESTS = 459
"""The largest latency of so many is above the true p99 with 99 % confidence: 0.99^459 < 0.01."""
RESOLUTION = 0.05
"""The search for the highest rate ends when a kept and a broken rate differ by this share."""
PROBE, RESULT = "probe of the p99 bound", "highest rate within the p99 bound"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Length:
    """How long a load is at least, and when it is given up."""

    seconds: float = 10
    requests: int = 100
    warm_up: int = 16
    """Requests in front of it, not counted."""
    most_in_flight: int = 256
    """Workers of an open loop."""
    most_failures: int = 100
    """So many in a row end it."""


class Driver:
    """Runs loads of one kind of request."""

    def __init__(
        self,
        transport: TransportName,
        connection: Connection,
        maps: Sequence[Request],
        batch: int,
        view: ServerView,
        length: Length,
    ) -> None:
        """Prepare requests of `batch` maps each."""
        self.transport, self.batch = transport, batch
        self._connection, self._view, self._length = connection, view, length
        self._send = connection.sender(maps, batch)

    def closed(self, in_flight: int, *, name: str = CLOSED) -> Measurement:
        """A closed loop."""
        length = self._length
        load, counted = self._count(
            in_flight,
            lambda: run_closed(
                self._send,
                in_flight=in_flight,
                seconds=length.seconds,
                requests=length.requests,
                most_failures=length.most_failures,
            ),
        )
        return self._measurement(name, {"mode": "closed", "in_flight": in_flight}, load, counted)

    def open(
        self,
        arrivals: Arrivals,
        rate: float,
        seed: int,
        *,
        name: str = OPEN,
        requests: int | None = None,
    ) -> tuple[Measurement, float]:
        """An open loop of `rate` requests per second, `requests` at least in place of the length's.

        Returns:
            the measurement, and the upper end of its p99 in ms with failures as never answered.
        """
        length = self._length
        count = count_for(rate, length.seconds, requests or length.requests)
        planned = plan_arrivals(arrivals, rate, count, seed)
        load, counted = self._count(
            4,
            lambda: run_open(
                self._send,
                planned,
                most_in_flight=length.most_in_flight,
                most_failures=length.most_failures,
            ),
        )
        under = {"mode": "open", "arrivals": arrivals, "rate": rate}
        return self._measurement(name, under, load, counted), p99_upper_end_ms(load)

    def _count(
        self, in_flight: int, start: Callable[[], Load]
    ) -> tuple[Load, Mapping[str, Counters]]:
        """Warm up, run the load, and read what the server counted meanwhile."""
        run_closed(
            self._send,
            in_flight=in_flight,
            seconds=0,
            requests=self._length.warm_up,
            most_failures=self._length.most_failures,
        )
        watch = Watch(self._view, self._connection.models)
        load = start()
        return load, watch.counted()

    def _measurement(
        self,
        name: str,
        under: Mapping[str, str | int | float],
        load: Load,
        counted: Mapping[str, Counters],
    ) -> Measurement:
        figures = load_figures(load, self.batch) | self._breakdown(load, counted)
        marks = load_marks(load, self._length.most_in_flight, figures["p50"].value)
        requests, answered = counted[self._connection.models[0]].requests, len(load.answered)
        if requests != answered:
            marks.append(
                f"the server counted {requests} requests in this load, of which {answered} "
                "were answered here: its means are of all"
            )
        way = {"transport": self.transport, "batch": self.batch}
        measured = Measurement(
            name=name,
            load={**under, **way},
            figures=figures,
            samples=samples_of(load),
            marks=[mark for mark in (*marks, self._connection.mark()) if mark],
            extra={
                **latency_extra(load),
                "seconds": round(load.seconds, 3),
                "requests": len(load.requests),
                "failures": dict(load.failures),
                "waited_for_a_worker": sum(one.waited for one in load.requests),
                "lateness_ms": lateness_ms(load),
                "server": {model: counters.to_json() for model, counters in counted.items()},
            },
        )
        asked = (
            f"{under['in_flight']} in flight"
            if under["mode"] == "closed"
            else f"{under['arrivals']} at {under['rate']:g}/s"
        )
        say(
            f"{name}, {self.transport}, batch {self.batch}, {asked}: "
            f"{figures['rate'].value:.2f} pictures/s, p50 {figures['p50'].value:.2f} ms, "
            f"p99 {figures['p99'].value:.2f} ms"
        )
        return measured

    def _breakdown(self, load: Load, counted: Mapping[str, Counters]) -> dict[str, Figure]:
        """Where the mean request's time from sent to answered goes: the drawing model's parts, the
        encoded path's own ``steps``, and ``transfer``, the rest.
        """
        asked, *inner = self._connection.models
        total = counted[asked].mean_ms("total")
        figures = counted[inner[0] if inner else asked].figures()
        if inner:
            drawn = sum(part.value for part in figures.values())
            figures["steps"] = Figure(value=total - drawn, unit="ms", better="lower")
        spent = 1000 * float(np.mean([one.done - one.sent for one in load.answered]))
        figures["transfer"] = Figure(value=spent - total, unit="ms", better="lower")
        return figures


def load_marks(load: Load, most_in_flight: int, p50_ms: float) -> list[str]:
    """Marks of failures, of too few workers, and of a generator that was late."""
    marks = []
    failures = load.failures
    if failures:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(failures.items()))
        marks.append(
            f"{sum(failures.values())} of {len(load.requests)} requests failed ({kinds}); "
            "latencies are of the others"
        )
    waited = sum(one.waited for one in load.requests)
    if waited:
        marks.append(
            f"{waited} requests found all {most_in_flight} workers busy; their waiting is in their "
            "latency"
        )
    late = lateness_ms(load).get("p99", 0.0)
    if late > LATE_SHARE * p50_ms:
        marks.append(
            f"the load generator is a bottleneck itself: it sent up to {late:.2f} ms late (p99), "
            f"with a p50 of {p50_ms:.2f} ms"
        )
    return marks


def lateness_ms(load: Load) -> dict[str, float]:
    """How late requests were sent for which a worker was free: p50, p99 and max."""
    late = load.lateness
    if not late:
        return {}
    found = {"p50": percentile(late, 50), "p99": percentile(late, 99), "max": max(late)}
    return {name: round(1000 * value, 3) for name, value in found.items()}


def bisect(
    keeps: Callable[[float], bool], low: float, high: float, resolution: float = RESOLUTION
) -> tuple[float | None, float | None]:
    """The highest rate found to keep the bound, None if `low` does not, and the lowest found not
    to, None if `high` does. Each rate is tried once.
    """
    if not keeps(low):
        return None, low
    if keeps(high):
        return high, None
    while high - low > resolution * high:
        middle = (low + high) / 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low, high


def find_highest_rate(
    driver: Driver, best: float, bound_ms: float, requests: int, seed: int
) -> list[Measurement]:
    """Search the highest rate of Poisson arrivals that keeps a bound on p99, between a quarter of
    the closed loop's `best` requests per second and 5 % above it.

    Each probe draws its arrivals from the same seed, stretched to its rate, so that chance is much
    the same for all. A rate keeps the bound if the upper end of its p99's interval does, taken as
    if requests were independent; a request that failed is never answered.

    Returns:
        the result, the last rate that kept the bound, without an interval; then each probe.
    """
    probes: list[Measurement] = []
    marks: list[str] = []

    def keeps(rate: float) -> bool:
        try:
            probe, p99 = driver.open("poisson", rate, seed, name=PROBE, requests=requests)
        except LoadFailedError as error:
            marks.append(f"{rate:g} requests per second do not keep it: {error.mark}")
            return False
        probes.append(probe)
        return p99 <= bound_ms

    low, high = bisect(keeps, float(f"{0.25 * best:.3g}"), float(f"{1.05 * best:.3g}"))
    bound = f"a p99 of {bound_ms:g} ms"
    if low is None:
        marks.append(f"even {high:g} requests per second do not keep {bound}")
    elif high is None:
        marks.append(f"{low:g} requests per second keep {bound}; no higher rate was tried")
    else:
        marks.append(
            f"{low:g} requests per second keep {bound} and {high:g} do not, by the upper end of "
            "p99 of one probe each: where the search ended, no interval"
        )
    kept, not_kept = (None if rate is None else driver.batch * rate for rate in (low, high))
    under = {"mode": "open", "arrivals": "poisson"}
    result = Measurement(
        name=RESULT,
        load={**under, "transport": driver.transport, "batch": driver.batch},
        figures={"rate": Figure(value=kept or 0.0, unit="1/s", better="higher")},
        marks=marks,
        extra={
            "p99_bound_ms": bound_ms,
            "probes": len(probes),
            "kept_rate": kept,
            "not_kept_rate": not_kept,
        },
    )
    return [result, *probes]
