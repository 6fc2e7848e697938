"""The filled-in config.pbtxt, read back with Triton's own schema."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from sceneloom.contract import Contract
from sceneloom.errors import InputError, SchemaError, SizeError
from sceneloom.schema import load_schema
from sceneloom_export.repository import write_configs
from sceneloom_export.settings import TritonSettings
from sceneloom_serving import templates

CITYSCAPES = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=32)


def written(contract: Contract, settings: TritonSettings, folder: Path) -> Any:
    target = folder / "config.pbtxt"
    shutil.copyfile(templates() / "synthesis" / "config.pbtxt", target)
    write_configs(folder, contract, settings, largest=(1024, 2048), engine="onnxruntime-fp32")
    return text_format.Parse(target.read_text(), model_config_pb2.ModelConfig())


def test_template_is_valid_and_complete() -> None:
    text = (templates() / "synthesis" / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert config.name == "synthesis"
    inputs = ["label_map", "picture", "instance_map", "style"]
    assert [tensor.name for tensor in config.input] == inputs
    assert (templates() / "synthesis" / "1" / "model.py").is_file()


def test_settings_and_contract_are_written(tmp_path: Path) -> None:
    settings = TritonSettings(
        max_batch_size=4,
        queue_delay_us=500,
        queue_size=7,
        queue_timeout_s=2.5,
        instances=2,
        warmup=("2048x1024", "128x64"),
    )
    config = written(CITYSCAPES, settings, tmp_path)
    assert config.max_batch_size == 4
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    policy = config.dynamic_batching.default_queue_policy
    assert policy.max_queue_size == 7
    assert policy.default_timeout_microseconds == 2_500_000
    assert policy.timeout_action == model_config_pb2.ModelQueuePolicy.REJECT
    assert config.instance_group[0].count == 2
    assert config.parameters["max_pixels"].string_value == "8388608"
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    assert Contract.loads(config.parameters["sceneloom"].string_value) == CITYSCAPES
    assert [tensor.name for tensor in config.input] == ["label_map", "instance_map"]
    assert [sample.name for sample in config.model_warmup] == ["2048x1024", "128x64"]
    assert list(config.model_warmup[0].inputs["label_map"].dims) == [1024, 2048]
    assert list(config.model_warmup[0].inputs["instance_map"].dims) == [1024, 2048]


def test_inputs_follow_the_contract(tmp_path: Path) -> None:
    plain = Contract(schema=load_schema("helen"), boundaries=False, size_multiple=8)
    assert [x.name for x in written(plain, TritonSettings(), tmp_path).input] == ["label_map"]
    styled = Contract(
        schema=load_schema("helen"), boundaries=True, style_channels=3, size_multiple=8
    )
    config = written(styled, TritonSettings(warmup=("64x64",)), tmp_path)
    assert list(config.input[2].dims) == [256, 3]
    assert list(config.model_warmup[0].inputs["style"].dims) == [256, 3]
    pictures = Contract(kind="picture", boundaries=False, size_multiple=8)
    config = written(pictures, TritonSettings(warmup=("64x32",)), tmp_path)
    assert [(x.name, list(x.dims)) for x in config.input] == [("picture", [-1, -1, 3])]
    assert list(config.model_warmup[0].inputs["picture"].dims) == [32, 64, 3]


def test_warmup_size_that_the_model_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(SizeError, match="multiple of 32"):
        written(CITYSCAPES, TritonSettings(warmup=("2050x1024",)), tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_batch_size": 0},
        {"queue_delay_us": -1},
        {"queue_size": -1},
        {"queue_timeout_s": float("inf")},
        {"queue_timeout_s": float("nan")},
        {"instances": 0},
        {"max_batch_size": 2**31},
        {"queue_delay_us": 2**64},
        {"queue_size": 2**33},
        {"queue_timeout_s": 1e300},
        {"max_pixels": 0},
        {"warmup": ("2048",)},
    ],
)
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises((InputError, SchemaError)):
        TritonSettings(**settings)
