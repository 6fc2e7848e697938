"""`sceneloom bench suite`: every benchmark on this machine, and the page of what they found.

Each one is a command of its own, printed before it runs, so that any of them can be repeated alone.
A report that lies in the folder is not measured again: the same command resumes a stopped suite.

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
from sceneloom.transport import MAX_SECONDS
from sceneloom_bench.harness import CHECKOUT, DEMO, MOST_BATCH, check_out, check_ranges
from sceneloom_bench.load import P99_REQUESTS
from sceneloom_bench.reports.environment import gpu_details, hardware_name
from sceneloom_bench.reports.report import read_report, say
from sceneloom_export.settings import parse_size

SCENELOOM = (sys.executable, "-m", "sceneloom.cli")
STALLS = CHECKOUT / "benchmarks" / "experiments" / "stalls.py"
THROUGH_TRITON = "through Triton"
_BOUND = 5
"""The server's p99 bound, in latencies of a picture alone."""
_LOADGEN_BOUND = 30
"""LoadGen's, which lets no query of 459 be late: above the pauses of a machine that others use, and
far below the queue of half a minute at 130 %.
"""
_STOP_SECONDS = 60
_RANGES = {
    "batch": (1, MOST_BATCH),
    "seconds": (1, MAX_SECONDS),
    "ngf": (1, 1024),
    "blocks": (1, 100),
}


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
    out: Path
    gpu: bool

    @property
    def batch(self) -> list[str]:
        """Of engines."""
        return list(map(str, self.settings.batch or ((1, 2, 4, 8) if self.gpu else (1,))))

    @property
    def size(self) -> list[str]:
        """Of the demo's model, as flags."""
        size = self.settings.demo_size or ("2048x1024" if self.gpu else "256x128")
        return ["--size", size]

    @property
    def server(self) -> list[str]:
        """The server of the demo's model and the size of its maps, as flags."""
        if self.settings.url is not None:
            return ["--url", self.settings.url, *self.size]
        return ["--repository", str(self.settings.work / "demo"), *self.size]

    @property
    def load_seconds(self) -> list[str]:
        """Of each load of the server's loops, as flags."""
        return ["--seconds", f"{self.settings.seconds / 6:g}"]

    def bound(self, flag: str, times: float) -> list[str]:
        """A bound of so many latencies of a picture alone, through the server, as flags.

        Raises:
            InputError: the engines of the demo's model have not been measured yet.
        """
        found = read_report(self.out / "engine-demo.json")
        rows = [m for m in found.measurements if m.name == THROUGH_TRITON]
        alone = (rows or list(found.measurements))[0].figures["p50"].value
        return [flag, f"{times * alone:.3g}"]


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
    size, scenario = ("--size", place.settings.size), ("--scenario", "SingleStream")
    return ["mlperf", "--name", "full-size", *repository, *size, *scenario]


def engine_demo(place: Place) -> list[str]:
    """Every engine, with the demo's model."""
    keep = ("--keep", str(place.settings.work / "demo"), "--pictures", "10")
    batch = place.batch if len(place.batch) > 1 else ["1", "4"]
    demo = ("--name", "demo", "--checkpoint", str(DEMO))
    return ["engine", *demo, *place.size, *keep, "--batch", *batch]


def server(place: Place) -> list[str]:
    """Closed and open loops, overhead, and the highest rate within a p99 bound."""
    bound = place.bound("--p99-bound-ms", _BOUND)
    requests = ("--requests", str(P99_REQUESTS), "--shares", "0.5", "0.8")
    return ["server", *place.server, *place.load_seconds, *requests, *bound]


def server_batches(place: Place) -> list[str]:
    """Requests of several maps, in closed loops."""
    return [
        *("server", "--name", "batches", *place.server),
        *("--batches", *(["2", "4", "8"] if place.gpu else ["2", "4"])),
        *("--transports", "grpc", "grpc-shm", "--no-open"),
        *(*place.load_seconds, "--overhead-rounds", "0"),
    ]


def mlperf_demo(place: Place) -> list[str]:
    """LoadGen's three scenarios, with the demo's model, Server at 70 % of capacity."""
    seconds = ("--seconds", f"{place.settings.seconds:g}", "--share-of-capacity", "0.7")
    bound = place.bound("--latency-bound-ms", _LOADGEN_BOUND)
    return ["mlperf", "--name", "demo", *place.server, *seconds, *bound]


def mlperf_overload(place: Place) -> list[str]:
    """LoadGen's Server at 130 % of capacity: its verdict is to be INVALID."""
    seconds = ("--seconds", f"{place.settings.seconds:g}", "--share-of-capacity", "1.3")
    bound = place.bound("--latency-bound-ms", _LOADGEN_BOUND)
    scenario = ("--scenario", "Server")
    return ["mlperf", "--name", "overload", *place.server, *scenario, *seconds, *bound]


STEPS: dict[str, Step] = {
    "engine": engine,
    "mlperf-full-size": mlperf_full_size,
    "engine-demo": engine_demo,
    "server": server,
    "server-batches": server_batches,
    "mlperf-demo": mlperf_demo,
    "mlperf-overload": mlperf_overload,
    "render": lambda place: ["render", *place.server],
    "server-stall": lambda place: ["stall"],
}
"""Name of the report's file -> its step, in the order of running."""


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
    """The newest folder of this hardware, if it lacks a report, or else today's."""
    newest = max(results.glob(f"{hardware}-????-??-??"), default=None)
    if newest is not None and not all((newest / f"{name}.json").is_file() for name in STEPS):
        return newest
    return results / f"{hardware}-{datetime.date.today()}"


def run_steps(place: Place) -> Iterator[tuple[str, str]]:
    """Run the steps without a report; yields the names of failed ones, each with the reason."""
    for name, step in STEPS.items():
        if place.settings.only and name not in place.settings.only:
            continue
        if (place.out / f"{name}.json").is_file():
            say(f"{name}: measured already")
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
    """A sentence if LoadGen's verdict is not the expected one: at 70 % of its capacity a server
    keeps the bound, at 130 % it does not. Empty if it is.
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
    command = [*SCENELOOM, "bench", *arguments]
    if arguments[0] == "stall":
        command = [sys.executable, str(STALLS), *arguments[1:]]
        say(f"python {STALLS.relative_to(CHECKOUT)} {shlex.join(arguments[1:])}")
    else:
        say(f"sceneloom bench {shlex.join(arguments)}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            said, _ = running.communicate()
        except BaseException:
            running.terminate()  # killed, it would leave a server behind
            try:
                running.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                running.kill()
            raise
    kept = [line for line in said.splitlines() if not line.startswith('{"schema"')]
    print("\n".join(kept), flush=True)
    return running.returncode
