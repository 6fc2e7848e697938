"""`sceneloom bench engine`: every engine of this machine beside PyTorch eager, in turn.

The published 2048x1024 network with random weights, or a checkpoint, is exported. Each engine is
loaded in a process of its own. All render the same maps in turn, other maps in every round, in an
order that changes from round to round; the first round is warm-up. A ratio is the median over the
rounds of the ratio within a round. A time is from maps on the host to pictures on the host.

    sceneloom bench engine --out benchmarks/results/here
    sceneloom bench engine --out /tmp/bench --checkpoint examples/street_demo/generator \\
      --size 256x128 --engines onnxruntime-fp32 openvino-fp32
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from sceneloom_bench.engine_measure import EngineBenchSettings, measure
from sceneloom_bench.harness import run_benchmark

_DEFAULTS = EngineBenchSettings()


def main(
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    settings: Annotated[EngineBenchSettings, tyro.conf.OmitArgPrefixes] = _DEFAULTS,
) -> int:
    """Measure, write DIR/engine.json, and print the report as a table and as a last line of JSON.

    Args:
        out: folder of the report.
        settings: engines, maps and rounds.
    """
    return run_benchmark("engine", measure, settings, settings.name, out)
