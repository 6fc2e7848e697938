"""Build, prove and record a TensorRT plan for the GPU of this machine, or a package of AOTInductor
for its GPU or CPU, which is a plan of another runtime here.

    build_engine(Path("build/repository/synthesis/1/model.onnx"), PlanSettings())

On TensorRT 10 and 11 one plan is built per form of InstanceNormalization. Each is loaded as in
serving, its pictures are compared with PyTorch's, and the fastest within the limits is kept. The
plan is renamed into its place before its record is written: without one it is never loaded.

A plan needs NumPy, TensorRT's bindings and cuda-python, and onnx for TensorRT 8.6 alone; a package
torch, onnx and g++.
"""

from __future__ import annotations

import dataclasses
import datetime
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sceneloom import __version__, progress
from sceneloom.contract import Contract
from sceneloom.errors import EngineError, ParityError, PlanRefusedError, require
from sceneloom.files import file_hash
from sceneloom_export.settings import OF_TENSORRT, PlanSettings, chosen_profiles
from sceneloom_export.tensorrt_build import build_plan, generation, norm_choices
from sceneloom_serving import bundle
from sceneloom_serving.aoti_runtime import AotiSynthesizer
from sceneloom_serving.bundle import PACKAGE_FILE, PLAN_FILE, WEIGHTS, References
from sceneloom_serving.choice import first_of_the_fastest
from sceneloom_serving.gpu import this_machine
from sceneloom_serving.parity import Parity, check_parity, run_parity
from sceneloom_serving.plan_record import Machine, PlanRecord, Profile, verified_plan, write_record
from sceneloom_serving.tensorrt_runtime import TensorRTSynthesizer

_UNPROVEN = "no reference picture of a size that the plan takes"
_BUILT_OF: tuple[str, ...] = ("graph", "builder", "precision", "profiles", "settings", "contract")
_BUILT_OF += ("version_compatible", "hardware")
"""Fields of a record that equal builds share."""
_WARM_UP = 20
_TIMED_SECONDS = 60.0  # no picture is started later: on a CPU one may take half a minute
_VARIED = 4  # maps that are timed in turn


@dataclasses.dataclass(frozen=True)
class _Job:
    graph: Path
    architecture: Any
    """As in report.json."""
    contract: Contract
    profiles: tuple[Profile, ...]
    settings: PlanSettings
    machine: Machine
    references: References


def build_engine(
    model: Path,
    settings: PlanSettings | None = None,
    *,
    plan: Path | None = None,
    unproven: bool = False,
    keep: bool = False,
    show: Callable[[str], None] = print,
) -> PlanRecord:
    """Build the fastest plan within the limits of its precision, in minutes. Returns its record.

    `model` is `model.onnx` of an export bundle, with this TensorRT's graph beside it. `plan` is the
    file to write, by default `PLAN_FILE` or `PACKAGE_FILE` beside the model. `unproven` builds
    without a reference picture of a size that the plan takes. `keep` builds nothing if the existing
    plan has the same graph and settings and may be loaded on this machine.

    Raises MissingDependencyError without TensorRT's bindings or cuda-python (a package: torch or
    onnx), EngineError without a GPU (a package: a C++ compiler), for a missing or changed file or a
    failure of the runtime, SizeError for a wrong profile, ParityError if no plan is within the
    limits.
    """
    settings = settings or PlanSettings()
    file = PACKAGE_FILE if settings.runtime == "aoti" else PLAN_FILE
    plan = plan or model.with_name(file)
    if settings.runtime == "aoti" and plan.suffix != Path(file).suffix:
        raise EngineError(f"{plan}: the name of a package of AOTInductor ends in .pt2")
    job = _prepare(model, settings, unproven, show)
    if keep and plan.is_file():
        try:
            record, _ = verified_plan(plan, job.machine)
            wanted = _describe(job, plan, record.norms)
            if all(getattr(record, name) == getattr(wanted, name) for name in _BUILT_OF):
                show(f"{plan} fits this machine and these settings: nothing to build")
                return record
            show(f"{plan} was built of another graph or with other settings: building anew")
        except PlanRefusedError as error:
            show(f"building anew: {error}")
    with tempfile.TemporaryDirectory(prefix=f".{plan.name}.", dir=plan.parent) as folder:
        built: dict[Path, PlanRecord] = {}
        failures: list[Exception] = []
        tensorrt = settings.runtime == "tensorrt"
        for norms in norm_choices(job.machine.tensorrt, settings) if tensorrt else ["native"]:
            path = Path(folder) / norms / file
            path.parent.mkdir()
            started = time.monotonic()
            try:
                built[path] = _build(job, path, norms)
            except (EngineError, ParityError) as error:
                show(f"norms {norms}: not kept: {error}")
                failures.append(error)
                continue
            seconds = time.monotonic() - started
            show(f"norms {norms}: built in {seconds:.0f} s; {built[path].summary}")
        if not built:
            raise failures[0]
        medians = {path: [float((r.latency or {})["p50_ms"])] for path, r in built.items()}
        kept = first_of_the_fastest(medians)
        kept.replace(plan)
        write_record(plan, built[kept])
    show(f"wrote {plan} and its record")
    return built[kept]


