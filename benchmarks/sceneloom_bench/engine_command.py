"""`sceneloom bench engine`: every engine of this machine beside PyTorch eager, in turn.

The published 2048x1024 network with random weights, or any checkpoint, is exported by the product's
own code. Each engine is loaded in a process of its own; then all render the same maps in turn,
other ones every time, in an order that changes from round to round. A ratio is the median over the
rounds of the ratio within a round, so that a machine that drifts does not decide; the first round
is warm-up and not counted. A time is from maps on the host to pictures on the host.

    sceneloom bench engine --out benchmarks/results/here
    sceneloom bench engine --out /tmp/bench --checkpoint examples/street_demo/generator \\
      --size 256x128 --engines onnxruntime-fp32 openvino-fp32
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from sceneloom_bench.engine_measure import EngineBenchSettings, measure
from sceneloom_bench.harness import check_out, publish, stem_of

_DEFAULTS = EngineBenchSettings()


def main(
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    settings: Annotated[EngineBenchSettings, tyro.conf.OmitArgPrefixes] = _DEFAULTS,
) -> int:
    """Measure, write DIR/engine.json, and print the report as a table and as a last line of JSON.

    Args:
        out: folder for the report.
        settings: what is measured.
    """
    stem = stem_of("engine", settings.name)
    check_out(out, stem)
    return publish(measure(settings), out, stem)
