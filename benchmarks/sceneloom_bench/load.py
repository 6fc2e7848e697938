"""Loads of one transport and batch size: warm-up, the load, the server's statistics around it, and
marks for the reader.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sceneloom import progress
from sceneloom.request import Request
from sceneloom_bench import loops
from sceneloom_bench.latencies import latency_extra, load_figures, p99_upper_end_ms, samples_of
from sceneloom_bench.load_requests import Connection, TransportName
from sceneloom_bench.reports.report import Figure, Measurement
from sceneloom_bench.reports.statistics import percentile
from sceneloom_bench.reports.tables import load_text
from sceneloom_bench.server_statistics import Counters, View, Watch

LATE_SHARE = 0.1
"""A load is marked if the p99 of lateness is a larger share of the p50 of latency."""
CLOSED, OPEN = "closed loop", "open loop"
P99_REQUESTS = 459
"""The largest of so many latencies is above the true p99 with 99 % confidence: 0.99^459 < 0.01."""
RESOLUTION = 0.05
"""Relative difference of a kept and a broken rate that ends the search."""
PROBE, RESULT = "probe of the p99 bound", "highest rate within the p99 bound"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Length:
    """Shortest duration of a load, and its limits."""

    seconds: float = 10
    requests: int = 100
    warm_up: int = 16
    """Uncounted requests before the load."""
    max_in_flight: int = 256
    """Workers of an open loop."""
    max_failures: int = 100
    """Failures in a row that end a load."""


class Driver:
    """Run loads of one kind of request."""

    def __init__(
        self,
        transport: TransportName,
        connection: Connection,
        maps: Sequence[Request],
        batch: int,
        view: View,
        length: Length,
    ) -> None:
        """Prepare requests of `batch` maps."""
        self.transport, self.batch = transport, batch
        self._connection, self._view, self._length = connection, view, length
        self._send = connection.sender(maps, batch)

    def closed(self, in_flight: int, *, name: str = CLOSED) -> Measurement:
        """Run a closed loop."""
        length = self._length
        under: dict[str, str | int | float] = {"mode": "closed", "in_flight": in_flight}
        run = functools.partial(self._closed, in_flight, length.seconds, length.requests)
        return self._measure(name, under, in_flight, run)[0]

    def open(
        self,
        arrivals: loops.Arrivals,
        rate: float,
        seed: int,
        *,
        name: str = OPEN,
        requests: int | None = None,
    ) -> tuple[Measurement, float]:
        """Run an open loop of `rate` requests per second; `requests` replaces the length's.

        Returns the measurement, and the upper end of its p99 in ms.
        """
        length = self._length
        count = loops.count_for(rate, length.seconds, requests or length.requests)
        run = functools.partial(
            loops.run_open,
            self._send,
            loops.plan_arrivals(arrivals, rate, count, seed),
            max_in_flight=length.max_in_flight,
            max_failures=length.max_failures,
        )
        under: dict[str, str | int | float] = {"mode": "open", "arrivals": arrivals, "rate": rate}
        measured, load = self._measure(name, under, 4, run)
        return measured, p99_upper_end_ms(load)

    def _closed(self, in_flight: int, seconds: float, requests: int) -> loops.Load:
        return loops.run_closed(
            self._send,
            in_flight=in_flight,
            seconds=seconds,
            requests=requests,
            max_failures=self._length.max_failures,
        )

    def _measure(
        self,
        name: str,
        under: Mapping[str, str | int | float],
        in_flight: int,
        run: Callable[[], loops.Load],
    ) -> tuple[Measurement, loops.Load]:
        """Warm up with `in_flight` requests at once, run the load, and read the server's counts."""
        self._closed(in_flight, 0, self._length.warm_up)
        watch = Watch(self._view, self._connection.models)
        load = run()
        counted = watch.counted()
        figures = load_figures(load, self.batch) | self._breakdown(load, counted)
        marks = load_marks(load, self._length.max_in_flight, figures["p50"].value)
        answered, models = len(load.answered), self._connection.models
        requests = counted[models[0]].requests if models else answered  # a gateway counts none
        if requests != answered:
            marks.append(
                f"the server counted {requests} requests in this load, {answered} were answered "
                "here: its means are of all"
            )
        measured = Measurement(
            name=name,
            load={**under, "transport": self.transport, "batch": self.batch},
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
        p50, p99 = figures["p50"].value, figures["p99"].value
        rate = figures["rate"].value
        said = load_text(measured.load, ["mode"])
        progress.say(f"{name}, {said}: {rate:.2f} pictures/s, p50 {p50:.2f} ms, p99 {p99:.2f} ms")
        return measured, load

    def _breakdown(self, load: loops.Load, counted: Mapping[str, Counters]) -> dict[str, Figure]:
        """Parts of the mean request: the model's, and ``transfer``; none behind a gateway."""
        if not counted:
            return {}
        (asked,) = self._connection.models
        total, figures = counted[asked].mean_ms("total"), counted[asked].figures()
        spent = 1000 * float(np.mean([one.done - one.sent for one in load.answered]))
        figures["transfer"] = Figure(value=spent - total, unit="ms", better="lower")
        return figures


def load_marks(load: loops.Load, max_in_flight: int, p50_ms: float) -> list[str]:
    """Marks for failures, too few workers, and a late generator."""
    marks = []
    failures = load.failures
    if failures:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(failures.items()))
        marks.append(
            f"{sum(failures.values())} of {len(load.requests)} requests failed ({kinds}) and are "
            "not in the latencies"
        )
    waited = sum(one.waited for one in load.requests)
    if waited:
        marks.append(
            f"{waited} requests found all {max_in_flight} workers busy; their latency has the wait"
        )
    late = lateness_ms(load).get("p99", 0.0)
    if late > LATE_SHARE * p50_ms:
        marks.append(
            f"the load generator is a bottleneck: it sent up to {late:.2f} ms late (p99), at a p50 "
            f"of {p50_ms:.2f} ms"
        )
    return marks


def lateness_ms(load: loops.Load) -> dict[str, float]:
    """Delay of sending while a worker was free: p50, p99 and max."""
    late = load.lateness
    if not late:
        return {}
    found = {"p50": percentile(late, 50), "p99": percentile(late, 99), "max": max(late)}
    return {name: round(1000 * value, 3) for name, value in found.items()}


def bisect(
    keeps: Callable[[float], bool], low: float, high: float, resolution: float = RESOLUTION
) -> tuple[float | None, float | None]:
    """Search a bound between two rates, trying each rate once. Returns the highest rate that keeps
    it, None if `low` does not, and the lowest that does not, None if `high` does.
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
    """Search the highest rate of Poisson arrivals that keeps a bound on p99; probes follow it.

    The rates lie between 0.25 and 1.05 of `best`, the closed loop's requests per second. All probes
    have the same arrivals, stretched to their rate. A rate keeps the bound if the upper end of its
    p99 does (`p99_upper_end_ms`). The result has no interval.
    """
    probes: list[Measurement] = []
    marks: list[str] = []

    def keeps(rate: float) -> bool:
        try:
            probe, p99 = driver.open("poisson", rate, seed, name=PROBE, requests=requests)
        except loops.LoadFailedError as error:
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
            "p99 of one probe each: the end of the search, without an interval"
        )
    kept, not_kept = (None if rate is None else driver.batch * rate for rate in (low, high))
    result = Measurement(
        name=RESULT,
        load={
            "mode": "open",
            "arrivals": "poisson",
            "transport": driver.transport,
            "batch": driver.batch,
        },
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
