"""FP8 in the global generator's blocks: judged by emulation, written as Q/DQ nodes for TensorRT,
and nowhere unless it is named.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
import torch
from gpu_worlds import fake_gpu, run_engine
from support import wide_generator
from torch.nn import functional

from sceneloom.contract import Contract
from sceneloom.errors import ExportError
from sceneloom.schema import load_schema
from sceneloom_export import fp8
from sceneloom_export.bundle import Exported, export_bundle
from sceneloom_export.graph import export_onnx
from sceneloom_export.proof import draw_map, draw_probe, judge_rounded, make_references
from sceneloom_export.settings import ExportSettings
from sceneloom_serving.bundle import VERSION, WEIGHTS, read_config
from sceneloom_serving.onnx_runtime import OnnxRuntimeSynthesizer
from sceneloom_serving.parity import compare, reference_pictures
from sceneloom_serving.plan_record import read_record
from sceneloom_training.checkpoint import load_checkpoint, save_checkpoint
from sceneloom_training.networks import (
    Generator,
    GeneratorArchitecture,
    HalfGenerator,
    ServedGenerator,
    UNetArchitecture,
    build_generator,
)
from sceneloom_training.torch_synthesizer import TorchSynthesizer

CONTRACT = Contract(schema=load_schema("helen"), boundaries=True, size_multiple=2)
DEMO = Path(__file__).resolve().parents[2] / "examples" / "street_demo" / "generator"


@pytest.fixture(scope="module")
def generator() -> Generator:
    """Its pictures are pale, so it keeps every limit."""
    architecture = GeneratorArchitecture(
        input_channels=12, ngf=4, global_downsamplings=1, global_blocks=2
    )
    made = wide_generator(architecture, seed=0)
    made.head[1].weight.mul_(0.05)
    return made


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, generator: Generator) -> Exported:
    folder = tmp_path_factory.mktemp("fp8")
    save_checkpoint(folder / "checkpoint", generator, CONTRACT, {})
    only = ExportSettings(precision=("fp8",))
    return export_bundle(
        folder / "checkpoint", folder / "repository", sizes=((64, 96),), export=only
    )


def test_values_are_those_of_e4m3(generator: Generator) -> None:
    conv = fp8.emulate(generator).global_generator.blocks[0].conv1
    x = torch.randn(1, 8, 6, 6) * 3
    x[0, 0, 0, 0] = 1e4  # cut off, not infinite
    found, plain = conv(x), functional.conv2d(x, conv.weight, conv.bias)
    assert found.isfinite().all()
    inside, expected = found[..., 3:, 3:], plain[..., 3:, 3:]
    error = float((inside - expected).norm() / expected.norm())
    assert 0.01 < error < 0.06  # three bits of mantissa, twice
    scales = fp8.weight_scales(torch.cat([conv.weight[:2], torch.zeros(1, 8, 3, 3)]))
    assert scales[0] != scales[1]
    assert scales[2] == 2**-14


@pytest.mark.slow
def test_the_graph_computes_what_is_emulated(generator: Generator, tmp_path: Path) -> None:
    half = ServedGenerator(HalfGenerator(generator).eval(), CONTRACT).eval()
    export_onnx(half, tmp_path / "fp16.onnx", weights=WEIGHTS["fp16.onnx"])
    fp8.write_fp8(tmp_path / "fp16.onnx", tmp_path / "fp8.onnx")
    model = onnx.load(tmp_path / "fp8.onnx")
    kinds = [node.op_type for node in model.graph.node]
    assert (kinds.count("QuantizeLinear"), kinds.count("DequantizeLinear")) == (4, 8)
    eight = [
        t for t in model.graph.initializer if t.name.endswith(("conv1.weight", "conv2.weight"))
    ]
    assert {t.data_type for t in eight} == {onnx.TensorProto.FLOAT8E4M3FN}
    maps = [draw_probe(CONTRACT, 64, 96, seed) for seed in range(2)]
    emulated = TorchSynthesizer(fp8.emulate(generator), CONTRACT)
    expected = reference_pictures(emulated, maps)
    # ONNX Runtime computes in float32, with weights of half.
    found = reference_pictures(OnnxRuntimeSynthesizer(tmp_path / "fp8.onnx"), maps)
    plain = reference_pictures(TorchSynthesizer(generator, CONTRACT), maps)
    assert compare(expected, found).mean < compare(expected, plain).mean / 2


@pytest.mark.slow
def test_it_is_written_where_it_is_named_alone(exported: Exported, tmp_path: Path) -> None:
    assert ExportSettings(precision=("exact", "fast")).precisions == (
        "fp32",
        "fp16",
        "bf16",
        "int8",
    )
    assert ExportSettings(precision=("fp8",)).precisions == ("fp32", "fp16", "fp8")
    assert {v.precision: v.reason for v in exported.verdicts} == {"fp16": None, "fp8": None}
    version = exported.repository / VERSION
    assert (version / "fp8.onnx").is_file()
    assert exported.engine.endswith("-fp32")
    named = {
        path.stem: read_config(path).parameters["engine"].string_value
        for path in (exported.repository / "synthesis" / "configs").iterdir()
    }
    assert named["tensorrt"] == named["tensorrt-throughput"] == "tensorrt-fp8"
    assert named["onnxruntime"] == "onnxruntime-cuda-fp16"


@pytest.mark.slow
def test_it_is_judged_by_the_limits_of_half() -> None:
    """The demo's trained network passes in half; the limits for FP8 are the same."""
    trained = load_checkpoint(DEMO)
    maps = [draw_map(trained.contract, (128, 256), 200 + number) for number in range(8)]
    references = make_references(trained.generator, trained.contract, maps)
    half, eight = (
        judge_rounded(trained.generator, trained.contract, precision, references)
        for precision in ("fp16", "fp8")
    )
    assert half.reason is None
    assert half.parity.mean < eight.parity.mean < 1
    assert (eight.reason is None) == (eight.parity.psnr >= 45 and eight.parity.p999 <= 2)
    assert eight.largest["global_generator.blocks.0.conv1"] < 1000


def test_a_network_without_such_blocks_is_refused() -> None:
    unet = build_generator(UNetArchitecture(input_channels=12, ngf=4, downsamplings=3), seed=0)
    with pytest.raises(ExportError, match="this network has none"):
        fp8.emulate(unet)


@pytest.mark.slow
def test_a_plan_of_it_on_a_gpu_that_is_not_there(exported: Exported, tmp_path: Path) -> None:
    model = shutil.copytree(exported.repository, tmp_path / "copy") / VERSION / "model.onnx"
    done = run_engine(model, "--precision", "fp8", environment=fake_gpu())
    assert done.returncode == 0, done.stderr
    assert "from fp8.onnx: fp8" in done.stdout
    record = read_record(model.with_name("model.plan"))
    assert (record.precision, record.graph["file"]) == ("fp8", "fp8.onnx")
    done = run_engine(model, "--precision", "fp8", environment=fake_gpu(FAKE_TENSORRT="8.6.1.6"))
    assert "TensorRT 8.6 has no FP8" in done.stderr
    (model.with_name("fp8.onnx")).unlink()
    done = run_engine(model, "--precision", "fp8", environment=fake_gpu())
    assert "fp8.onnx: is missing" in done.stderr
    assert "--precision exact fp8" in done.stderr