def _prepare(
    model: Path, settings: PlanSettings, unproven: bool, show: Callable[[str], None]
) -> _Job:
    if not model.is_file():
        raise EngineError(f"{model}: no such file; name model.onnx of an export bundle")
    if len(model.resolve().parents) < 3:
        raise EngineError(f"{model}: lies in no export bundle; name DIR/synthesis/1/model.onnx")
    folder = model.resolve().parents[2]
    report_file, report = folder / bundle.REPORT_FILE, bundle.read_report(folder)
    contract = Contract.from_json(report.get("contract"), source=str(report_file))
    references = bundle.load_references(folder)
    profiles = chosen_profiles(settings, contract, references.sizes[-1])
    if settings.runtime == "aoti":
        from sceneloom_export.aoti_build import build_machine

        machine, half = build_machine(settings.device), False
    else:
        machine = this_machine(settings.device)
        eight = generation(machine.tensorrt) == 8
        if eight:
            require(["onnx"], extra="export", purpose="writing the graph for TensorRT 8.6")
            if settings.hardware == "same-capability":
                raise EngineError(
                    "TensorRT 8.6 cannot build for one compute capability: use ampere+"
                )
            if settings.precision == "fp8":
                raise EngineError("TensorRT 8.6 has no FP8: use fp16, or TensorRT 10 or newer")
        capable = tuple(map(int, machine.compute_capability.split("."))) >= (8, 9)
        if settings.precision == "fp8" and not capable:
            raise EngineError(
                f"{machine.gpu} (compute capability {machine.compute_capability}) has no FP8, "
                "which begins with 8.9: use fp16"
            )
        half = settings.precision == "fp16" and not eight
    own = {"fp8": bundle.FP8_FILE}.get(settings.precision, bundle.GRAPH_FILE)
    graph = model.with_name(bundle.FP16_FILE if half else own)
    if not graph.is_file():
        raise EngineError(
            f"{graph}: is missing, and {_runtime(machine)} builds {settings.precision} from it: "
            f"sceneloom export CHECKPOINT --repository {folder}"
            f"{' --precision exact' if half else ''}"
            f"{' --precision exact fp8' if settings.precision == 'fp8' else ''}"
        )
    for path in (graph, graph.with_name(WEIGHTS[graph.name])):
        expected = report.get("sha256", {}).get(path.resolve().relative_to(folder).as_posix())
        if path.is_file() and expected is not None and file_hash(path) != expected:
            raise EngineError(f"{path}: is not the file that {report_file} names; export again")
    where = machine.gpu or "the CPU"
    show(f"{_runtime(machine)} on {where}, from {graph.name}: {settings.precision}")
    fits = [any(p.takes(p.batch[0], *size) for p in profiles) for size in references.sizes]
    references = References(
        requests=[r for r, fit in zip(references.requests, fits, strict=True) if fit],
        pictures=[p for p, fit in zip(references.pictures, fits, strict=True) if fit],
    )
    if not references.requests and not unproven:
        raise EngineError(
            f"{folder}: has no reference picture of a size that {', '.join(map(str, profiles))} "
            "takes: export with --sizes or --largest of that size, or build with --unproven"
        )
    architecture = report.get("architecture")
    return _Job(graph, architecture, contract, profiles, settings, machine, references)


def _runtime(machine: Machine) -> str:
    return f"PyTorch {machine.torch}" if machine.torch else f"TensorRT {machine.tensorrt}"


