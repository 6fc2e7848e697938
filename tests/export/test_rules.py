"""The pre-flight: one bad model per rule, and the good one they are made from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sceneloom.errors import GraphRuleError
from sceneloom_export.graph import check_rules

F, U8, I32 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT32
BHW = ["batch", "height", "width"]


def good_model() -> onnx.ModelProto:
    """Small, and with every part that a rule looks at."""
    nodes = [
        helper.make_node("Cast", ["label_map"], ["labels"], to=F),
        helper.make_node("Cast", ["instance_map"], ["instances"], to=F),
        helper.make_node("Add", ["labels", "instances"], ["sum"]),
        helper.make_node("Unsqueeze", ["sum", "axis"], ["plane"]),
        helper.make_node("Concat", ["plane", "plane", "plane"], ["planes"], axis=1),
        helper.make_node("InstanceNormalization", ["planes", "one", "zero"], ["normed"]),
        helper.make_node("Clip", ["normed", "low", "high"], ["clipped"]),
        helper.make_node("Transpose", ["clipped"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["last"], ["image"], to=U8),
    ]
    constants = {
        "axis": np.array([1], np.int64),
        "one": np.ones(3, np.float32),
        "zero": np.zeros(3, np.float32),
        "low": np.float32(0),
        "high": np.float32(255),
    }
    graph = helper.make_graph(
        nodes,
        "good",
        [
            helper.make_tensor_value_info("label_map", U8, BHW),
            helper.make_tensor_value_info("instance_map", I32, BHW),
        ],
        [helper.make_tensor_value_info("image", U8, [*BHW, 3])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def insert(model: onnx.ModelProto, at: int, *nodes: onnx.NodeProto) -> None:
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*kept[:at], *nodes, *kept[at:]])


def wrong_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 17


def foreign_domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    insert(model, 7, helper.make_node("Gelu", ["clipped"], ["g"], domain="com.microsoft"))


def uint8_inside(model: onnx.ModelProto) -> None:
    insert(model, 7, helper.make_node("Cast", ["clipped"], ["early"], to=U8))


def uint8_constant(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.uint8), "table"))


def uint16_inside(model: onnx.ModelProto) -> None:
    insert(model, 7, helper.make_node("Cast", ["clipped"], ["wide"], to=TensorProto.UINT16))


def double_inside(model: onnx.ModelProto) -> None:
    insert(model, 7, helper.make_node("Cast", ["clipped"], ["precise"], to=TensorProto.DOUBLE))


def labels_read_without_cast(model: onnx.ModelProto) -> None:
    insert(model, 0, helper.make_node("Shape", ["label_map"], ["shape"]))


def labels_cast_to_integers(model: onnx.ModelProto) -> None:
    insert(model, 0, helper.make_node("Cast", ["label_map"], ["ids"], to=I32))


def image_not_made_by_a_cast(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = "bytes"
    model.graph.node.append(helper.make_node("Identity", ["bytes"], ["image"]))


def clip_on_int32(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.int32(0), "low_id"))
    insert(model, 0, helper.make_node("Clip", ["instance_map", "low_id"], ["clamped"]))


def one_hot(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.int64(3), "depth"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 1], np.float32), "values"))
    insert(model, 1, helper.make_node("OneHot", ["labels", "depth", "values"], ["hot"], axis=1))


def norm_taken_apart(model: onnx.ModelProto) -> None:
    node = model.graph.node[5]
    del node.input[1:]
    node.op_type = "MeanVarianceNormalization"


def fixed_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def fixed_size(model: onnx.ModelProto) -> None:
    model.graph.input[1].type.tensor_type.shape.dim[2].dim_value = 2048


def wrong_input_type(model: onnx.ModelProto) -> None:
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.INT64


def foreign_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("feat", F, BHW))


def second_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("clipped", F, None))


RULES: dict[Callable[[onnx.ModelProto], None], str] = {
    wrong_opset: "opset 17",
    foreign_domain: "com.microsoft",
    uint8_inside: "'early' is UINT8",
    uint8_constant: "'table' is UINT8",
    uint16_inside: "'wide' is UINT16",
    double_inside: "'precise' is DOUBLE",
    labels_read_without_cast: "'label_map' is read by Shape",
    labels_cast_to_integers: "'label_map' is read by Cast; it must be cast to FLOAT",
    image_not_made_by_a_cast: "'image' is made by Identity",
    clip_on_int32: "Clip on integers",
    one_hot: "OneHot",
    norm_taken_apart: "0 InstanceNormalization nodes where the network has 1",
    fixed_batch: "'label_map' has a fixed batch size",
    fixed_size: "'instance_map' has a fixed height or width",
    wrong_input_type: "'instance_map' has the wrong type or rank",
    foreign_input: "'feat' is not a tensor of the served model",
    second_output: "the outputs are not",
}


def test_good_model_passes() -> None:
    assert check_rules(good_model(), instance_norms=1) is None  # type: ignore[func-returns-value]


@pytest.mark.parametrize("spoil", RULES, ids=lambda f: f.__name__)
def test_broken_rule_is_named(spoil: Callable[[onnx.ModelProto], None]) -> None:
    model = good_model()
    spoil(model)
    with pytest.raises(GraphRuleError) as caught:
        check_rules(model, instance_norms=1)
    assert RULES[spoil] in str(caught.value)


def test_every_broken_rule_is_named_at_once() -> None:
    model = good_model()
    wrong_opset(model)
    uint8_constant(model)
    with pytest.raises(GraphRuleError) as caught:
        check_rules(model, instance_norms=2)
    assert all(part in str(caught.value) for part in ("opset 17", "'table' is UINT8", "has 2"))
