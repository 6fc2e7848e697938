"""The configurations of the encoded path, read back with Triton's own schema."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from sceneloom.contract import Contract
from sceneloom.schema import load_schema
from sceneloom.triton.encoded import DECODE_MODEL, ENCODE_MODEL, ENCODED_MODEL, ENCODED_MODELS
from sceneloom_export.repository import write_configs, write_encoded_models
from sceneloom_export.settings import TritonSettings
from sceneloom_serving import templates

STREETS = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=32)
PLAIN = Contract(schema=load_schema("helen"), boundaries=False, size_multiple=8)
STYLED = dataclasses.replace(STREETS, style_channels=3)


def parse(path: Path) -> Any:
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def written(folder: Path, contract: Contract, **settings: Any) -> Path:
    """A repository with the templates filled in."""
    shutil.copytree(templates() / "synthesis", folder / "synthesis")
    serving = TritonSettings(**settings)
    write_configs(folder / "synthesis", contract, serving, largest=(64, 128), engine="a-fp32")
    write_encoded_models(folder, serving)
    return folder


def test_templates_are_valid() -> None:
    for model in ENCODED_MODELS:
        assert parse(templates() / model / "config.pbtxt").name == model


@pytest.mark.parametrize("contract", [PLAIN, STREETS, STYLED])
def test_tensors_follow_the_contract(tmp_path: Path, contract: Contract) -> None:
    repository = written(tmp_path, contract)
    ensemble, decode, encode = (parse(repository / m / "config.pbtxt") for m in ENCODED_MODELS)
    own = {"instance_map"} if contract.boundaries else set()
    own |= {"style"} if contract.style_channels else set()
    assert {x.name for x in ensemble.input} == {"label_map", "format", "unknown", *own}
    assert {x.name for x in decode.output} == {"label_map", "height_width", *own}
    styles = [x for x in [*ensemble.input, *decode.input] if x.name.startswith("style")]
    assert [list(x.dims) for x in styles] == [[-1, 3]] * (2 if contract.style_channels else 0)
    assert [list(x.dims) for x in decode.output if x.name == "style"] == [
        [256, 3] for _ in range(bool(contract.style_channels))
    ]
    served = parse(repository / "synthesis" / "config.pbtxt")
    for step, model in zip(
        ensemble.ensemble_scheduling.step, (decode, served, encode), strict=True
    ):
        assert step.model_name == model.name
        assert set(step.input_map) == {x.name for x in model.input}
        assert set(step.output_map) == {x.name for x in model.output}


def test_each_variant_has_its_own_sizes(tmp_path: Path) -> None:
    repository = written(tmp_path, STREETS)
    variants = sorted(path.name for path in (repository / "synthesis" / "configs").iterdir())
    for model in (ENCODED_MODEL, DECODE_MODEL):
        assert sorted(path.name for path in (repository / model / "configs").iterdir()) == variants
        for name in ("config.pbtxt", *(f"configs/{name}" for name in variants)):
            ours, theirs = parse(repository / model / name), parse(repository / "synthesis" / name)
            assert ours.parameters["sceneloom"] == theirs.parameters["sceneloom"]
    fixed = parse(repository / DECODE_MODEL / "configs" / "tensorrt.pbtxt")
    contract = Contract.loads(fixed.parameters["sceneloom"].string_value)
    assert contract.sizes == ((64, 128),)


def test_limits_of_the_steps(tmp_path: Path) -> None:
    repository = written(tmp_path, STREETS, queue_size=7, queue_timeout_s=2.5, max_pixels=99_999)
    for model in (DECODE_MODEL, ENCODE_MODEL):
        config = parse(repository / model / "config.pbtxt")
        policy = config.dynamic_batching.default_queue_policy
        assert policy.max_queue_size == 7
        assert policy.default_timeout_microseconds == 2_500_000
        assert config.dynamic_batching.max_queue_delay_microseconds == 0
    decode = parse(repository / DECODE_MODEL / "config.pbtxt")
    assert decode.parameters["max_pixels"].string_value == "99999"
