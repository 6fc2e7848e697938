"""The gateway's benchmark beside direct gRPC, small."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.triton
def test_gateway_and_grpc_take_turns(tmp_path: Path) -> None:
    from gateway_cost import Settings, describe, measure

    settings = Settings(in_flight=(2,), pictures=4, rounds=1, maps=2, height=64, width=128)
    found = measure(tmp_path, settings)
    assert len(found["loads"]["2"]) == 4
    for name, one in found["loads"]["2"].items():
        assert one["pictures_per_second"] > 0
        assert (one["gateway_cpu_ms"] > 0) == name.startswith("gateway")
    assert "| gateway, 2 workers |" in describe(found)
