"""Reading what perf_analyzer writes: its table, its profile export, and a warning."""

from __future__ import annotations

import csv
import dataclasses
import mmap
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sceneloom.errors import ServingError
from sceneloom_bench.reports.report import Figure

_LATENCIES = {"p50": "p50 latency", "p90": "p90 latency", "p99": "p99 latency"}
_SERVER = {
    "queue": "Server Queue",
    "compute_input": "Server Compute Input",
    "compute": "Server Compute Infer",
    "compute_output": "Server Compute Output",
}
_MOMENTS = re.compile(rb'"timestamp":(\d+)|"response_timestamps":\[(\d*)')
_DELAYED = re.compile(r"([\d.]+)% of the requests were delayed")
_TOTAL = re.compile(r"Avg request latency: (\d+) usec \(overhead")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opinion:
    """What perf_analyzer says of one load."""

    milliseconds: Mapping[str, float]
    """``p50``, ``p90``, ``p99``, ``mean`` of latency from the actual send, and the server's own
    means: ``total`` and its parts ``queue``, ``compute_input``, ``compute``, ``compute_output``.
    """
    delayed: float
    """Share of an open loop's requests that it sent late."""
    moments: Sequence[tuple[int, int]]
    """(sent, answered) of each request in nanoseconds of the system's clock; empty without an
    export.
    """

    @property
    def seconds(self) -> list[float]:
        """Latencies in the order in which requests were recorded; empty without an export."""
        return [(done - sent) / 1e9 for sent, done in self.moments]

    def figures(self) -> dict[str, Figure]:
        """In the words of all reports: ``transfer`` is what the mean latency has beyond the
        server's ``total``; ``rate`` is there only where there are moments, since perf_analyzer
        divides a run's requests by whole seconds.
        """
        spent = self.milliseconds
        transfer = spent["mean"] - spent["total"]
        named = {name: value for name, value in spent.items() if name not in ("mean", "total")}
        found = {
            name: Figure(value=value, unit="ms", better="lower")
            for name, value in {**named, "transfer": transfer}.items()
        }
        if self.moments:
            first, last = min(self.moments)[0], max(done for _, done in self.moments)
            rate = len(self.moments) / ((last - first) / 1e9)
            found["rate"] = Figure(value=rate, unit="1/s", better="higher")
        return found


def read_opinion(said: str, table: Path, export: Path | None) -> Opinion:
    """Read one run of one load.

    Args:
        said: what it printed.
        table: its CSV, written with ``--verbose-csv``.
        export: its profile export.

    Raises:
        ServingError: a file, or what it printed, is of another form.
    """
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if len(rows) != 1:
        raise ServingError(f"perf_analyzer's table has {len(rows)} loads; one was asked for")
    try:
        names = {**_LATENCIES, "mean": "Avg latency", **_SERVER}
        milliseconds = {name: float(rows[0][column]) / 1000 for name, column in names.items()}
    except (KeyError, ValueError) as error:
        raise ServingError(f"perf_analyzer's table is of another form: {error}") from None
    total = _TOTAL.search(said)
    if total is None:
        raise ServingError("perf_analyzer did not say what the server counted")
    milliseconds["total"] = int(total[1]) / 1000
    delayed = _DELAYED.search(said)
    return Opinion(
        milliseconds=milliseconds,
        delayed=float(delayed[1]) / 100 if delayed else 0.0,
        moments=read_moments(export) if export is not None else (),
    )


def read_moments(export: Path) -> list[tuple[int, int]]:
    """When each request was sent and answered, in nanoseconds.

    The file is not parsed as JSON: where tensors are in it they are nearly all of it.

    Raises:
        ServingError: requests without an answer, or none at all.
    """
    with export.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        found = [(match[1], match[2]) for match in _MOMENTS.finditer(text)]
    sent = [int(number) for number, _ in found if number is not None]
    done = [int(number) for _, number in found if number]
    if not sent or len(sent) != len(done):
        raise ServingError(
            f"perf_analyzer's export has {len(sent)} requests and {len(done)} answers"
        )
    return list(zip(sent, done, strict=True))
