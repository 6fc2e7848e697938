"""What LoadGen's tests share."""

from __future__ import annotations

import pytest

from sceneloom_bench.loadgen import LoadGenRun


@pytest.fixture
def plan() -> LoadGenRun:
    """A run against a server that is not there."""
    return LoadGenRun(
        scenario="SingleStream",
        address="127.0.0.1:1",
        model="synthesis",
        transport="grpc",
        timeout=10,
        size=(64, 128),
        maps=None,
        different_maps=2,
        queries=64,
        seconds=100,
        expected_seconds=2,
        rate=0.5,
        latency_bound_ms=1,
        workers=1,
        batch=1,
    )
