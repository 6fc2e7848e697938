"""The export bundle as a whole: report, hashes, and nothing written unless everything passed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from support import wide_generator

from sceneloom.contract import Contract
from sceneloom.errors import CheckpointError, ExportError, InputError, SchemaError, SizeError
from sceneloom.files import file_hash
from sceneloom.schema import load_schema
from sceneloom_export.bundle import Exported, export_bundle
from sceneloom_export.settings import ExportSettings, TritonSettings
from sceneloom_serving.bundle import (
    CPU_FILE,
    FP16_FILE,
    block_means,
    load_golden,
    load_references,
)
from sceneloom_serving.engines import ENGINES
from sceneloom_serving.onnx_runtime import OnnxRuntimeSynthesizer
from sceneloom_serving.parity import run_parity
from sceneloom_training.checkpoint import load_checkpoint, save_checkpoint
from sceneloom_training.networks import GeneratorArchitecture
from sceneloom_training.torch_synthesizer import TorchSynthesizer

FP32 = ExportSettings(precision=("fp32",))
VARIANTS = ("aoti", "embedded", "onnxruntime", "tensorrt-throughput", "tensorrt")


def test_files_report_and_hashes(exported: Exported) -> None:
    folder = exported.repository
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    files = [file for file in files if "__pycache__" not in file]  # a server may have run it
    assert files == [
        "golden.npz",
        "references.npz",
        "report.json",
        "synthesis/1/fp16.onnx",
        "synthesis/1/model.onnx",
        "synthesis/1/model.py",
        "synthesis/1/onnxruntime.onnx",
        "synthesis/1/weights-fp16.bin",
        "synthesis/1/weights.bin",
        "synthesis/aoti/config.pbtxt",
        "synthesis/config.pbtxt",
        *(f"synthesis/configs/{name}.pbtxt" for name in VARIANTS),
    ]
    report = json.loads((folder / "report.json").read_text())
    engines = [file for file in files if file.endswith((".onnx", ".bin"))]
    hashed = [file for file in files if file != "report.json"]
    assert report["sha256"] == {name: file_hash(folder / name) for name in hashed}
    assert report["bytes"] == {name: (folder / name).stat().st_size for name in engines}
    assert report["bundle_hash"] == exported.contract.bundle_hash
    assert len(report["bundle_hash"]) == 64
    assert report["serving"]["max_batch_size"] == 4
    assert Contract.from_json(report["contract"]) == exported.contract
    assert report["checkpoint"]["provenance"] == {"imported_from": "a test"}
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_report_says_how_every_engine_and_precision_did(exported: Exported) -> None:
    proof = json.loads((exported.repository / "report.json").read_text())["proof"]
    assert proof["maps"] == ["64x64", "192x128", "136x192", "192x128"]
    (graph,) = proof["graph"].values()
    assert graph["max"] <= 1
    assert proof["engines"].keys() == ENGINES.keys()
    assert exported.engine == proof["engine"]
    times = {n: found["seconds"] for n, found in proof["engines"].items() if found["seconds"]}
    assert times.keys() >= {"onnxruntime-fp32", "openvino-fp32"}
    assert proof["engine"] in times
    assert proof["engine"].endswith("-fp32")
    for name in ("onnxruntime-fp32", "openvino-fp32"):
        assert proof["engines"][name]["parity"]["max"] <= 1
        assert proof["engines"][name]["reason"] is None
    int8 = proof["engines"]["openvino-int8"]
    assert int8["parity"] is None
    assert "export --precision fast" in int8["reason"]
    assert proof["engines"]["openvino-bf16"]["reason"] == (
        "not proven: sceneloom export --precision fast"
    )
    assert proof["precisions"].keys() == {"fp16"}
    for found in proof["precisions"].values():
        assert found["reason"] is None
        assert found["parity"]["psnr"] >= 45
        assert 0 < found["largest"]["head.1"] < 16_000
    assert exported.parity.to_json() == proof["engines"][exported.engine]["parity"]


def test_reference_pictures_travel_with_the_bundle(exported: Exported, checkpoint: Path) -> None:
    references = load_references(exported.repository)
    assert references.sizes == [(64, 64), (128, 192), (192, 136), (128, 192)]
    loaded = load_checkpoint(checkpoint)
    assert loaded.contract is not None
    reference = TorchSynthesizer(loaded.generator, loaded.contract)
    assert run_parity(references.pictures, reference, references.requests).max == 0


def test_golden_is_what_the_engine_answers(exported: Exported) -> None:
    golden = load_golden(exported.repository)
    engine = OnnxRuntimeSynthesizer(exported.repository / "synthesis" / "1" / CPU_FILE)
    image = engine.run_requests([golden.request])[0]
    assert np.abs(block_means(image) - golden.block_means).max() < 0.1
    assert golden.block_means.std() > 5


def test_a_model_without_instance_maps_takes_no_boundaries(tmp_path: Path) -> None:
    architecture = GeneratorArchitecture(
        input_channels=11, ngf=2, global_downsamplings=1, global_blocks=0
    )
    contract = Contract(schema=load_schema("helen"), boundaries=False, size_multiple=2)
    save_checkpoint(tmp_path / "c", wide_generator(architecture, seed=0), contract, {})
    own = dataclasses.replace(FP32, maps=tmp_path, boundaries="labels")
    with pytest.raises(InputError, match="boundaries is labels, and this model takes no instance"):
        export_bundle(tmp_path / "c", tmp_path / "r", export=own)


def test_fixed_sizes_and_replacing(tmp_path: Path) -> None:
    architecture = GeneratorArchitecture(
        input_channels=11, ngf=2, global_downsamplings=1, global_blocks=0
    )
    contract = Contract(schema=load_schema("helen"), boundaries=False, size_multiple=2)
    save_checkpoint(tmp_path / "c", wide_generator(architecture, seed=0), contract, {})
    first = export_bundle(tmp_path / "c", tmp_path / "r", sizes=((32, 64), (64, 32)), export=FP32)
    assert first.contract.sizes == ((32, 64), (64, 32))
    golden = load_golden(tmp_path / "r")
    assert golden.request.label_map.shape == (32, 64)
    proof = json.loads((tmp_path / "r" / "report.json").read_text())["proof"]
    assert proof["maps"] == ["64x32", "32x64", "64x32"]
    assert proof["precisions"] == {}
    assert not (tmp_path / "r" / "synthesis" / "1" / FP16_FILE).exists()
    assert FP16_FILE in proof["engines"]["onnxruntime-cuda-fp16"]["reason"] or (
        "provider" in proof["engines"]["onnxruntime-cuda-fp16"]["reason"]
    )
    save_checkpoint(tmp_path / "c", wide_generator(architecture, seed=1), contract, {})
    second = export_bundle(tmp_path / "c", tmp_path / "r", largest=(64, 64), export=FP32)
    assert second.contract.bundle_hash != first.contract.bundle_hash
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "r"]


def test_size_that_the_model_cannot_take_leaves_nothing(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(SchemaError, match="100x100"):
        export_bundle(checkpoint, tmp_path / "r", sizes=((100, 100),))
    assert list(tmp_path.iterdir()) == []


def test_wrong_settings_are_refused_before_the_work(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(SizeError, match=r"largest is 513x256 .* multiple of 8 .* next is 520x256"):
        export_bundle(checkpoint, tmp_path / "r", largest=(256, 513))
    with pytest.raises(SizeError, match="multiple of 8"):
        export_bundle(checkpoint, tmp_path / "r", TritonSettings(warmup=("63x64",)))
    with pytest.raises(ExportError, match="twice"):
        export_bundle(checkpoint, tmp_path / "r", sizes=((32, 32), (32, 32)))
    small = TritonSettings(max_pixels=1000)
    with pytest.raises(ExportError, match=r"64x32 is above max_pixels, 1,000"):
        export_bundle(checkpoint, tmp_path / "r", small, sizes=((32, 64),))
    assert list(tmp_path.iterdir()) == []


def test_place_that_is_taken(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(ExportError, match="not an export bundle"):
        export_bundle(checkpoint, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_place_that_cannot_be_written(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot be written"):
        export_bundle(checkpoint, tmp_path / "file" / "r")


def test_precision_that_there_is_not_is_refused() -> None:
    assert ExportSettings(precision=()).precision == ()
    with pytest.raises(SchemaError, match=r"precision\[1\] is 'fp4'; it is 'exact', 'fast'"):
        ExportSettings(precision=("fp32", "fp4"))  # type: ignore[arg-type]


def test_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a checkpoint bundle"):
        export_bundle(tmp_path / "nothing", tmp_path / "r")


def test_other_than_rgb_is_refused(
    tmp_path: Path, small_architecture: GeneratorArchitecture
) -> None:
    grey = dataclasses.replace(small_architecture, output_channels=1)
    contract = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)
    save_checkpoint(tmp_path / "c", wide_generator(grey, seed=0), contract, {})
    with pytest.raises(ExportError, match="RGB"):
        export_bundle(tmp_path / "c", tmp_path / "r")
