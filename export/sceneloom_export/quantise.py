"""INT8 by ONNX Runtime's quantiser: Q/DQ nodes around the convolutions, ranges found on maps.
OpenVINO and TensorRT read the same nodes.

Transposed convolutions, norms and both ends of the graph stay float32. The last convolution does,
too: it is 1 % of the arithmetic, and its error is what one sees.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime.quantization as quantization

from sceneloom.contract import INPUT_INSTANCES, INPUT_LABELS, INPUT_STYLE
from sceneloom.request import Request

WEIGHTS_INT8 = "weights-int8.bin"
"""File of the quantised graph's weights."""


def quantise(source: Path, target: Path, maps: Sequence[Request]) -> None:
    """Write the quantised form of a float32 graph; its weights go to `WEIGHTS_INT8` beside it.

    Args:
        source: the graph with accurate norms.
        target: the graph to write, in the same folder.
        maps: what ranges are found on, at network size.
    """
    graph = onnx.load(source, load_external_data=False).graph
    convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
    with _quiet():
        quantization.quantize_static(
            source,
            target,
            _Maps(maps),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=convolutions[-1:],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            use_external_data_format=True,
        )
    model = onnx.load(target)
    target.with_name(f"{target.name}.data").unlink(missing_ok=True)
    onnx.save(model, target, save_as_external_data=True, location=WEIGHTS_INT8, size_threshold=4096)


class _Maps(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Feeds maps one by one."""

    def __init__(self, maps: Sequence[Request]) -> None:
        self._left = iter(maps)

    def get_next(self) -> dict[str, Any] | None:
        request = next(self._left, None)
        if request is None:
            return None
        feeds = {
            INPUT_LABELS: request.label_map,
            INPUT_INSTANCES: request.instance_map,
            INPUT_STYLE: request.style,
        }
        return {name: array[None] for name, array in feeds.items() if array is not None}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantiser's advice to pre-process from the user: the exporter has done so."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
