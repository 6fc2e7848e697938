"""Every InstanceNormalization rewritten: in two stages for engines on the CPU, or as
GroupNormalization for TensorRT 8.6. Other engines take the exported graph.

ONNX Runtime's CPU provider sums a channel's values, 2,097,152 at 2048x1024, into one float32. Over
large even regions the rounding errors do not cancel: the picture of the full-size network was wrong
by 2 grey levels. Summed row by row and then over the rows, the error is a hundred times smaller, at
a few per cent of the time.

TensorRT 8.6's Python parser gives InstanceNormalization to a plugin that needs cuDNN 8.
GroupNormalization, the same function when a group is one channel, becomes its own layer. 8.6
forbids half per layer, and names a layer after its node. So nodes that must stay float32 have the
prefix `FLOAT32`: the norms, the steps after the last convolution, and those from an input to a
comparison, index or shape, where half would change the label or row. 8.6 counts up to a number
known at run time in integers only, so Range (a batch's pictures, for style rows) does and is cast.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sceneloom_export.settings import FLOAT32

_ROWS, _COLUMNS = "norm_rows_axis", "norm_columns_axis"


def write_accurate_norms(source: Path, target: Path) -> None:
    """Rewrite an exported graph into the same folder, with the same file of weights."""
    assert source.parent == target.parent
    model = onnx.load(source, load_external_data=False)
    nodes = list(model.graph.node)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    del model.graph.node[:]
    for number, node in enumerate(nodes):
        if node.op_type == "InstanceNormalization":
            scale, shift = (
                numpy_helper.to_array(weights[name], base_dir=str(source.parent))
                for name in node.input[1:3]
            )
            # A norm without scale and shift has the exporter's ones and zeros.
            affine = None
            if np.any(scale != 1) or np.any(shift != 0):
                affine = scale.reshape(1, -1, 1, 1), shift.reshape(1, -1, 1, 1)
            steps = _two_stages(node, f"norm{number}", model.graph.initializer, affine)
            model.graph.node.extend(steps)
        else:
            model.graph.node.append(node)
    for name, axis in ((_ROWS, 2), (_COLUMNS, 3)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([axis], np.int64), name))
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save(model, target)
    onnx.checker.check_model(str(target), full_check=True)


def _two_stages(
    node: onnx.NodeProto,
    name: str,
    initializers: list[onnx.TensorProto],
    affine: tuple[NDArray[Any], NDArray[Any]] | None,
) -> Iterator[onnx.NodeProto]:
    """(x - mean) / sqrt(var + eps) with means of the rows' means, then scale and shift if any."""
    x = node.input[0]
    epsilon = next(a.f for a in node.attribute if a.name == "epsilon")
    initializers.append(numpy_helper.from_array(np.array(epsilon, np.float32), f"{name}_epsilon"))

    def step(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        names = [i if i in (x, _ROWS, _COLUMNS) else f"{name}_{i}" for i in inputs]
        return helper.make_node(kind, names, [f"{name}_{output}"], **attributes)

    yield step("Shape", [x], "shape", start=3, end=4)
    yield step("Cast", ["shape"], "width", to=TensorProto.FLOAT)
    # Sums, then means: OpenVINO makes one of two reductions of one kind.
    yield step("ReduceSum", [x, _COLUMNS], "row_sums", keepdims=1)
    yield step("ReduceMean", ["row_sums", _ROWS], "sums", keepdims=1)
    yield step("Div", ["sums", "width"], "mean")
    yield step("Sub", [x, "mean"], "centred")
    yield step("ReduceSumSquare", ["centred", _COLUMNS], "row_squares", keepdims=1)
    yield step("ReduceMean", ["row_squares", _ROWS], "squares", keepdims=1)
    yield step("Div", ["squares", "width"], "variance")
    yield step("Add", ["variance", "epsilon"], "above_zero")
    yield step("Sqrt", ["above_zero"], "deviation")
    yield step("Reciprocal", ["deviation"], "factor")
    last = step("Mul", ["centred", "factor"], "normed")
    if affine is not None:
        yield last
        for kind, values in zip(("scale", "shift"), affine, strict=True):
            initializers.append(numpy_helper.from_array(values, f"{name}_{kind}"))
        yield step("Mul", ["normed", "scale"], "scaled")
        last = step("Add", ["scaled", "shift"], "shifted")
    last.output[0] = node.output[0]
    yield last


_INTEGERS = (TensorProto.INT32, TensorProto.INT64)


def write_group_norms(source: Path, target: Path) -> None:
    """Rewrite an exported graph. The target needs the same file of weights beside it."""
    model = onnx.load(source, load_external_data=False)
    _count_in_integers(model)
    exact = _must_stay_float32(model)
    channels = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if tensor.dims}
    for number, node in enumerate(model.graph.node):
        if number in exact:
            node.name = f"{FLOAT32}{number}_{node.op_type}"
        if node.op_type == "InstanceNormalization":
            node.op_type = "GroupNormalization"
            node.attribute.append(helper.make_attribute("num_groups", channels[node.input[1]]))
    # Not given to ONNX's checker, which calls opset 18's GroupNormalization deprecated: 21 has a
    # scale per channel instead of per group, the same thing here. 8.6 knows 18's only.
    onnx.save(model, target)


