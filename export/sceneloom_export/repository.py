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

The encoded path's models are filled in from them. A variant's contract can name other sizes, so the
two models with a contract have every variant, under the same names:

    synthesis_encoded/   the ensemble that clients call, no code
    synthesis_decode/    its first step, a model.py over sceneloom_serving
    synthesis_encode/    its last step, the same

`_set_model` writes a setting into every configuration of `synthesis`, `_set_any_size` into those
without sizes of their own, `_set_queue` also into the encoded path's.
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
    INPUT_INSTANCES,
    INPUT_PICTURE,
    INPUT_STYLE,
    MAX_PIXELS_PARAMETER,
    MODEL_NAME,
    PARAMETER,
    STYLE_ROWS,
    Contract,
)
from sceneloom.triton.encoded import DECODE_MODEL, ENCODE_MODEL, ENCODED_MODEL, ENCODED_MODELS
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
_OWN_TENSORS = {
    INPUT_INSTANCES: {INPUT_INSTANCES, "instance_file", "network_instance_map"},
    INPUT_STYLE: {INPUT_STYLE, "style_rows", "network_style"},
}
"""Input of `synthesis` -> its names in the templates on its way from the files."""


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


def write_encoded_models(repository: Path, settings: TritonSettings) -> None:
    """Write the encoded path's models for the served configurations of `synthesis`."""
    served = repository / MODEL_NAME
    for model in ENCODED_MODELS:
        copy_template(model, repository)
    configs = [served / "config.pbtxt", *sorted((served / "configs").glob("*.pbtxt"))]
    for model in (ENCODED_MODEL, DECODE_MODEL):
        template = read_config(repository / model / "config.pbtxt")
        for path in configs:
            config = _encoded_config(template, read_config(path), settings)
            write_config(config, repository / model / path.relative_to(served))
    path = repository / ENCODE_MODEL / "config.pbtxt"
    encode = read_config(path)
    _set_queue(encode, settings)
    write_config(encode, path)


def _encoded_config(template: Config, served: Config, settings: TritonSettings) -> Config:
    """Make a configuration of the encoded path for one of `synthesis`."""
    config = model_config_pb2.ModelConfig()
    config.CopyFrom(template)
    text = served.parameters[PARAMETER].string_value
    config.parameters[PARAMETER].string_value = text
    if config.name == ENCODED_MODEL and ENGINE_PARAMETER in served.parameters:
        # A request names the engine that its client knows.
        engine = served.parameters[ENGINE_PARAMETER].string_value
        config.parameters[ENGINE_PARAMETER].string_value = engine
    inputs = {tensor.name for tensor in served.input}
    absent = set().union(*(t for name, t in _OWN_TENSORS.items() if name not in inputs))
    for owner in (config.input, config.output):
        kept = [tensor for tensor in owner if tensor.name not in absent]
        del owner[:]
        owner.extend(kept)
    for step in config.ensemble_scheduling.step:
        for mapping in (step.input_map, step.output_map):
            for key in [key for key, value in mapping.items() if value in absent]:
                del mapping[key]
    channels = Contract.loads(text).style_channels
    for tensor in [*config.input, *config.output]:
        if tensor.name in _OWN_TENSORS[INPUT_STYLE]:
            tensor.dims[-1] = channels
    if config.name == DECODE_MODEL:
        config.parameters[MAX_PIXELS_PARAMETER].string_value = str(settings.max_pixels)
        _set_queue(config, settings)
    return config


def _set_queue(config: Config, settings: TritonSettings) -> None:
    policy = config.dynamic_batching.default_queue_policy
    policy.max_queue_size = settings.queue_size
    policy.default_timeout_microseconds = round(settings.queue_timeout_s * 1e6)
    policy.timeout_action = model_config_pb2.ModelQueuePolicy.REJECT
