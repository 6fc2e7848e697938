"""INT8: where the Q/DQ nodes are, that OpenVINO runs them, and that a bad one is not written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from support import CHECKOUT, run_command, wide_generator

from sceneloom.contract import Contract
from sceneloom.schema import load_schema
from sceneloom_export import precision
from sceneloom_export.bundle import Exported, export_bundle
from sceneloom_export.precision import quantise
from sceneloom_export.proof import calibration_maps, draw_probe, judge_quantised, make_references
from sceneloom_export.settings import ExportSettings
from sceneloom_serving.bundle import CPU_FILE, INT8_FILE
from sceneloom_serving.engines import ENGINES
from sceneloom_serving.openvino_runtime import OpenVinoSynthesizer
from sceneloom_serving.parity import reference_pictures
from sceneloom_training.checkpoint import save_checkpoint
from sceneloom_training.networks import Generator, GeneratorArchitecture

CONTRACT = Contract(schema=load_schema("helen"), boundaries=True, size_multiple=2)
ARCHITECTURE = GeneratorArchitecture(
    input_channels=12, ngf=4, global_downsamplings=1, global_blocks=2
)
CONTRAST = 6.0
"""How much more contrast the bad generator's last convolution gives; and errors with it."""


def good_generator() -> Generator:
    return wide_generator(ARCHITECTURE, seed=0)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """An export with int8, which fails: random weights, and far too much contrast."""
    folder = tmp_path_factory.mktemp("int8")
    generator = good_generator()
    generator.head[1].weight.mul_(CONTRAST)
    save_checkpoint(folder / "checkpoint", generator, CONTRACT, {})
    settings = ExportSettings(precision=("fp32", "int8"))
    return export_bundle(
        folder / "checkpoint", folder / "repository", largest=(64, 96), export=settings
    )


@pytest.fixture(scope="module")
def good(bad: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of the good generator, quantised: the bad one's with its contrast taken out."""
    folder = tmp_path_factory.mktemp("good")
    model = onnx.load(bad.repository / "synthesis" / "1" / CPU_FILE)
    last = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    weights = next(t for t in model.graph.initializer if t.name == last.input[1])
    calmer = numpy_helper.to_array(weights) / np.float32(CONTRAST)
    weights.CopyFrom(numpy_helper.from_array(calmer, weights.name))
    onnx.save(model, folder / CPU_FILE)
    quantise(folder / CPU_FILE, folder / "int8.onnx", calibration_maps(CONTRACT, []))
    return folder / "int8.onnx"


@pytest.mark.slow
def test_all_convolutions_but_the_last_are_quantised(good: Path) -> None:
    model = onnx.load(good)
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 1 + 1 + 2 * 2 + 1
    for node in convolutions[:-1]:
        assert [makers.get(name) for name in node.input[:2]] == ["DequantizeLinear"] * 2, node.name
    assert "DequantizeLinear" not in {makers.get(name) for name in convolutions[-1].input}
    transposed = [node for node in model.graph.node if node.op_type == "ConvTranspose"]
    assert transposed
    assert "DequantizeLinear" not in {makers.get(name) for n in transposed for name in n.input}
    dequantised = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    scales = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    weights = [n for n in dequantised if types.get(n.input[0]) == TensorProto.INT8]
    assert len(weights) == len(convolutions) - 1
    assert all(scales[node.input[1]].size > 1 for node in weights)  # one scale a channel
    files = {path.name for path in good.parent.iterdir()}
    assert files <= {"int8.onnx", CPU_FILE, "weights-int8.bin"}


def test_it_is_for_openvino_alone(good: Path) -> None:
    """TensorRT refuses zero points, or takes uint8 for int8: no engine of it may read this file."""
    model = onnx.load(good)
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    zeros = [
        values[node.input[2]]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[2] in values
    ]
    assert {zero.dtype.name for zero in zeros} == {"uint8"}
    assert any(zero.any() for zero in zeros)
    assert [e.name for e in ENGINES.values() if e.file == INT8_FILE] == ["openvino-int8"]
    assert precision.__doc__ is not None
    assert "for OpenVINO alone" in precision.__doc__
    page = (CHECKOUT / "docs" / "graph.md").read_text()
    [row] = [line for line in page.splitlines() if line.startswith("| `int8.onnx`")]
    assert row.endswith("| OpenVINO; TensorRT takes no zero points |")


def test_openvino_runs_it_within_the_limits(good: Path) -> None:
    maps = [draw_probe(CONTRACT, *size, seed=i) for i, size in enumerate([(64, 96), (32, 40)])]
    references = make_references(good_generator(), CONTRACT, maps)
    judged = judge_quantised(good, references)
    assert judged.reason is not None  # two maps prove nothing
    assert "int8 is proven on 8 maps at least, and this bundle has 2" in judged.reason
    assert judged.parity.psnr >= 35
    assert judged.parity.mean > 0.2  # it is int8 indeed
    assert str(judged).startswith("int8 left out: int8.onnx: ")
    with OpenVinoSynthesizer(good, precision="int8", max_batch_size=2) as engine:
        assert engine.contract.schema == CONTRACT.schema
        pictures = reference_pictures(engine, maps)
    assert [picture.shape for picture in pictures] == [(1, 64, 96, 3), (1, 32, 40, 3)]


def test_int8_beyond_its_limits_is_not_written_and_the_report_says_why(bad: Exported) -> None:
    folder = bad.repository / "synthesis" / "1"
    assert [path.name for path in folder.iterdir() if "int8" in path.name] == []
    (judged,) = bad.verdicts
    assert judged.precision == "int8"
    assert judged.reason is not None
    assert "dB, 44 is the limit" in judged.reason
    proof = json.loads((bad.repository / "report.json").read_text())["proof"]
    assert proof["precisions"]["int8"]["reason"] == judged.reason
    assert proof["precisions"]["int8"]["parity"]["psnr"] < 35
    assert proof["engines"]["openvino-int8"]["reason"] == judged.reason
    assert bad.engine.endswith("-fp32")
    assert {one.engine for one in bad.measured if one.seconds} >= {"openvino-fp32"}


def test_serve_refuses_it_with_the_judges_reason(bad: Exported) -> None:
    done = run_command("serve", bad.repository, "--engine", "openvino-int8")
    assert done.returncode == 1
    assert done.stdout == ""
    assert bad.verdicts[0].reason is not None
    assert bad.verdicts[0].reason in done.stderr


def test_runtimes_says_it_too(bad: Exported) -> None:
    done = run_command("runtimes", bad.repository)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "openvino-int8" in line]
    assert "int8 no: int8.onnx differs from PyTorch by" in line
