"""Reports of benchmarks as they look when something real was measured, equal in every run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from sceneloom_bench.reports.report import Figure, Kind, Measurement, Report
from sceneloom_bench.reports.statistics import (
    latency_figures,
    median_figure,
    rate_figure,
    ratio_figure,
)

CPU: dict[str, Any] = {
    "cpu": "AMD EPYC",
    "cpu_flags": ["avx2"],
    "cores": 2,
    "memory_gib": 24,
    "gpus": [],
    "system": "Linux 6.18",
    "python": "3.11.7",
    "versions": {"torch": "2.13.0+cpu", "onnxruntime": "1.32.0", "openvino": "2026.4.1"},
    "gpu_details": [],
    "governor": None,
    "busy_before": 0.02,
    "before": {"load_average": 0.12, "clocks_mhz": [2445, 2445]},
    "after": {"load_average": 1.9, "clocks_mhz": [2445, 2890]},
    "seconds": 812.4,
}
GPU: dict[str, Any] = {
    **CPU,
    "cores": 16,
    "memory_gib": 128,
    "gpus": ["NVIDIA H100 80GB HBM3"],
    "governor": "performance",
    "gpu_details": [
        {
            "name": "NVIDIA H100 80GB HBM3",
            "driver_version": "570.86.15",
            "clocks.sm": "1980 MHz",
            "clocks.max.sm": "1980 MHz",
            "clocks.mem": "2619 MHz",
            "power.limit": "700.00 W",
            "temperature.gpu": "34",
            "memory.total": "81559 MiB",
            "persistence_mode": "Enabled",
            "mig.mode.current": "[N/A]",
        }
    ],
}
_HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def report_of(
    kind: Kind,
    title: str,
    measurements: list[Measurement],
    *,
    size: tuple[int, int] = (256, 512),
    settings: Mapping[str, Any] | None = None,
    subject: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Report:
    """A report about the demo's model, measured on a small CPU unless `environment` says more."""
    return Report(
        kind=kind,
        title=title,
        subject={
            "height": size[0],
            "width": size[1],
            "parameters": 3_914_243,
            "weights": "examples/street_demo/generator",
            "engine": "openvino-fp32",
            "bundle_sha256": _HASH,
            "inputs_sha256": _HASH[::-1],
            **(subject or {}),
        },
        settings=settings or {"size": f"{size[1]}x{size[0]}", "repository": "demo", "name": ""},
        measurements=measurements,
        date="2026-11-26T08:15:00+00:00",
        **{"environment": CPU, **fields},
    )


def seconds_around(
    center: float, *, seed: int, blocks: int = 8, each: int = 6, spread: float = 0.02
) -> list[list[float]]:
    """Latencies around a value, in blocks, skewed as real ones are."""
    rng = np.random.default_rng(seed)
    return (center * (1 + rng.gamma(2, spread / 2, (blocks, each)))).tolist()


def pooled_figures(samples: list[list[float]]) -> dict[str, Figure]:
    """Percentiles of values that are independent."""
    return latency_figures([[value] for block in samples for value in block])


def engine_report(
    *, environment: Mapping[str, Any] = CPU, scale: float = 1, batches: tuple[int, ...] = (1,)
) -> Report:
    """Engines of a CPU beside PyTorch eager at 2048x1024."""
    engines = {
        "torch-fp32": (22.35, 2734),
        "torch-compiled-fp32": (17.9, 3120),
        "onnxruntime-fp32": (14.95, 4068),
        "openvino-fp32, all classes": (13.05, 2953),
        "openvino-fp32": (12.18, 2793),
        "openvino-int8": (9.29, 1893),
    }
    measurements = []
    for batch in batches:
        base = seconds_around(scale * batch * 22.35, seed=0, each=2)
        for seed, (name, (center, memory)) in enumerate(engines.items()):
            samples = seconds_around(scale * batch * center, seed=seed, each=2)
            figures = latency_figures(samples) | {"rate": rate_figure(samples, batch)}
            if seed:
                figures["times_faster"] = ratio_figure(base, samples)
            figures["peak_memory"] = Figure(value=memory, unit="MiB", better="lower")
            figures["peak_share"] = Figure(value=0.21 + 0.08 * seed, unit="share", better="higher")
            measurements.append(
                Measurement(
                    name=name,
                    load={"batch": batch},
                    figures=figures,
                    samples=samples,
                    marks=["never served: its pictures differ from PyTorch's (PSNR 26.3 dB)"]
                    if name.endswith("int8")
                    else [],
                )
            )
    for when in ("before", "after"):
        measurements.append(
            Measurement(
                name="matrix product float32",
                load={"mode": "peak", "when": when},
                figures={"tflops": Figure(value=0.14, unit="TFLOP/s", better="higher")},
            )
        )
    return report_of(
        "engine",
        "Engines at 2048x1024, batch 1",
        measurements,
        size=(1024, 2048),
        settings={"size": "2048x1024", "rounds": 8, "engines": [], "checkpoint": "generator"},
        subject={"device": "cuda" if environment.get("gpus") else "cpu"},
        environment=environment,
        baseline="torch-fp32",
        extra={
            "not_measured": "tensorrt-fp16: there is no GPU",
            "cannot_run": {"tensorrt-fp16": "there is no GPU"},
        },
        marks=["not a quiet machine: 31% of its cores were used before the run"],
    )


