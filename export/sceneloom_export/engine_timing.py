"""How fast a loaded TensorRT plan is, as its caller sees it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from sceneloom.contract import Contract
from sceneloom_serving.profiles import Profile
from sceneloom_serving.tensorrt_runtime import TensorRTSynthesizer

_WARM_UP = 20
_VARIED = 4
"""Different maps that are run in turn."""


def time_engine(engine: TensorRTSynthesizer, profile: Profile, count: int) -> dict[str, Any]:
    """Measure what a caller waits for: uploading maps, computing, downloading pictures.

    Args:
        engine: the loaded plan.
        profile: measured at the point that it is tuned for.
        count: runs after the warm-up, on maps of random labels and instances, in turn.

    Returns:
        as a record has it: p50_ms, p99_ms, count and what was measured.
    """
    shapes = profile.shapes(engine.contract, "tuned")
    rng = np.random.default_rng(0)
    inputs = [_random_inputs(engine.contract, shapes, rng) for _ in range(_VARIED)]
    for number in range(_WARM_UP):
        engine.run_batch(*inputs[number % _VARIED])
    times = []
    for number in range(count):
        started = time.perf_counter()
        engine.run_batch(*inputs[number % _VARIED])
        times.append((time.perf_counter() - started) * 1e3)
    return {
        "p50_ms": round(float(np.percentile(times, 50)), 4),
        "p99_ms": round(float(np.percentile(times, 99)), 4),
        "count": count,
        "batch": profile.batch[1],
        "size": [profile.height[1], profile.width[1]],
        "cuda_graph": engine.captured,
        "measured_by": "run_batch, copies to and from the GPU included",
    }


def _random_inputs(
    contract: Contract, shapes: dict[str, tuple[int, ...]], rng: np.random.Generator
) -> tuple[Any, Any, Any]:
    """Blocks of 16x16 pixels with a label each, and an instance id each."""
    labels, *others = shapes.values()
    batch, height, width = labels
    blocks = rng.integers(0, contract.schema.channels, (batch, -(-height // 16), -(-width // 16)))
    label_maps = blocks.repeat(16, 1).repeat(16, 2)[:, :height, :width]
    instances = (blocks * 7 % 251).repeat(16, 1).repeat(16, 2)[:, :height, :width]
    styles = rng.normal(0, 0.5, others[1]).astype(np.float32) if len(others) > 1 else None
    return label_maps.astype(np.uint8), instances.astype(np.int32) if others else None, styles
