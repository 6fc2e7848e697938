"""`sceneloom bench suite`: every benchmark on this machine, and the page of what they found.

Each one is a command of its own, printed before it runs, so that any of them can be repeated alone.
What lies in the folder already is not measured again: the suite can be stopped at any moment and
gone on with by the same command.

    sceneloom bench suite
    make bench
"""

from __future__ import annotations

import dataclasses
import datetime
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from sceneloom.errors import InputError
from sceneloom.triton.transport import MAX_SECONDS
from sceneloom_bench.commands import CHECKOUT
from sceneloom_bench.load.highest_rate import P99_REQUESTS
from sceneloom_bench.perf_analyzer.binary import find_perf_analyzer
from sceneloom_bench.ranges import MOST_BATCH, check_out, check_ranges
from sceneloom_bench.reports.environment import gpu_details, hardware_name
from sceneloom_bench.reports.report import read_report, say
from sceneloom_export.settings import parse_size

SCENELOOM = (sys.executable, "-m", "sceneloom.cli")
DEMO = CHECKOUT / "examples" / "street_demo" / "generator"
THROUGH_TRITON = "through Triton"
_BOUND = 5
"""The server's p99 bound, in latencies of a picture alone."""
_LOADGEN_BOUND = 30
"""LoadGen's, which lets no query of 459 be late: above the pauses of a machine that others use, and
far below what a queue grows to in half a minute at 130 %.
"""


_RANGES = {
    "batch": (1, MOST_BATCH),
    "seconds": (1, MAX_SECONDS),
    "ngf": (1, 1024),
    "blocks": (1, 100),
}


