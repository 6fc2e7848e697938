"""Everything that only a GPU can show, within a number of seconds: what is worth most comes first.

PyTorch and the engines in half for single pictures; the tests that need a GPU; training steps; the
model behind the bundled Triton, where that is installed; the other engines; larger batches. A part
that fails or takes longer than its share of the time is given up, named with the reason, and the
next one begins. Every row is in the files at once, which are whole at any moment:

    engine.json, server.json   reports, as of `sceneloom bench`
    tests.json, training.json  each test and its outcome; training speed and memory
    parts.json                 settings, and the time of each part
    README.md                  all of it in tables

An engine takes turns with PyTorch eager, which renders each map once in a round, and not with the
other engines. Nothing of the GPU's settings is changed. A folder that has results gets new ones.

    make gpu-report SECONDS=900
    python benchmarks/experiments/gpu_report.py --device cpu --size 128x64 --ngf 4 --blocks 1
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import itertools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from annotated_types import Interval, MinLen

from sceneloom import progress
from sceneloom.errors import EngineError, SceneLoomError
from sceneloom.files import write_whole
from sceneloom.maps import parse_size
from sceneloom.text import one_line
from sceneloom.validation import checked
from sceneloom_bench import engine_candidates, engine_case, harness, server_command
from sceneloom_bench.child_process import ChildProcess
from sceneloom_bench.engine_candidates import EAGER
from sceneloom_bench.engine_command import (
    EngineBenchSettings,
    EngineRow,
    Prepared,
    build_file,
    engine_report,
    measure_batch,
)
from sceneloom_bench.load_requests import TransportName
from sceneloom_bench.peaks import Device, measure_peaks
from sceneloom_bench.reports import tables
from sceneloom_bench.reports.environment import Environment, hardware_name
from sceneloom_bench.reports.report import Figure, Report, flags_of, write_report
from sceneloom_bench.turns import Round, Runner
from sceneloom_serving.bundle import PACKAGE_FILE, PLAN_FILE
from sceneloom_serving.bundled_server import find_bundled_server
from sceneloom_serving.engines import ENGINES

TRANSPORTS: tuple[TransportName, ...] = ("grpc", "grpc-shm", "http")
IN_FLIGHT = (1, 2, 8)
BUILT = (PLAN_FILE, PACKAGE_FILE)
"""Files that are built on this machine before an engine is measured."""
LEAST_SECONDS = 3.0
"""A part does not begin with less time left."""
END_SECONDS = 2.0
"""Kept for the last files."""


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuReportSettings:
    """Time, network and engines."""

    seconds: Annotated[float, Interval(ge=10, le=86_400)] = 900.0
    """Limit of the whole run, its own start not counted."""
    device: Device = "cuda"
    """cpu is a dry run without a GPU."""
    size: str = "2048x1024"
    """WIDTHxHEIGHT of the pictures."""
    batch: Annotated[tuple[harness.Batch, ...], MinLen(1)] = (1, 2, 4, 8)
    """Pictures at once: the first before everything else, the others at the end."""
    engines: tuple[str, ...] = ()
    """Engines beside PyTorch eager; by default all, FP8 excepted."""
    ngf: Annotated[int, Interval(ge=1, le=1024)] = 32
    """Filters of the network's first convolution; 32 is published."""
    blocks: Annotated[int, Interval(ge=1, le=100)] = 9
    """Residual blocks of the global generator; 9 is published."""
    tests: tuple[str, ...] = ()
    """Files of tests. Only tests that need a GPU run, without the slow ones."""
    work: Path = Path("build/gpu-report")
    """Folder of the checkpoint and its export, made anew."""

    def __post_init__(self) -> None:
        parse_size(self.size)
        engine_candidates.check_names(self.engines)


