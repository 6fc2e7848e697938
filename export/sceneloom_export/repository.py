"""The Triton model's configurations: the templates of `triton_models/` filled in for one export.

`config.pbtxt` is what a server takes by default. `configs/NAME.pbtxt` are the variants that
tritonserver's `--model-config-name` chooses from (docs/serving.md):

    tensorrt              the plan in Triton's own backend, batch 1: latency
    tensorrt-throughput   the same plan, batches of up to 4
    onnxruntime           ONNX Runtime in Triton's own backend, CUDA provider, any size
    onnxruntime-tensorrt  the same, accelerated by TensorRT, fixed sizes
    embedded              the Python backend; equal to config.pbtxt
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from sceneloom.contract import (
    ENGINE_PARAMETER,
    INPUT_STYLE,
    MAX_PIXELS_PARAMETER,
    PARAMETER,
    STYLE_ROWS,
    Contract,
)
from sceneloom_export.graph import input_names
from sceneloom_export.settings import ServingSettings
from sceneloom_serving.engines import FP16_FILE
from sceneloom_serving.onnx_runtime import MODEL_FILE

Size = tuple[int, int]
"""(height, width)."""
Config = Any
"""A `ModelConfig` of Triton's protobuf schema, which has no types."""
EMBEDDED = "embedded"
_RUNTIMES = {
    "tensorrt": "tensorrt",
    "tensorrt-throughput": "tensorrt",
    "onnxruntime": "onnxruntime-cuda",
    "onnxruntime-tensorrt": "onnxruntime-tensorrt",
}
"""Variant -> the runtime in its engine's name."""
_TENSORRT_ACCELERATOR = "tensorrt"


def write_configs(
    folder: Path,
    contract: Contract,
    settings: ServingSettings,
    *,
    largest: Size,
    engine: str,
    known: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Fill in every template of a model's folder where it lies.

    Args:
        folder: `synthesis/`, a copy of the templates with the graphs in `1/`.
        contract: goes into `parameters`; decides which inputs there are.
        settings: batching, queue, warm-up and instances.
        largest: without sizes in the contract, the (height, width) of the variants that are built
            for fixed ones.
        engine: what the Python backend runs.
        known: further `parameters` of the Python backend's configuration.

    Raises:
        SizeError: a warm-up size that the model does not take.
    """
    template = folder / "config.pbtxt"
    base = _parse(template)
    sizes = contract.sizes or (contract.network_size(*largest),)
    for path in sorted((folder / "configs").glob("*.pbtxt")):
        config = _variant(base, _parse(path), contract, settings, sizes)
        half = (folder / "1" / FP16_FILE).is_file()
        if config.backend == "onnxruntime":
            config.default_model_filename = FP16_FILE if half else MODEL_FILE
        runtime = _RUNTIMES[path.stem]
        config.parameters[ENGINE_PARAMETER].string_value = f"{runtime}-{'fp16' if half else 'fp32'}"
        _write(config, path)
    write_config(template, template, contract, settings, engine=engine, known=known)
    (folder / "configs" / f"{EMBEDDED}.pbtxt").write_bytes(template.read_bytes())


def write_config(
    template: Path,
    target: Path,
    contract: Contract,
    settings: ServingSettings,
    *,
    engine: str,
    known: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Fill in the template of config.pbtxt.

    Args:
        template: `triton_models/synthesis/config.pbtxt`.
        target: the file to write.
        contract: goes into `parameters`; decides which inputs there are.
        settings: batching, queue, warm-up and instances.
        engine: what the Python backend runs.
        known: further `parameters`.

    Raises:
        SizeError: a warm-up size that the model does not take.
    """
    config = _parse(template)
    for name, value in {ENGINE_PARAMETER: engine, **known}.items():
        config.parameters[name].string_value = value
    config.max_batch_size = settings.max_batch_size
    config.dynamic_batching.max_queue_delay_microseconds = settings.queue_delay_us
    config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU)
    _fill(config, contract, settings)
    _add_warmup(config, contract, settings.warmup_sizes, (1,))
    _write(config, target)


def _variant(
    base: Config,
    overlay: Config,
    contract: Contract,
    settings: ServingSettings,
    sizes: Sequence[Size],
) -> Config:
    """A variant: the default template's tensors with what its own template says."""
    config = model_config_pb2.ModelConfig()
    config.MergeFrom(base)
    config.MergeFrom(overlay)
    if not overlay.max_batch_size:  # leaves batching to the export, and takes any size
        config.max_batch_size = settings.max_batch_size
        config.dynamic_batching.max_queue_delay_microseconds = settings.queue_delay_us
        _fill(config, contract, settings)
        _add_warmup(config, contract, settings.warmup_sizes, (1,))
        return config
    _fill(config, dataclasses.replace(contract, sizes=tuple(sizes)), settings)
    _fix_sizes(config, sizes)
    _add_warmup(config, contract, sizes, sorted({1, config.max_batch_size}))
    return config


