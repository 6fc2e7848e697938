"""Environment of a benchmark: machine and versions; load, clocks and GPUs before and after it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
from typing_extensions import Self

from sceneloom_serving.engines import describe_machine

_PACKAGES = (
    "sceneloom",
    "tensorrt",
    "onnxruntime-gpu",
    "mlcommons-loadgen",
    "hdrhistogram",
    "grpcio",
)
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
BUSY_SHARE = 0.1
"""A run is marked if other processes use more of the cores, or of a GPU's time, at its start."""


class Environment:
    """Watch a run; a context manager around everything that is measured.

    with Environment() as environment:
        ...
    Report(environment=environment.to_json(), marks=environment.marks(), ...)
    """

    def __enter__(self) -> Self:
        """Read the machine's state; takes a second."""
        self._machine = describe_machine()
        self._busy = psutil.cpu_percent(interval=1) / 100
        self._before = _moment() | {"load_average": self._machine.pop("load_average")}
        self._start = time.monotonic()
        self._end: tuple[dict[str, Any], float] | None = None
        return self

    def __exit__(self, *_: object) -> None:
        self._end = self._now()

    def _now(self) -> tuple[dict[str, Any], float]:
        return _moment(), time.monotonic() - self._start

    def to_json(self) -> dict[str, Any]:
        """`Report.environment`, so far or of the whole run."""
        after, seconds = self._end or self._now()
        versions = dict(self._machine["versions"])
        for name in _PACKAGES:
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return {
            **self._machine,
            "versions": {name: version for name, version in versions.items() if version},
            "gpu_details": self._before["gpus"],
            "governor": _GOVERNOR.read_text().strip() if _GOVERNOR.is_file() else None,
            "busy_before": round(self._busy, 3),
            "before": self._before,
            "after": after,
            "seconds": round(seconds, 1),
        }

    def marks(self) -> list[str]:
        """A sentence for the machine and for each GPU that was busy before the run."""
        marks = []
        if self._busy > BUSY_SHARE:
            marks.append(
                f"not a quiet machine: {self._busy:.0%} of its cores were used before the run"
            )
        for number, gpu in enumerate(self._before["gpus"]):
            said = gpu.get("utilization.gpu", "").removesuffix("%").strip()
            used = int(said) if said.isdecimal() else 0  # a divided GPU gives no number
            if used > 100 * BUSY_SHARE:
                marks.append(
                    f"not a quiet GPU: {gpu.get('name', 'GPU')} (number {number}) was at work for "
                    f"{used}% of the time before the run"
                )
        return marks


def _moment() -> dict[str, Any]:
    gpus = gpu_details()  # first: their clocks fall
    return {
        "load_average": round(os.getloadavg()[0], 2),
        "clocks_mhz": [round(clock.current) for clock in psutil.cpu_freq(percpu=True) or []],
        "gpus": gpus,
    }


def gpu_details() -> list[dict[str, str]]:
    """Fields of each NVIDIA GPU now, under nvidia-smi's own names; empty without one."""
    if shutil.which("nvidia-smi") is None:
        return []
    fields = (
        *("name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit"),
        *("temperature.gpu", "memory.total", "persistence_mode", "mig.mode.current"),
        "utilization.gpu",
    )
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = done.stdout.splitlines() if done.returncode == 0 else []
    return [dict(zip(fields, map(str.strip, row.split(",")), strict=False)) for row in rows]


def hardware_name() -> str:
    """Folder name of results: ``nvidia-h100``, or ``2-cores-amd-epyc`` without a GPU."""
    machine = describe_machine()
    gpus = [gpu["name"] for gpu in gpu_details()] or machine["gpus"]
    said = gpus[0] if gpus else f"{machine['cores']} cores {machine['cpu']}"
    kept = "".join(c if c.isalnum() else "-" for c in said.lower())
    return "-".join(part for part in kept.split("-") if part)