class OutOfTimeError(Exception):
    """A part has taken its share of the time. Not a SceneLoomError: those end a row alone."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTimeError in the main thread, which this must be, after some seconds."""

    def stop(*_: object) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, stop)
    others = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *others)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the report."""

    name: str
    share: float
    """Longest time, as a share of the whole."""
    work: Callable[[], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Brief:
    """A runner that takes the first batches of each turn only."""

    runner: Runner
    most: int

    def turn(self, batches: Sequence[Sequence[int]], show: frozenset[int]) -> Round:
        """Take a turn; see `Runner.turn`."""
        return self.runner.turn(batches[: self.most], show)


class GpuReport:
    """The parts, and their results so far."""

    def __init__(self, settings: GpuReportSettings, out: Path, environment: Environment) -> None:
        """Prepare a run into the folder `out`; `environment` has been entered."""
        self.settings, self.out, self.environment = settings, out, environment
        self.bench = EngineBenchSettings(
            device=settings.device,
            size=settings.size,
            batch=settings.batch,
            engines=settings.engines,
            ngf=settings.ngf,
            blocks=settings.blocks,
            served=False,
        )
        self.parts: list[dict[str, Any]] = []
        self.rows: list[EngineRow] = []
        self.cannot: dict[str, str] = {}
        self.prepared: Prepared | None = None
        self.server: Report | None = None
        self.training: dict[str, Any] = {}
        self._title = f"{hardware_name()}, {datetime.date.today()}"
        self._names: list[str] = []
        self._hashes: dict[str, str] = {}
        self._peaks: dict[str, list[float]] = {}
        self._eager = contextlib.ExitStack()
        self._loaded_eager: engine_candidates.Loaded | None = None

    def run(self) -> int:
        """Run the parts; returns 0 if PyTorch was measured and no test failed."""
        end = time.monotonic() + self.settings.seconds - END_SECONDS
        with self._eager:
            for part in self._plan():
                self._run_part(part, end - time.monotonic())
                self.write()
        failed = [part for part in self.parts if part["name"] == "tests" and part["why"]]
        return 0 if self.rows and not failed else 1

    def _plan(self) -> Iterator[Part]:
        """Parts in the order of their worth. The first one's result decides on those after it."""
        first, *others = dict.fromkeys(self.settings.batch)

        def rows(names: Iterable[str], batches: Sequence[int], title: str = "") -> Iterator[Part]:
            for name in names:
                work = functools.partial(self.measure_engine, name, batches)
                yield Part(name=name + title, share=0.3, work=work)

        yield Part(name=EAGER, share=0.5, work=self.prepare)
        names, needs_bundle = self._names, engine_candidates.needs_bundle
        on_gpu = self.settings.device == "cuda"
        half = [name for name in names if on_gpu and name.endswith("fp16")]
        yield from rows((name for name in half if not needs_bundle(name)), (first,))
        if any(map(needs_bundle, names)):
            yield Part(name="export", share=0.4, work=self.export)
        yield from rows(filter(needs_bundle, half), (first,))
        if self.settings.tests:
            yield Part(name="tests", share=0.3, work=self.test)
        for name, case in training_cases(self.settings).items():
            train = functools.partial(self.train, name, case)
            yield Part(name=f"training, {name}", share=0.1, work=train)
        yield Part(name="server", share=0.25, work=self.serve)
        slow = [name for name in names if "compiled" in name or file_of(name) in BUILT]
        yield from rows((name for name in names if name not in (*half, *slow)), (first,))
        yield from rows((name for name in slow if name not in half), (first,))
        if others:  # a package takes single pictures
            many = (name for name in (EAGER, *names) if file_of(name) != PACKAGE_FILE)
            yield from rows(many, others, ", larger batches")

    def _run_part(self, part: Part, left: float) -> None:
        start, why = time.monotonic(), ""
        limit = min(left, part.share * self.settings.seconds)
        try:
            if left < LEAST_SECONDS:
                raise EngineError("no time was left")
            with progress.stage(part.name, left=left), time_limit(limit):
                part.work()
        except OutOfTimeError:
            why = f"given up after {limit:.0f} s"
        except SceneLoomError as error:
            why = str(error)
        except Exception as error:  # the parts after it are worth as much
            why = one_line(f"{type(error).__name__}: {error}")
        if why:
            progress.say(f"{part.name}: {why}")
            # Its answer may still be on its way.
            self._eager.__exit__(OutOfTimeError, OutOfTimeError(), None)
            self._loaded_eager = None
        seconds = round(time.monotonic() - start, 1)
        self.parts.append({"name": part.name, "seconds": seconds, "why": why})

    def prepare(self) -> None:
        """Make the network and the maps, and measure PyTorch as published."""
        settings, size = self.settings, self.bench.height_width
        for folder in ("checkpoint", "bundle", "refused"):
            shutil.rmtree(settings.work / folder, ignore_errors=True)
        with ChildProcess() as child:
            checkpoint = child.call(
                engine_case.random_checkpoint, settings.work, settings.ngf, settings.blocks
            )
            case = child.call(engine_case.read_case, checkpoint, size, random=True)
            self._peaks = child.call(measure_peaks, settings.device)
        maps = harness.bench_maps(case.contract, size, self.bench.needed_maps(settings.device))
        self.prepared = Prepared(
            device=settings.device, case=case, maps=maps, bundle=None, candidates=()
        )
        names, self.cannot = engine_candidates.choose(settings.engines, settings.device)
        self._names = [n for n in names if n != EAGER and (n != "tensorrt-fp8" or settings.engines)]
        self.measure_engine(EAGER, settings.batch[:1])

    def export(self) -> None:
        """Export the network, proven at the size."""
        prepared, work = self._known(), self.settings.work
        with ChildProcess() as exporter:
            bundle = exporter.call(
                engine_case.make_bundle,
                work / "checkpoint",
                work / "bundle",
                size=self.bench.height_width,
                precisions=engine_candidates.needed_precisions(self._names),
                largest_batch=max(self.settings.batch),
                refused=work / "refused",
                only_size=True,
            )
        self._hashes = bundle.file_hashes()
        self.prepared = dataclasses.replace(prepared, bundle=bundle)

    def measure_engine(self, name: str, batches: Sequence[int]) -> None:
        """Load one candidate and measure it at each batch, in turn with PyTorch eager. Builds its
        plan or package before.
        """
        prepared = self._known()
        if file_of(name) in BUILT and prepared.bundle is not None:
            with ChildProcess() as builder:
                build_file(builder, name, prepared.bundle, self.bench.height_width, batches)
            self._hashes = prepared.bundle.file_hashes()
        with contextlib.ExitStack() as stack:
            child = stack.enter_context(ChildProcess())
            used = functools.partial(child.call, engine_case.gpu_used_mib)
            gpu_used = used if prepared.device == "cuda" else lambda: 0.0
            if self._loaded_eager is None:
                self._loaded_eager = self._load(EAGER, prepared, self._eager, gpu_used)
            eager = self._loaded_eager
            loaded = {EAGER: eager}
            if name != EAGER:
                brief = Brief(runner=eager.runner, most=len(prepared.maps))
                loaded[EAGER] = dataclasses.replace(eager, runner=brief)
                loaded[name] = self._load(name, prepared, stack, gpu_used)
            for batch in batches:
                rows, failed = measure_batch(batch, dict(loaded), self.bench, prepared, gpu_used)
                self.rows += [row for row in rows if row.name == name]
                self.cannot |= failed
                self.write()

    def _load(
        self,
        name: str,
        prepared: Prepared,
        stack: contextlib.ExitStack,
        gpu_used: Callable[[], float],
    ) -> engine_candidates.Loaded:
        checkpoint, largest = self.settings.work / "checkpoint", max(self.settings.batch)
        found, cannot = engine_candidates.candidates(
            [name], prepared.device, checkpoint, prepared.bundle, largest
        )
        loaded, failed = engine_candidates.load_all(found, prepared.maps, stack, gpu_used)
        if name not in loaded:
            raise EngineError((cannot | failed).get(name, "there is no bundle for it"))
        return loaded[name]

    def _known(self) -> Prepared:
        if self.prepared is None:
            raise EngineError("there is no network to measure")
        return self.prepared

    def test(self) -> None:
        """Run the tests that need a GPU; raises EngineError if any failed."""
        with ChildProcess() as child:
            code = child.call(run_tests, self.settings.tests, (self.out / "tests.json").absolute())
        if code:
            raise EngineError(f"failed: pytest ended with code {code}")

    def train(self, name: str, case: Any) -> None:
        """Measure steps of this trainer in bfloat16, and of the published recipe."""
        import training_step as step

        batches, length = step.draw_batches(case), step.TrainingStepSettings(turns=3, steps=5)
        for way in (step.OURS, step.PUBLISHED):
            variants = {way: step.CPU_VARIANTS[way]}
            found = step.one_after_another(case, variants, batches, length, self.settings.device)
            row = {key: value for key, value in found[way].items() if key != "losses"}
            self.training[f"{name}, {way}"] = dataclasses.asdict(case) | row
            self.write()

    def serve(self) -> None:
        """Put the bundle, behind the bundled Triton, under loads."""
        bundle = self._known().bundle
        find_bundled_server()  # before an engine is chosen for it
        if bundle is None:
            raise EngineError("there is no bundle to serve")
        with harness.served(harness.ServedSettings(repository=bundle.repository)) as server:
            for count, transport in itertools.product(IN_FLIGHT, TRANSPORTS):
                report = server_command.measure(
                    server_command.ServerBenchSettings(
                        server=harness.ServedSettings(url=server.grpc, http=server.http),
                        size=self.settings.size,
                        transports=(transport,),
                        in_flight=(count,),
                        open=False,
                        seconds=self.settings.seconds / 300,
                    )
                )
                before = [] if self.server is None else self.server.measurements
                loads = {"transports": TRANSPORTS, "in_flight": IN_FLIGHT}
                self.server = dataclasses.replace(
                    report,
                    settings={**report.settings, **loads},
                    measurements=[*before, *report.measurements],
                )
                self.write()

    def write(self) -> None:
        """Write everything so far. The tests write themselves."""
        engines, why = None, {part["name"]: part["why"] for part in self.parts if part["why"]}
        if self.prepared is not None and self.rows:
            engines = engine_report(
                self.bench,
                self.prepared,
                self.rows,
                cannot=self.cannot | {name: why[name] for name in self._names if name in why},
                peaks={"before": self._peaks},
                hashes=self._hashes,
                environment=self.environment,
            )
            write_report(engines, self.out, "engine")
        if self.server is not None:
            write_report(self.server, self.out, "server")
        if self.training:
            write_json(self.out / "training.json", self.training)
        parts = {"settings": flags_of(self.settings), "parts": self.parts}
        write_json(self.out / "parts.json", parts)
        tests = self.out / "tests.json"
        lines = [
            *heading(self._title, self.settings),
            *([] if engines is None else engine_lines(engines)),
            *(test_lines(json.loads(tests.read_text())) if tests.is_file() else []),
            *training_lines(self.training),
            *([] if self.server is None else server_lines(self.server)),
            *part_lines(self.parts),
        ]
        write_whole(self.out / "README.md", ("\n".join(lines) + "\n").encode())


