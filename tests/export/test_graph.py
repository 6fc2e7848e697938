"""The exported graph: one file that takes any batch and size and gives PyTorch's pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from support import blocky_maps, wide_generator
from torch import nn

from sceneloom.contract import Contract
from sceneloom.schema import load_schema
from sceneloom_export.graph import export_onnx
from sceneloom_export.parity import compare
from sceneloom_export.rules import check_rules
from sceneloom_serving.onnx_runtime import OnnxRuntimeSynthesizer
from sceneloom_serving.torch_runtime import TorchSynthesizer
from sceneloom_training.networks import Generator, GeneratorArchitecture, ServedGenerator
from sceneloom_training.published import import_published


def export(generator: Generator, contract: Contract, path: Path) -> OnnxRuntimeSynthesizer:
    export_onnx(ServedGenerator(generator, contract).eval(), path)
    norms = sum(isinstance(module, nn.InstanceNorm2d) for module in generator.modules())
    check_rules(onnx.load(path), instance_norms=norms)
    return OnnxRuntimeSynthesizer(path, max_batch_size=3)


def test_signature(exported: object) -> None:
    model = onnx.load(exported.repository / "synthesis" / "1" / "model.onnx")  # type: ignore[attr-defined]
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
    ("name", "schema"), [("global_generator", "cityscapes"), ("local_enhancer_2", "cityscapes19")]
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


def test_style_and_batches(small_architecture: GeneratorArchitecture, tmp_path: Path) -> None:
    contract = Contract(
        schema=load_schema("celebamask"), boundaries=True, style_channels=16, size_multiple=8
    )
    generator = wide_generator(small_architecture, seed=3)
    engine = export(generator, contract, tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    label_maps = rng.integers(0, 19, (3, 32, 40), np.uint8)
    instance_maps = rng.integers(0, 256, (3, 32, 40), np.int32)
    styles = rng.normal(size=(3, 256, 16)).astype(np.float32)
    expected = TorchSynthesizer(generator, contract, max_batch_size=3).run_batch(
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
        input_channels=11, ngf=3, global_downsamplings=1, global_blocks=1
    )
    contract = Contract(schema=load_schema("helen"), boundaries=False, size_multiple=2)
    generator = wide_generator(architecture, seed=0)
    engine = export(generator, contract, tmp_path / "model.onnx")
    assert engine.contract == contract
    label_map = blocky_maps(10, 7, seed=0, labels=11)[0]
    image = engine.synthesize(label_map)
    assert image.shape == (10, 7, 3)
    assert compare([TorchSynthesizer(generator, contract).synthesize(label_map)], [image]).max <= 1
