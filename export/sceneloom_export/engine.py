"""Build, prove and record a TensorRT plan for the GPU of this machine.

    build_engine(Path("build/repository/synthesis/1/model.onnx"), EngineSettings())

On TensorRT 10 and 11 one plan is built per way to do InstanceNormalization; each is loaded as it
will be served, its pictures are compared with PyTorch's, and the fastest that keeps the limits is
kept. The plan is renamed into its place, then its record is written: a plan without a matching
record is never loaded.

Needs NumPy, tensorrt and cuda-python: no torch, no onnx. `sceneloom engine` is the same with flags.
"""

from __future__ import annotations

import dataclasses
import datetime
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sceneloom.contract import Contract
from sceneloom.errors import (
    EngineError,
    MissingDependencyError,
    ParityError,
    PlanRefusedError,
)
from sceneloom.files import file_hash
from sceneloom.text import parse_json
from sceneloom.version import __version__
from sceneloom_export.engine_timing import time_engine
from sceneloom_export.tensorrt_build import build_plan, generation, norm_choices
from sceneloom_export.tensorrt_settings import (
    FP16_GRAPH,
    GRAPH,
    GROUP_NORMS,
    WEIGHTS,
    EngineSettings,
    chosen_profiles,
)
from sceneloom_export.trtexec_build import (
    find_trtexec,
    run_trtexec,
    trtexec_line,
    trtexec_version,
)
from sceneloom_serving.gpu_machine import has_python_module, machine_without_python, this_machine
from sceneloom_serving.parity import Parity, check_parity, run_parity
from sceneloom_serving.plan_record import (
    PLAN_FILE,
    Machine,
    PlanRecord,
    verified_plan,
    write_record,
)
from sceneloom_serving.profiles import Profile
from sceneloom_serving.ranking import first_of_the_fastest
from sceneloom_serving.references import References, load_references
from sceneloom_serving.tensorrt_runtime import TensorRTSynthesizer