def file_of(name: str) -> str:
    """File that a candidate runs; empty for PyTorch."""
    return ENGINES[name].file if name in ENGINES else ""


def training_cases(settings: GpuReportSettings) -> dict[str, Any]:
    """Networks to train: the published ones and that of gpu-demo.toml; on a CPU a tiny one."""
    from training_step import GPU_CASES, Case

    if settings.device == "cpu":
        height, width = parse_size(settings.size)
        tiny = Case(
            height=height, width=width, ngf=4, ndf=4, scales=2, downsamplings=2, blocks=1, samples=2
        )
        return {settings.size: tiny}
    demo = Case(
        height=512, width=1024, ngf=12, ndf=32, scales=3, enhancers=1, downsamplings=3, blocks=6
    )
    cases = {**GPU_CASES, "gpu-demo.toml without style": demo}
    return {name: dataclasses.replace(case, samples=2) for name, case in cases.items()}


class TestLog:
    """A pytest plugin that writes each test's outcome at once."""

    __test__ = False

    def __init__(self, path: Path) -> None:
        self._path, self._found = path, dict[str, Any]()

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Keep the outcome of a test, or of what it needs."""
        if report.when == "call" or report.outcome != "passed":
            self._keep(report, round(report.duration, 2))

    def pytest_collectreport(self, report: Any) -> None:
        """Keep a file that cannot be loaded, or is skipped."""
        if report.outcome != "passed":
            self._keep(report, 0.0)

    def _keep(self, report: Any, seconds: float) -> None:
        said = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr or ""
        why = str(said).strip().splitlines()[-1:]
        kept = {"outcome": report.outcome, "seconds": seconds, "why": "".join(why)}
        self._found[report.nodeid] = kept
        write_json(self._path, self._found)


def run_tests(files: Sequence[str], path: Path) -> int:
    """Run the tests that need a GPU and are not slow; returns pytest's exit code, or 0 if there are
    none. Meant for a process of its own, whose folder it changes.
    """
    import pytest

    os.chdir(harness.CHECKOUT)
    write_json(path, {})
    flags = ["-q", "-m", "gpu and not slow", "-p", "no:cacheprovider"]
    code = pytest.main([*flags, *files], plugins=[TestLog(path)])
    return 0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else int(code)


def write_json(path: Path, document: Any) -> None:
    """Write a document, whole or not at all."""
    write_whole(path, (json.dumps(document, indent=1) + "\n").encode())


def heading(title: str, settings: GpuReportSettings) -> list[str]:
    """Title and method."""
    dry = "" if settings.device == "cuda" else " **A dry run on a CPU: its figures mean nothing.**"
    made = f"Made by `make gpu-report` within {settings.seconds:g} s; method, order and files are "
    made += f"those of `benchmarks/experiments/gpu_report.py`.{dry}"
    return [f"# GPU report, {tables.escaped(title)}", "", made]


def engine_lines(report: Report) -> list[str]:
    """The table of the engines beside their floor, and those without a row."""
    lines = [
        *("", "## Engines", "", tables.escaped(tables.machine_line(report)), ""),
        "The floor is the published model's operations at the rate of a matrix product of the same "
        "precision, measured in this run; docs/tensorrt.md has the one of an H200. Parity is with "
        "PyTorch in float32 on the same maps, in grey levels.",
        "",
        "| engine | batch | p50, ms | p99, ms | p50 on the device, ms | times faster | floor, ms "
        "| share of the floor, % | parity: max, 99.9th percentile, PSNR | memory, MiB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|---:|",
    ]
    for m in report.measurements:
        if "peak_share" not in m.figures:
            continue
        figures, parity = m.figures, m.extra.get("parity")
        share, p50 = figures["peak_share"].value, figures["p50"].value
        floor = Figure(value=share * p50, unit="ms")
        words = ""
        if parity is not None:
            psnr = "equal" if parity["psnr"] is None else f"{parity['psnr']:.1f} dB"
            words = f"{parity['max']:g}, {parity['p999']:g}, {psnr}"
        shown = {key: tables.value_of(figure) for key, figure in figures.items()}
        memory = shown.get("gpu_memory", shown.get("peak_memory", ""))
        cells = [shown["p50"], shown["p99"], shown.get("device", ""), shown.get("times_faster", "")]
        cells += [tables.value_of(floor), shown["peak_share"], words, memory]
        lines.append(f"| {m.name} | {m.load['batch']} | {' | '.join(cells)} |")
    marks = {f"{m.name}: {mark}": None for m in report.measurements for mark in m.marks}
    missing = [f"{name}: not measured: {why}" for name, why in report.extra["cannot_run"].items()]
    return [*lines, "", *(f"- {tables.escaped(line)}" for line in (*marks, *missing))]


def test_lines(tests: Mapping[str, Any]) -> list[str]:
    """Every test's outcome."""
    lines = ["", "## Tests that need a GPU", "", "| test | outcome | s | |", "|---|---|---:|---|"]
    for name, found in tests.items():
        cells = [tables.escaped(name), found["outcome"], str(found["seconds"])]
        lines.append(f"| {' | '.join(cells)} | {tables.escaped(found['why'])} |")
    return lines if tests else []


