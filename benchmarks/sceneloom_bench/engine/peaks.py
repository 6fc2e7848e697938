"""What this machine can do: a large matrix product, and a copy of memory, both by PyTorch with all
the threads that engines may use.

The copy is STREAM's: arrays far larger than the caches, and the bytes that are read and the bytes
that are written both counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from sceneloom_bench.reports.report import Figure, Measurement
from sceneloom_bench.reports.statistics import median_figure
from sceneloom_serving.onnx_runtime import usable_cpus

if TYPE_CHECKING:
    import torch

Device = Literal["cpu", "cuda"]
PRODUCT = "matrix product"
COPY = "memory copy"
RUNS = 7
"""Of each; medians of seven have an interval."""


def measure_peaks(
    device: Device, *, side: int | None = None, copied_mib: int | None = None
) -> dict[str, list[float]]:
    """Measure products in float32 (TF32 off), on a GPU also in float16, and the copy.

    Args:
        device: where.
        side: of the square matrices; None takes what keeps the device busy for a while.
        copied_mib: size of the array that is copied; None takes one far above the caches.

    Returns:
        name -> FLOP per second of each run, and bytes per second of each copy.
    """
    import torch

    cpus = usable_cpus()
    torch.set_num_threads(cpus)
    torch.backends.cuda.matmul.allow_tf32 = False
    side = side or (
        8192 if device == "cuda" else 1024 if cpus == 1 else 2048 if cpus <= 4 else 4096
    )
    mib = copied_mib or {"cpu": 512, "cuda": 2048}[device]
    dtypes = {"float32": torch.float32}
    if device == "cuda":
        dtypes["float16"] = torch.float16
    found = {f"{PRODUCT} {name}": _products(device, dtypes[name], side) for name in dtypes}
    found[COPY] = _copies(device, mib)
    if device == "cuda":
        torch.cuda.empty_cache()  # engines need the memory
    return found


def _products(device: Device, dtype: torch.dtype, side: int) -> list[float]:
    import torch

    a = torch.randn(side, side, device=device, dtype=dtype)
    b, out = torch.randn_like(a), torch.empty_like(a)
    return [2 * side**3 / one for one in _timed(lambda: torch.mm(a, b, out=out), device)]


def _copies(device: Device, mib: int) -> list[float]:
    import torch

    source = torch.ones(mib << 18, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return [copied_bytes(mib) / one for one in _timed(lambda: target.copy_(source), device)]


def copied_bytes(mib: int) -> int:
    """Bytes that a copy of an array moves: it is read and it is written."""
    return 2 * (mib << 20)


def median_peaks(found: Mapping[str, list[float]]) -> dict[str, float]:
    """The middle one of each, of `measure_peaks`."""
    return {name: median_figure(runs, unit="1").value for name, runs in found.items()}


def peak_measurements(found: Mapping[str, list[float]], when: str) -> list[Measurement]:
    """As measurements of a report.

    Args:
        found: of `measure_peaks`.
        when: before or after the rounds.
    """
    return [
        Measurement(
            name=name,
            load={"mode": "peak", "when": when},
            figures={"gbs": _figure(runs, 1e9, "GB/s")}
            if name == COPY
            else {"tflops": _figure(runs, 1e12, "TFLOP/s")},
        )
        for name, runs in found.items()
    ]


def _figure(runs: list[float], scale: float, unit: str) -> Figure:
    return median_figure([run / scale for run in runs], unit=unit, better="higher")


def _timed(work: Callable[[], object], device: Device) -> list[float]:
    import torch

    def done() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    work()
    seconds = []
    for _ in range(RUNS):
        start = done()
        work()
        seconds.append(done() - start)
    return seconds
