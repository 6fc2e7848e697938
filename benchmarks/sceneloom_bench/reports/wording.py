"""How figures, loads, sizes and machines are written for people: the same in tables, plots, pages
and comparisons.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sceneloom_bench.reports.report import Figure, Measurement, Report

FIGURE_TITLES = {
    "rate": "pictures/s",
    "times_faster": "times faster",
    "peak_memory": "peak memory",
    "overhead_ratio": "overhead, times as long",
    "tflops": "arithmetic",
    "gbs": "copied",
    "device": "p50 on the device",
    "difference": "largest difference, grey levels",
    "idle": "server idle",
    "steps": "encoded path's own steps",
    "peak_share": "share of measured peak",
}
"""What is written for a figure's name, where its underscores alone would not do."""
LOAD_TITLES = {"rate": "planned rate, 1/s", "scenario": "scenario", "in_flight": "in flight"}
_UNITS = {"1/s": "/s", "x": "x", "share": "%", "1": ""}
_WORDS = {
    ("mode", "closed"): "closed loop",
    ("mode", "open"): "open loop",
    ("arrivals", "constant"): "constant arrivals",
    ("arrivals", "poisson"): "Poisson arrivals",
    ("transport", "grpc"): "gRPC",
    ("transport", "grpc-shm"): "gRPC with shared memory",
    ("transport", "http"): "HTTP",
    ("transport", "encoded"): "encoded pictures",
}
_HASH_DIGITS = 12


def number(value: float, decimals: int) -> str:
    """A number with thousands set apart: 12,346 or 0.432."""
    return f"{round(value, decimals) + 0.0:,.{decimals}f}"


def decimals_of(figure: Figure) -> int:
    """How many decimals a figure and its interval are written with: three digits of the value, and
    more where the interval is so narrow that both ends would read alike.
    """
    scale = 100 if figure.unit == "share" else 1
    if figure.unit in ("1", "MiB") and float(figure.value).is_integer():
        return 0
    width = 0.0
    if figure.low is not None and figure.high is not None:
        width = (figure.high - figure.low) * scale
    size = max(abs(figure.value) * scale, width)
    decimals = min(max(2 - (math.floor(math.log10(size)) if size else 0), 0), 6)
    if width > 0:
        decimals = max(decimals, min(-math.floor(math.log10(width)), decimals + 2))
    return decimals


def value_of(figure: Figure) -> str:
    """The value alone, without its unit; a share in percent."""
    return number(figure.value * (100 if figure.unit == "share" else 1), decimals_of(figure))


def interval_of(figure: Figure) -> str:
    """``12.1 to 12.9``, or which end there is; empty where there is none."""
    scale, decimals = 100 if figure.unit == "share" else 1, decimals_of(figure)
    low, high = (
        None if end is None else number(end * scale, decimals) for end in (figure.low, figure.high)
    )
    if low is not None and high is not None:
        return f"{low} to {high}"
    if low is not None:
        return f"at least {low}"
    return "" if high is None else f"at most {high}"


def unit_of(figure: Figure) -> str:
    """The unit behind a value: ms, /s, %, x."""
    return _UNITS.get(figure.unit, figure.unit)


def with_unit(figure: Figure) -> str:
    """``12.3 ms (12.1 to 12.9)``."""
    unit, interval = unit_of(figure), interval_of(figure)
    space = "" if unit in ("/s", "x", "") else " "
    return f"{value_of(figure)}{space}{unit}" + (f" ({interval})" if interval else "")


def duration(milliseconds: float) -> str:
    """``22.35 s`` from a second on, else ``45.3 ms``."""
    seconds = milliseconds >= 1000
    figure = Figure(value=milliseconds / 1000 if seconds else milliseconds, unit="s")
    return f"{value_of(figure)} {'s' if seconds else 'ms'}"


def figure_title(name: str) -> str:
    """A figure's name for people, without its unit."""
    return FIGURE_TITLES.get(name, name.replace("_", " "))


def load_title(key: str) -> str:
    """A load's key for people."""
    return LOAD_TITLES.get(key, key.replace("_", " "))


def load_value(key: str, value: object) -> str:
    """A load's value where its key stands above it: ``4``, ``Poisson``, ``gRPC``."""
    return _WORDS.get((key, str(value)), say(value)).removesuffix(" arrivals")


def load_words(key: str, value: object) -> str:
    """A load's value without its key beside it: ``4 in flight``, ``Poisson arrivals``."""
    if (key, str(value)) in _WORDS:
        return _WORDS[key, str(value)]
    if isinstance(value, str):
        return value if key in ("mode", "scenario", "transport") else f"{load_title(key)} {value}"
    if key == "in_flight":
        return f"{say(value)} in flight"
    return f"{say(value)}/s planned" if key == "rate" else f"{load_title(key)} {say(value)}"


def load_text(load: Mapping[str, object], leave_out: Sequence[str] = ()) -> str:
    """A whole load in words, with commas."""
    return ", ".join(load_words(k, v) for k, v in load.items() if k not in leave_out)


def title_of(measurement: Measurement, leave_out: Sequence[str] = ()) -> str:
    """A measurement and its load: ``closed loop (4 in flight, gRPC)``."""
    mode = load_text({"mode": measurement.load.get("mode", "")})
    said = [*leave_out, *(["mode"] if mode == measurement.name else [])]
    load = load_text(measurement.load, said)
    return f"{measurement.name} ({load})" if load else measurement.name