def training_lines(training: Mapping[str, Any]) -> list[str]:
    """Every network's speed."""
    lines = ["", "## Training", "", "| network and way | pictures/s | peak memory, MiB |"]
    lines.append("|---|---:|---:|")
    for name, row in training.items():
        speed = row.get("images_per_second", "out of memory")
        lines.append(f"| {tables.escaped(name)} | {speed} | {row['peak_memory_mib']:,} |")
    return lines if training else []


def server_lines(report: Report) -> list[str]:
    """The loads."""
    lines = ["", f"## Server: {tables.escaped(report.title)}, {report.subject['engine']}"]
    for table in tables.tables_of(report):
        lines += ["", *tables.markdown_table(table)]
    return lines


def part_lines(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The time of each part, and what is missing."""
    lines = ["", "## Parts", "", "| part | s | not finished, because |", "|---|---:|---|"]
    for part in parts:
        why = tables.escaped(part["why"])
        lines.append(f"| {tables.escaped(part['name'])} | {part['seconds']} | {why} |")
    return lines


def main(
    *,
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    settings: Annotated[GpuReportSettings, tyro.conf.OmitArgPrefixes] = GpuReportSettings(),
) -> int:
    """Measure everything that the seconds allow, and write DIR. Ends at once without a GPU.

    Args:
        out: folder of the results; by default benchmarks/results/gpu-report-HARDWARE-DATE.
        settings: time, network and engines.
    """
    results = harness.CHECKOUT / "benchmarks" / "results"
    out = out or results / f"gpu-report-{hardware_name()}-{datetime.date.today()}"
    harness.check_out(out, "engine")
    with ChildProcess() as child:
        if settings.device == "cuda" and not child.call(engine_case.sees_gpu):
            raise EngineError("PyTorch sees no GPU on this machine; a dry run is --device cpu")
    for name in ("engine.json", "server.json", "tests.json", "training.json", "parts.json"):
        (out / name).unlink(missing_ok=True)
    with Environment() as environment:
        code = GpuReport(settings, out, environment).run()
    print((out / "README.md").read_text())
    print(f"report: {out / 'README.md'}")
    return code


if __name__ == "__main__":
    try:
        with progress.shown():
            sys.exit(tyro.cli(main))
    except SceneLoomError as error:
        print(f"gpu_report: {error}", file=sys.stderr)
        sys.exit(1)
