"""`sceneloom bench render`: a data set rendered from end to end, and how long the server was idle.

Whole runs of the product's own pipeline: connect, read, decode, ask, encode, write, manifest. The
formats take turns, so that a machine that drifts does not decide. The server's busy time is what it
says itself of its executions; the rest of a run's time it waited for the client.

    sceneloom bench render --repository build/demo/repository --out build/bench
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import tyro

from sceneloom import TritonSynthesizer
from sceneloom.contract import Contract
from sceneloom.errors import ServingError
from sceneloom.maps import instance_map_png, label_map_png
from sceneloom.pictures import Format
from sceneloom.rendering.items import Rendered
from sceneloom.rendering.plan import Maps, Pictures, TritonServers, make_plan
from sceneloom.rendering.run import RenderRun
from sceneloom.rendering.settings import RenderSettings
from sceneloom.request import Request
from sceneloom.triton.client import TransportChoice
from sceneloom_bench.bench_inputs import bench_maps, inputs_hash
from sceneloom_bench.busy_server import BusyTime
from sceneloom_bench.load.server_statistics import ServerView, check_cache
from sceneloom_bench.ranges import (
    MOST_MAPS,
    MOST_ROUNDS,
    MOST_THREADS,
    check_different,
    check_name,
    check_out,
    check_ranges,
)
from sceneloom_bench.reports.environment import Environment
from sceneloom_bench.reports.report import Figure, Measurement, Report, say, write_report
from sceneloom_bench.reports.statistics import median_figure
from sceneloom_bench.served import Served, ServedSettings, elsewhere, served, served_flags
from sceneloom_export.settings import parse_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderBenchSettings:
    """What is rendered, and how often."""

    server: Annotated[ServedSettings, tyro.conf.OmitArgPrefixes]
    """Which server."""
    size: str = "2048x1024"
    """WIDTHxHEIGHT of the maps that are drawn."""
    maps: Path | None = None
    """Folder of maps to render in place of drawn ones."""
    count: int = 64
    """Maps in a run."""
    rounds: int = 6
    """Runs of each format; intervals need six."""
    formats: tuple[Format, ...] = ("png", "jpg")
    """Of the pictures."""
    transport: TransportChoice = "auto"
    """How tensors travel."""
    in_flight: int | None = None
    """Requests in flight; without it their number follows the server."""
    name: str = ""
    """Added to the file's name."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        parse_size(self.size)
        check_name(self.name)
        check_different(self, "formats")
        in_flight = {"in_flight": (1, MOST_THREADS)}
        check_ranges(self, {"count": (1, MOST_MAPS), "rounds": (1, MOST_ROUNDS), **in_flight})


def main(
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    settings: Annotated[RenderBenchSettings, tyro.conf.OmitArgPrefixes],
) -> int:
    """Render a data set several times, write DIR/render.json, and print it as the last line.

    Args:
        out: folder of the report.
        settings: what is rendered.
    """
    from sceneloom_bench.reports.tables import describe

    stem = "-".join(filter(None, ("render", settings.name)))
    check_out(out, stem)
    report = measure(settings)
    write_report(report, out, stem)
    print(describe(report))
    print(json.dumps(report.to_json()))
    return 0


def measure(settings: RenderBenchSettings) -> Report:
    """Render in turn.

    Raises:
        SceneLoomError: there is no server, or a map gave no picture.
    """
    with (
        tempfile.TemporaryDirectory(prefix="sceneloom-bench-render-") as name,
        served(settings.server) as server,
    ):
        folder = Path(name)
        with TritonSynthesizer(server.grpc, model=settings.server.model) as client:
            contract, engine = client.contract, client.engine
        drawn = bench_maps(contract, parse_size(settings.size), settings.count, settings.maps)
        height, width = drawn[0].label_map.shape
        write_maps(contract, drawn, folder / "maps")
        _render(server, settings, folder, settings.formats[0], warm_up=True)
        runs: dict[Format, list[dict[str, float]]] = {one: [] for one in settings.formats}
        with Environment() as environment, no_cache_hits(server.grpc, settings.server.model):
            for number in range(settings.rounds):
                for format in settings.formats:
                    runs[format].append(_render(server, settings, folder, format))
                    rate = len(drawn) / runs[format][-1]["seconds"]
                    say(f"round {number + 1}, {format}: {rate:.2f} pictures/s")
    return Report(
        kind="render",
        title=f"{len(drawn)} maps of {width}x{height} rendered from end to end",
        subject={
            "height": height,
            "width": width,
            "engine": engine,
            "bundle_sha256": contract.bundle_hash,
            "inputs_sha256": inputs_hash(drawn),
        },
        settings=served_flags(settings),
        environment=environment.to_json(),
        marks=[*environment.marks(), *elsewhere(settings.server)],
        measurements=[_measurement(f, found, len(drawn)) for f, found in runs.items()],
    )


def write_maps(contract: Contract, maps: list[Request], folder: Path) -> None:
    """Write maps as a data set, `test_label` and `test_inst`."""
    (folder / "test_label").mkdir(parents=True)
    (folder / "test_inst").mkdir()
    for number, request in enumerate(maps):
        name = f"{number:04d}.png"
        label_file = label_map_png(contract, request.label_map)
        (folder / "test_label" / name).write_bytes(label_file)
        if request.instance_map is not None:
            instances = instance_map_png(contract, request.label_map, request.instance_map)
            (folder / "test_inst" / name).write_bytes(instances)


@contextlib.contextmanager
def no_cache_hits(url: str, model: str) -> Iterator[None]:
    """Refuse what was measured meanwhile if anything was answered from the server's cache."""
    with contextlib.closing(ServerView(url)) as view:
        before = view.counters([model])[model]
        yield
        check_cache({model: view.counters([model])[model].since(before)}, None)


def _render(
    server: Served,
    settings: RenderBenchSettings,
    folder: Path,
    format: Format,
    *,
    warm_up: bool = False,
) -> dict[str, float]:
    """One whole run: its seconds, the share of them that the server was idle, its requests."""
    how = RenderSettings(format=format, in_flight=settings.in_flight)
    addresses = TritonServers(
        urls=[server.grpc],
        model=settings.server.model,
        transport=settings.transport,
        path="raw",
    ).addresses(how)
    busy = BusyTime(server.grpc, settings.server.model)
    with tempfile.TemporaryDirectory(dir=folder) as pictures:
        start = time.perf_counter()
        places = Maps(place=folder / "maps"), Pictures(place=pictures)
        with RenderRun(make_plan(*places, addresses, how)) as run:
            results = []
            for result in run:
                if not isinstance(result, Rendered):
                    raise ServingError(f"a map was not rendered: {result}")
                results.append(result)
                if warm_up:
                    break
        seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "idle": 1 - busy.seconds() / seconds / busy.instances,
        "attempts": sum(result.attempts for result in results) / len(results),
    }


def _measurement(format: Format, runs: list[dict[str, float]], maps: int) -> Measurement:
    figures: dict[str, Figure] = {
        "rate": median_figure([maps / r["seconds"] for r in runs], unit="1/s", better="higher"),
        "idle": median_figure([r["idle"] for r in runs], unit="share", better="lower"),
        "requests_per_picture": median_figure(
            [r["attempts"] for r in runs], unit="1", better="lower"
        ),
    }
    extra: dict[str, Any] = {"runs": [{k: round(v, 6) for k, v in r.items()} for r in runs]}
    return Measurement(
        name=format,
        load={"mode": "data set"},
        figures=figures,
        samples=[[r["seconds"]] for r in runs],
        extra=extra,
    )
