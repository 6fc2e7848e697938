"""What MLPerf's rules ask of a run, so that a shorter one says that it is short.

From the MLPerf Inference Rules (mlcommons/inference_policies, inference_rules.adoc): section
Scenarios wants 600 s of every scenario and at least 24,576 samples of Offline; since early stopping
(appendix of that name, tolerance 0, confidence 0.99) the number of queries of the others follows
from what was seen. The fewest with which it can succeed is where no query was late: p^n <= 0.01,
which is 459 queries for a 99th percentile. A single stream discards its slowest and needs at least
one to discard: 64 queries for a 90th percentile, 662 for a 99th. The 270,336 queries of older
rounds are today's "suggested starting point", not a minimum.
"""

from __future__ import annotations

from typing import Literal

Scenario = Literal["SingleStream", "Server", "Offline"]
SECONDS = 600.0
"""Shortest run, of every scenario."""
QUERIES: dict[Scenario, int] = {"SingleStream": 64, "Server": 459, "Offline": 24_576}
"""Fewest queries with which early stopping can succeed; samples of Offline's single query."""


def below_minimum(scenario: Scenario, *, seconds: float, queries: int) -> list[str]:
    """What a run lacks, each a sentence; empty if it is long enough.

    Args:
        scenario: which.
        seconds: what it took.
        queries: what was asked; samples for Offline.
    """
    lacks = []
    if seconds < SECONDS:
        lacks.append(f"below the rules' minimum: {seconds:.1f} s of {SECONDS:.0f} s")
    if queries < QUERIES[scenario]:
        unit = "samples" if scenario == "Offline" else "queries"
        lacks.append(f"below the rules' minimum: {queries} {unit} of {QUERIES[scenario]}")
    return lacks
