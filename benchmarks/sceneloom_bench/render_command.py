"""`sceneloom bench render`: a data set rendered from end to end, and the server's idle time.

A run is `sceneloom render`'s whole pipeline: connect, read, decode, request, encode, write, record.
The picture formats take turns. The server is idle when, by its own statistics, it executes nothing.

    sceneloom bench render --repository build/demo/repository --out build/bench
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from sceneloom import TritonSynthesizer, progress
from sceneloom.errors import ServingError
from sceneloom.maps import parse_size
from sceneloom.pictures import Format
from sceneloom.rendering.items import Rendered
from sceneloom.rendering.plan import Maps, Pictures, TritonServers, make_plan
from sceneloom.rendering.run import RenderRun
from sceneloom.rendering.settings import RenderSettings
from sceneloom.triton.client import TransportChoice
from sceneloom.validation import checked
from sceneloom_bench import harness
from sceneloom_bench.reports.environment import Environment
from sceneloom_bench.reports.report import Measurement, Report
from sceneloom_bench.reports.statistics import median_figure
from sceneloom_bench.server_statistics import ServerView, Watch
from sceneloom_bench.turns import rounds_in_turn


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderBenchSettings:
    """Server, maps and formats."""

    server: harness.Server
    size: str = "2048x1024"
    """WIDTHxHEIGHT of drawn maps."""
    maps: Path | None = None
    """Folder of maps in place of drawn ones."""
    count: Annotated[int, Interval(ge=1, le=100_000)] = 64
    """Maps of a run."""
    rounds: harness.Rounds = 6
    """Runs of each format; intervals need six."""
    formats: tuple[Format, ...] = ("png", "jpg")
    """Picture formats."""
    transport: TransportChoice = "auto"
    """Transport of the tensors."""
    in_flight: harness.Threads | None = None
    """Requests in flight; by default adapted to the server."""
    name: str = ""
    """Suffix of the file's name."""

    def __post_init__(self) -> None:
        parse_size(self.size)
        harness.check_name(self.name)
        harness.check_different(self, "formats")


def main(*, out: harness.OutFolder, settings: harness.Flags[RenderBenchSettings]) -> int:
    """Render a data set several times, write DIR/render.json, and print its tables and rates.

    Args:
        out: folder of the report.
    """
    return harness.run_benchmark("render", measure, settings, settings.name, out)


def measure(settings: RenderBenchSettings) -> Report:
    """Render in turn; raises ServingError if a map gave no picture."""
    with (
        tempfile.TemporaryDirectory(prefix="sceneloom-bench-render-") as name,
        harness.served(settings.server) as server,
    ):
        folder = Path(name)
        model, version = settings.server.model, settings.server.model_version
        with TritonSynthesizer(server.grpc, model=model, version=version) as client:
            contract, engine = client.contract, client.engine
        drawn = harness.bench_maps(
            contract, parse_size(settings.size), settings.count, settings.maps
        )
        height, width = drawn[0].size
        harness.write_maps(contract, drawn, folder / "maps")
        with progress.stage("warm-up"):
            render_once(server, settings, folder, settings.formats[0], warm_up=True)
        runs: dict[str, list[dict[str, float]]] = {one: [] for one in settings.formats}
        with Environment() as environment:
            turns = progress.Steps(len(runs) * settings.rounds)
            for number, formats in rounds_in_turn(runs, settings.rounds):
                for format in formats:
                    with turns.step(f"round {number + 1}, {format}"):
                        runs[format].append(render_once(server, settings, folder, format))  # type: ignore[arg-type]
                    rate = len(drawn) / runs[format][-1]["seconds"]
                    progress.say(f"round {number + 1}, {format}: {rate:.2f} pictures/s")
    measured = []
    for format, found in runs.items():
        rates = [len(drawn) / r["seconds"] for r in found]
        idle, attempts = ([r[key] for r in found] for key in ("idle", "attempts"))
        measured.append(
            Measurement(
                name=format,
                load={"mode": "data set"},
                figures={
                    "rate": median_figure(rates, unit="1/s", better="higher"),
                    "idle": median_figure(idle, unit="share", better="lower"),
                    "requests_per_picture": median_figure(attempts, unit="1", better="lower"),
                },
                samples=[[r["seconds"]] for r in found],
                extra={"runs": [{k: round(v, 6) for k, v in r.items()} for r in found]},
            )
        )
    return Report(
        kind="render",
        title=f"{len(drawn)} maps of {width}x{height} rendered from end to end",
        subject=harness.subject_of(drawn, engine, contract.bundle_hash),
        settings=harness.served_flags(settings),
        environment=environment.to_json(),
        marks=[*environment.marks(), *harness.elsewhere(settings.server)],
        measurements=measured,
    )


def render_once(
    server: harness.Served,
    settings: RenderBenchSettings,
    folder: Path,
    format: Format,
    *,
    warm_up: bool = False,
) -> dict[str, float]:
    """Run once, or to the first picture for a warm-up.

    Returns ``seconds``, the ``idle`` share of the server, and ``attempts`` per picture.
    """
    how, model = RenderSettings(format=format, in_flight=settings.in_flight), settings.server.model
    addresses = TritonServers(
        urls=[server.grpc],
        model=model,
        version=settings.server.model_version,
        transport=settings.transport,
    ).addresses(how)
    with (
        contextlib.closing(ServerView(server.grpc)) as view,
        tempfile.TemporaryDirectory(dir=folder) as pictures,
    ):
        watch = Watch(view, [model])
        start = time.perf_counter()
        places = Maps(location=folder / "maps"), Pictures(location=pictures)
        with RenderRun(make_plan(*places, addresses, how)) as run:
            results = []
            for result in run:
                if not isinstance(result, Rendered):
                    raise ServingError(f"a map was not rendered: {result}")
                results.append(result)
                if warm_up:
                    break
        seconds = time.perf_counter() - start
        busy = watch.counted()[model].busy_nanoseconds / 1e9
        idle = 1 - busy / seconds / view.instances(model)
    attempts = sum(result.attempts for result in results) / len(results)
    return {"seconds": seconds, "idle": idle, "attempts": attempts}