def _count_in_integers(model: onnx.ModelProto) -> None:
    """Range(0.0, float(n), 1.0) becomes float(Range(0, n, 1))."""
    makers = {node.output[0]: node for node in model.graph.node}
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes.append(node)
        limit = makers.get(node.input[1]) if node.op_type == "Range" else None
        if limit is None or limit.op_type != "Cast":
            continue
        ends = (node.input[0], node.input[2])
        if any(name not in values or values[name].data_type != TensorProto.FLOAT for name in ends):
            continue
        wanted = node.output[0]
        names = [f"{wanted}_start", limit.input[0], f"{wanted}_step"]
        for name, end in zip(names[::2], ends, strict=True):
            whole = numpy_helper.to_array(values[end]).astype(np.int64)
            model.graph.initializer.append(numpy_helper.from_array(whole, name))
        node.input[:], node.output[:] = names, [f"{wanted}_integers"]
        cast = helper.make_node("Cast", [node.output[0]], [wanted], to=TensorProto.FLOAT)
        nodes.append(cast)
        if not any(limit.output[0] in other.input for other in model.graph.node):
            nodes.remove(limit)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _must_stay_float32(model: onnx.ModelProto) -> set[int]:
    """Numbers of the nodes that give float32 and must stay so."""
    nodes = list(model.graph.node)
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in [*graph.value_info, *graph.output]}
    convolutions = {i for i, node in enumerate(nodes) if node.op_type in ("Conv", "ConvTranspose")}
    before = _reached(nodes, convolutions, forwards=False)
    after = _reached(nodes, convolutions, forwards=True) - before
    asked = {
        i
        for i, node in enumerate(nodes)
        if node.op_type == "Equal"
        or (node.op_type == "Cast" and types[node.output[0]] in _INTEGERS)
    }
    norms = {i for i, node in enumerate(nodes) if node.op_type == "InstanceNormalization"}
    exact = norms | (after - convolutions) | _reached(nodes, asked, forwards=False)
    return {i for i in exact if types[nodes[i].output[0]] == TensorProto.FLOAT}


def _reached(nodes: list[onnx.NodeProto], start: set[int], *, forwards: bool) -> set[int]:
    """Numbers of the nodes after the given ones, or before them, of nodes in running order."""
    order = range(len(nodes)) if forwards else reversed(range(len(nodes)))
    names: set[str] = set()
    reached = set()
    for i in order:
        comes, goes = nodes[i].input, nodes[i].output
        if not forwards:
            comes, goes = goes, comes
        if not names.isdisjoint(comes):
            reached.add(i)
        if i in reached or i in start:
            names.update(goes)
    return reached
