"""PyTorch -> ONNX: the served graph with dynamic batch, height and width, opset 18."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch

from sceneloom.contract import (
    INPUT_INSTANCES,
    INPUT_LABELS,
    INPUT_STYLE,
    OUTPUT_IMAGE,
    PARAMETER,
    STYLE_ROWS,
    Contract,
)
from sceneloom_export.rules import OPSET
from sceneloom_training.networks import ServedGenerator

WEIGHTS = "weights.bin"
"""File of the weights, beside the graphs that use them."""
WEIGHTS_FP16 = "weights-fp16.bin"
"""The same in half."""


def input_names(contract: Contract) -> list[str]:
    """Names of the served model's inputs, in order."""
    names = [INPUT_LABELS]
    if contract.boundaries or contract.style_channels:
        names.append(INPUT_INSTANCES)
    if contract.style_channels:
        names.append(INPUT_STYLE)
    return names


def export_onnx(served: ServedGenerator, path: Path, *, weights: str = WEIGHTS) -> None:
    """Write the served graph; the contract is in its metadata, the weights are in a file beside it.

    Args:
        served: the graph in eval mode, float32 or around a `HalfGenerator`.
        path: the ONNX file to write.
        weights: the file of the weights, in the same folder; graphs of the same model and precision
            share it.
    """
    model = _trace(served)
    _name_dimensions(model)
    _move_shapes(model)
    onnx.helper.set_model_props(model, {PARAMETER: served.contract.dumps()})
    onnx.save(model, path, save_as_external_data=True, location=weights, size_threshold=4096)
    onnx.checker.check_model(str(path), full_check=True)


def _trace(served: ServedGenerator) -> onnx.ModelProto:
    contract = served.contract
    batch, height, width = 2, 2 * contract.min_side, 3 * contract.min_side
    examples = {
        INPUT_LABELS: torch.zeros(batch, height, width, dtype=torch.uint8),
        INPUT_INSTANCES: torch.zeros(batch, height, width, dtype=torch.int32),
        INPUT_STYLE: torch.zeros(batch, STYLE_ROWS, max(contract.style_channels, 1)),
    }
    names = input_names(contract)
    dynamic = torch.export.Dim.DYNAMIC
    shapes = {
        n: {0: dynamic} if n == INPUT_STYLE else {0: dynamic, 1: dynamic, 2: dynamic} for n in names
    }
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            served,
            tuple(examples[n] for n in names),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=shapes,
            input_names=names,
            output_names=[OUTPUT_IMAGE],
            optimize=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    assert isinstance(model, onnx.ModelProto)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own notes (torchvision's absence, deprecations inside torch) from the
    user.
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _name_dimensions(model: onnx.ModelProto) -> None:
    """Replace the exporter's symbols (s38, s59, ...) by batch, height and width."""
    labels = next(i for i in model.graph.input if i.name == INPUT_LABELS)
    symbols = [dim.dim_param for dim in labels.type.tensor_type.shape.dim]
    names = dict(zip(symbols, ("batch", "height", "width"), strict=True))
    del model.graph.value_info[
        :
    ]  # intermediate shapes are expressions in the old symbols; checkers infer their own
    for value in [*model.graph.input, *model.graph.output]:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param:
                fallback = ("batch", "height", "width")[axis]
                dim.dim_param = names.get(dim.dim_param, fallback)


def _move_shapes(model: onnx.ModelProto) -> None:
    """Read sizes from the int32 instance map: the only thing an engine may do with UINT8 is to cast
    it.
    """
    for node in model.graph.node:
        if node.op_type == "Shape" and node.input[0] == INPUT_LABELS:
            node.input[0] = INPUT_INSTANCES