_STOP_SECONDS = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuiteSettings:
    """What is measured; sizes follow the hardware."""

    size: str = "2048x1024"
    """Of the full-size network, WIDTHxHEIGHT."""
    demo_size: str | None = None
    """Of the demo's model, which servers are measured with: 256x128 on a CPU, where an honest p99
    takes minutes then, and 2048x1024 on a GPU unless given.
    """
    batch: tuple[int, ...] = ()
    """Of engines: 1 on a CPU, and 1, 2, 4, 8 on a GPU unless given."""
    only: tuple[str, ...] = ()
    """Names of the benchmarks to run; all without it."""
    url: str | None = None
    """``HOST:PORT`` of a running server of the demo's model, in place of the bundled Triton."""
    seconds: float = 60.0
    """Of each of LoadGen's runs of the demo's model, and a sixth of it of each load of the server's
    closed and open loops.
    """
    work: Path = Path("build/bench")
    """Folder of the export bundles."""
    ngf: int = 32
    """Filters of the full-size network; 32 is the published one."""
    blocks: int = 9
    """Its residual blocks; 9 is the published one."""

    def __post_init__(self) -> None:
        """Check names and sizes."""
        check_ranges(self, _RANGES)
        for size in filter(None, (self.size, self.demo_size)):
            parse_size(size)
        for name in self.only:
            if name not in STEPS:
                raise InputError(f"no benchmark {name!r}; there are {', '.join(STEPS)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """What the steps share."""

    settings: SuiteSettings
    """What is measured."""
    out: Path
    """Folder of the reports."""
    gpu: bool
    """Whether this machine has one."""

    @property
    def demo_size(self) -> str:
        """Of the demo's model."""
        return self.settings.demo_size or ("2048x1024" if self.gpu else "256x128")

    @property
    def batch(self) -> list[str]:
        """Of engines."""
        return list(map(str, self.settings.batch or ((1, 2, 4, 8) if self.gpu else (1,))))

    @property
    def load_seconds(self) -> str:
        """Of each load of the server's loops."""
        return f"{self.settings.seconds / 6:g}"

    def alone_ms(self) -> float:
        """What a picture of the demo's model takes through the server, alone.

        Raises:
            InputError: its engines have not been measured yet.
        """
        found = read_report(self.out / "engine-demo.json")
        rows = [m for m in found.measurements if m.name == THROUGH_TRITON]
        return (rows or list(found.measurements))[0].figures["p50"].value

    @property
    def server(self) -> list[str]:
        """The server of the demo's model, as flags."""
        if self.settings.url is not None:
            return ["--url", self.settings.url]
        return ["--repository", str(self.settings.work / "demo")]


Step = Callable[[Place], list[str]]
"""The arguments of `sceneloom bench` that measure it."""


def engine(place: Place) -> list[str]:
    """Every engine, with the full-size network."""
    given = place.settings
    network = ("--ngf", str(given.ngf), "--blocks", str(given.blocks))
    keep = ("--keep", str(given.work / "full-size"))
    return ["engine", "--size", given.size, *network, *keep, "--batch", *place.batch]


def mlperf_full_size(place: Place) -> list[str]:
    """LoadGen's single stream through Triton, with the full-size network."""
    repository = ("--repository", str(place.settings.work / "full-size"))
    return [
        *("mlperf", "--name", "full-size", *repository, "--size", place.settings.size),
        *("--scenario", "SingleStream"),
    ]


def engine_demo(place: Place) -> list[str]:
    """Every engine, with the demo's model."""
    keep = ("--keep", str(place.settings.work / "demo"), "--pictures", "10")
    batch = place.batch if len(place.batch) > 1 else ["1", "4"]
    return [
        *("engine", "--name", "demo", "--checkpoint", str(DEMO), "--size", place.demo_size),
        *(*keep, "--batch", *batch),
    ]


def server(place: Place) -> list[str]:
    """Closed and open loops, overhead, and the highest rate within a p99 bound."""
    return [
        *("server", *place.server, "--size", place.demo_size, "--seconds", place.load_seconds),
        *("--requests", str(P99_REQUESTS), "--shares", "0.5", "0.8"),
        *("--p99-bound-ms", f"{_BOUND * place.alone_ms():.3g}"),
    ]


def server_batches(place: Place) -> list[str]:
    """Requests of several maps, in closed loops."""
    return [
        *("server", "--name", "batches", *place.server, "--size", place.demo_size),
        *("--batches", *(["2", "4", "8"] if place.gpu else ["2", "4"])),
        *("--transports", "grpc", "grpc-shm", "--no-open"),
        *("--seconds", place.load_seconds, "--overhead-rounds", "0"),
    ]


def mlperf_demo(place: Place) -> list[str]:
    """LoadGen's three scenarios, with the demo's model, Server at 70 % of capacity."""
    return [
        *("mlperf", "--name", "demo", *place.server, "--size", place.demo_size),
        *("--seconds", f"{place.settings.seconds:g}", "--share-of-capacity", "0.7"),
        *("--latency-bound-ms", f"{_LOADGEN_BOUND * place.alone_ms():.3g}"),
    ]


def mlperf_overload(place: Place) -> list[str]:
    """LoadGen's Server at 130 % of capacity: its verdict is to be INVALID."""
    return [
        *("mlperf", "--name", "overload", *place.server, "--size", place.demo_size),
        *("--scenario", "Server", "--seconds", f"{place.settings.seconds:g}"),
        *("--share-of-capacity", "1.3"),
        *("--latency-bound-ms", f"{_LOADGEN_BOUND * place.alone_ms():.3g}"),
    ]


def perf_analyzer(place: Place) -> list[str]:
    """Triton's own load generator beside ours."""
    return [
        *("perf-analyzer", *place.server, "--size", place.demo_size, "--transports", "grpc"),
        *("--in-flight", "1", "4", "--requests", "100"),
    ]


def render(place: Place) -> list[str]:
    """A data set from end to end."""
    return ["render", *place.server, "--size", place.demo_size]


def stall(place: Place) -> list[str]:
    """A server that stands still for a second, in open and closed loops."""
    return ["stall"]


STEPS: dict[str, Step] = {
    "engine": engine,
    "mlperf-full-size": mlperf_full_size,
    "engine-demo": engine_demo,
    "server": server,
    "server-batches": server_batches,
    "mlperf-demo": mlperf_demo,
    "mlperf-overload": mlperf_overload,
    "perf-analyzer": perf_analyzer,
    "render": render,
    "server-stall": stall,
}
"""Name of the report's file -> what makes it, in the order of running."""


VERDICTS = {"mlperf-demo": True, "mlperf-overload": False}
"""Whether LoadGen's Server run of a step is to be VALID."""


def main(
    *,
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    settings: Annotated[SuiteSettings, tyro.conf.OmitArgPrefixes] = SuiteSettings(),
) -> int:
    """Run every benchmark that has no report in DIR yet, and write DIR/index.html.

    Args:
        out: folder of the reports; benchmarks/results/HARDWARE-DATE unless given, the newest one
            that is not finished, or else today's.
        settings: what is measured.
    """
    out = out or choose_folder(CHECKOUT / "benchmarks" / "results", hardware_name())
    check_out(out, "engine")
    out.mkdir(parents=True, exist_ok=True)
    failed = list(run_steps(Place(settings=settings, out=out, gpu=bool(gpu_details()))))
    page = _run(["page", str(out)])
    print(f"wrote {out / 'index.html'}")
    for name, reason in failed:
        print(f"not measured: {name}: {reason}", file=sys.stderr)
    return 1 if failed or page else 0


def choose_folder(results: Path, hardware: str) -> Path:
    """Where to go on: the newest folder of this hardware that lacks a report, or else today's."""
    newest = max(results.glob(f"{hardware}-????-??-??"), default=None)
    if newest is not None and not all((newest / f"{name}.json").is_file() for name in STEPS):
        return newest
    return results / f"{hardware}-{datetime.date.today()}"


def run_steps(place: Place) -> Iterator[tuple[str, str]]:
    """Run what is missing; the names of steps that failed, each with the reason."""
    for name, step in STEPS.items():
        if place.settings.only and name not in place.settings.only:
            continue
        if (place.out / f"{name}.json").is_file():
            say(f"{name}: measured already")
            continue
        if name == "perf-analyzer" and find_perf_analyzer() is None:
            yield name, "perf_analyzer is not here: make perf-analyzer"
            continue
        try:
            arguments = step(place)
        except InputError as error:
            yield name, str(error)
            continue
        code = _run([*arguments, "--out", str(place.out)])
        reason = f"ended with code {code}" if code else unexpected(name, place.out)
        if reason:
            yield name, reason


def unexpected(name: str, out: Path) -> str:
    """What a verdict of LoadGen says that it should not, or empty: at 70 % of its capacity a server
    keeps the bound, at 130 % it does not.
    """
    if name not in VERDICTS:
        return ""
    valid = read_report(out / f"{name}.json").named("Server").extra["valid"]
    if valid == VERDICTS[name]:
        return ""
    return (
        f"LoadGen's verdict on Server is {'VALID' if valid else 'INVALID'}, which was not expected"
    )


def _run(arguments: Sequence[str]) -> int:
    """Run a benchmark in a process of its own; its table goes to this one's output."""
    say(f"sceneloom bench {shlex.join(arguments)}")
    command = [*SCENELOOM, "bench", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            said, _ = running.communicate()
        except BaseException:
            _stop(running)
            raise
    kept = [line for line in said.splitlines() if not line.startswith('{"schema"')]
    print("\n".join(kept), flush=True)
    return running.returncode


def _stop(running: subprocess.Popen[str]) -> None:
    """End a benchmark with what it has started: killed, it would leave a server behind."""
    running.terminate()
    try:
        running.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        running.kill()
