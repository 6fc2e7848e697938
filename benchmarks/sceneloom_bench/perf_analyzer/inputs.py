"""Our maps as perf_analyzer reads them: one JSON file, a step for each map, which take turns."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from sceneloom.contract import INPUT_INSTANCES, INPUT_LABELS, INPUT_STYLE
from sceneloom.request import Request


def write_inputs(maps: Sequence[Request], path: Path) -> Path:
    """Write the tensors of all maps, without a batch axis, in base64; returns `path`."""
    steps = []
    for request in maps:
        arrays = {
            INPUT_LABELS: request.label_map,
            INPUT_INSTANCES: request.instance_map,
            INPUT_STYLE: request.style,
        }
        steps.append(
            {
                name: {
                    "content": {"b64": base64.b64encode(array.tobytes()).decode()},
                    "shape": list(array.shape),
                }
                for name, array in arrays.items()
                if array is not None
            }
        )
    path.write_text(json.dumps({"data": steps}), "utf-8")
    return path
