"""The Triton model's configuration: the template of `triton_models/` filled in for one export."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from sceneloom.contract import (
    INPUT_STYLE,
    MAX_PIXELS_PARAMETER,
    PARAMETER,
    STYLE_ROWS,
    Contract,
)
from sceneloom_export.graph import input_names
from sceneloom_export.settings import ServingSettings


def write_config(
    template: Path, target: Path, contract: Contract, settings: ServingSettings
) -> None:
    """Fill in the template of config.pbtxt.

    Args:
        template: `triton_models/synthesis/config.pbtxt`.
        target: the file to write.
        contract: goes into `parameters`; decides which inputs there are.
        settings: batching, queue, warm-up and instances.

    Raises:
        SizeError: a warm-up size that the model does not take.
    """
    config = text_format.Parse(template.read_text("utf-8"), model_config_pb2.ModelConfig())
    config.max_batch_size = settings.max_batch_size
    names = input_names(contract)
    inputs = [tensor for tensor in config.input if tensor.name in names]
    del config.input[:]
    config.input.extend(inputs)
    for tensor in config.input:
        if tensor.name == INPUT_STYLE:
            tensor.dims[:] = [STYLE_ROWS, contract.style_channels]
    config.parameters[PARAMETER].string_value = contract.dumps()
    config.parameters[MAX_PIXELS_PARAMETER].string_value = str(settings.max_pixels)
    config.instance_group.add(
        count=settings.instances, kind=model_config_pb2.ModelInstanceGroup.KIND_CPU
    )
    batching = config.dynamic_batching
    batching.max_queue_delay_microseconds = settings.queue_delay_us
    policy = batching.default_queue_policy
    policy.max_queue_size = settings.queue_size
    policy.default_timeout_microseconds = round(settings.queue_timeout_s * 1e6)
    policy.timeout_action = model_config_pb2.ModelQueuePolicy.REJECT
    _add_warmup(config, contract, settings)
    target.write_text(text_format.MessageToString(config), "utf-8")


def _add_warmup(
    config: model_config_pb2.ModelConfig, contract: Contract, settings: ServingSettings
) -> None:
    for height, width in settings.warmup_sizes:
        contract.check_exact_size(height, width)
        sample = config.model_warmup.add(name=f"{width}x{height}", batch_size=1)
        for tensor in config.input:
            entry = sample.inputs[tensor.name]
            entry.data_type = tensor.data_type
            entry.zero_data = True
            entry.dims[:] = list(tensor.dims) if tensor.name == INPUT_STYLE else [height, width]