def _build(job: _Job, path: Path, norms: str) -> PlanRecord:
    """Build a plan, then load, prove and time it as in serving."""
    graph = job.graph
    if norms == "group":
        from sceneloom_export.norms import write_group_norms

        graph, weights = path.with_name("group_norms.onnx"), WEIGHTS[graph.name]
        write_group_norms(job.graph, graph)
        if job.graph.with_name(weights).is_file():  # small graphs hold their own
            shutil.copyfile(job.graph.with_name(weights), graph.with_name(weights))
    with progress.stage(f"build the plan, norms {norms}"):
        if job.settings.runtime == "aoti":
            from sceneloom_export.aoti_build import build_package

            build_package(
                graph, job.architecture, job.contract, job.profiles[0], job.settings, path
            )
        else:
            path.write_bytes(build_plan(graph, job.contract, job.profiles, job.settings, norms))
    record = _describe(job, path, norms)
    write_record(path, record)
    parity: Parity | None = None
    opened = AotiSynthesizer if job.settings.runtime == "aoti" else TensorRTSynthesizer
    with opened(path, device=job.settings.device) as engine:
        if job.references.requests:
            with progress.stage("prove the plan"):
                parity = run_parity(job.references.pictures, engine, job.references.requests)
            check_parity(parity, job.settings.precision, _runtime(job.machine))
        with progress.stage(f"time up to {job.settings.timed_runs} pictures"):
            latency = _time(engine, job.profiles[0], job.settings.timed_runs)
    return dataclasses.replace(
        record,
        parity=None if parity is None else parity.to_json(),
        parity_missing=None if parity else _UNPROVEN,
        latency=latency,
    )


def _describe(job: _Job, plan: Path, norms: str) -> PlanRecord:
    """The record of a plan before its proof."""
    weights = job.graph.with_name(WEIGHTS[job.graph.name])
    settings = dataclasses.asdict(job.settings)
    aoti = settings["runtime"] == "aoti"
    own = {"runtime", "precision", "profiles", "norms", "version_compatible", "hardware"}
    own |= {"timing_cache", *(OF_TENSORRT if aoti else ())}
    return PlanRecord(
        plan_sha256=file_hash(plan),
        graph={
            "file": job.graph.name,
            "sha256": file_hash(job.graph),
            "weights": weights.name,
            "weights_sha256": file_hash(weights) if weights.is_file() else None,
        },
        machine=job.machine,
        builder="aoti" if aoti else "python",
        precision=job.settings.precision,
        norms=norms,
        profiles=job.profiles,
        version_compatible=job.settings.version_compatible,
        hardware=job.settings.hardware,
        settings={name: value for name, value in settings.items() if name not in own},
        parity=None,
        parity_missing="not measured yet",
        latency=None,
        contract=job.contract,
        sceneloom=__version__,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def _time(
    engine: TensorRTSynthesizer | AotiSynthesizer, profile: Profile, count: int
) -> dict[str, Any]:
    """Time uploads, computation and downloads at the profile's tuned point, in turn on maps of
    16x16 blocks with random labels and instances, for at most a minute; the record's latency.
    """
    labels, *others = profile.shapes(engine.contract, "tuned").values()
    batch, height, width = labels[:3]
    schema = engine.contract.schema
    channels = 256 if schema is None else schema.channels
    rng = np.random.default_rng(0)
    inputs: list[tuple[Any, Any, Any]] = []
    for _ in range(_VARIED):
        blocks = rng.integers(0, channels, (batch, -(-height // 16), -(-width // 16)))
        ids = blocks.repeat(16, 1).repeat(16, 2)[:, :height, :width]
        styles = rng.normal(0, 0.5, others[1]).astype(np.float32) if len(others) > 1 else None
        instances = (ids * 7 % 251).astype(np.int32) if others else None
        main = ids.astype(np.uint8)
        inputs.append((main if schema else main[..., None].repeat(3, -1), instances, styles))
    warm_up, measured, copying = list[float](), list[float](), list[float]()
    for most, times in ((_WARM_UP, warm_up), (count, measured)):
        until = time.perf_counter() + _TIMED_SECONDS * most / (_WARM_UP + count)
        while len(times) < most and (not times or time.perf_counter() < until):
            started = time.perf_counter()
            engine.run_batch(*inputs[len(times) % _VARIED])
            times.append((time.perf_counter() - started) * 1e3)
            if times is measured and isinstance(engine, TensorRTSynthesizer):
                copying.append(engine.copy_seconds * 1e3)
    copies = {"host_copies_p50_ms": round(float(np.percentile(copying, 50)), 4)} if copying else {}
    includes = ["upload", "inference", "download"]
    if not engine.record.machine.gpu:
        includes = ["inference"]
    elif copying:
        includes = ["copies in host memory", *includes]
    return {
        "p50_ms": round(float(np.percentile(measured, 50)), 4),
        "p99_ms": round(float(np.percentile(measured, 99)), 4),
        "count": len(measured),
        "batch": profile.batch[1],
        "size": [profile.height[1], profile.width[1]],
        "cuda_graph": isinstance(engine, TensorRTSynthesizer) and engine.captured,
        "measured_by": "run_batch",
        "includes": includes,
        **copies,
    }
