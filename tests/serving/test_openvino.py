"""OpenVINO: PyTorch's pictures at any size and batch, ids it cannot compare, and precision that is
always said.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from support import blocky_maps

from sceneloom import boundary_map
from sceneloom.contract import Contract
from sceneloom.errors import EngineError, SchemaError
from sceneloom.maps import InstanceMap, LabelMap
from sceneloom_export.bundle import Exported
from sceneloom_serving.bundle import CPU_FILE, load_references
from sceneloom_serving.engines import ENGINES, open_engine, unavailable
from sceneloom_serving.openvino_runtime import OpenVinoSynthesizer, computes_bfloat16
from sceneloom_serving.parity import compare, run_parity
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.torch_synthesizer import TorchSynthesizer


@pytest.fixture(scope="module")
def model(exported: Exported) -> Path:
    return exported.repository / "synthesis" / "1" / CPU_FILE


@pytest.fixture(scope="module")
def engine(model: Path) -> OpenVinoSynthesizer:
    return OpenVinoSynthesizer(model, max_batch_size=3)


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> TorchSynthesizer:
    loaded = load_checkpoint(checkpoint)
    assert loaded.contract is not None
    return TorchSynthesizer(loaded.generator, loaded.contract, max_batch_size=3)


def test_pictures_are_those_of_pytorch_at_any_size_and_batch(
    engine: OpenVinoSynthesizer, reference: TorchSynthesizer, exported: Exported
) -> None:
    assert engine.contract.schema == exported.contract.schema
    sizes = [(64, 96), (32, 40), (61, 97), (64, 96), (64, 96), (64, 96)]
    maps = [blocky_maps(*size, seed=i) for i, size in enumerate(sizes)]
    pictures = engine.synthesize_batch(*zip(*maps, strict=True))
    expected = reference.synthesize_batch(*zip(*maps, strict=True))
    assert compare(expected, pictures).max <= 1
    assert all(picture.std() >= 20 for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == 6


def stripes(ids: list[int]) -> tuple[LabelMap, InstanceMap]:
    """One label everywhere, and a stripe of each instance: only boundaries can tell them apart."""
    instance_map = np.repeat(np.array(ids, np.int64).astype(np.int32), 16)[None].repeat(64, 0)
    return np.full(instance_map.shape, 7, np.uint8), instance_map


@pytest.mark.parametrize(
    "ids",
    [
        [2**24, 2**24 + 1, 2**24 + 2, 5],
        [2**31 - 1, 2**31 - 2, 2**31 - 3, 2**31 - 4],
        [0, 2**30, 2**30 + 1, 255],
    ],
)
def test_ids_that_are_one_float_keep_their_boundaries(
    engine: OpenVinoSynthesizer, reference: TorchSynthesizer, ids: list[int]
) -> None:
    maps = stripes(ids)
    assert boundary_map(maps[1]).any()
    picture = engine.synthesize(*maps)
    assert compare([reference.synthesize(*maps)], [picture]).max <= 1
    without = engine.synthesize(*stripes([1] * len(ids)))
    assert compare([without], [picture]).max > 10  # boundaries do show in this model's pictures
    assert maps[1][0, ::16].tolist() == ids  # the caller's map stays as it was


def test_negative_ids_too(engine: OpenVinoSynthesizer, reference: TorchSynthesizer) -> None:
    labels, instances = stripes([-(2**31), -(2**31) + 1, 0, -5])
    expected = reference.run_batch(labels[None], instances[None], None)
    assert compare([expected], [engine.run_batch(labels[None], instances[None], None)]).max <= 1


def test_two_results_do_not_share_memory(engine: OpenVinoSynthesizer) -> None:
    first = engine.synthesize(*blocky_maps(32, 40, seed=0))
    kept = first.copy()
    second = engine.synthesize(*blocky_maps(32, 40, seed=1))
    assert np.array_equal(first, kept)
    assert not np.array_equal(first, second)
    assert not np.shares_memory(first, second)


@pytest.mark.parametrize(("precision", "hint"), [("fp32", "f32"), ("int8", "f32")])
def test_precision_and_threads_are_always_said(
    model: Path, monkeypatch: pytest.MonkeyPatch, precision: Any, hint: str
) -> None:
    said: list[dict[str, Any]] = []

    class Listening(openvino.Core):
        def compile_model(self, graph: Any, device: str, config: dict[str, Any]) -> Any:
            said.append(config)
            return super().compile_model(graph, device, config)

    monkeypatch.setattr(openvino, "Core", Listening)
    OpenVinoSynthesizer(model, precision=precision, threads=1)
    (config,) = said
    assert config["INFERENCE_PRECISION_HINT"] == hint
    assert config["INFERENCE_NUM_THREADS"] == 1
    assert (config["PERFORMANCE_HINT"], config["NUM_STREAMS"]) == ("LATENCY", 1)


def test_bfloat16_is_computed_or_refused(exported: Exported, model: Path) -> None:
    bf16 = ENGINES["openvino-bf16"]
    if not computes_bfloat16():
        with pytest.raises(EngineError, match="computes no bfloat16"):
            OpenVinoSynthesizer(model, precision="bf16")
        with pytest.raises(EngineError, match="openvino-bf16: this CPU computes no bfloat16"):
            open_engine("openvino-bf16", model.parent)
        assert "AVX-512 BF16" in str(unavailable(bf16, model.parent))
        return
    references = load_references(exported.repository)
    with open_engine("openvino-bf16", model.parent) as engine:
        parity = run_parity(references.pictures, engine, references.requests)
    assert engine.engine == "openvino-bf16"
    assert parity.mean > 0.05  # it is bfloat16 indeed; what limits it keeps is tried in test_fast
    assert parity.psnr > 30  # of a network that was never trained


def test_file_that_is_no_model_or_not_ours_is_refused_by_name(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "street.onnx"
    with pytest.raises(EngineError, match=r"street\.onnx: OpenVINO cannot load it"):
        OpenVinoSynthesizer(path)
    path.write_bytes(b"no protobuf")
    with pytest.raises(EngineError, match=r"street\.onnx: OpenVINO cannot load it"):
        OpenVinoSynthesizer(path)
    shutil.copy(model, path)  # without its weights beside it
    with pytest.raises(EngineError, match=r"street\.onnx: OpenVINO cannot load it"):
        OpenVinoSynthesizer(path)
    graph = onnx.load(model)
    contract = {entry.key: entry.value for entry in graph.metadata_props}["sceneloom"]
    assert isinstance(Contract.loads(contract), Contract)
    del graph.metadata_props[:]
    onnx.save(graph, path)
    with pytest.raises(EngineError, match=r"street\.onnx: carries no contract"):
        OpenVinoSynthesizer(path)
    onnx.helper.set_model_props(graph, {"sceneloom": "{}"})
    onnx.save(graph, path)
    with pytest.raises(SchemaError, match=r"street\.onnx.*format"):
        OpenVinoSynthesizer(path)
