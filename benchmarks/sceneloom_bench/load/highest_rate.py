"""The highest rate at which Poisson arrivals still keep a bound on p99, by bisection.

Each probe draws its arrivals from the same seed, stretched to its rate, so that chance is much the
same for all. A rate keeps the bound if the upper end of its p99's interval does, taken as if
requests were independent. A probe needs 459 of them, so that with 99 % confidence the largest is
not below the true p99 (0.99^459 < 0.01); of so many the upper end is the largest.
"""

from __future__ import annotations

from collections.abc import Callable

from sceneloom_bench.load.answers import LoadFailedError
from sceneloom_bench.load.driver import Driver
from sceneloom_bench.reports.report import Figure, Measurement

P99_REQUESTS = 459
RESOLUTION = 0.05
"""How near to each other the rate that keeps the bound and the one that does not are in the end."""
PROBE, RESULT = "probe of the p99 bound", "highest rate within the p99 bound"
_LOWEST, _HIGHEST = 0.25, 1.05


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
    """Search between a quarter of what the closed loop reached and 5 % more than that.

    Args:
        driver: sends the requests.
        best: requests per second of the closed loop.
        bound_ms: what p99's upper end must not exceed; a request that failed is never answered.
        requests: of each probe, at least.
        seed: of the arrivals.

    Returns:
        the result, the last rate that kept the bound, with the first that did not in its marks and
        its `extra`: one search has no interval; then each probe.
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

    rounded = [float(f"{share * best:.3g}") for share in (_LOWEST, _HIGHEST)]
    low, high = bisect(keeps, *rounded)
    marks.append(_bracket(low, high, bound_ms))
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


def _bracket(low: float | None, high: float | None, bound_ms: float) -> str:
    """Between which rates the search ended, in words."""
    bound = f"a p99 of {bound_ms:g} ms"
    if low is None:
        return f"even {high:g} requests per second do not keep {bound}"
    if high is None:
        return f"{low:g} requests per second keep {bound}; no higher rate was tried"
    return (
        f"{low:g} requests per second keep {bound} and {high:g} do not, by the upper end of p99 of "
        "one probe each: where the search ended, no interval"
    )