def server_report(
    *, scale: float = 1, transports: tuple[str, ...] = ("grpc", "grpc-shm", "http")
) -> Report:
    """A server under closed and open loops."""
    measurements = []
    for way, transport in enumerate(transports):
        for n in (1, 2, 4, 8, 16):
            latency = scale * (0.062 + 0.004 * way) * max(1, n / 2)
            samples = seconds_around(latency, seed=n, each=40, spread=0.1)
            rate = n / np.mean(samples)
            measurements.append(
                Measurement(
                    name="closed loop",
                    load={"mode": "closed", "in_flight": n, "transport": transport, "batch": 1},
                    figures={
                        **pooled_figures(samples),
                        "rate": Figure(
                            value=rate,
                            unit="1/s",
                            better="higher",
                            low=0.985 * rate,
                            high=1.012 * rate,
                        ),
                        **breakdown(latency, n),
                    },
                    extra={"percentiles": curve(samples)},
                )
            )
    for arrivals in ("constant", "poisson"):
        for rate in (8, 16, 24, 28, 31):
            wait = 0.01 if arrivals == "constant" else 0.06
            latency = scale * (0.062 + wait * (rate / 32) / (1.02 - rate / 32))
            samples = seconds_around(latency, seed=rate, each=40, spread=rate / 32)
            measurements.append(
                Measurement(
                    name="open loop",
                    load={
                        "mode": "open",
                        "arrivals": arrivals,
                        "rate": rate,
                        "transport": transports[0],
                        "batch": 1,
                    },
                    figures=pooled_figures(samples) | breakdown(latency, 1),
                    marks=["the planned rate was not reached"] if rate == 31 else [],
                    extra={"percentiles": curve(samples)},
                )
            )
    highest = Figure(value=26.5, unit="1/s", better="higher", low=26.5, high=27.8)
    measurements.append(
        Measurement(
            name="highest rate within the p99 bound",
            load={"mode": "open", "arrivals": "poisson", "transport": "grpc", "batch": 1},
            figures={"rate": highest},
        )
    )
    return report_of("server", "The demo's model behind Triton at 512x256", measurements)


def breakdown(latency: float, in_flight: int) -> dict[str, Figure]:
    """A server's own account of requests of so many seconds."""
    shares = {
        "queue": latency * (1 - 2 / max(in_flight, 2)),
        "compute_input": 0.0012,
        "compute": 0.055,
        "compute_output": 0.0021,
        "transfer": 0.0042,
    }
    return {
        name: Figure(value=1000 * seconds, unit="ms", better="lower")
        for name, seconds in shares.items()
    }


def curve(samples: list[list[float]]) -> list[list[float]]:
    """Pairs of percent and milliseconds."""
    values = np.ravel(samples)
    percents = [0, 25, 50, 75, 90, 95, 97.5, 99, 99.5, 99.9, 100]
    return [[p, round(1000 * float(np.percentile(values, p)), 3)] for p in percents]


def mlperf_report() -> Report:
    """MLPerf's scenarios."""
    samples = seconds_around(0.064, seed=7, each=60)
    single = pooled_figures(samples)
    return report_of(
        "mlperf",
        "MLPerf LoadGen on the demo's model at 512x256",
        [
            Measurement(
                name="LoadGen",
                load={"scenario": "SingleStream"},
                figures=single,
                marks=["INVALID: 64 queries are below the rules' minimum"],
            ),
            Measurement(
                name="LoadGen, 70 % of capacity",
                load={"scenario": "Server", "rate": 21.7},
                figures={**single, "completed": Figure(value=1302, unit="1")},
            ),
            Measurement(
                name="LoadGen, 130 % of capacity",
                load={"scenario": "Server", "rate": 40.3},
                figures={**single, "completed": Figure(value=2418, unit="1")},
                marks=["INVALID: the p99 is above its bound"],
            ),
            Measurement(
                name="LoadGen",
                load={"scenario": "Offline"},
                figures={"rate": Figure(value=31.2, unit="1/s", better="higher")},
            ),
        ],
    )


def perf_analyzer_report() -> Report:
    """Our closed loop beside perf_analyzer."""
    measurements = []
    for n in (1, 2, 4):
        for way, name in enumerate(("sceneloom", "perf_analyzer")):
            samples = seconds_around((0.062 + 0.001 * way) * max(1, n / 2), seed=n, each=40)
            figures = pooled_figures(samples)
            figures["rate"] = Figure(value=n / np.mean(samples), unit="1/s", better="higher")
            if name == "perf_analyzer":
                figures = {
                    k: dataclasses.replace(f, low=None, high=None) for k, f in figures.items()
                }
                figures |= breakdown(0.063, n)
            measurements.append(
                Measurement(name=name, load={"mode": "closed", "in_flight": n}, figures=figures)
            )
    return report_of("perf-analyzer", "perf_analyzer beside our closed loop", measurements)


def render_report() -> Report:
    """A data set from end to end."""
    measurements = [
        Measurement(
            name=format,
            load={"mode": "data set"},
            figures={
                "rate": median_figure(
                    [r * f for f in (0.97, 0.98, 1, 1.01, 1.02, 1.03)], unit="1/s", better="higher"
                ),
                "idle": median_figure(
                    [0.031, 0.035, 0.036, 0.04, 0.041, 0.05], unit="share", better="lower"
                ),
                "requests_per_picture": median_figure([1.0] * 6, unit="1", better="lower"),
            },
        )
        for format, r in (("png", 29.8), ("jpg", 30.7))
    ]
    return report_of("render", "64 maps of 512x256 rendered from end to end", measurements)


def all_reports() -> dict[str, Report]:
    """One of each kind, by the name of its file."""
    return {
        "engine": engine_report(),
        "server": server_report(),
        "mlperf": mlperf_report(),
        "perf-analyzer": perf_analyzer_report(),
        "render": render_report(),
    }
