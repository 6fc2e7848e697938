"""One way to the server, in batches of one size, under one load after the other: warm-up, the load,
the server's statistics around it, and what of it a reader must know.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sceneloom.request import Request
from sceneloom_bench.load.answers import Load
from sceneloom_bench.load.closed_loop import run_closed
from sceneloom_bench.load.latencies import (
    latency_extra,
    load_figures,
    p99_upper_end_ms,
    samples_of,
)
from sceneloom_bench.load.open_loop import run_open
from sceneloom_bench.load.requests import Connection, TransportName
from sceneloom_bench.load.schedule import Arrivals, count_for, plan_arrivals
from sceneloom_bench.load.server_statistics import Counters, ServerView, check_cache
from sceneloom_bench.reports.report import Figure, Measurement, say
from sceneloom_bench.reports.statistics import percentile

LATE_SHARE = 0.1
"""A generator whose p99 of lateness is more than this share of the p50 of latency is marked."""
CLOSED, OPEN = "closed loop", "open loop"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Length:
    """How long a load is, and when it is given up."""

    seconds: float = 10
    """At least."""
    requests: int = 100
    """At least."""
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
        """Prepare the requests.

        Args:
            transport: name of the way.
            connection: the way.
            maps: what is sent, in turn.
            batch: maps of a request.
            view: the server's statistics.
            length: of each load.
        """
        self.transport, self.batch = transport, batch
        self._connection, self._view, self._length = connection, view, length
        self._send = connection.sender(maps, batch)

    def closed(self, in_flight: int, *, name: str = CLOSED) -> Measurement:
        """A closed loop.

        Args:
            in_flight: requests.
            name: of the measurement.
        """
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
        """An open loop, and the upper end of its p99 in milliseconds with failures as never
        answered.

        Args:
            arrivals: how requests are spread.
            rate: requests per second.
            seed: of Poisson arrivals.
            name: of the measurement.
            requests: at least, in place of the length's.
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
        """Warm up with so many in flight, run the load, and say what the server counted in it."""
        run_closed(
            self._send,
            in_flight=in_flight,
            seconds=0,
            requests=self._length.warm_up,
            most_failures=self._length.most_failures,
        )
        models = self._connection.models
        before, hits = self._view.counters(models), self._view.cache_hits()
        load = start()
        after, now = self._view.counters(models), self._view.cache_hits()
        counted = {model: after[model].since(before[model]) for model in models}
        check_cache(counted, None if now is None or hits is None else now - hits)
        return load, counted

    def _measurement(
        self,
        name: str,
        under: Mapping[str, str | int | float],
        load: Load,
        counted: Mapping[str, Counters],
    ) -> Measurement:
        figures = load_figures(load, self.batch) | self._breakdown(load, counted)
        measured = Measurement(
            name=name,
            load={**under, "transport": self.transport, "batch": self.batch},
            figures=figures,
            samples=samples_of(load),
            marks=self._marks(load, counted[self._connection.models[0]], figures["p50"].value),
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
        say(describe_load(measured))
        return measured

    def _breakdown(self, load: Load, counted: Mapping[str, Counters]) -> dict[str, Figure]:
        """Where the mean request's time from sent to answered goes: the drawing model's parts; on
        the encoded path ``steps``, all else that the ensemble took; and ``transfer``, all else.
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

    def _marks(self, load: Load, counted: Counters, p50_ms: float) -> list[str]:
        marks = [*load_marks(load, self._length.most_in_flight, p50_ms)]
        answered = len(load.answered)
        if counted.requests != answered:
            marks.append(
                f"the server counted {counted.requests} requests in this load, of which {answered} "
                "were answered here: its means are of all"
            )
        return [mark for mark in (*marks, self._connection.mark()) if mark]


def load_marks(load: Load, most_in_flight: int, p50_ms: float) -> list[str]:
    """What of a load a reader must know: failures, too few workers, a generator that was late.

    Args:
        load: the load.
        most_in_flight: workers that there were.
        p50_ms: of its latency.
    """
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
    """How late requests were sent for which a worker was free: p50, p99 and max in milliseconds."""
    late = load.lateness
    if not late:
        return {}
    found = {"p50": percentile(late, 50), "p99": percentile(late, 99), "max": max(late)}
    return {name: round(1000 * value, 3) for name, value in found.items()}


def describe_load(measured: Measurement) -> str:
    """One line of progress."""
    under: dict[str, Any] = dict(measured.load)
    if under["mode"] == "closed":
        said = f"{under['in_flight']} in flight"
    else:
        said = f"{under['arrivals']} at {under['rate']:g}/s"
    figures = measured.figures
    return (
        f"{measured.name}, {under['transport']}, batch {under['batch']}, {said}: "
        f"{figures['rate'].value:.2f} pictures/s, p50 {figures['p50'].value:.2f} ms, "
        f"p99 {figures['p99'].value:.2f} ms"
    )
