"""The Triton model's configurations: the templates of `triton_models/` filled in for one export.

`config.pbtxt` is a server's default. `configs/NAME.pbtxt` are the variants for tritonserver's
`--model-config-name` (docs/serving.md):

    tensorrt              the plan in Triton's own backend, batch 1: latency
    tensorrt-throughput   the same plan, batches of up to 4
    aoti                  the package of AOTInductor in Triton's own PyTorch backend, batch 1
    onnxruntime           ONNX Runtime in Triton's own backend, CUDA provider, any size
    embedded              the Python backend; equal to config.pbtxt

That backend knows a package's tensors by number alone. So `aoti` is an ensemble under the usual
names around a model of its own, `AOTI_CONFIG`, which only a server of this variant loads.

`_set_model` writes a setting into every configuration, `_set_any_size` into those without sizes of
their own.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tritonclient.grpc import model_config_pb2

from sceneloom.contract import (
    ENGINE_PARAMETER,
    INPUT_PICTURE,
    INPUT_STYLE,
    MAX_PIXELS_PARAMETER,
    PARAMETER,
    STYLE_ROWS,
    Contract,
)
from sceneloom_export.settings import TritonSettings
from sceneloom_serving import templates
from sceneloom_serving.bundle import (
    AOTI_CONFIG,
    AOTI_MODEL,
    FP8_FILE,
    FP16_FILE,
    GRAPH_FILE,
    Config,
    read_config,
    write_config,
)
from sceneloom_serving.plan_record import input_shapes

Size = tuple[int, int]  # (height, width)
_ENSEMBLE = "ensemble"


def copy_template(model: str, repository: Path) -> None:
    """Copy the template of a model into a repository."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(templates() / model, repository / model, ignore=ignore)


