"""The graph as ONNX Runtime's CPU provider runs it: every InstanceNormalization in two stages.

That provider sums all of a channel's values into one float32. At 2048x1024 these are 2,097,152, and
over large even regions the rounding errors do not cancel: the first norm of a street scene came out
wrong by up to 1e-2, and the picture of the full-size network by 2 grey levels. Summed row by row
and then over the rows, the error is a hundred times smaller, at a few per cent of the time. Other
engines build from the graph as it was exported, with its InstanceNormalization nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_ROWS, _COLUMNS = "norm_rows_axis", "norm_columns_axis"


def write_accurate_norms(source: Path, target: Path) -> None:
    """Rewrite a graph; the weights stay in the file that both share.

    Args:
        source: the exported graph, with its weights in a file beside it.
        target: the graph to write, in the same folder.
    """
    assert source.parent == target.parent
    model = onnx.load(source, load_external_data=False)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for number, node in enumerate(nodes):
        if node.op_type == "InstanceNormalization":
            affine = _affine(node, model.graph.initializer, source.parent)
            steps = _two_stages(node, f"norm{number}", model.graph.initializer, affine)
            model.graph.node.extend(steps)
        else:
            model.graph.node.append(node)
    for name, axis in ((_ROWS, 2), (_COLUMNS, 3)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([axis], np.int64), name))
    _drop_unused(model)
    onnx.save(model, target)
    onnx.checker.check_model(str(target), full_check=True)


def _affine(
    node: onnx.NodeProto, initializers: list[onnx.TensorProto], folder: Path
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Scale and shift, [1, C, 1, 1] each; None where they are the exporter's ones and zeros for a
    norm without any.
    """
    scale, shift = (
        numpy_helper.to_array(
            next(t for t in initializers if t.name == name), base_dir=str(folder)
        ).reshape(1, -1, 1, 1)
        for name in node.input[1:3]
    )
    return None if np.all(scale == 1) and np.all(shift == 0) else (scale, shift)


def _two_stages(
    node: onnx.NodeProto,
    name: str,
    initializers: list[onnx.TensorProto],
    affine: tuple[NDArray[Any], NDArray[Any]] | None,
) -> Iterator[onnx.NodeProto]:
    """(x - mean) / sqrt(var + eps), where mean and var are means of the rows' means; then scale and
    shift, if there are any.
    """
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


def _drop_unused(model: onnx.ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
