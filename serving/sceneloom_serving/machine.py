"""What a figure was measured on: processor, memory, versions, load. Names no host and no path."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "onnx", "onnxruntime", "openvino", "numpy", "tritonclient", "nvidia-pytriton")
_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
_ENGINE_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt")


def describe_machine() -> dict[str, Any]:
    """Processor, cores this process may use, memory in GiB, system, versions, and load now."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cpu_flags": [f for f in _flags() if f in _FLAGS],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(_kib("/proc/meminfo", "MemTotal") / 2**20),
        "gpus": _gpus(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "load_average": round(os.getloadavg()[0], 2),
    }


def engine_machine() -> dict[str, Any]:
    """What decides which engine is the fastest here: processor, cores, GPUs, and the runtimes'
    versions; equal facts, equal choice.
    """
    facts = describe_machine()
    kept = ("cpu", "cpu_flags", "cores", "gpus")
    versions = {name: _version(name) for name in _ENGINE_PACKAGES}
    return {**{key: facts[key] for key in kept}, "versions": versions}


def cache_folder() -> Path:
    """Where what was found out on this machine is kept: XDG_CACHE_HOME/sceneloom."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "sceneloom"


def peak_memory_mib(pid: int) -> int:
    """Largest resident memory of a running process so far, in MiB."""
    return _kib(f"/proc/{pid}/status", "VmHWM") // 1024


def _gpus() -> list[str]:
    """Names of the NVIDIA GPUs that the driver knows; empty without a driver."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return [_field(str(file), "Model") or "unknown" for file in files]


def _kib(path: str, name: str) -> int:
    return int((_field(path, name) or "0 kB").split()[0])


def _field(path: str, name: str) -> str | None:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _flags() -> list[str]:
    return (_field("/proc/cpuinfo", "flags") or "").split()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