def varying(measurements: Sequence[Measurement]) -> list[str]:
    """The load's keys whose values are not the same in all measurements, in their order."""
    keys = list(dict.fromkeys(key for m in measurements for key in m.load))
    return [key for key in keys if len({_marked(m.load.get(key)) for m in measurements}) > 1]


def say(value: object) -> str:
    """A value of a subject, setting or load as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(say, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {say(v)}" for k, v in value.items())
    return str(value)


def size_of(report: Report) -> str:
    """``2048x1024``; empty where the report has no size."""
    width, height = report.subject.get("width"), report.subject.get("height")
    return f"{width}x{height}" if width and height else ""


def gpus_of(report: Report) -> list[str]:
    """Names of the GPUs of the machine."""
    details = report.environment.get("gpu_details") or []
    return [str(g.get("name", "GPU")) for g in details] or list(
        map(str, report.environment.get("gpus") or [])
    )


def hardware_of(report: Report) -> str:
    """``NVIDIA H100 80GB HBM3``, else ``2 cores of AMD EPYC``."""
    gpus, machine = gpus_of(report), report.environment
    if gpus:
        return gpus[0] if len(gpus) == 1 else f"{len(gpus)} GPUs, {gpus[0]}"
    return f"{machine.get('cores', '?')} cores of {machine.get('cpu', 'an unknown CPU')}"


def shortened(key: str, value: object) -> str:
    """A subject's value, hashes at twelve digits."""
    hashed = "sha256" in key or re.fullmatch("[0-9a-f]{32,}", str(value))
    return str(value)[:_HASH_DIGITS] if hashed else say(value)


def subject_line(report: Report) -> str:
    """Size, parameters, weights, hashes shortened, and what else the report says of its subject."""
    subject = {k: v for k, v in report.subject.items() if v not in (None, "", [], {})}
    said = [size_of(report)] if size_of(report) else []
    parameters = subject.pop("parameters", None)
    if isinstance(parameters, int | float):
        said.append(f"{parameters / 1e6:.1f} M parameters")
    elif parameters is not None:
        said.append(f"parameters {say(parameters)}")
    if said and said[0] == size_of(report):
        subject = {k: v for k, v in subject.items() if k not in ("width", "height")}
    said += [
        f"{key.removesuffix('_sha256').replace('_', ' ')} {shortened(key, value)}"
        for key, value in subject.items()
    ]
    return ", ".join(said)


def machine_line(report: Report) -> str:
    """Cores, CPU, its flags, memory, GPUs, governor, clocks and load before and after."""
    machine = report.environment
    flags = " ".join(machine.get("cpu_flags") or [])
    before, after = machine.get("before") or {}, machine.get("after") or {}
    said = [
        f"{machine.get('cores', '?')} cores of {machine.get('cpu', 'an unknown CPU')}"
        + (f" ({flags})" if flags else ""),
        f"{machine.get('memory_gib', '?')} GiB",
        *_gpus(machine.get("gpu_details") or [], after.get("gpus") or []),
    ]
    if not gpus_of(report):
        said.append("no GPU")
    elif not machine.get("gpu_details"):
        said += gpus_of(report)
    said += [
        str(machine.get("system", "an unknown system")),
        f"governor {machine.get('governor') or 'not said'}",
        f"clocks {_clocks(before)} before and {_clocks(after)} after",
        f"load average {before.get('load_average', '?')} before and "
        f"{after.get('load_average', '?')} after",
    ]
    return "; ".join(said)


def versions_line(report: Report) -> str:
    """Python's and the packages' versions."""
    versions = report.environment.get("versions") or {}
    python = report.environment.get("python")
    said = [f"Python {python}"] if python else []
    return ", ".join([*said, *(f"{name} {version}" for name, version in versions.items())])


def _gpus(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each GPU as it was before the run and, where that is known, after it."""
    later = [_known(details) for details in after] if len(after) == len(before) else []
    later = later or [{}] * len(before)
    return [_gpu(_known(details), then) for details, then in zip(before, later, strict=True)]


def _known(details: Mapping[str, Any]) -> dict[str, str]:
    known = {k: str(v) for k, v in details.items() if v and "N/A" not in str(v)}
    if "temperature.gpu" in known:
        known["temperature.gpu"] += " °C"
    return known


def _gpu(known: Mapping[str, str], after: Mapping[str, str]) -> str:
    said = [
        f"{words} {_moved(known[key], after.get(key))}"
        for key, words in (
            ("driver_version", "driver"),
            ("memory.total", "memory"),
            ("clocks.sm", "SM clock"),
            ("clocks.max.sm", "at most"),
            ("clocks.mem", "memory clock"),
            ("power.limit", "power limit"),
            ("utilization.gpu", "used"),
            ("temperature.gpu", "at"),
            ("persistence_mode", "persistence"),
            ("mig.mode.current", "MIG"),
        )
        if key in known
    ]
    return f"{known.get('name', 'GPU')} ({', '.join(said)})" if said else known.get("name", "GPU")


def _moved(before: str, after: str | None) -> str:
    return before if after in (None, before) else f"{before} before and {after} after"


def _clocks(moment: Mapping[str, Any]) -> str:
    clocks = moment.get("clocks_mhz") or []
    if not clocks:
        return "not said"
    low, high = round(min(clocks)), round(max(clocks))
    return f"{low} MHz" if low == high else f"{low} to {high} MHz"


def _marked(value: object) -> tuple[bool, object]:
    """Hashable, and True is not 1."""
    return isinstance(value, bool), value
