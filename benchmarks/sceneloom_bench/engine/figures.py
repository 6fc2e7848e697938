"""Figures of one engine at one batch, from what it took in turn with the baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from sceneloom.errors import ParityError
from sceneloom_bench.engine.peaks import PRODUCT
from sceneloom_bench.engine.rounds import Taken
from sceneloom_bench.reports.report import Figure, Measurement
from sceneloom_bench.reports.statistics import (
    latency_figures,
    median_figure,
    rate_figure,
    ratio_figure,
)
from sceneloom_serving.engines import ENGINES
from sceneloom_serving.parity import Parity, Precision, check_parity, compare

_NEVER = "never served: "


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """What the model costs and what the machine can do."""

    gflop: float
    """Of one picture."""
    peaks: Mapping[str, float]
    """``matrix product float32`` and, on a GPU, ``float16`` -> FLOP per second."""

    def peak(self, precision: Precision) -> float:
        """FLOP per second of the product that a precision is measured by: half by half, all others
        by float32.
        """
        return self.peaks[f"{PRODUCT} float{'16' if precision == 'fp16' else '32'}"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured of one engine at one batch."""

    name: str
    """Of the engine."""
    batch: int
    """Pictures at once."""
    precision: Precision
    """Of the engine."""
    taken: Taken
    """In its rounds; the pictures are needed no more."""
    baseline: Taken | None
    """Likewise of the baseline in the same rounds; None where it could not run the batch."""
    parity: Parity | None
    """Differences from the baseline."""
    bare: Taken | None = None
    """Of the bare engine, where this is a server that runs it."""
    memory_mib: Mapping[str, float]
    """``peak_memory`` and, on a GPU, ``gpu_memory``."""
    how: str
    """The engine in words."""
    marks: Sequence[str] = ()
    """What is known of it already."""


def engine_measurement(row: Row, arithmetic: Arithmetic) -> Measurement:
    """A row of the report."""
    taken, baseline, marks = row.taken, row.baseline, list(row.marks)
    figures = latency_figures(taken.seconds)
    figures["rate"] = rate_figure(taken.seconds, row.batch)
    if baseline is not None:
        figures["times_faster"] = ratio_figure(baseline.seconds, taken.seconds)
    else:
        marks.append(f"the baseline could not run a batch of {row.batch}: no ratio, no parity")
    if row.bare is not None:
        figures |= _served_figures(taken, row.bare)
    if any(taken.device_seconds):
        figures["device"] = latency_figures(taken.device_seconds)["p50"]
    figures |= _arithmetic_figures(figures["p50"], row, arithmetic)
    if row.parity is not None:
        figures["difference"] = Figure(value=row.parity.max, unit="1", better="lower")
    figures |= {
        key: Figure(value=mib, unit="MiB", better="lower")
        for key, mib in row.memory_mib.items()
        if mib > 0
    }
    parity = {} if row.parity is None else {"parity": row.parity.to_json()}
    return Measurement(
        name=row.name,
        load={"batch": row.batch},
        figures=figures,
        samples=taken.seconds,
        marks=marks + _own_marks(row),
        extra={"how": row.how, **parity},
    )


def parity_of(baseline: Taken, taken: Taken) -> Parity:
    """Differences from the baseline over all maps that both have rendered."""
    common = sorted(baseline.pictures.keys() & taken.pictures.keys())
    return compare([baseline.pictures[n] for n in common], [taken.pictures[n] for n in common])


def _served_figures(served: Taken, bare: Taken) -> dict[str, Figure]:
    """What a server adds to the bare engine: of medians within each round."""
    pairs = zip(served.seconds, bare.seconds, strict=True)
    added = [1000 * (_median(a) - _median(b)) for a, b in pairs]
    return {
        "overhead": median_figure(added, unit="ms", better="lower"),
        "overhead_ratio": ratio_figure(served.seconds, bare.seconds, better="lower"),
    }


def _arithmetic_figures(p50: Figure, row: Row, arithmetic: Arithmetic) -> dict[str, Figure]:
    gflop = row.batch * arithmetic.gflop
    scales = {
        "tflops": ("TFLOP/s", gflop),  # GFLOP in a millisecond are TFLOP in a second
        "peak_share": ("share", gflop * 1e12 / arithmetic.peak(row.precision)),
    }
    return {
        name: Figure(
            value=scale / p50.value,
            unit=unit,
            better="higher",
            low=None if p50.high is None else scale / p50.high,
            high=None if p50.low is None else scale / p50.low,
        )
        for name, (unit, scale) in scales.items()
    }


def _own_marks(row: Row) -> list[str]:
    marks = []
    if row.precision in ("bf16", "int8"):
        marks.append("its share of the measured peak is of the float32 product's")
    if row.parity is None or any(mark.startswith(_NEVER) for mark in row.marks):
        return marks
    try:
        check_parity(row.parity, row.precision, row.name)
    except ParityError as error:
        served = _NEVER if row.name in ENGINES else "outside the limits of its precision: "
        marks.append(served + str(error))
    return marks


def never_served(reason: str) -> str:
    """The mark of an engine that export refuses."""
    return _NEVER + reason


def _median(values: Sequence[float]) -> float:
    return median_figure(values, unit="s").value
