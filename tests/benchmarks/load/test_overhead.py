"""What the server adds to the bare engine: one of each in turn, and their pictures compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from noop_server import NOOP_CONTRACT
from sceneloom import TritonSynthesizer
from sceneloom_bench.harness import bench_maps
from sceneloom_bench.server_command import BARE, OVERHEAD, measure_overhead, time_in_turn

if TYPE_CHECKING:
    from sceneloom_export.bundle import Exported
    from sceneloom_serving.embedded import EmbeddedServer


def test_turns_are_drawn_and_differences_are_found() -> None:
    maps = bench_maps(NOOP_CONTRACT, (64, 64), 2)
    asked: list[str] = []

    def runner(name: str, grey: int) -> Any:
        def run(label_map: Any, instance_map: Any) -> tuple[float, Any]:
            asked.append(name)
            return float(len(asked)), np.full((*label_map.shape, 3), grey, np.uint8)

        return run

    runners = {BARE: runner("bare", 7), "grpc": runner("grpc", 7), "http": runner("http", 3)}
    seconds, differences = time_in_turn(runners, maps, rounds=60)
    assert {name: len(found) for name, found in seconds.items()} == dict.fromkeys(runners, 60)
    assert differences == {BARE: 0, "grpc": 0, "http": 4}
    rounds = [tuple(asked[at : at + 3]) for at in range(0, len(asked), 3)]
    assert all(sorted(one) == ["bare", "grpc", "http"] for one in rounds)
    assert len(set(rounds)) == 6
    first = asked.copy()
    asked.clear()
    time_in_turn(runners, maps, rounds=60)
    assert asked == first


@pytest.mark.triton
def test_the_same_pictures_with_and_without_the_server(
    server: EmbeddedServer, exported: Exported
) -> None:
    version = exported.repository / "synthesis" / "1"
    with TritonSynthesizer(server.grpc) as client:
        maps = bench_maps(client.contract, (64, 96), 3)
        bare, overhead = measure_overhead("openvino-fp32", version, {"grpc": client}, maps, 8)
    assert (bare.name, overhead.name) == (BARE, OVERHEAD)
    assert bare.extra["engine"] == "openvino-fp32"
    assert overhead.extra["max_difference"] <= 1
    assert overhead.marks == []
    assert overhead.load["transport"] == "grpc"
    for name in ("overhead", "overhead_ratio"):
        figure = overhead.figures[name]
        assert figure.low is not None
        assert figure.high is not None
        assert figure.low <= figure.value <= figure.high
    pairs = zip(np.concatenate(overhead.samples), np.concatenate(bare.samples), strict=True)
    ratios = [through / alone for through, alone in pairs]
    assert overhead.figures["overhead_ratio"].value == pytest.approx(np.median(ratios), rel=1e-3)
