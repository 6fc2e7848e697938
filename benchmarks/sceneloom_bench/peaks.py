"""Peaks of this machine: a large matrix product and a copy of memory, by PyTorch with the engines'
number of threads.

The copy is STREAM's: arrays far larger than the caches; bytes read and bytes written both count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal

from sceneloom_bench.reports.report import Measurement, Unit
from sceneloom_bench.reports.statistics import median_figure
from sceneloom_serving.onnx_runtime import usable_cpus

Device = Literal["cpu", "cuda"]
PRODUCT = "matrix product"
COPY = "memory copy"
RUNS = 7
"""Runs of each; the median of seven has an interval."""


def measure_peaks(
    device: Device, *, side: int | None = None, copied_mib: int | None = None
) -> dict[str, list[float]]:
    """Measure products in float32 (TF32 off), on a GPU also in float16, and the copy.

    Default sizes are far above the caches. Returns name -> FLOP per second, or bytes per second, of
    each run.
    """
    import torch

    cpus = usable_cpus()
    torch.set_num_threads(cpus)
    torch.backends.cuda.matmul.allow_tf32 = False
    side = side or (
        8192 if device == "cuda" else 1024 if cpus == 1 else 2048 if cpus <= 4 else 4096
    )
    dtypes = {"float32": torch.float32}
    if device == "cuda":
        dtypes["float16"] = torch.float16
    found = {}
    for name, dtype in dtypes.items():
        a = torch.randn(side, side, device=device, dtype=dtype)
        b, out = torch.randn_like(a), torch.empty_like(a)
        product = _seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device)  # type: ignore[misc]
        found[f"{PRODUCT} {name}"] = [2 * side**3 / one for one in product]
    mib = copied_mib or {"cpu": 512, "cuda": 2048}[device]
    source = torch.ones(mib << 18, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    moved = copied_bytes(mib)
    found[COPY] = [moved / one for one in _seconds(lambda: target.copy_(source), device)]
    if device == "cuda":
        del a, b, out, source, target
        torch.cuda.empty_cache()  # engines need the memory
    return found


def copied_bytes(mib: int) -> int:
    """Bytes that the copy of an array reads and writes."""
    return 2 * (mib << 20)


def median_peaks(found: Mapping[str, list[float]]) -> dict[str, float]:
    """Medians of `measure_peaks`."""
    return {name: median_figure(runs, unit="1").value for name, runs in found.items()}


def peak_measurements(found: Mapping[str, list[float]], when: str) -> list[Measurement]:
    """Measurements of `measure_peaks`, ``before`` or ``after`` the rounds."""
    measured = []
    for name, runs in found.items():
        key, scale = ("gbs", 1e9) if name == COPY else ("tflops", 1e12)
        unit: Unit = "GB/s" if name == COPY else "TFLOP/s"
        figure = median_figure([run / scale for run in runs], unit=unit, better="higher")
        load = {"mode": "peak", "when": when}
        measured.append(Measurement(name=name, load=load, figures={key: figure}))
    return measured


def _seconds(work: Callable[[], object], device: Device) -> list[float]:
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
