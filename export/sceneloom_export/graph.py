"""PyTorch -> ONNX: the served graph with dynamic batch, height and width, opset 18, and the rules
of all engines for it, checked before anything is built.

TensorRT takes UINT8 only as network input or output and casts it only to and from floats, has no
UINT16 and lists no Clip on INT32 in 8.6 and 10.1; 8.6's parser knows opset 17 and reads 18 where
the operators mean the same. docs/graph.md gives the reason for each rule.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from onnx import TensorProto

from sceneloom.contract import (
    INPUT_INSTANCES,
    INPUT_LABELS,
    INPUT_PICTURE,
    INPUT_STYLE,
    OUTPUT_IMAGE,
    PARAMETER,
    STYLE_ROWS,
)
from sceneloom.errors import GraphRuleError
from sceneloom.text import reason
from sceneloom_serving.bundle import GRAPH_FILE, WEIGHTS
from sceneloom_serving.plan_record import input_shapes
from sceneloom_training.networks import ServedGenerator

OPSET = 18
_INPUTS = {
    INPUT_LABELS: (TensorProto.UINT8, 3),
    INPUT_PICTURE: (TensorProto.UINT8, 4),
    INPUT_INSTANCES: (TensorProto.INT32, 3),
    INPUT_STYLE: (TensorProto.FLOAT, 3),
}
_MAIN = (INPUT_LABELS, INPUT_PICTURE)
_OUTPUTS = {OUTPUT_IMAGE: (TensorProto.UINT8, 4)}
_FORBIDDEN_TYPES = {"UINT8", "UINT16", "INT16", "UINT32", "UINT64", "DOUBLE", "STRING"}
_INTEGERS = (TensorProto.INT32, TensorProto.INT64)


def export_onnx(served: ServedGenerator, path: Path, *, weights: str = WEIGHTS[GRAPH_FILE]) -> None:
    """Write a served graph with its contract, and its weights in a file that graphs may share."""
    contract = served.contract
    batch, height, width = 2, 2 * contract.smallest_side, 3 * contract.smallest_side
    examples = {
        INPUT_LABELS: torch.zeros(batch, height, width, dtype=torch.uint8),
        INPUT_PICTURE: torch.zeros(batch, height, width, 3, dtype=torch.uint8),
        INPUT_INSTANCES: torch.zeros(batch, height, width, dtype=torch.int32),
        INPUT_STYLE: torch.zeros(batch, STYLE_ROWS, max(contract.style_channels, 1)),
    }
    names = list(input_shapes(contract, 1, 1, 1))
    dynamic = torch.export.Dim.DYNAMIC
    shapes = tuple(
        {0: dynamic} if n == INPUT_STYLE else {0: dynamic, 1: dynamic, 2: dynamic} for n in names
    )
    with quiet("torch.onnx"), torch.no_grad():
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
    # The exporter's symbols (s38, s59, ...) become batch, height and width. Intermediate shapes are
    # expressions in the old symbols; checkers infer their own.
    main = next(i for i in model.graph.input if i.name == contract.main_input)
    symbols = [dim.dim_param for dim in main.type.tensor_type.shape.dim][:3]
    axes = ("batch", "height", "width")
    renamed = dict(zip(symbols, axes, strict=True))
    del model.graph.value_info[:]
    for value in [*model.graph.input, *model.graph.output]:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param:
                dim.dim_param = renamed.get(dim.dim_param, axes[axis])
    # Sizes are read from the int32 instance map: engines can only cast UINT8.
    for node in model.graph.node:
        if node.op_type == "Shape" and node.input[0] == contract.main_input:
            node.input[0] = INPUT_INSTANCES
    onnx.helper.set_model_props(model, {PARAMETER: served.contract.dumps()})
    onnx.save(model, path, save_as_external_data=True, location=weights, size_threshold=4096)
    onnx.checker.check_model(str(path), full_check=True)


@contextlib.contextmanager
def quiet(logger_name: str | None) -> Iterator[None]:
    """Hide an exporter's or quantiser's notes: they advise on steps that are done."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def check_rules(model: onnx.ModelProto, *, instance_norms: int) -> None:
    """Check an exported graph; raises GraphRuleError with every broken rule."""
    broken = [*_broken_outside(model), *_broken_inside(model, instance_norms)]
    if broken:
        raise GraphRuleError("the graph breaks the engines' rules: " + "; ".join(broken))


def _broken_outside(model: onnx.ModelProto) -> Iterator[str]:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions.get("") != OPSET:
        yield f"opset {versions.get('')}, it must be {OPSET}"
    used = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    if used or model.functions:
        yield f"operators of the domains {sorted(used)}, or local functions"
    for values, expected in ((model.graph.input, _INPUTS), (model.graph.output, _OUTPUTS)):
        for value in values:
            tensor = value.type.tensor_type
            dims = tensor.shape.dim
            if value.name not in expected:
                yield f"{value.name!r} is not a tensor of the served model"
            elif (tensor.elem_type, len(dims)) != expected[value.name]:
                yield f"{value.name!r} has the wrong type or rank"
            elif not dims[0].dim_param:
                yield f"{value.name!r} has a fixed batch size"
            elif value.name != INPUT_STYLE and not (dims[1].dim_param and dims[2].dim_param):
                yield f"{value.name!r} has a fixed height or width"
    if len({value.name for value in model.graph.input} & {*_MAIN}) != 1:
        yield f"its inputs are not one of {', '.join(_MAIN)}, and others"
    if [value.name for value in model.graph.output] != [OUTPUT_IMAGE]:
        yield f"the outputs are not [{OUTPUT_IMAGE!r}]"
    for node in model.graph.node:
        for name in [name for name in _MAIN if name in node.input]:
            if not _is_cast(node, TensorProto.FLOAT):
                yield f"{name!r} is read by {node.op_type}; it must be cast to FLOAT first"
        if OUTPUT_IMAGE in node.output and not _is_cast(node, TensorProto.UINT8):
            yield f"{OUTPUT_IMAGE!r} is made by {node.op_type}; it must be a Cast to UINT8"


def _is_cast(node: onnx.NodeProto, to: int) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == to for a in node.attribute)


def _broken_inside(model: onnx.ModelProto, instance_norms: int) -> Iterator[str]:
    found = sum(node.op_type == "InstanceNormalization" for node in model.graph.node)
    if found != instance_norms:
        yield f"{found} InstanceNormalization nodes where the network has {instance_norms}"
    try:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=False).graph
    except onnx.shape_inference.InferenceError as error:
        yield f"its types cannot be inferred ({reason(error)})"
        return
    values = [*graph.input, *graph.output, *graph.value_info]
    types = {v.name: v.type.tensor_type.elem_type for v in values}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    ends = {value.name for value in [*model.graph.input, *model.graph.output]}
    for name, kind in types.items():
        type_name = TensorProto.DataType.Name(kind)
        if type_name in _FORBIDDEN_TYPES and name not in ends:
            yield f"tensor {name!r} is {type_name}"
    for node in model.graph.node:
        name, kind = node.name or node.op_type, types.get(node.input[0]) if node.input else None
        if node.op_type == "OneHot":
            yield f"{name}: OneHot, use Cast and Equal"
        if node.op_type in ("Clip", "Min", "Max") and kind in _INTEGERS:
            yield f"{name}: {node.op_type} on integers, clamp in float"
        if node.op_type == "Cast" and node.input[0] not in _MAIN and kind == TensorProto.UINT8:
            yield f"{name}: a second Cast from UINT8"