_REPORT = "report.json"
_BY_TRTEXEC = (
    "built by trtexec, which cannot compare pictures: sceneloom probe measures it through the "
    "server that serves it"
)
Show = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    """What is to be built, once everything has been checked that can be before the work."""

    graph: Path
    contract: Contract
    profiles: tuple[Profile, ...]
    settings: EngineSettings
    machine: Machine
    trtexec: str | None
    references: References


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A plan that was built, proven and timed, beside its place."""

    path: Path
    record: PlanRecord

    @property
    def median(self) -> float:
        assert self.record.latency is not None
        return float(self.record.latency["p50_ms"])


def build_engine(
    model: Path,
    settings: EngineSettings | None = None,
    *,
    plan: Path | None = None,
    unproven: bool = False,
    keep: bool = False,
    show: Show = print,
) -> PlanRecord:
    """Build the fastest plan that keeps the limits of its precision; minutes.

    Args:
        model: `model.onnx` of an export bundle; the graph that this TensorRT needs is taken from
            beside it.
        settings: precision, profiles and the builder's.
        plan: the file to write, with its record beside it; None is `PLAN_FILE` beside the model.
        unproven: build although no reference picture has a size that the plan takes.
        keep: build nothing where the plan that is there was built of the same graph with the same
            settings and may be loaded on this machine.
        show: told what happens, a line at a time.

    Returns:
        the record of the plan that was kept.

    Raises:
        MissingDependencyError: neither TensorRT's Python module nor trtexec is installed.
        EngineError: there is no GPU, a file is missing or changed, or TensorRT fails.
        SizeError: the model does not take a profile's size.
        ParityError: no plan keeps the limits; none was kept.
    """
    settings = settings or EngineSettings()
    if not model.name:
        raise EngineError(f"{model}: is a folder; name model.onnx of an export bundle")
    plan = plan or model.with_name(PLAN_FILE)
    job = _prepare(model, settings, unproven, show)
    if keep and plan.is_file():
        try:
            record, _ = verified_plan(plan, job.machine)
            if _same_build(record, _describe(job, plan, record.norms)):
                show(f"{plan} fits this machine and these settings: nothing to build")
                return record
            show(f"{plan} was built of another graph or with other settings: building anew")
        except PlanRefusedError as error:
            show(f"building anew: {error}")
    with tempfile.TemporaryDirectory(prefix=f".{plan.name}.", dir=plan.parent) as folder:
        kept = _fastest(job, Path(folder), show)
        kept.path.replace(plan)
        write_record(plan, kept.record)
    show(f"wrote {plan} and its record")
    return kept.record


def _prepare(model: Path, settings: EngineSettings, unproven: bool, show: Show) -> _Job:
    if not model.is_file():
        raise EngineError(f"{model}: there is no such file; name model.onnx of an export bundle")
    if len(model.resolve().parents) < 3:
        raise EngineError(f"{model}: lies in no export bundle; name DIR/synthesis/1/model.onnx")
    bundle = model.resolve().parents[2]
    report, contract = _read_report(bundle)
    references = load_references(bundle)
    profiles = chosen_profiles(settings, contract, references.sizes[-1])
    trtexec = _builder()
    if trtexec is None:
        machine = this_machine(settings.device)
    else:
        machine = machine_without_python(trtexec_version(trtexec), settings.device)
    _check_generation(machine.tensorrt, settings, profiles, by_trtexec=trtexec is not None)
    graph = _graph(model, machine.tensorrt, settings.precision)
    _check_hashes(report, bundle, graph)
    show(f"TensorRT {machine.tensorrt} on {machine.gpu}, from {graph.name}: {settings.precision}")
    references = _fitting(references, profiles)
    if trtexec is None and not references.requests and not unproven:
        raise EngineError(
            f"{bundle}: has no reference picture of a size that {', '.join(map(str, profiles))} "
            "takes: export with --sizes or --largest of that size, or build with --unproven"
        )
    return _Job(
        graph=graph,
        contract=contract,
        profiles=profiles,
        settings=settings,
        machine=machine,
        trtexec=trtexec,
        references=references,
    )


def _read_report(bundle: Path) -> tuple[dict[str, Any], Contract]:
    path = bundle / _REPORT
    try:
        report = parse_json(path.read_text("utf-8"))
        contract = report["contract"]
    except FileNotFoundError:
        raise EngineError(
            f"{bundle}: no {_REPORT}; name model.onnx inside a folder that sceneloom export wrote"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{path}: not the report of an export bundle ({error})") from None
    return report, Contract.from_json(contract, source=str(path))


def _builder() -> str | None:
    """The trtexec to build with, or None for TensorRT's Python module, which is preferred."""
    if has_python_module():
        return None
    tool = find_trtexec()
    if tool is None:
        raise MissingDependencyError(
            "building a TensorRT plan needs tensorrt and cuda-python (pip install "
            "'sceneloom[gpu]'), or trtexec on the PATH; neither is here"
        )
    return tool


def _check_generation(
    version: str, settings: EngineSettings, profiles: tuple[Profile, ...], *, by_trtexec: bool
) -> None:
    """What this TensorRT lacks is said before the work."""
    if generation(version) != 8:
        return
    if settings.hardware == "same-capability":
        raise EngineError("TensorRT 8.6 builds no plans for one compute capability: use ampere+")
    if by_trtexec and len(profiles) > 1:
        raise EngineError(
            "trtexec of TensorRT 8.6 builds one profile only; its module takes several"
        )


def _graph(model: Path, version: str, precision: str) -> Path:
    """The graph beside the model that this TensorRT needs."""
    if generation(version) == 8:
        name, flag = GROUP_NORMS, ""
    else:
        name, flag = (FP16_GRAPH, " --precision exact") if precision == "fp16" else (GRAPH, "")
    graph = model.with_name(name)
    if not graph.is_file():
        raise EngineError(
            f"{graph}: is missing, and TensorRT {version} builds {precision} from it: sceneloom "
            f"export CHECKPOINT --repository {model.resolve().parents[2]}{flag}"
        )
    return graph


def _check_hashes(report: dict[str, Any], bundle: Path, graph: Path) -> None:
    """The graph and its weights must be those that the export proved."""
    hashes = report.get("sha256", {})
    for path in (graph, graph.with_name(WEIGHTS[graph.name])):
        expected = hashes.get(path.resolve().relative_to(bundle).as_posix())
        if path.is_file() and expected is not None and file_hash(path) != expected:
            raise EngineError(
                f"{path}: is not the file that {bundle / _REPORT} names; export again"
            )


def _fitting(references: References, profiles: tuple[Profile, ...]) -> References:
    """Those references whose size a profile takes."""
    fits = [any(p.takes(p.batch[0], *size) for p in profiles) for size in references.sizes]
    return References(
        requests=[r for r, fit in zip(references.requests, fits, strict=True) if fit],
        pictures=[p for p, fit in zip(references.pictures, fits, strict=True) if fit],
    )


