"""Generators other than the published one go the whole way: export, parity, and its refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import wide_generator

from sceneloom.contract import Contract
from sceneloom.errors import ExportError
from sceneloom.schema import load_schema
from sceneloom_export.bundle import export_bundle
from sceneloom_training.checkpoint import save_checkpoint
from sceneloom_training.networks import (
    Architecture,
    GeneratorArchitecture,
    UNetArchitecture,
    build_generator,
)

SCHEMA = load_schema("helen")
ZEROS = GeneratorArchitecture(
    input_channels=12, ngf=4, global_downsamplings=1, global_blocks=1, padding="zeros"
)
UNET = UNetArchitecture(input_channels=12, ngf=4, downsamplings=3)


@pytest.mark.parametrize("architecture", [ZEROS, UNET], ids=["zeros", "unet"])
def test_exports_with_parity(tmp_path: Path, architecture: Architecture) -> None:
    contract = Contract(
        schema=SCHEMA,
        boundaries=True,
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


def test_paired_models_are_refused_with_the_reason(tmp_path: Path) -> None:
    generator = build_generator(UNetArchitecture(input_channels=3, ngf=2, downsamplings=3))
    save_checkpoint(tmp_path / "bundle", generator, None, {})
    with pytest.raises(ExportError, match=r"label count 0.*trained and evaluated, not served"):
        export_bundle(tmp_path / "bundle", tmp_path / "repository")
    assert not (tmp_path / "repository").exists()
