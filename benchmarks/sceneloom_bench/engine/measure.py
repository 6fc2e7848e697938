"""The measurement of `sceneloom bench engine`: export, load everything, take turns, make rows."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from sceneloom.errors import EngineError, SceneLoomError
from sceneloom.request import Request
from sceneloom_bench.bench_inputs import bench_maps, inputs_hash
from sceneloom_bench.engine.aside import Aside
from sceneloom_bench.engine.bundle import Bundle, build_plan, choose_served, make_bundle
from sceneloom_bench.engine.contenders import (
    PLAN,
    SERVED,
    Contender,
    choose,
    contenders,
    needed_precisions,
    needs_bundle,
)
from sceneloom_bench.engine.engine_process import reason_of
from sceneloom_bench.engine.figures import (
    Arithmetic,
    Row,
    engine_measurement,
    never_served,
    parity_of,
)
from sceneloom_bench.engine.loading import Loaded, load_all, load_served
from sceneloom_bench.engine.peaks import (
    PRODUCT,
    Device,
    measure_peaks,
    median_peaks,
    peak_measurements,
)
from sceneloom_bench.engine.rounds import run_rounds
from sceneloom_bench.engine.settings import EngineBenchSettings
from sceneloom_bench.engine.subject import (
    Subject,
    gpu_used_mib,
    random_checkpoint,
    read_subject,
    sees_gpu,
)
from sceneloom_bench.engine.torch_ways import EAGER
from sceneloom_bench.reports.environment import Environment
from sceneloom_bench.reports.report import Report, flags_of, say
from sceneloom_serving.engines import ENGINES

MODEL_FLOP = (
    "the model's as published, convolutions only, a multiplication and an addition are two; "
    "whatever an engine leaves out, as OpenVINO leaves out classes that do not occur"
)
NO_EVENTS = "timed on the host, which waits for its pictures, not by CUDA events"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """What is there before anything takes turns."""

    device: Device
    """Where PyTorch runs."""
    subject: Subject
    """The model."""
    maps: Sequence[Request]
    """What is rendered."""
    bundle: Bundle | None
    """The export, where one was needed and could be made."""
    contenders: Sequence[Contender]
    """What is loaded."""


def measure(settings: EngineBenchSettings) -> Report:
    """Measure, and describe the machine around it.

    Raises:
        InputError: the checkpoint or a setting does not fit.
        EngineError: the baseline cannot be measured.
    """
    with (
        Environment() as environment,
        tempfile.TemporaryDirectory(prefix="sceneloom-bench-engine-") as folder,
        Aside() as aside,
    ):
        prepared, cannot = prepare(settings, Path(folder), aside)
        hashes = {} if prepared.bundle is None else prepared.bundle.file_hashes()
        say("measuring a matrix product and a copy")
        before = aside.call(measure_peaks, prepared.device)
        rows, failed = take_turns(settings, prepared, aside)
        after = aside.call(measure_peaks, prepared.device)
    cannot |= failed
    subject, bundle = prepared.subject, prepared.bundle
    best = {name: max(median_peaks(found)[name] for found in (before, after)) for name in before}
    arithmetic = Arithmetic(
        gflop=subject.gflop, peaks={n: peak for n, peak in best.items() if n.startswith(PRODUCT)}
    )
    height, width = settings.height_width
    where = "a GPU" if prepared.device == "cuda" else "the CPU"
    return Report(
        kind="engine",
        title=f"Engines at {settings.size} on {where}, beside PyTorch as published",
        subject={
            "height": height,
            "width": width,
            "parameters": subject.parameters,
            "weights": subject.weights,
            "device": prepared.device,
            "gflop": round(subject.gflop, 3),
            "bundle_sha256": None if bundle is None else bundle.sha256,
            "inputs_sha256": inputs_hash(prepared.maps),
        },
        settings=flags_of(settings),
        environment=environment.to_json(),
        measurements=[
            *(engine_measurement(row, arithmetic) for row in rows),
            *peak_measurements(before, "before"),
            *peak_measurements(after, "after"),
        ],
        baseline=EAGER,
        marks=environment.marks(),
        extra={
            "operations": MODEL_FLOP,
            "not_measured": "; ".join(f"{name}: {why}" for name, why in cannot.items()),
            "cannot_run": cannot,
            "engine_files_sha256": hashes,
            "architecture": subject.architecture,
        },
    )


def prepare(
    settings: EngineBenchSettings, folder: Path, aside: Aside
) -> tuple[Prepared, dict[str, str]]:
    """Find the device, write and export the checkpoint, and choose what is measured.

    Returns:
        what is there, and why each engine that will not be measured cannot be.
    """
    device = _device(settings, aside)
    checkpoint, size = settings.checkpoint, settings.height_width
    if checkpoint is None:
        checkpoint = aside.call(random_checkpoint, folder, settings.ngf, settings.blocks)
    random = settings.checkpoint is None
    subject = aside.call(read_subject, checkpoint, size, random=random)
    maps = bench_maps(subject.contract, size, settings.needed_maps(device))
    names, cannot = choose(settings.engines, device)
    bundle, reason = _bundle(settings, names, checkpoint, folder)
    if reason is not None:
        cannot |= {name: reason for name in names if needs_bundle([name])}
    if bundle is not None and PLAN in names:
        bundle, reason = _with_plan(settings, bundle)
        if reason is not None:
            cannot[PLAN] = reason
            names.remove(PLAN)
    largest = settings.batches[-1]
    found, missing = contenders(names, device, checkpoint, bundle, largest)
    prepared = Prepared(device=device, subject=subject, maps=maps, bundle=bundle, contenders=found)
    return prepared, cannot | missing


def take_turns(
    settings: EngineBenchSettings, prepared: Prepared, aside: Aside
) -> tuple[list[Row], dict[str, str]]:
    """Load everything, and measure it at each batch.

    Returns:
        the rows, and why others could not be measured.
    """
    on_gpu = prepared.device == "cuda"
    gpu_used = (lambda: aside.call(gpu_used_mib)) if on_gpu else lambda: 0.0
    with contextlib.ExitStack() as stack:
        loaded, cannot = load_all(prepared.contenders, prepared.maps, stack, gpu_used)
        if settings.served:
            try:
                if prepared.bundle is None:
                    raise EngineError("no engine is measured that a server could run")
                loaded[SERVED] = load_served(
                    prepared.bundle, list(loaded), prepared.maps, stack, gpu_used
                )
            except SceneLoomError as error:
                cannot[SERVED] = str(error)
        if EAGER in cannot:
            raise EngineError(f"the baseline, {EAGER}: {cannot[EAGER]}")
        rows: list[Row] = []
        for batch in settings.batches:
            found, failed = measure_batch(batch, loaded, settings, prepared, gpu_used)
            rows += found
            cannot |= failed
    return rows, cannot


def measure_batch(
    batch: int,
    loaded: dict[str, Loaded],
    settings: EngineBenchSettings,
    prepared: Prepared,
    gpu_used: Callable[[], float],
) -> tuple[list[Row], dict[str, str]]:
    """Measure all that take a batch; what fails is left out from then on.

    Returns:
        their rows, and why others have none.
    """
    cannot = {
        f"{one.name}, batch {batch}": f"takes at most {one.largest} pictures at once"
        for one in loaded.values()
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
    rows = []
    for name, found in taken.items():
        one = loaded[name]
        one.gpu_mib += found.grown_mib
        rows.append(
            Row(
                name=name,
                batch=batch,
                precision=one.precision,
                taken=found,
                baseline=baseline,
                parity=parity_of(baseline, found) if baseline and name != EAGER else None,
                bare=taken.get(one.bare) if one.bare else None,
                memory_mib={"peak_memory": one.peak_memory(), "gpu_memory": one.gpu_mib},
                how=one.how,
                marks=_marks(one, prepared, found.device_seconds),
            )
        )
    for found in taken.values():
        found.pictures.clear()
    return rows, cannot


def _marks(one: Loaded, prepared: Prepared, device_seconds: Sequence[Sequence[float]]) -> list[str]:
    marks = []
    left_out = {} if prepared.bundle is None else prepared.bundle.left_out
    if one.name in ENGINES and one.precision in left_out:
        marks.append(never_served(left_out[one.precision]))
    if prepared.device == "cuda" and not any(device_seconds):
        marks.append(NO_EVENTS)
    return marks


def _device(settings: EngineBenchSettings, aside: Aside) -> Device:
    seen = settings.device != "cpu" and aside.call(sees_gpu)
    if settings.device == "cuda" and not seen:
        raise EngineError("PyTorch sees no GPU on this machine")
    return "cuda" if seen else "cpu"


def _bundle(
    settings: EngineBenchSettings, names: Sequence[str], checkpoint: Path, folder: Path
) -> tuple[Bundle | None, str | None]:
    """The export, or why there is none."""
    precisions = needed_precisions(names) or (["fp32"] if settings.keep else [])
    if not precisions:
        return None, None
    repository = settings.keep or folder / "repository"
    repository.parent.mkdir(parents=True, exist_ok=True)
    say(f"exporting {', '.join(precisions)}")
    try:
        with Aside() as exporter:
            bundle = exporter.call(
                make_bundle,
                checkpoint,
                repository,
                size=settings.height_width,
                precisions=precisions,
                largest_batch=settings.batches[-1],
                refused=folder / "refused",
                only_size=PLAN in names,
            )
    except Exception as error:  # of torch or onnx, too: PyTorch is measured all the same
        return None, f"there is no bundle for it: {reason_of(error)}"
    return bundle, None


def _with_plan(settings: EngineBenchSettings, bundle: Bundle) -> tuple[Bundle, str | None]:
    """The bundle with a TensorRT plan and the engine that serves then, or why there is no plan."""
    with Aside() as builder:
        try:
            builder.call(build_plan, bundle.version, settings.height_width, settings.batches)
        except Exception as error:  # of TensorRT, too
            return bundle, reason_of(error)
        try:
            return builder.call(choose_served, bundle), None
        except SceneLoomError as error:
            say(f"{bundle.engine} serves, as before the plan: {error}")
            return bundle, None
