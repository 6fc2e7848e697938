"""The engines of an export, a row of `ENGINES` each, and their machine (docs/runtimes.md)."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sceneloom.errors import EngineError, PlanRefusedError, SceneLoomError, require
from sceneloom.synthesizer import Synthesizer
from sceneloom_serving.aoti_runtime import AotiSynthesizer
from sceneloom_serving.bundle import (
    CPU_FILE,
    FP16_FILE,
    GRAPH_FILE,
    INT8_FILE,
    PACKAGE_FILE,
    PLAN_FILE,
)
from sceneloom_serving.gpu import driver_version, load_cuda, this_machine
from sceneloom_serving.onnx_runtime import OnnxRuntimeSynthesizer, Provider, check_provider
from sceneloom_serving.openvino_runtime import OpenVinoSynthesizer, computes_bfloat16
from sceneloom_serving.parity import Precision
from sceneloom_serving.plan_record import read_record
from sceneloom_serving.tensorrt_runtime import TensorRTSynthesizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """A way to run an exported model."""

    name: str
    """RUNTIME-PRECISION."""
    precision: Precision
    """Its pictures must keep the limits of this precision."""
    file: str
    make_file: str
    packages: tuple[str, ...]
    """Packages of its runtime: another version of one is measured anew."""
    gpu: bool
    check: Callable[[], object]
    """Raises a SceneLoomError if this machine cannot run it."""
    open: Callable[[Path, int], Synthesizer]
    """File and largest batch -> the running engine."""


def _onnx_runtime(precision: Precision, file: str, provider: Provider) -> EngineSpec:
    where = "" if provider == "cpu" else f"-{provider}"

    def check() -> None:
        check_provider(provider)
        if provider != "cpu":
            require(["cuda"], extra="gpu", purpose="looking for a GPU")
            status, count = load_cuda().cudaGetDeviceCount()
            if int(status) != 0 or not count:
                raise EngineError("this machine has no NVIDIA GPU that CUDA can use")

    return EngineSpec(
        name=f"onnxruntime{where}-{precision}",
        precision=precision,
        file=file,
        make_file="sceneloom export --precision exact",
        packages=("onnxruntime", "onnxruntime-gpu"),
        gpu=provider != "cpu",
        check=check,
        open=lambda path, n: OnnxRuntimeSynthesizer(path, provider=provider, max_batch_size=n),
    )


def _openvino(precision: Precision, file: str) -> EngineSpec:
    def check() -> None:
        require(["openvino"], extra="serve", purpose="running a model with OpenVINO")
        if precision == "bf16" and not computes_bfloat16():
            raise EngineError("this CPU computes no bfloat16 (it has neither AVX-512 BF16 nor AMX)")

    return EngineSpec(
        name=f"openvino-{precision}",
        precision=precision,
        file=file,
        make_file=f"sceneloom export --precision {'exact' if precision == 'fp32' else 'fast'}",
        packages=("openvino",),
        gpu=False,
        check=check,
        open=lambda path, n: OpenVinoSynthesizer(path, precision=precision, max_batch_size=n),
    )


def _aoti(precision: Precision, *, gpu: bool) -> EngineSpec:
    def check() -> None:
        require(["torch"], extra="export", purpose="running a package of AOTInductor")
        if gpu and not driver_version():
            raise EngineError("this machine has no driver for an NVIDIA GPU")

    return EngineSpec(
        name=f"aoti{'-cuda' if gpu else ''}-{precision}",
        precision=precision,
        file=PACKAGE_FILE,
        make_file="sceneloom engine --runtime aoti",
        packages=("torch",),
        gpu=gpu,
        check=check,
        open=lambda path, batch: AotiSynthesizer(path),
    )


def _tensorrt(precision: Precision) -> EngineSpec:
    return EngineSpec(
        name=f"tensorrt-{precision}",
        precision=precision,
        file=PLAN_FILE,
        make_file="sceneloom engine" + (" --precision fp8" if precision == "fp8" else ""),
        packages=("tensorrt",),
        gpu=True,
        check=this_machine,
        open=lambda path, batch: TensorRTSynthesizer(path),
    )


ENGINES = {
    engine.name: engine
    for engine in (
        _onnx_runtime("fp32", CPU_FILE, "cpu"),
        _aoti("fp16", gpu=False),
        _aoti("fp32", gpu=False),
        _openvino("fp32", CPU_FILE),
        _openvino("bf16", CPU_FILE),
        _openvino("int8", INT8_FILE),
        _onnx_runtime("fp32", GRAPH_FILE, "cuda"),
        _onnx_runtime("fp16", FP16_FILE, "cuda"),
        _aoti("fp32", gpu=True),
        _aoti("fp16", gpu=True),
        _tensorrt("fp8"),
        _tensorrt("fp16"),
    )
}
"""Name -> engine, the plainest first."""


def unavailable(engine: EngineSpec, version: Path | None = None) -> str | None:
    """Reason why an engine cannot run here, or not this version's folder, or None."""
    try:
        engine.check()
    except SceneLoomError as error:
        return str(error)
    if version is not None and not (version / engine.file).is_file():
        return f"the bundle has no {engine.file}: {engine.make_file}"
    if version is not None and engine.file in (PLAN_FILE, PACKAGE_FILE):
        try:
            built = read_record(version / engine.file)
        except PlanRefusedError:
            return None  # opening it gives the reason
        if built.precision != engine.precision:
            return f"{engine.file} is of {built.precision}, not of {engine.precision}"
        if engine.gpu != bool(built.machine.gpu):
            return f"{engine.file} is for {built.machine.gpu or 'the CPU'}"
    return None


