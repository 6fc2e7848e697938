"""The graph for TensorRT 8.6: the same pictures without an InstanceNormalization, and the steps
that must stay float32 named.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
from support import blocky_maps

from sceneloom_export.bundle import Exported
from sceneloom_export.norms import write_group_norms
from sceneloom_export.settings import FLOAT32
from sceneloom_serving.onnx_runtime import OnnxRuntimeSynthesizer
from sceneloom_serving.parity import compare
from sceneloom_training.networks import Generator
from sceneloom_training.torch_synthesizer import TorchSynthesizer


@pytest.fixture(scope="module")
def styled(styled_graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rewritten graph with boundaries, styles and an enhancer, beside the one it came from."""
    folder = tmp_path_factory.mktemp("styled") / "graphs"
    shutil.copytree(styled_graph, folder)
    write_group_norms(folder / "model.onnx", folder / "group_norms.onnx")
    return folder / "group_norms.onnx"


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]


@pytest.mark.slow
def test_every_norm_is_rewritten_and_nothing_else(styled: Path) -> None:
    before, after = operators(styled.with_name("model.onnx")), operators(styled)
    assert before.count("InstanceNormalization") == 12
    names = {"InstanceNormalization": "GroupNormalization"}
    # Range's limit was cast to float before it; now its numbers are cast after it.
    counted = before.index("Range")
    assert before[counted - 1 : counted + 1] == ["Cast", "Range"]
    before[counted - 1 : counted + 1] = ["Range", "Cast"]
    assert after == [names.get(kind, kind) for kind in before]
    assert styled.stat().st_size < 2 * styled.with_name("model.onnx").stat().st_size
    assert sorted(path.name for path in styled.parent.iterdir()) == [
        "group_norms.onnx",
        "model.onnx",
        "weights.bin",
    ]


def test_pictures_differ_by_at_most_one_level(exported: Exported, tmp_path: Path) -> None:
    for name in ("model.onnx", "weights.bin"):
        source = exported.repository / "synthesis" / "1" / name
        (tmp_path / name).write_bytes(source.read_bytes())
    write_group_norms(tmp_path / "model.onnx", tmp_path / "group_norms.onnx")
    maps = blocky_maps(64, 96, seed=3)
    pictures = [
        OnnxRuntimeSynthesizer(tmp_path / name).synthesize(*maps)
        for name in ("model.onnx", "group_norms.onnx")
    ]
    assert compare(pictures[:1], pictures[1:]).max <= 1
    assert pictures[0].std() > 20


def test_valid_in_the_opset_whose_checker_knows_the_operator(styled: Path) -> None:
    """Opset 21's scale is per channel, 18's per group: with one channel a group they are one."""
    model = onnx.load(styled, load_external_data=False)
    assert [entry.version for entry in model.opset_import] == [18]
    model.opset_import[0].version = 21
    later = styled.with_name("later.onnx")
    onnx.save(model, later)
    onnx.checker.check_model(str(later), full_check=True)
    later.unlink()


def test_what_must_stay_float32_is_named(styled: Path) -> None:
    graph = onnx.load(styled, load_external_data=False).graph
    named = [node for node in graph.node if node.name.startswith(FLOAT32)]
    assert len({node.name for node in named}) == len(named)
    kinds = [node.op_type for node in named]
    assert kinds.count("GroupNormalization") == 12
    # The last step, from the last convolution to the picture's cast.
    assert kinds[-6:] == ["Tanh", "Add", "Mul", "Clip", "Round", "Transpose"]
    # Labels, and the rows of the style table: half cannot tell row 2,049 from 2,048.
    asked = kinds[: kinds.index("GroupNormalization")]
    assert asked[:2] == ["Cast", "Unsqueeze"]
    assert {"Mul", "Add", "Clip", "Reshape"} <= set(asked)
    (counted,) = [node for node in graph.node if node.op_type == "Range"]
    constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert [constants.get(name) for name in counted.input] == [7, None, 7]  # INT64
    assert not counted.name.startswith(FLOAT32)
    assert not {"Conv", "ConvTranspose", "AveragePool", "Pad", "Relu", "Concat"} & set(kinds)


def test_reference(styled: Path, styled_generator: Generator) -> None:
    """Styled, in a batch, against PyTorch."""
    engine = OnnxRuntimeSynthesizer(styled, max_batch_size=2)
    reference = TorchSynthesizer(styled_generator, engine.contract)
    maps = [blocky_maps(32, 48, seed=i) for i in range(2)]
    labels, instances = zip(*maps, strict=True)
    expected = reference.synthesize_batch(labels, instances)
    assert compare(expected, engine.synthesize_batch(labels, instances)).max <= 1
