"""`sceneloom bench engine`: every engine of this machine beside PyTorch eager, in turn.

The published 2048x1024 network with random weights, or a checkpoint, is exported. Each engine is
loaded in a process of its own. All render the same maps in turn, other maps in every round, in an
order that changes from round to round; the first round is warm-up. A ratio is the median over the
rounds of the ratio within a round. A time is from maps on the host to pictures on the host.

    sceneloom bench engine --out benchmarks/results/here
    sceneloom bench engine --out /tmp/bench --checkpoint examples/street_demo/generator \\
      --size 256x128 --engines onnxruntime-fp32 openvino-fp32
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval, MinLen

from sceneloom import progress
from sceneloom.errors import EngineError, InputError, ParityError, SceneLoomError
from sceneloom.maps import parse_size
from sceneloom.request import Request
from sceneloom.validation import checked
from sceneloom_bench import engine_candidates, engine_case, harness
from sceneloom_bench.child_process import ChildProcess
from sceneloom_bench.engine_candidates import EAGER, SERVED
from sceneloom_bench.peaks import PRODUCT, Device, measure_peaks, median_peaks, peak_measurements
from sceneloom_bench.reports import statistics
from sceneloom_bench.reports.environment import Environment
from sceneloom_bench.reports.headline import NEVER_SERVED, OUTSIDE_LIMITS
from sceneloom_bench.reports.report import Figure, Measurement, Report, Unit, flags_of
from sceneloom_bench.turns import Timings, run_rounds
from sceneloom_serving.bundle import PLAN_FILE
from sceneloom_serving.engines import ENGINES
from sceneloom_serving.parity import Parity, Precision, check_parity, compare

MODEL_FLOP = (
    "the model's as published, convolutions only, a multiplication and an addition are two; "
    "whatever an engine leaves out, as OpenVINO leaves out classes that do not occur"
)
NO_EVENTS = "timed on the host, which waits for its pictures, not by CUDA events"


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineBenchSettings:
    """Engines, maps and rounds."""

    checkpoint: Path | None = None
    """Checkpoint bundle; by default the published network with random weights."""
    ngf: Annotated[int, Interval(ge=1, le=1024)] = 32
    """Filters of the random network's first convolution; 32 is published."""
    blocks: Annotated[int, Interval(ge=1, le=100)] = 9
    """Residual blocks of the random network's global generator; 9 is published."""
    size: str = "2048x1024"
    """WIDTHxHEIGHT of the pictures; the model must take it without padding."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of PyTorch and its engines; auto is the GPU if PyTorch sees one."""
    engines: tuple[str, ...] = ()
    """Engines beside PyTorch eager, such as openvino-fp32; by default all."""
    batch: Annotated[tuple[harness.Batch, ...], MinLen(1)] = (1,)
    """Pictures at once; engines with a smaller limit are left out there."""
    rounds: harness.Rounds = 6
    """Measured rounds, after one of warm-up; intervals need six."""
    pictures: harness.Rounds | None = None
    """Batches of an engine in a round; by default 1 on a CPU, 80 on a GPU. A p99 needs 459."""
    maps: harness.Maps = 16
    """Different maps to take turns."""
    served: bool = True
    """Measure the default engine through the bundled Triton too."""
    keep: Path | None = None
    """Folder to keep the export bundle in. With a TensorRT plan or a package of AOTInductor it
    serves this size only.
    """
    name: str | None = None
    """Added to the report's file name."""

    def __post_init__(self) -> None:
        parse_size(self.size)
        engine_candidates.check_names(self.engines)
        harness.check_name(self.name)
        if self.keep is not None and self.keep.is_file():
            raise InputError(f"keep is {self.keep}: a file in the place of the bundle's folder")

    @property
    def batches(self) -> list[int]:
        """Each batch once, the smallest first, since peak memory never falls."""
        return sorted(set(self.batch))

    @property
    def height_width(self) -> tuple[int, int]:
        """The size as (height, width)."""
        return parse_size(self.size)

    def turn(self, device: Device) -> int:
        """Batches of one engine in a round."""
        return self.pictures or {"cpu": 1, "cuda": 80}[device]

    def needed_maps(self, device: Device) -> int:
        """Number of maps to draw: at most those in use, and more than a batch takes."""
        used = (self.rounds + 1) * self.turn(device) * self.batches[-1]
        return max(min(self.maps, used), self.batches[-1] + 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """Model, maps and candidates."""

    device: Device
    case: engine_case.Case
    maps: Sequence[Request]
    bundle: engine_case.Bundle | None
    candidates: Sequence[engine_candidates.Candidate]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineRow:
    """Timings of one engine at one batch."""

    name: str
    batch: int
    precision: Precision
    timings: Timings
    baseline: Timings | None
    """Timings of the baseline in the same rounds; None if it could not run the batch."""
    parity: Parity | None
    bare: Timings | None = None
    """Timings of the engine that this server runs."""
    memory_mib: Mapping[str, float]
    """``peak_memory`` and, on a GPU, ``gpu_memory``."""
    how: str
    marks: Sequence[str] = ()


def main(
    *, out: harness.OutFolder, settings: harness.Flags[EngineBenchSettings] = EngineBenchSettings()
) -> int:
    """Measure, write DIR/engine.json, and print its tables and the fastest engine.

    Args:
        out: folder of the report.
    """
    return harness.run_benchmark("engine", measure, settings, settings.name, out)


def measure(settings: EngineBenchSettings) -> Report:
    """Measure all engines; raises EngineError if the baseline cannot be measured."""
    with (
        Environment() as environment,
        tempfile.TemporaryDirectory(prefix="sceneloom-bench-engine-") as folder,
        ChildProcess() as child,
    ):
        prepared, cannot = prepare(settings, Path(folder), child)
        hashes = {} if prepared.bundle is None else prepared.bundle.file_hashes()
        with progress.stage("measure a matrix product and a copy"):
            before = child.call(measure_peaks, prepared.device)
        rows, failed = take_turns(settings, prepared, child)
        with progress.stage("measure the matrix product and the copy again"):
            after = child.call(measure_peaks, prepared.device)
    return engine_report(
        settings,
        prepared,
        rows,
        cannot=cannot | failed,
        peaks={"before": before, "after": after},
        hashes=hashes,
        environment=environment,
    )


def engine_report(
    settings: EngineBenchSettings,
    prepared: Prepared,
    rows: Sequence[EngineRow],
    *,
    cannot: Mapping[str, str],
    peaks: Mapping[str, Mapping[str, list[float]]],
    hashes: Mapping[str, str],
    environment: Environment,
) -> Report:
    """The report of the rows. `peaks` are results of `measure_peaks` by their moment."""
    case, bundle = prepared.case, prepared.bundle
    medians = list(map(median_peaks, peaks.values()))
    best = {name: max(found[name] for found in medians) for name in medians[0]}
    height, width = settings.height_width
    where = "a GPU" if prepared.device == "cuda" else "the CPU"
    return Report(
        kind="engine",
        title=f"Engines at {settings.size} on {where}, beside PyTorch as published",
        subject={
            "height": height,
            "width": width,
            "parameters": case.parameters,
            "weights": case.weights,
            "device": prepared.device,
            "gflop": round(case.gflop, 3),
            "bundle_sha256": None if bundle is None else bundle.sha256,
            "inputs_sha256": harness.inputs_hash(prepared.maps),
        },
        settings=flags_of(settings),
        environment=environment.to_json(),
        measurements=[
            *(engine_measurement(row, case.gflop, best) for row in rows),
            *(m for when, found in peaks.items() for m in peak_measurements(found, when)),
        ],
        baseline=EAGER,
        marks=environment.marks(),
        extra={
            "operations": MODEL_FLOP,
            "not_measured": "; ".join(f"{name}: {why}" for name, why in cannot.items()),
            "cannot_run": dict(cannot),
            "engine_files_sha256": dict(hashes),
            "architecture": case.architecture,
        },
    )


def prepare(
    settings: EngineBenchSettings, folder: Path, child: ChildProcess
) -> tuple[Prepared, dict[str, str]]:
    """Prepare the checkpoint, its export and candidates, and the reasons against other engines."""
    with progress.stage("look for a GPU"):
        seen = settings.device != "cpu" and child.call(engine_case.sees_gpu)
    if settings.device == "cuda" and not seen:
        raise EngineError("PyTorch sees no GPU on this machine")
    device: Device = "cuda" if seen else "cpu"
    checkpoint, size = settings.checkpoint, settings.height_width
    with progress.stage("prepare the checkpoint"):
        checkpoint = checkpoint or child.call(
            engine_case.random_checkpoint, folder, settings.ngf, settings.blocks
        )
        random = settings.checkpoint is None
        case = child.call(engine_case.read_case, checkpoint, size, random=random)
    maps = harness.bench_maps(case.contract, size, settings.needed_maps(device))
    names, cannot = engine_candidates.choose(settings.engines, device)
    built = engine_candidates.built_later(names)
    bundle, largest = None, settings.batches[-1]
    precisions = engine_candidates.needed_precisions(names) or (["fp32"] if settings.keep else [])
    if precisions:
        repository = settings.keep or folder / "repository"
        repository.parent.mkdir(parents=True, exist_ok=True)
        exporting = f"export {', '.join(precisions)}"
        try:
            with progress.stage(exporting), ChildProcess() as exporter:
                bundle = exporter.call(
                    engine_case.make_bundle,
                    checkpoint,
                    repository,
                    size=size,
                    precisions=precisions,
                    largest_batch=largest,
                    refused=folder / "refused",
                    only_size=bool(built),
                )
        except SceneLoomError as error:  # PyTorch needs no bundle
            why = f"there is no bundle for it: {error}"
            cannot |= {name: why for name in names if engine_candidates.needs_bundle(name)}
    if bundle is not None:
        bundle, unbuilt = build_engines(built, bundle, size, settings.batches)
        names = [name for name in names if name not in unbuilt]
        cannot |= unbuilt
    found, missing = engine_candidates.candidates(names, device, checkpoint, bundle, largest)
    prepared = Prepared(device=device, case=case, maps=maps, bundle=bundle, candidates=found)
    return prepared, cannot | missing


def build_engines(
    names: Sequence[str], bundle: engine_case.Bundle, size: tuple[int, int], batches: Sequence[int]
) -> tuple[engine_case.Bundle, dict[str, str]]:
    """Build the files of `engine_candidates.built_later` at (height, width). Returns the bundle,
    which may serve another engine then, and the reason against each engine that cannot be built.
    """
    cannot = {}
    for name in names:
        with ChildProcess() as builder:
            try:
                build_file(builder, name, bundle, size, batches)
            except SceneLoomError as error:
                cannot[name] = str(error)
                continue
            try:
                bundle = builder.call(engine_case.choose_served, bundle)
            except SceneLoomError as error:
                progress.say(f"{bundle.engine} serves, as before: {error}")
    return bundle, cannot


def build_file(
    builder: ChildProcess,
    name: str,
    bundle: engine_case.Bundle,
    size: tuple[int, int],
    batches: Sequence[int],
) -> None:
    """Build the plan or the package of an engine at (height, width)."""
    engine = ENGINES[name]
    with progress.stage(f"build {engine.file} for {name}"):
        if engine.file == PLAN_FILE:
            precision: Literal["fp16", "fp8"] = "fp8" if engine.precision == "fp8" else "fp16"
            builder.call(engine_case.build_plan, bundle.version, size, batches, precision=precision)
        else:
            half = engine.precision == "fp16"
            builder.call(engine_case.build_package, bundle.version, size, half=half)


def take_turns(
    settings: EngineBenchSettings, prepared: Prepared, child: ChildProcess
) -> tuple[list[EngineRow], dict[str, str]]:
    """Load and measure all at each batch; returns the rows, and the reason for each missing one."""
    on_gpu = prepared.device == "cuda"
    gpu_used = (lambda: child.call(engine_case.gpu_used_mib)) if on_gpu else lambda: 0.0
    maps, bundle = prepared.maps, prepared.bundle
    with contextlib.ExitStack() as stack:
        load_all = engine_candidates.load_all
        loaded, cannot = load_all(prepared.candidates, maps, stack, gpu_used)
        if settings.served:
            try:
                if bundle is None:
                    raise EngineError("no engine is measured that a server could run")
                loaded[SERVED] = engine_candidates.load_served(
                    bundle, list(loaded), maps, stack, gpu_used
                )
            except SceneLoomError as error:
                cannot[SERVED] = str(error)
        if EAGER in cannot:
            raise EngineError(f"the baseline, {EAGER}: {cannot[EAGER]}")
        rows: list[EngineRow] = []
        for batch in settings.batches:
            found, failed = measure_batch(batch, loaded, settings, prepared, gpu_used)
            rows += found
            cannot |= failed
    return rows, cannot


def measure_batch(
    batch: int,
    loaded: dict[str, engine_candidates.Loaded],
    settings: EngineBenchSettings,
    prepared: Prepared,
    gpu_used: Callable[[], float],
) -> tuple[list[EngineRow], dict[str, str]]:
    """Measure the candidates that take a batch; removes failed ones from `loaded` with a reason."""
    cannot = {
        f"{name}, batch {batch}": f"takes at most {one.largest} pictures at once"
        for name, one in loaded.items()
        if one.largest < batch
    }
    taken, failed = run_rounds(
        {name: one.runner for name, one in loaded.items() if one.largest >= batch},
        len(prepared.maps),
        batch=batch,
        rounds=settings.rounds,
        turn=settings.turn(prepared.device),
        gpu_used=gpu_used,
    )
    for name, reason in failed.items():
        first = batch == settings.batches[0]
        cannot[name if first else f"{name}, from batch {batch} on"] = reason
        del loaded[name]
    baseline = taken.get(EAGER)
    if baseline is None and batch == settings.batches[0]:
        raise EngineError(f"the baseline, {EAGER}: {failed[EAGER]}")
    left_out = {} if prepared.bundle is None else prepared.bundle.left_out
    rows = []
    for name, found in taken.items():
        one = loaded[name]
        one.gpu_mib += found.grown_mib
        marks = []
        if name in ENGINES and one.precision in left_out:
            marks.append(NEVER_SERVED + left_out[one.precision])
        if prepared.device == "cuda" and not any(found.device_seconds):
            marks.append(NO_EVENTS)
        rows.append(
            EngineRow(
                name=name,
                batch=batch,
                precision=one.precision,
                timings=found,
                baseline=baseline,
                parity=parity_of(baseline, found) if baseline and name != EAGER else None,
                bare=taken.get(one.bare) if one.bare else None,
                memory_mib={"peak_memory": one.peak_memory(), "gpu_memory": one.gpu_mib},
                how=one.how,
                marks=marks,
            )
        )
    for found in taken.values():
        found.pictures.clear()
    return rows, cannot


def parity_of(baseline: Timings, timings: Timings) -> Parity:
    """Differences from the baseline over all maps that both rendered."""
    common = sorted(baseline.pictures.keys() & timings.pictures.keys())
    return compare([baseline.pictures[n] for n in common], [timings.pictures[n] for n in common])


def engine_measurement(row: EngineRow, gflop: float, peaks: Mapping[str, float]) -> Measurement:
    """A row as a measurement.

    Args:
        row: the row.
        gflop: 10^9 operations of a picture.
        peaks: FLOP per second of ``matrix product float32`` and, on a GPU, ``float16``: the peak of
            fp16 there; float32 is that of all other precisions.
    """
    taken, marks = row.timings, list(row.marks)
    figures = statistics.latency_figures(taken.seconds)
    figures["rate"] = statistics.rate_figure(taken.seconds, row.batch)
    if row.baseline is not None:
        figures["times_faster"] = statistics.ratio_figure(row.baseline.seconds, taken.seconds)
    else:
        marks.append(f"the baseline could not run a batch of {row.batch}: no ratio, no parity")
    if row.bare is not None:
        medians = ([np.median(one) for one in timings.seconds] for timings in (taken, row.bare))
        added = [1000 * (a - b) for a, b in zip(*medians, strict=True)]
        figures["overhead"] = statistics.median_figure(added, unit="ms", better="lower")
        figures["overhead_ratio"] = statistics.ratio_figure(
            taken.seconds, row.bare.seconds, better="lower"
        )
    if any(taken.device_seconds):
        figures["device"] = statistics.latency_figures(taken.device_seconds)["p50"]
    own = f"{PRODUCT} float16" if row.precision == "fp16" else f"{PRODUCT} float32"
    p50, peak = figures["p50"], peaks.get(own, peaks[f"{PRODUCT} float32"])
    work = row.batch * gflop
    scales: list[tuple[str, Unit, float]] = [
        ("tflops", "TFLOP/s", work),  # GFLOP in a millisecond are TFLOP in a second
        ("peak_share", "share", work * 1e12 / peak),
    ]
    for name, unit, scale in scales:
        figures[name] = Figure(
            value=scale / p50.value,
            unit=unit,
            better="higher",
            low=None if p50.high is None else scale / p50.high,
            high=None if p50.low is None else scale / p50.low,
        )
    if row.parity is not None:
        figures["difference"] = Figure(value=row.parity.max, unit="1", better="lower")
    figures |= {
        key: Figure(value=mib, unit="MiB", better="lower")
        for key, mib in row.memory_mib.items()
        if mib > 0
    }
    if row.precision in ("bf16", "int8", "fp8") or own not in peaks:
        marks.append("its share of the measured peak is of the float32 product's")
    if row.parity is not None and not any(mark.startswith(NEVER_SERVED) for mark in row.marks):
        try:
            check_parity(row.parity, row.precision, row.name)
        except ParityError as error:
            marks.append((NEVER_SERVED if row.name in ENGINES else OUTSIDE_LIMITS) + str(error))
    parity = {} if row.parity is None else {"parity": row.parity.to_json()}
    return Measurement(
        name=row.name,
        load={"batch": row.batch},
        figures=figures,
        samples=taken.seconds,
        marks=marks,
        extra={"how": row.how, **parity},
    )