def get_engine(name: str) -> EngineSpec:
    """The engine of a name; raises EngineError without one."""
    if name not in ENGINES:
        raise EngineError(f"no engine {name!r}; choose one of {', '.join(ENGINES)}")
    return ENGINES[name]


def open_engine(name: str, version: Path, *, max_batch_size: int = 1) -> Synthesizer:
    """Load an engine from a version's folder of a bundle; raises EngineError if it cannot run."""
    engine = get_engine(name)
    reason = unavailable(engine, version)
    if reason is not None:
        raise EngineError(f"{name}: {reason}")
    return engine.open(version / engine.file, max_batch_size)


_PACKAGES = ("torch", "onnx", "numpy", "tritonclient", "nvidia-pytriton")
_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def describe_machine() -> dict[str, Any]:
    """Processor, memory, GPUs, system, versions and load, without names of hosts or paths."""
    gpus = Path("/proc/driver/nvidia/gpus").glob("*/information")
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cpu_flags": [f for f in (_field("/proc/cpuinfo", "flags") or "").split() if f in _FLAGS],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(_kib("/proc/meminfo", "MemTotal") / 2**20),
        "gpus": [_field(str(file), "Model") or "unknown" for file in sorted(gpus)],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: package_version(name) for name in _PACKAGES} | runtime_versions(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def runtime_versions(engines: Mapping[str, EngineSpec] = ENGINES) -> dict[str, str | None]:
    """Versions of the engines' packages; None for a missing package."""
    names = sorted({name for engine in engines.values() for name in engine.packages})
    return {name: package_version(name) for name in names}


def engine_facts(engines: Mapping[str, EngineSpec] = ENGINES) -> dict[str, Any]:
    """Processor, cores, GPUs and versions of runtimes: equal facts give an equal choice."""
    machine = describe_machine()
    kept = {key: machine[key] for key in ("cpu", "cpu_flags", "cores", "gpus")}
    return {**kept, "versions": runtime_versions(engines)}


def cache_folder() -> Path:
    """Folder of measurements of this machine: XDG_CACHE_HOME/sceneloom."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "sceneloom"


def peak_memory_mib(pid: int) -> int:
    """Largest resident memory of a process so far, MiB."""
    return _kib(f"/proc/{pid}/status", "VmHWM") // 1024


def _kib(path: str, name: str) -> int:
    return int((_field(path, name) or "0 kB").split()[0])


def _field(path: str, name: str) -> str | None:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def package_version(package: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