def _same_build(one: PlanRecord, other: PlanRecord) -> bool:
    same = ("graph", "builder", "precision", "profiles", "version_compatible", "hardware")
    told = ("settings", "contract")
    return all(getattr(one, name) == getattr(other, name) for name in same + told)


def _fastest(job: _Job, folder: Path, show: Show) -> _Candidate:
    """Build every choice of norms; the fastest that passes, of equally fast ones the first.

    Raises:
        EngineError, ParityError: none passes; the first one's reason.
    """
    candidates: list[_Candidate] = []
    failures: list[Exception] = []
    for norms in norm_choices(job.machine.tensorrt, job.settings):
        path = folder / norms / PLAN_FILE
        path.parent.mkdir()
        started = time.monotonic()
        try:
            record = _by_trtexec(job, path, norms) if job.trtexec else _by_python(job, path, norms)
        except (EngineError, ParityError) as error:
            show(f"norms {norms}: not kept: {error}")
            failures.append(error)
            continue
        candidates.append(_Candidate(path=path, record=record))
        show(f"norms {norms}: built in {time.monotonic() - started:.0f} s; {_figures(record)}")
    if not candidates:
        raise failures[0]
    return candidates[first_of_the_fastest({n: [c.median] for n, c in enumerate(candidates)})]


def _by_python(job: _Job, path: Path, norms: str) -> PlanRecord:
    """Build with the module, then load, prove and time the plan as it will be served."""
    blob = build_plan(job.graph, job.contract, job.profiles, job.settings, norms)
    path.write_bytes(blob)
    record = _describe(job, path, norms)
    write_record(path, record)
    with TensorRTSynthesizer(path, device=job.settings.device) as engine:
        parity = _parity(engine, job) if job.references.requests else None
        latency = time_engine(engine, job.profiles[0], job.settings.timed_runs)
    return dataclasses.replace(
        record,
        parity=None if parity is None else parity.to_json(),
        parity_missing=None if parity else "no reference picture of a size that the plan takes",
        latency=latency,
    )


def _by_trtexec(job: _Job, path: Path, norms: str) -> PlanRecord:
    assert job.trtexec is not None
    version = job.machine.tensorrt
    latency = run_trtexec(
        trtexec_line(
            job.trtexec, version, job.graph, path, job.contract, job.profiles, job.settings, norms
        )
    )
    record = _describe(job, path, norms)
    return dataclasses.replace(record, parity_missing=_BY_TRTEXEC, latency=latency.to_json())


def _parity(engine: TensorRTSynthesizer, job: _Job) -> Parity:
    parity = run_parity(job.references.pictures, engine, job.references.requests)
    check_parity(parity, job.settings.precision, f"TensorRT {job.machine.tensorrt}")
    return parity


def _describe(job: _Job, plan: Path, norms: str) -> PlanRecord:
    """The record of a plan that has not been proven yet."""
    weights = job.graph.with_name(WEIGHTS[job.graph.name])
    settings = dataclasses.asdict(job.settings)
    known = ("precision", "profiles", "norms", "version_compatible", "hardware", "timing_cache")
    return PlanRecord(
        plan_sha256=file_hash(plan),
        graph={
            "file": job.graph.name,
            "sha256": file_hash(job.graph),
            "weights": weights.name,
            "weights_sha256": file_hash(weights) if weights.is_file() else None,
        },
        machine=job.machine,
        builder="trtexec" if job.trtexec else "python",
        precision=job.settings.precision,
        norms=norms,
        profiles=job.profiles,
        version_compatible=job.settings.version_compatible,
        hardware=job.settings.hardware,
        settings={name: value for name, value in settings.items() if name not in known},
        parity=None,
        parity_missing="not measured yet",
        latency=None,
        contract=job.contract,
        sceneloom=__version__,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def _figures(record: PlanRecord) -> str:
    latency = record.latency or {}
    speed = f"p50 {latency.get('p50_ms')} ms, p99 {latency.get('p99_ms')} ms"
    if record.parity is None:
        return f"{speed}; parity not measured: {record.parity_missing}"
    parity = record.parity
    return (
        f"{speed}; parity with PyTorch: max {parity['max']}, 99.9th percentile "
        f"{parity['p999']:g}, PSNR {parity['psnr'] or float('inf'):.1f} dB"
    )