def _fill(config: Config, contract: Contract, settings: ServingSettings) -> None:
    """What every configuration has: tensors, contract, instances, queue."""
    names = input_names(contract)
    inputs = [tensor for tensor in config.input if tensor.name in names]
    del config.input[:]
    config.input.extend(inputs)
    for tensor in config.input:
        if tensor.name == INPUT_STYLE:
            tensor.dims[:] = [STYLE_ROWS, contract.style_channels]
    config.parameters[PARAMETER].string_value = contract.dumps()
    config.parameters[MAX_PIXELS_PARAMETER].string_value = str(settings.max_pixels)
    config.instance_group[0].count = settings.instances
    policy = config.dynamic_batching.default_queue_policy
    policy.max_queue_size = settings.queue_size
    policy.default_timeout_microseconds = round(settings.queue_timeout_s * 1e6)
    policy.timeout_action = model_config_pb2.ModelQueuePolicy.REJECT


def _fix_sizes(config: Config, sizes: Sequence[Size]) -> None:
    """Say for which sizes an engine is built.

    With a single size it stands in the tensors' dims, so that Triton itself refuses every other
    with INVALID_ARGUMENT. The TensorRT backend takes that beside a plan of that size as well as
    beside a plan for a range; where dims are free it refuses other sizes itself, with INTERNAL.
    """
    if len(sizes) == 1:
        for tensor in [*config.input, *config.output]:
            if tensor.name != INPUT_STYLE:
                tensor.dims[:2] = sizes[0]
    if config.backend == "tensorrt":
        _use_profiles(config, len(sizes))
        _add_cuda_graphs(config, sizes)
    for accelerator in config.optimization.execution_accelerators.gpu_execution_accelerator:
        if accelerator.name == _TENSORRT_ACCELERATOR:
            accelerator.parameters.update(_profile_shapes(config, sizes))


def _use_profiles(config: Config, count: int) -> None:
    """A plan has an optimisation profile of batch 1 for each size, in their order, and after these
    one for batches for each: those with an index from `count` on.
    """
    first = 0 if config.max_batch_size == 1 else count
    config.instance_group[0].profile[:] = [str(first + number) for number in range(count)]


def _add_cuda_graphs(config: Config, sizes: Sequence[Size]) -> None:
    """One for each size and batch, named one by one: by default Triton captures them at the
    profile's optimal size alone.
    """
    for size in sizes:
        for batch in range(1, config.max_batch_size + 1):
            spec = config.optimization.cuda.graph_spec.add(batch_size=batch)
            for tensor in config.input:
                spec.input[tensor.name].dim[:] = _shape(tensor, size)


def _profile_shapes(config: Config, sizes: Sequence[Size]) -> dict[str, str]:
    """The range that ONNX Runtime's TensorRT provider builds its one engine for."""
    heights, widths = zip(*sizes, strict=True)
    ranges = {
        "min": (min(heights), min(widths)),
        "opt": sizes[0],
        "max": (max(heights), max(widths)),
    }
    return {
        f"trt_profile_{name}_shapes": ",".join(
            f"{tensor.name}:" + "x".join(map(str, [1, *_shape(tensor, size)]))
            for tensor in config.input
        )
        for name, size in ranges.items()
    }


def _add_warmup(
    config: Config, contract: Contract, sizes: Sequence[Size], batches: Sequence[int]
) -> None:
    for height, width in sizes:
        contract.check_exact_size(height, width)
        for batch in batches:
            name = f"{width}x{height}" + (f" batch {batch}" if batch > 1 else "")
            sample = config.model_warmup.add(name=name, batch_size=batch)
            for tensor in config.input:
                entry = sample.inputs[tensor.name]
                entry.data_type = tensor.data_type
                entry.zero_data = True
                entry.dims[:] = _shape(tensor, (height, width))


def _shape(tensor: Any, size: Size) -> list[int]:
    """Shape of an input for one picture, without the batch axis."""
    return list(tensor.dims) if tensor.name == INPUT_STYLE else list(size)


def _parse(path: Path) -> Config:
    return text_format.Parse(path.read_text("utf-8"), model_config_pb2.ModelConfig())


def _write(config: Config, path: Path) -> None:
    path.write_text(text_format.MessageToString(config), "utf-8")
