"""Environment of a benchmark: machine and versions; before and after it load, clocks and GPUs."""

from __future__ import annotations

import importlib.metadata
import os
import time
from pathlib import Path
from types import TracebackType
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
BUSY_SHARE = 0.1
"""A run is marked if others use more than this share of the machine's cores, or of a GPU's time, at
its start.
"""


class Environment:
    """Watches a run; use it as a context manager around everything that is measured.

    with Environment() as environment:
        ...
    Report(environment=environment.to_json(), marks=environment.marks(), ...)
    """

    def __enter__(self) -> Self:
        """Look at the machine before anything runs: takes a second."""
        self._machine = describe_machine()
        self._busy = psutil.cpu_percent(interval=1) / 100
        self._before: dict[str, Any] = {
            "load_average": self._machine.pop("load_average"),
            "clocks_mhz": clocks_mhz(),
            "gpus": gpu_details(),
        }
        self._start = time.monotonic()
        self._after: dict[str, Any] = {}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Look at it again."""
        gpus = gpu_details()  # first: their clocks fall
        self._after = {
            "load_average": round(os.getloadavg()[0], 2),
            "clocks_mhz": clocks_mhz(),
            "gpus": gpus,
        }
        self._seconds = time.monotonic() - self._start

    def to_json(self) -> dict[str, Any]:
        """For `Report.environment`."""
        versions = {**self._machine["versions"], **{name: _version(name) for name in _PACKAGES}}
        return {
            **self._machine,
            "versions": {name: version for name, version in versions.items() if version},
            "gpu_details": self._before["gpus"],
            "governor": governor(),
            "busy_before": round(self._busy, 3),
            "before": self._before,
            "after": self._after,
            "seconds": round(self._seconds, 1),
        }

    def marks(self) -> list[str]:
        """A sentence for the machine and for each GPU that was not idle before the run."""
        marks = []
        if self._busy > BUSY_SHARE:
            marks.append(
                f"not a quiet machine: {self._busy:.0%} of its cores were used before the run"
            )
        for number, gpu in enumerate(self._before["gpus"]):
            used = _percent(gpu.get("utilization.gpu", ""))
            if used > 100 * BUSY_SHARE:
                marks.append(
                    f"not a quiet GPU: {gpu.get('name', 'GPU')} (number {number}) was at work for "
                    f"{used:.0f}% of the time before the run"
                )
        return marks


def governor() -> str | None:
    """The clock governor of the first core; None where the system does not say it."""
    file = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return file.read_text().strip() if file.is_file() else None


def clocks_mhz() -> list[float]:
    """The clock of each core now, in MHz; empty where the system does not say it."""
    return [round(clock.current) for clock in psutil.cpu_freq(percpu=True) or []]


def gpu_details() -> list[dict[str, str]]:
    """Name, driver, clocks, power limit, temperature and use of each NVIDIA GPU, as nvidia-smi says
    now; empty without one.
    """
    import shutil
    import subprocess

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


def _percent(text: str) -> float:
    """Of ``37 %``; 0 where it is not said, as on a GPU that is divided."""
    number = text.removesuffix("%").strip()
    return float(number) if number.isdecimal() else 0.0


def hardware_name() -> str:
    """Name of a folder of results: the GPU, else cores and CPU, as ``nvidia-h100`` or
    ``2-cores-amd-epyc``.
    """
    machine = describe_machine()
    gpus = [gpu["name"] for gpu in gpu_details()] or machine["gpus"]
    said = gpus[0] if gpus else f"{machine['cores']} cores {machine['cpu']}"
    kept = "".join(c if c.isalnum() else "-" for c in said.lower())
    return "-".join(part for part in kept.split("-") if part)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
