"""Pre-flight: the rules that every engine we build for imposes on the graph, checked before
anything is built.

TensorRT takes UINT8 only as network input or output and casts it only to and from floats, has no
UINT16 and lists no Clip on INT32 in 8.6 and 10.1; 8.6's parser knows opset 17 and reads 18 where
the operators mean the same. docs/graph.md gives the reason for each rule.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto

from sceneloom.contract import INPUT_INSTANCES, INPUT_LABELS, INPUT_STYLE, OUTPUT_IMAGE
from sceneloom.errors import GraphRuleError
from sceneloom.text import reason

OPSET = 18
_INPUTS = {
    INPUT_LABELS: (TensorProto.UINT8, 3),
    INPUT_INSTANCES: (TensorProto.INT32, 3),
    INPUT_STYLE: (TensorProto.FLOAT, 3),
}
_OUTPUTS = {OUTPUT_IMAGE: (TensorProto.UINT8, 4)}
_FORBIDDEN_TYPES: dict[int, str] = {
    TensorProto.UINT8: "UINT8",
    TensorProto.UINT16: "UINT16",
    TensorProto.INT16: "INT16",
    TensorProto.UINT32: "UINT32",
    TensorProto.UINT64: "UINT64",
    TensorProto.DOUBLE: "DOUBLE",
    TensorProto.STRING: "STRING",
}
_INTEGERS = (TensorProto.INT32, TensorProto.INT64)


def check_rules(model: onnx.ModelProto, *, instance_norms: int) -> None:
    """Check a graph against every rule.

    Args:
        model: the exported model.
        instance_norms: how many InstanceNorm calls the PyTorch network makes; each must still be
            one node.

    Raises:
        GraphRuleError: names every rule that is broken, and where.
    """
    broken = list(_broken(model, instance_norms))
    if broken:
        raise GraphRuleError("the graph breaks the engines' rules: " + "; ".join(broken))


def _broken(model: onnx.ModelProto, instance_norms: int) -> Iterator[str]:
    yield from _broken_opset(model)
    yield from _broken_signature(model)
    yield from _broken_label_cast(model)
    found = sum(node.op_type == "InstanceNormalization" for node in model.graph.node)
    if found != instance_norms:
        yield f"{found} InstanceNormalization nodes where the network has {instance_norms}"
    try:
        types = _types(model)
    except onnx.shape_inference.InferenceError as error:
        yield f"its types cannot be inferred ({reason(error)})"
        return
    yield from _broken_types(model, types)
    yield from _broken_operators(model, types)


def _broken_opset(model: onnx.ModelProto) -> Iterator[str]:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions.get("") != OPSET:
        yield f"opset {versions.get('')}, it must be {OPSET}"
    used = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    if used or model.functions:
        yield f"operators of the domains {sorted(used)}, or local functions"


def _broken_signature(model: onnx.ModelProto) -> Iterator[str]:
    for values, expected in ((model.graph.input, _INPUTS), (model.graph.output, _OUTPUTS)):
        for value in values:
            tensor = value.type.tensor_type
            if value.name not in expected:
                yield f"{value.name!r} is not a tensor of the served model"
            elif (tensor.elem_type, len(tensor.shape.dim)) != expected[value.name]:
                yield f"{value.name!r} has the wrong type or rank"
            elif not tensor.shape.dim[0].dim_param:
                yield f"{value.name!r} has a fixed batch size"
            elif value.name != INPUT_STYLE and not (
                tensor.shape.dim[1].dim_param and tensor.shape.dim[2].dim_param
            ):
                yield f"{value.name!r} has a fixed height or width"
    names = {value.name for value in model.graph.input}
    if INPUT_LABELS not in names:
        yield f"no input {INPUT_LABELS!r}"
    if [value.name for value in model.graph.output] != [OUTPUT_IMAGE]:
        yield f"the outputs are not [{OUTPUT_IMAGE!r}]"


def _broken_label_cast(model: onnx.ModelProto) -> Iterator[str]:
    for node in model.graph.node:
        if INPUT_LABELS in node.input and not _is_cast(node, TensorProto.FLOAT):
            yield f"{INPUT_LABELS!r} is read by {node.op_type}; it must be cast to FLOAT first"
        if OUTPUT_IMAGE in node.output and not _is_cast(node, TensorProto.UINT8):
            yield f"{OUTPUT_IMAGE!r} is made by {node.op_type}; it must be a Cast to UINT8"


def _broken_types(model: onnx.ModelProto, types: dict[str, int]) -> Iterator[str]:
    ends = {value.name for value in [*model.graph.input, *model.graph.output]}
    for name, kind in types.items():
        if kind in _FORBIDDEN_TYPES and name not in ends:
            yield f"tensor {name!r} is {_FORBIDDEN_TYPES[kind]}"


def _broken_operators(model: onnx.ModelProto, types: dict[str, int]) -> Iterator[str]:
    for node in model.graph.node:
        if node.op_type == "OneHot":
            yield f"{node.name or 'OneHot'}: OneHot, use Cast and Equal"
        if node.op_type in ("Clip", "Min", "Max") and types.get(node.input[0]) in _INTEGERS:
            yield f"{node.name or node.op_type}: {node.op_type} on integers, clamp in float"
        if (
            node.op_type == "Cast"
            and node.input[0] != INPUT_LABELS
            and types.get(node.input[0]) == TensorProto.UINT8
        ):
            yield f"{node.name or 'Cast'}: a second Cast from UINT8"


def _types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=False).graph
    types = {
        v.name: v.type.tensor_type.elem_type
        for v in [*graph.input, *graph.output, *graph.value_info]
    }
    return types | {x.name: x.data_type for x in graph.initializer}


def _is_cast(node: onnx.NodeProto, to: int) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == to for a in node.attribute)
