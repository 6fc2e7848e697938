"""The exported graph: one file that takes any batch and size and gives PyTorch's pictures."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper
from support import blocky_maps, wide_generator
from torch import nn

from sceneloom.contract import Contract
from sceneloom.schema import load_schema
from sceneloom_export.bundle import Exported
from sceneloom_export.graph import check_rules, export_onnx
from sceneloom_export.norms import write_accurate_norms
from sceneloom_serving.bundle import CPU_FILE, FP16_FILE, load_references
from sceneloom_serving.onnx_runtime import OnnxRuntimeSynthesizer
from sceneloom_serving.parity import check_parity, compare, run_parity
from sceneloom_training.networks import Generator, GeneratorArchitecture, ServedGenerator
from sceneloom_training.published import import_published
from sceneloom_training.torch_synthesizer import TorchSynthesizer


def export(generator: Generator, contract: Contract, path: Path) -> OnnxRuntimeSynthesizer:
    export_onnx(ServedGenerator(generator, contract).eval(), path)
    return checked(generator, path)


def checked(generator: Generator, path: Path) -> OnnxRuntimeSynthesizer:
    norms = sum(isinstance(module, nn.InstanceNorm2d) for module in generator.modules())
    check_rules(onnx.load(path), instance_norms=norms)
    write_accurate_norms(path, path.with_name(CPU_FILE))
    return OnnxRuntimeSynthesizer(path.with_name(CPU_FILE), max_batch_size=3)


def test_signature(exported: Exported) -> None:
    model = onnx.load(exported.repository / "synthesis" / "1" / "model.onnx")
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [18]

    def shape(value: onnx.ValueInfoProto) -> list[str | int]:
        return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]

    assert {i.name: shape(i) for i in model.graph.input} == {
        "label_map": ["batch", "height", "width"],
        "instance_map": ["batch", "height", "width"],
    }
    assert {o.name: shape(o) for o in model.graph.output} == {
        "image": ["batch", "height", "width", 3]
    }


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("global_generator", "cityscapes"),
        pytest.param("local_enhancer_2", "cityscapes19", marks=pytest.mark.slow),
    ],
)
def test_reference_generators_give_the_same_pictures(
    shared: Path, tmp_path: Path, name: str, schema: str
) -> None:
    imported = import_published(shared / "reference" / f"{name}.pth", load_schema(schema))
    engine = export(imported.generator, imported.contract, tmp_path / "model.onnx")
    reference = TorchSynthesizer(imported.generator, imported.contract)
    maps = [blocky_maps(*size, seed=i, labels=19) for i, size in enumerate([(64, 96), (96, 64)])]
    labels, instances = zip(*maps, strict=True)
    images = engine.synthesize_batch(labels, instances)
    assert compare(reference.synthesize_batch(labels, instances), images).max <= 1
    assert all(image.std() >= 20 for image in images)
    other = engine.synthesize(*blocky_maps(64, 96, seed=9, labels=19))
    assert compare(images[:1], [other]).mean > 5  # different maps give different pictures


def test_style_and_batches(styled_graph: Path, styled_generator: Generator, tmp_path: Path) -> None:
    graph = shutil.copytree(styled_graph, tmp_path / "graph") / "model.onnx"
    engine = checked(styled_generator, graph)
    rng = np.random.default_rng(0)
    label_maps = rng.integers(0, 35, (3, 32, 40), np.uint8)
    instance_maps = rng.integers(0, 256, (3, 32, 40), np.int32)
    styles = rng.normal(size=(3, 256, 3)).astype(np.float32)
    expected = TorchSynthesizer(styled_generator, engine.contract, max_batch_size=3).run_batch(
        label_maps, instance_maps, styles
    )
    images = engine.run_batch(label_maps, instance_maps, styles)
    assert compare([expected], [images]).max <= 1
    for i in range(3):  # a row of the table goes to its own picture
        single = engine.run_batch(
            label_maps[i : i + 1], instance_maps[i : i + 1], styles[i : i + 1]
        )
        assert compare([single], [images[i : i + 1]]).max <= 1


def test_without_boundaries_there_is_one_input(tmp_path: Path) -> None:
    architecture = GeneratorArchitecture(
        input_channels=11, ngf=3, global_downsamplings=1, global_blocks=0
    )
    contract = Contract(schema=load_schema("helen"), boundaries=False, size_multiple=2)
    generator = wide_generator(architecture, seed=0)
    engine = export(generator, contract, tmp_path / "model.onnx")
    assert engine.contract == contract
    label_map = blocky_maps(10, 7, seed=0, labels=11)[0]
    image = engine.synthesize(label_map)
    assert image.shape == (10, 7, 3)
    assert compare([TorchSynthesizer(generator, contract).synthesize(label_map)], [image]).max <= 1


def test_channels_enough_for_the_norms_constants_to_lie_among_the_weights(tmp_path: Path) -> None:
    architecture = GeneratorArchitecture(
        input_channels=11, ngf=1024, global_downsamplings=0, global_blocks=0
    )
    contract = Contract(schema=load_schema("helen"), boundaries=False, size_multiple=1)
    generator = wide_generator(architecture, seed=0)
    engine = export(generator, contract, tmp_path / "model.onnx")
    label_map = blocky_maps(16, 24, seed=0, labels=11)[0]
    expected = TorchSynthesizer(generator, contract).synthesize(label_map)
    assert compare([expected], [engine.synthesize(label_map)]).max <= 1


def test_norms_in_two_stages_are_accurate_where_the_providers_own_are_not(tmp_path: Path) -> None:
    """Even regions of 2048x1024 pixels: one float32 sum per channel loses digits."""
    height, width = 1024, 2048
    x = np.full((1, 2, height, width), 0.3, np.float32)
    x[:, :, : height // 3] = -0.1
    x[:, 1, :, : width // 5] = 2.7
    expected = instance_norm(x.astype(np.float64))
    norm = helper.make_node("InstanceNormalization", ["x", "one", "zero"], ["y"], epsilon=1e-5)
    shape = [1, 2, "height", "width"]
    graph = helper.make_graph(
        [norm],
        "norm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(np.ones(2, np.float32), "one"),
            numpy_helper.from_array(np.zeros(2, np.float32), "zero"),
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10),
        tmp_path / "own.onnx",
    )
    write_accurate_norms(tmp_path / "own.onnx", tmp_path / "accurate.onnx")
    errors = {}
    for name in ("own", "accurate"):
        session = onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx"))
        errors[name] = np.abs(session.run(None, {"x": x})[0] - expected).max()
    # OpenVINO joins reductions of one kind, and sums a channel into one float32 then.
    compiled = openvino.Core().compile_model(
        tmp_path / "accurate.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    errors["openvino"] = np.abs(compiled(x)[0] - expected).max()
    assert errors["accurate"] < 1e-4
    assert errors["openvino"] < 1e-4
    assert errors["own"] > 10 * errors["accurate"]


def instance_norm(x: np.ndarray) -> np.ndarray:
    mean, variance = x.mean((2, 3), keepdims=True), x.var((2, 3), keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5)


def test_rewritten_graph_has_the_same_function_and_shares_the_weights(exported: Exported) -> None:
    folder = exported.repository / "synthesis" / "1"
    assert (folder / CPU_FILE).stat().st_size < (folder / "weights.bin").stat().st_size
    graphs = [onnx.load(folder / name).graph for name in ("model.onnx", CPU_FILE)]
    counts = [sum(n.op_type == "InstanceNormalization" for n in g.node) for g in graphs]
    assert counts == [14, 0]
    maps = blocky_maps(64, 96, seed=0)
    own, accurate = (
        OnnxRuntimeSynthesizer(folder / name).synthesize(*maps) for name in ("model.onnx", CPU_FILE)
    )
    assert compare([own], [accurate]).max <= 1


def test_half_graph_keeps_the_rules_and_its_norms_and_ends_are_float32(exported: Exported) -> None:
    model = onnx.load(exported.repository / "synthesis" / "1" / FP16_FILE)
    check_rules(model, instance_norms=14)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    found: dict[str, set[int]] = {}
    for node in model.graph.node:
        for name in [*node.input, *node.output]:
            if types.get(name) in (TensorProto.FLOAT, TensorProto.FLOAT16):
                found.setdefault(node.op_type, set()).add(types[name])
    assert found["Conv"] == found["ConvTranspose"] == {TensorProto.FLOAT16}
    for kind in ("InstanceNormalization", "Tanh", "Clip", "Round"):
        assert found[kind] == {TensorProto.FLOAT}, kind


def test_half_graphs_weights_are_half_as_large(exported: Exported) -> None:
    folder = exported.repository / "synthesis" / "1"
    full, half = ((folder / name).stat().st_size for name in ("weights.bin", "weights-fp16.bin"))
    assert half == pytest.approx(full / 2, rel=0.05)


def test_half_graph_is_the_same_function(exported: Exported) -> None:
    references = load_references(exported.repository)
    graph = exported.repository / "synthesis" / "1" / FP16_FILE
    engine = OnnxRuntimeSynthesizer(graph, max_batch_size=2)
    assert engine.contract.schema == exported.contract.schema
    parity = run_parity(references.pictures, engine, references.requests)
    check_parity(parity, "fp16", "half")
    assert parity.mean > 0.001  # its weights are rounded


def test_onnx_runtime_on_the_cpu_shows_nothing_of_what_overflows_in_half(
    exported: Exported, tmp_path: Path
) -> None:
    """Why it is not the judge: tests/export/test_rounding.py catches the same."""
    model = onnx.load(exported.repository / "synthesis" / "1" / FP16_FILE)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    for name in first.input[1:]:
        tensor = next(t for t in model.graph.initializer if t.name == name)
        scaled = numpy_helper.to_array(tensor).astype(np.float32) * 2e5
        assert np.abs(scaled).max() < 65_504
        tensor.CopyFrom(numpy_helper.from_array(scaled.astype(np.float16), name))
    onnx.save(model, tmp_path / "scaled.onnx")
    references = load_references(exported.repository)
    parity = run_parity(
        references.pictures, OnnxRuntimeSynthesizer(tmp_path / "scaled.onnx"), references.requests
    )
    check_parity(parity, "fp16", "scaled")
    # The layer itself: what goes into the norm behind it is far above what half can hold.
    out = helper.make_tensor_value_info(first.output[0], TensorProto.FLOAT16, None)
    model.graph.output.append(out)
    request = references.requests[0]
    assert request.instance_map is not None
    feeds = {"label_map": request.label_map[None], "instance_map": request.instance_map[None]}
    session = onnxruntime.InferenceSession(model.SerializeToString())
    assert np.isinf(session.run([first.output[0]], feeds)[0]).any()
