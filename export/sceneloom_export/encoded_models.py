"""The encoded path's models beside a served model: the templates of `triton_models/` filled in from
the configurations that `repository.py` has written.

    DIR/synthesis_encoded/   the ensemble that clients call, no code
    DIR/synthesis_decode/    its first step, a model.py over sceneloom_serving
    DIR/synthesis_encode/    its last step, the same

The contract of a variant can name other sizes than that of config.pbtxt, so those two that carry
it have every variant, under the names that `synthesis` has. Needs neither torch nor onnx.
"""

from __future__ import annotations

import shutil
from collections.abc import Set
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from sceneloom.contract import (
    ENGINE_PARAMETER,
    INPUT_INSTANCES,
    INPUT_STYLE,
    MAX_PIXELS_PARAMETER,
    MODEL_NAME,
    PARAMETER,
    Contract,
)
from sceneloom.triton.encoded import DECODE_MODEL, ENCODE_MODEL, ENCODED_MODEL, ENCODED_MODELS
from sceneloom_export.settings import ServingSettings
from sceneloom_serving import templates

Config = Any
"""A `ModelConfig` of Triton's protobuf schema, which has no types."""
# What the template calls an input of `synthesis` on its way from the files.
_OWN_TENSORS = {
    INPUT_INSTANCES: {INPUT_INSTANCES, "instance_file", "network_instance_map"},
    INPUT_STYLE: {INPUT_STYLE, "style_rows", "network_style"},
}


def write_encoded_models(repository: Path, settings: ServingSettings) -> None:
    """Write the three models of the encoded path into a repository.

    Args:
        repository: with `synthesis/config.pbtxt` and its variants as they will be served.
        settings: queue and largest picture.
    """
    served = repository / MODEL_NAME
    for model in ENCODED_MODELS:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(templates() / model, repository / model, ignore=ignore)
    configs = [served / "config.pbtxt", *sorted((served / "configs").glob("*.pbtxt"))]
    for model in (ENCODED_MODEL, DECODE_MODEL):
        template = _parse(repository / model / "config.pbtxt")
        for path in configs:
            config = _filled(template, _parse(path), settings)
            _write(config, repository / model / path.relative_to(served))
    path = repository / ENCODE_MODEL / "config.pbtxt"
    encode = _parse(path)
    _set_queue(encode, settings)
    _write(encode, path)


def _filled(template: Config, served: Config, settings: ServingSettings) -> Config:
    """A template with what one configuration of `synthesis` says."""
    config = model_config_pb2.ModelConfig()
    config.CopyFrom(template)
    text = served.parameters[PARAMETER].string_value
    config.parameters[PARAMETER].string_value = text
    if config.name == ENCODED_MODEL and ENGINE_PARAMETER in served.parameters:
        # A request names the engine that its client knows.
        engine = served.parameters[ENGINE_PARAMETER].string_value
        config.parameters[ENGINE_PARAMETER].string_value = engine
    inputs = {tensor.name for tensor in served.input}
    for name, tensors in _OWN_TENSORS.items():
        if name not in inputs:
            _remove(config, tensors)
    channels = Contract.loads(text).style_channels
    for tensor in [*config.input, *config.output]:
        if tensor.name in _OWN_TENSORS[INPUT_STYLE]:
            tensor.dims[-1] = channels
    if config.name == DECODE_MODEL:
        config.parameters[MAX_PIXELS_PARAMETER].string_value = str(settings.max_pixels)
        _set_queue(config, settings)
    return config


def _remove(config: Config, tensors: Set[str]) -> None:
    """Leave out tensors that the model does not have, in the steps of the ensemble, too."""
    for owner in (config.input, config.output):
        kept = [tensor for tensor in owner if tensor.name not in tensors]
        del owner[:]
        owner.extend(kept)
    for step in config.ensemble_scheduling.step:
        for mapping in (step.input_map, step.output_map):
            for key in [key for key, value in mapping.items() if value in tensors]:
                del mapping[key]


def _set_queue(config: Config, settings: ServingSettings) -> None:
    """The same limits as in front of `synthesis`; no waiting for others to join."""
    policy = config.dynamic_batching.default_queue_policy
    policy.max_queue_size = settings.queue_size
    policy.default_timeout_microseconds = round(settings.queue_timeout_s * 1e6)
    policy.timeout_action = model_config_pb2.ModelQueuePolicy.REJECT


def _parse(path: Path) -> Config:
    return text_format.Parse(path.read_text("utf-8"), model_config_pb2.ModelConfig())


def _write(config: Config, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text_format.MessageToString(config), "utf-8")
