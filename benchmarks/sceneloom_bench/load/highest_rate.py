"""The highest rate at which Poisson arrivals still keep a bound on p99, by bisection.

Each probe sends the same pattern of arrivals, stretched to its rate, so that chance is the same for
all. A probe needs 459 requests, so that with 99 % confidence the largest of them is not below the
true p99 (0.99^459 < 0.01).
"""

from __future__ import annotations

from collections.abc import Callable

from sceneloom_bench.load.driver import Driver
from sceneloom_bench.reports.report import Figure, Measurement

P99_REQUESTS = 459
RESOLUTION = 0.05
"""How near to each other the rate that keeps the bound and the one that does not are in the end."""
PROBE, RESULT = "probe of the p99 bound", "highest rate within the p99 bound"
_LOWEST, _HIGHEST = 0.1, 1.05


def bisect(
    keeps: Callable[[float], bool], low: float, high: float, resolution: float = RESOLUTION
) -> tuple[float | None, float | None]:
    """The highest rate found to keep the bound, and the lowest found not to.

    Args:
        keeps: whether a rate does; it is called once per rate.
        low: where it should.
        high: where it should not.
        resolution: the search ends when both differ by no more than this share of the higher.

    Returns:
        None in place of the first if `low` does not keep it, of the second if `high` does.
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
    """Search between a tenth of what the closed loop reached and 5 % more than that.

    Args:
        driver: sends the requests.
        best: requests per second of the closed loop.
        bound_ms: what p99 must not exceed; a request that failed is never answered.
        requests: of each probe, at least.
        seed: of the arrivals.

    Returns:
        the result, whose rate has the interval from the last rate that kept the bound to the first
        that did not; then each probe.
    """
    probes = []

    def keeps(rate: float) -> bool:
        probe, p99 = driver.open("poisson", rate, seed, name=PROBE, requests=requests)
        probes.append(probe)
        return p99 <= bound_ms

    rounded = [float(f"{share * best:.3g}") for share in (_LOWEST, _HIGHEST)]
    low, high = bisect(keeps, *rounded)
    marks = []
    if low is None:
        marks.append(f"even {high:g} requests per second do not keep a p99 of {bound_ms:g} ms")
    if high is None:
        marks.append(f"{low:g} requests per second keep it; no higher rate was tried")
    figure = Figure(
        value=driver.batch * (low or 0.0),
        unit="1/s",
        better="higher",
        low=None if low is None else driver.batch * low,
        high=None if high is None else driver.batch * high,
    )
    result = Measurement(
        name=RESULT,
        load={
            "mode": "open",
            "arrivals": "poisson",
            "transport": driver.transport,
            "batch": driver.batch,
        },
        figures={"rate": figure},
        marks=marks,
        extra={"p99_bound_ms": bound_ms, "probes": len(probes)},
    )
    return [result, *probes]
