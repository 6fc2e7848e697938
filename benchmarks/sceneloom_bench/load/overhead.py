"""What the server adds to the bare runtime: the same maps to the engine in a process of its own and
through the server, one picture of each in turn, so that a machine that drifts does not decide. The
order of each round is drawn, so that none always comes after the same other one.

Nothing is ever in flight beside a picture, so none waits for another: the interval of the overhead
takes rounds to be independent; those of latencies are of blocks. Both sides do the same for a
picture: check and prepare the map, run the engine, crop. Their pictures are compared; equal ones
prove that the same was computed.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sceneloom import TritonSynthesizer
from sceneloom.request import Request
from sceneloom_bench.engine.engine_process import EngineProcess
from sceneloom_bench.load.latencies import blocks_of
from sceneloom_bench.reports.report import Figure, Measurement, say
from sceneloom_bench.reports.statistics import latency_figures, median_figure, rate_figure
from sceneloom_serving.engines import open_engine

BARE, OVERHEAD = "bare engine", "overhead over the bare engine"
MOST_DIFFERENCE = 1
"""Grey levels; above, a measurement is marked."""
_WARM_UP = 3
_ORDER_SEED = 7
Runner = Callable[..., tuple[float, Any]]


def measure_overhead(
    engine: str,
    version: Path,
    clients: Mapping[str, TritonSynthesizer],
    maps: Sequence[Request],
    rounds: int,
) -> list[Measurement]:
    """Have the engine and each client render in turn.

    Args:
        engine: that the server runs.
        version: the version's folder of the bundle that it serves.
        clients: transport -> client of the server.
        maps: another one each round.
        rounds: after three of warm-up.

    Returns:
        the bare engine, then the overhead of each transport.

    Raises:
        EngineError: the engine cannot run outside of the server.
    """
    with EngineProcess(functools.partial(open_engine, engine, version)) as process:
        runners: dict[str, Runner] = {BARE: process.run}
        for name, client in clients.items():
            runners[name] = functools.partial(_timed, client)
        seconds, differences = take_turns(runners, maps, rounds)
    bare = seconds[BARE]
    measured = [_bare(engine, bare)]
    for name in clients:
        measured.append(_overhead(name, seconds[name], bare, differences[name]))
    return measured


def take_turns(
    runners: Mapping[str, Runner], maps: Sequence[Request], rounds: int
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of each runner by round, and how far its pictures were from the bare engine's, in
    grey levels. The order of each round is drawn, the same in every run.
    """
    order = np.random.default_rng(_ORDER_SEED)
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    differences = dict.fromkeys(runners, 0)
    names = list(runners)
    for number in range(_WARM_UP + rounds):
        request = maps[number % len(maps)]
        pictures: dict[str, Any] = {}
        for name in (names[index] for index in order.permutation(len(names))):
            spent, pictures[name] = runners[name](request.label_map, request.instance_map)
            if number >= _WARM_UP:
                seconds[name].append(spent)
        for name, picture in pictures.items():
            difference = np.abs(picture.astype(np.int16) - pictures[BARE]).max()
            differences[name] = max(differences[name], int(difference))
    return seconds, differences


def _timed(client: TritonSynthesizer, *maps: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    picture = client.synthesize(*maps)
    return time.perf_counter() - start, picture


def _bare(engine: str, seconds: list[float]) -> Measurement:
    samples = blocks_of(seconds)
    return Measurement(
        name=BARE,
        load={"mode": "in turn", "batch": 1},
        figures={**latency_figures(samples), "rate": rate_figure(samples)},
        samples=samples,
        extra={"engine": engine},
    )


def _overhead(
    transport: str, seconds: list[float], bare: list[float], difference: int
) -> Measurement:
    pairs = list(zip(seconds, bare, strict=True))
    overhead = median_figure([1000 * (a - b) for a, b in pairs], unit="ms", better="lower")
    ratio = median_figure([a / b for a, b in pairs], unit="x", better="lower")
    samples = blocks_of(seconds)
    figures: dict[str, Figure] = {
        "overhead": overhead,
        "overhead_ratio": ratio,
        **latency_figures(samples),
    }
    say(f"{OVERHEAD}, {transport}: {overhead.value:.2f} ms, {ratio.value:.3f} times as long")
    marks = []
    if difference > MOST_DIFFERENCE:
        marks.append(
            f"pictures through the server differ by up to {difference} grey levels from the bare "
            "engine's: the two did not compute the same"
        )
    return Measurement(
        name=OVERHEAD,
        load={"mode": "in turn", "transport": transport, "batch": 1},
        figures=figures,
        samples=samples,
        marks=marks,
        extra={"max_difference": difference},
    )