def write_configs(
    folder: Path,
    contract: Contract,
    settings: TritonSettings,
    *,
    largest: Size,
    engine: str,
    known: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Fill in the templates in `synthesis/`, beside the graphs in `1/`.

    Without sizes in the contract, the variants for fixed ones are at `largest`, (height, width).
    `known` are further `parameters` of the Python backend. Raises SizeError for a warm-up size that
    the model does not take.
    """
    template = folder / "config.pbtxt"
    base = read_config(template)
    sizes = contract.sizes or (contract.network_size(*largest),)
    for path in sorted((folder / "configs").glob("*.pbtxt")):
        overlay = read_config(path)
        if overlay.platform == _ENSEMBLE:
            config = _write_aoti(base, overlay, folder, contract, settings, sizes)
        else:
            config = _make_variant(base, overlay, contract, settings, sizes)
        half, runtime = (folder / "1" / FP16_FILE).is_file(), config.backend
        if config.platform == _ENSEMBLE:
            runtime = "aoti-cuda"
        if runtime == "onnxruntime":
            config.default_model_filename = FP16_FILE if half else GRAPH_FILE
            runtime = "onnxruntime-cuda"
        precision = "fp16" if half else "fp32"
        if config.backend == "tensorrt" and (folder / "1" / FP8_FILE).is_file():
            precision = "fp8"
        config.parameters[ENGINE_PARAMETER].string_value = f"{runtime}-{precision}"
        write_config(config, path)
    for name, value in {ENGINE_PARAMETER: engine, **known}.items():
        base.parameters[name].string_value = value
    base.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU)
    _set_any_size(base, contract, settings)
    for path in (template, folder / "configs" / "embedded.pbtxt"):
        write_config(base, path)


def _write_aoti(
    base: Config,
    overlay: Config,
    folder: Path,
    contract: Contract,
    settings: TritonSettings,
    sizes: Sequence[Size],
) -> Config:
    """Write the model behind the variant `aoti`, for the largest size. Returns the variant, the
    ensemble around it.
    """
    path = folder.parent / AOTI_CONFIG
    largest = max(sizes, key=math.prod)
    model = _make_variant(base, read_config(path), contract, settings, (largest,))
    config = model_config_pb2.ModelConfig()
    config.MergeFrom(overlay)
    config.name = model.name
    config.input.extend(model.input)
    config.output.extend(model.output)
    for name in (PARAMETER, MAX_PIXELS_PARAMETER):
        config.parameters[name].CopyFrom(model.parameters[name])
    step = config.ensemble_scheduling.step.add(model_name=AOTI_MODEL, model_version=-1)
    model.name = AOTI_MODEL
    model.parameters.clear()
    for number, tensor in enumerate(model.input):
        name, tensor.name = tensor.name, f"INPUT__{number}"
        step.input_map[tensor.name] = name
        for sample in model.model_warmup:
            sample.inputs[tensor.name].CopyFrom(sample.inputs.pop(name))
    for number, tensor in enumerate(model.output):
        name, tensor.name = tensor.name, f"OUTPUT__{number}"
        step.output_map[tensor.name] = name
    write_config(model, path)
    return config


def _make_variant(
    base: Config,
    overlay: Config,
    contract: Contract,
    settings: TritonSettings,
    sizes: Sequence[Size],
) -> Config:
    """Make a variant from the default template's tensors and its own template's values."""
    config = model_config_pb2.ModelConfig()
    config.MergeFrom(base)
    config.MergeFrom(overlay)
    if not overlay.max_batch_size:  # leaves batching to the export, and takes any size
        _set_any_size(config, contract, settings)
        return config
    _set_model(config, dataclasses.replace(contract, sizes=tuple(sizes)), settings)
    # With a single size it stands in the tensors' dims, so that Triton itself refuses every other
    # with INVALID_ARGUMENT. The TensorRT backend takes that beside a plan of that size as well as
    # beside a plan for a range; with free dims it refuses other sizes itself, with INTERNAL.
    if len(sizes) == 1:
        for tensor in [*config.input, *config.output]:
            if tensor.name != INPUT_STYLE:
                tensor.dims[:2] = sizes[0]
    if config.backend == "tensorrt":
        # A plan has an optimisation profile of batch 1 for each size, in their order, and after
        # these one for batches for each.
        first = 0 if config.max_batch_size == 1 else len(sizes)
        config.instance_group[0].profile[:] = [str(first + n) for n in range(len(sizes))]
        # By default Triton captures graphs at the profile's optimal size alone.
        for size in sizes:
            for batch in range(1, config.max_batch_size + 1):
                spec = config.optimization.cuda.graph_spec.add(batch_size=batch)
                for tensor in config.input:
                    spec.input[tensor.name].dim[:] = _shape(tensor, size)
    _add_warmup(config, contract, sizes, sorted({1, config.max_batch_size}))
    return config


def _set_any_size(config: Config, contract: Contract, settings: TritonSettings) -> None:
    """Set the export's batching and warm-up, and what `_set_model` sets."""
    config.max_batch_size = settings.max_batch_size
    config.dynamic_batching.max_queue_delay_microseconds = settings.queue_delay_us
    _set_model(config, contract, settings)
    _add_warmup(config, contract, settings.warmup_sizes, (1,))


def _set_model(config: Config, contract: Contract, settings: TritonSettings) -> None:
    """Set tensors, contract, instances and queue."""
    names = input_shapes(contract, 1, 1, 1)
    inputs = [tensor for tensor in config.input if tensor.name in names]
    del config.input[:]
    config.input.extend(inputs)
    for tensor in config.input:
        if tensor.name == INPUT_STYLE:
            tensor.dims[:] = [STYLE_ROWS, contract.style_channels]
    config.parameters[PARAMETER].string_value = contract.dumps()
    config.parameters[MAX_PIXELS_PARAMETER].string_value = str(settings.max_pixels)
    config.instance_group[0].count = settings.instances
    _set_queue(config, settings)


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
    if tensor.name == INPUT_STYLE:
        return list(tensor.dims)
    return [*size, 3] if tensor.name == INPUT_PICTURE else list(size)


def _set_queue(config: Config, settings: TritonSettings) -> None:
    policy = config.dynamic_batching.default_queue_policy
    policy.max_queue_size = settings.queue_size
    policy.default_timeout_microseconds = round(settings.queue_timeout_s * 1e6)
    policy.timeout_action = model_config_pb2.ModelQueuePolicy.REJECT
