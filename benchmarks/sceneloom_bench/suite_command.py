"""`sceneloom bench suite`: every benchmark on this machine, and the page of their reports.

Each benchmark is a command of its own, printed before it runs. A report that exists is not measured
again, so the same command resumes a stopped suite.

    sceneloom bench suite
    make bench
"""

from __future__ import annotations

import dataclasses
import datetime
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import tyro
from annotated_types import Interval

from sceneloom import progress
from sceneloom.errors import InputError
from sceneloom.maps import parse_size
from sceneloom.triton.transport import MAX_SECONDS
from sceneloom.validation import checked
from sceneloom_bench.harness import CHECKOUT, DEMO, Batch, Flags, check_out
from sceneloom_bench.load import P99_REQUESTS
from sceneloom_bench.reports.environment import gpu_details, hardware_name
from sceneloom_bench.reports.headline import THROUGH_TRITON, headline
from sceneloom_bench.reports.report import read_report

SCENELOOM = (sys.executable, "-m", "sceneloom.cli")
STALLS = CHECKOUT / "benchmarks" / "experiments" / "stalls.py"
_STOP_SECONDS = 60


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class SuiteSettings:
    """Sizes, duration and choice of the benchmarks."""

    size: str = "2048x1024"
    """WIDTHxHEIGHT of the full-size network."""
    demo_size: str | None = None
    """WIDTHxHEIGHT of the demo's model; by default 256x128 on a CPU, 2048x1024 on a GPU."""
    batch: tuple[Batch, ...] = ()
    """Batches of engines; by default 1 on a CPU, and 1, 2, 4, 8 on a GPU."""
    only: tuple[str, ...] = ()
    """Names of the benchmarks to run; by default all."""
    url: str | None = None
    """``HOST:PORT`` of a running server of the demo's model, in place of the bundled Triton."""
    seconds: Annotated[float, Interval(ge=1, le=MAX_SECONDS)] = 60.0
    """Duration of each LoadGen run of the demo's model. A server's load takes a sixth of it."""
    work: Path = Path("build/bench")
    """Folder of the export bundles."""
    ngf: Annotated[int, Interval(ge=1, le=1024)] = 32
    """Filters of the full-size network; 32 is published."""
    blocks: Annotated[int, Interval(ge=1, le=100)] = 9
    """Residual blocks of the full-size network; 9 is published."""

    def __post_init__(self) -> None:
        for size in filter(None, (self.size, self.demo_size)):
            parse_size(size)
        for name in self.only:
            if name not in STEPS:
                raise InputError(f"no benchmark {name!r}; there are {', '.join(STEPS)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepArguments:
    """Values of the words in braces of `STEPS`."""

    settings: SuiteSettings
    out: Path
    """Folder of the reports."""
    gpu: bool

    def arguments(self, name: str) -> list[str]:
        """Arguments of `sceneloom bench` for a step; raises InputError before an earlier step."""
        return shlex.split(STEPS[name].format_map(self))

    def __getitem__(self, word: str) -> str:
        given, batch = self.settings, self.settings.batch or ((1, 2, 4, 8) if self.gpu else (1,))
        demo_batch = batch if len(batch) > 1 else (1, 4)
        own_server = f"--repository {shlex.quote(str(given.work / 'demo'))}"
        if word.startswith("latencies_"):  # milliseconds of a single picture of the demo's model
            found = read_report(self.out / "engine-demo.json").measurements
            rows = [m for m in found if m.name == THROUGH_TRITON] or list(found)
            return f"{int(word.split('_')[1]) * rows[0].figures['p50'].value:.3g}"
        return {
            "batch": " ".join(map(str, batch)),
            "demo": shlex.quote(str(DEMO)),
            "demo_batch": " ".join(map(str, demo_batch)),
            "demo_size": given.demo_size or ("2048x1024" if self.gpu else "256x128"),
            "load_batch": "2 4 8" if self.gpu else "2 4",
            "load_seconds": f"{given.seconds / 6:g}",
            "network": f"--ngf {given.ngf} --blocks {given.blocks}",
            "seconds": f"{given.seconds:g}",
            "server": own_server if given.url is None else f"--url {shlex.quote(given.url)}",
            "size": given.size,
            "work": shlex.quote(str(given.work)),
        }[word]


STEPS = {
    "engine": "engine --size {size} {network} --keep {work}/full-size --batch {batch}",
    "mlperf-full-size": "mlperf --name full-size --repository {work}/full-size --size {size}"
    " --scenario SingleStream",
    "engine-demo": "engine --name demo --checkpoint {demo} --size {demo_size} --keep {work}/demo"
    " --pictures 10 --batch {demo_batch}",
    "server": "server {server} --size {demo_size} --seconds {load_seconds}"
    f" --requests {P99_REQUESTS} --shares 0.5 0.8 --p99-bound-ms {{latencies_5}}",
    "server-batches": "server --name batches {server} --size {demo_size} --batches {load_batch}"
    " --transports grpc grpc-shm --no-open --seconds {load_seconds} --overhead-rounds 0",
    # LoadGen lets no query of 459 be late. A bound of 30 latencies is above the pauses of a shared
    # machine, and far below the queue of half a minute at 130 %.
    "mlperf-demo": "mlperf --name demo {server} --size {demo_size} --seconds {seconds}"
    " --share-of-capacity 0.7 --latency-bound-ms {latencies_30}",
    "mlperf-overload": "mlperf --name overload {server} --size {demo_size} --scenario Server"
    " --seconds {seconds} --share-of-capacity 1.3 --latency-bound-ms {latencies_30}",
    "render": "render {server} --size {demo_size}",
    "server-stall": "stall",
}
"""Name of the report's file -> arguments of `sceneloom bench`, in the order of running."""
VERDICTS = {"mlperf-demo": True, "mlperf-overload": False}
"""Step -> whether its Server run is expected to be VALID."""


def main(
    *,
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    settings: Flags[SuiteSettings] = SuiteSettings(),
) -> int:
    """Run every benchmark without a report in DIR, and write DIR/index.html.

    Args:
        out: folder of the reports; by default the newest unfinished one of this hardware in
            benchmarks/results, or today's.
    """
    out = out or choose_folder(CHECKOUT / "benchmarks" / "results", hardware_name())
    check_out(out, "engine")
    out.mkdir(parents=True, exist_ok=True)
    failed = list(run_steps(StepArguments(settings=settings, out=out, gpu=bool(gpu_details()))))
    page = _run(["page", str(out)])
    for name, reason in failed:
        print(f"not measured: {name}: {reason}", file=sys.stderr)
    for path in filter(Path.is_file, (out / f"{name}.json" for name in STEPS)):
        print(f"{path.stem}: {headline(read_report(path))}")
    print(f"report: {out / 'index.html'}")
    return 1 if failed or page else 0


def choose_folder(results: Path, hardware: str) -> Path:
    """The newest folder of this hardware if it lacks a report, otherwise today's."""
    newest = max(results.glob(f"{hardware}-????-??-??"), default=None)
    if newest is not None and not all((newest / f"{name}.json").is_file() for name in STEPS):
        return newest
    return results / f"{hardware}-{datetime.date.today()}"


def run_steps(step: StepArguments) -> Iterator[tuple[str, str]]:
    """Run the steps without a report; yields name and reason of each failed one."""
    names = [name for name in STEPS if name in (step.settings.only or STEPS)]
    for number, name in enumerate(names, 1):
        if (step.out / f"{name}.json").is_file():
            progress.say(f"{name}: has a report")
            continue
        try:
            arguments = step.arguments(name)
        except InputError as error:
            yield name, str(error)
            continue
        progress.say(f"{name} ({number} of {len(names)})")
        code = _run([*arguments, "--out", str(step.out)])
        if reason := f"ended with code {code}" if code else unexpected(name, step.out):
            yield name, reason


def unexpected(name: str, out: Path) -> str:
    """A sentence if LoadGen's verdict is not the expected one, otherwise empty."""
    if name not in VERDICTS:
        return ""
    valid = read_report(out / f"{name}.json").named("Server").extra["valid"]
    said, other = ("VALID", "INVALID") if valid else ("INVALID", "VALID")
    return "" if valid == VERDICTS[name] else f"LoadGen's verdict on Server is {said}, not {other}"


def _run(arguments: Sequence[str]) -> int:
    """Run a benchmark in a process of its own; returns its exit code."""
    command = [*SCENELOOM, "bench", *arguments]
    if arguments[0] == "stall":
        command = [sys.executable, str(STALLS), *arguments[1:]]
    progress.say(shlex.join([Path(command[0]).name, *command[1:]]))
    sys.stdout.flush()
    with subprocess.Popen(command) as running:
        try:
            return running.wait()
        except BaseException:
            running.terminate()  # killed, it would leave a server behind
            try:
                running.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                running.kill()
            raise
