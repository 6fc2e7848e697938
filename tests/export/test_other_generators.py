"""Generators other than the published one go the whole way: export, parity, and its refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from support import wide_generator

from sceneloom.contract import Contract
from sceneloom.errors import ExportError
from sceneloom.schema import load_schema
from sceneloom_export.bundle import export_bundle
from sceneloom_export.settings import ExportSettings
from sceneloom_serving.bundle import load_references
from sceneloom_training.checkpoint import save_checkpoint
from sceneloom_training.networks import (
    Architecture,
    GeneratorArchitecture,
    UNetArchitecture,
)

SCHEMA = load_schema("helen")
ZEROS = GeneratorArchitecture(
    input_channels=12, ngf=4, global_downsamplings=1, global_blocks=1, padding="zeros"
)
UNET = UNetArchitecture(input_channels=12, ngf=4, downsamplings=3)


LABELS = Contract(schema=SCHEMA, boundaries=True, size_multiple=2)
PICTURES = Contract(kind="picture", boundaries=False, size_multiple=2)
GREY = Contract(kind="picture", boundaries=True, size_multiple=2, grey=True)


@pytest.mark.parametrize(
    ("architecture", "contract"),
    [
        pytest.param(ZEROS, LABELS, marks=pytest.mark.slow),
        pytest.param(UNET, LABELS, marks=pytest.mark.slow),
        pytest.param(dataclasses.replace(UNET, input_channels=4), GREY, marks=pytest.mark.slow),
    ],
    ids=["zeros", "unet", "unet-of-pictures"],
)
def test_exports_with_parity(
    tmp_path: Path, architecture: Architecture, contract: Contract
) -> None:
    contract = dataclasses.replace(
        contract,
        size_multiple=architecture.size_multiple,
        smallest_side=architecture.smallest_side,
    )
    save_checkpoint(tmp_path / "bundle", wide_generator(architecture, seed=3), contract, {})
    exported = export_bundle(tmp_path / "bundle", tmp_path / "repository", largest=(64, 128))
    ran = {one.engine: one.parity for one in exported.measured if one.parity is not None}
    assert ran.keys() >= {"onnxruntime-fp32", "openvino-fp32"}
    assert max(ran[name].max for name in ("onnxruntime-fp32", "openvino-fp32")) <= 1
    assert {judged.precision: judged.reason for judged in exported.verdicts} == {"fp16": None}
    assert (tmp_path / "repository" / "synthesis" / "1" / "fp16.onnx").is_file()
    assert exported.contract.smallest_side == architecture.smallest_side
    assert (exported.contract.kind, exported.contract.grey) == (contract.kind, contract.grey)


@pytest.mark.slow
def test_fast_precisions_of_pictures_are_proven_on_drawn_pictures(tmp_path: Path) -> None:
    architecture = dataclasses.replace(ZEROS, input_channels=3)
    checkpoint = tmp_path / "bundle"
    save_checkpoint(checkpoint, wide_generator(architecture, seed=3), PICTURES, {})
    fast = ExportSettings(precision=("bf16", "int8"))
    exported = export_bundle(checkpoint, tmp_path / "repository", largest=(64, 128), export=fast)
    assert {judged.precision for judged in exported.verdicts} == {"bf16", "int8"}
    assert min(judged.parity.psnr for judged in exported.verdicts) > 25
    references = load_references(tmp_path / "repository")
    assert len(references.requests) >= 8
    assert {request.label_map.shape[2:] for request in references.requests} == {(3,)}
    levels = [len(np.unique(request.label_map)) for request in references.requests]
    assert min(levels) > 20  # pictures with shades, not maps of a few colours


def test_a_segmenter_has_nothing_to_compare_pictures_with(tmp_path: Path) -> None:
    architecture = dataclasses.replace(ZEROS, input_channels=3)
    save_checkpoint(tmp_path / "bundle", wide_generator(architecture, seed=3), PICTURES, {})
    fast = ExportSettings(precision=("fast",), segmenter=tmp_path)
    with pytest.raises(ExportError, match="this model takes pictures"):
        export_bundle(tmp_path / "bundle", tmp_path / "repository", export=fast)
    assert not (tmp_path / "repository").exists()
