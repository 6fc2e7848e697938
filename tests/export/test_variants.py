"""The variants for production: parsed with Triton's own schema, and held against the rules that
Triton, its backends and our client check when they load them.

The wheel's server has the Python backend alone, so `embedded` is loaded for real in
tests/serving/test_variants_served.py, and the others are held against the rules here.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from support import blocky_maps
from tritonclient.grpc import model_config_pb2

from sceneloom import TritonSynthesizer
from sceneloom.contract import Contract
from sceneloom.errors import SizeError
from sceneloom.schema import load_schema
from sceneloom.testing import FakeTransport
from sceneloom.triton.transport import ModelConfig, TensorSpec
from sceneloom_export.repository import write_configs
from sceneloom_export.settings import TritonSettings
from sceneloom_serving import templates
from sceneloom_serving.onnx_runtime import CUDA_OPTIONS

PLAIN = Contract(schema=load_schema("helen"), boundaries=False, size_multiple=8)
STYLED = Contract(
    schema=load_schema("cityscapes"), boundaries=True, style_channels=3, size_multiple=32
)
TWO_SIZES = dataclasses.replace(STYLED, sizes=((1024, 2048), (512, 1024)))
VARIANTS = {
    "embedded": "python",
    "onnxruntime": "onnxruntime",
    "tensorrt": "tensorrt",
    "tensorrt-throughput": "tensorrt",
}
FIXED = ("tensorrt", "tensorrt-throughput")
SETTINGS = TritonSettings(
    max_batch_size=2, queue_delay_us=300, queue_size=9, queue_timeout_s=1.5, instances=3
)
Config = Any


def write(
    folder: Path, contract: Contract, settings: TritonSettings = SETTINGS, half: bool = False
) -> dict[str, Config]:
    """Every configuration of an export, read back; `config` is the default one."""
    model = folder / "synthesis"
    shutil.copytree(templates() / "synthesis", model, ignore=shutil.ignore_patterns("__pycache__"))
    if half:
        (model / "1" / "fp16.onnx").write_bytes(b"")
    write_configs(model, contract, settings, largest=(1024, 2048), engine="onnxruntime-fp32")
    found = {path.stem: path for path in (model / "configs").iterdir()}
    assert found.keys() == VARIANTS.keys() | {"aoti"}
    # Parse refuses fields that Triton's schema does not have.
    return {
        name: text_format.Parse(path.read_text("utf-8"), model_config_pb2.ModelConfig())
        for name, path in {"config": model / "config.pbtxt", **found}.items()
    }


@pytest.fixture(params=[PLAIN, STYLED, TWO_SIZES], ids=["plain", "styled", "two sizes"])
def contract(request: pytest.FixtureRequest) -> Contract:
    return request.param


@pytest.fixture
def configs(tmp_path: Path, contract: Contract) -> dict[str, Config]:
    return write(tmp_path, contract)


def test_templates_are_valid_on_their_own() -> None:
    paths = sorted((templates() / "synthesis" / "configs").glob("*.pbtxt"))
    assert {path.stem for path in paths} == VARIANTS.keys() - {"embedded"} | {"aoti"}
    for path in (path for path in paths if path.stem in VARIANTS):
        config = text_format.Parse(path.read_text("utf-8"), model_config_pb2.ModelConfig())
        assert config.backend == VARIANTS[path.stem]


def test_the_default_is_the_embedded_variant(configs: dict[str, Config]) -> None:
    assert configs["config"] == configs["embedded"]


@pytest.mark.parametrize("name", VARIANTS)
def test_what_triton_demands_of_every_configuration(configs: dict[str, Config], name: str) -> None:
    config = configs[name]
    assert (config.name, config.backend, config.platform) == ("synthesis", VARIANTS[name], "")
    assert config.max_batch_size >= 1
    gpu = model_config_pb2.ModelInstanceGroup.KIND_GPU
    cpu = model_config_pb2.ModelInstanceGroup.KIND_CPU
    (group,) = config.instance_group
    assert (group.kind, group.count) == (cpu if name == "embedded" else gpu, 3)
    assert not group.gpus  # which there are is the container's business
    for tensor in [*config.input, *config.output]:
        assert all(dim == -1 or dim > 0 for dim in tensor.dims)
        assert tensor.data_type != model_config_pb2.TYPE_INVALID
    policy = config.dynamic_batching.default_queue_policy
    assert policy.max_queue_size == 9
    assert policy.default_timeout_microseconds == 1_500_000
    assert policy.timeout_action == model_config_pb2.ModelQueuePolicy.REJECT
    # A cache and a constant input would give a benchmark false figures.
    assert not config.response_cache.enable
    # 2.51 rejects this.
    assert not config.HasField("model_metrics")


@pytest.mark.parametrize("name", VARIANTS)
def test_warm_up_fits_the_inputs(configs: dict[str, Config], name: str) -> None:
    config = configs[name]
    assert len({sample.name for sample in config.model_warmup}) == len(config.model_warmup)
    inputs = {tensor.name: tensor for tensor in config.input}
    for sample in config.model_warmup:
        assert 1 <= sample.batch_size <= config.max_batch_size
        assert sample.inputs.keys() == inputs.keys()
        for key, entry in sample.inputs.items():
            assert entry.data_type == inputs[key].data_type
            assert entry.WhichOneof("input_data_type") == "zero_data"
            wanted = inputs[key].dims
            assert all(w in (-1, e) for w, e in zip(wanted, entry.dims, strict=True))
    if name in FIXED:
        batches = {sample.batch_size for sample in config.model_warmup}
        assert batches == {1, config.max_batch_size}


@pytest.mark.parametrize("name", VARIANTS)
def test_our_client_accepts_each(configs: dict[str, Config], name: str, contract: Contract) -> None:
    with TritonSynthesizer("fake", transport=Served(configs[name])) as client:
        served = client.contract
        assert client.max_batch_size == configs[name].max_batch_size
    sizes = contract.sizes or ((1024, 2048),)
    assert served == (dataclasses.replace(contract, sizes=sizes) if name in FIXED else contract)


class Served(FakeTransport):
    """A server with this configuration."""

    def __init__(self, config: Config) -> None:
        super().__init__(Contract.loads(config.parameters["sceneloom"].string_value))
        self._config = config

    def model_config(self, model: str, *, timeout: float) -> ModelConfig:
        def specs(tensors: Any) -> dict[str, TensorSpec]:
            name = model_config_pb2.DataType.Name
            return {
                t.name: TensorSpec(dtype=name(t.data_type)[5:], dims=tuple(t.dims)) for t in tensors
            }

        return ModelConfig(
            parameters={k: v.string_value for k, v in self._config.parameters.items()},
            max_batch_size=self._config.max_batch_size,
            inputs=specs(self._config.input),
            outputs=specs(self._config.output),
            version="1",
            dynamic_batching=self._config.HasField("dynamic_batching"),
        )


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-throughput"])
def test_plan(configs: dict[str, Config], name: str, contract: Contract) -> None:
    config = configs[name]
    sizes = contract.sizes or ((1024, 2048),)
    batch, delay = {"tensorrt": (1, 0), "tensorrt-throughput": (4, 2000)}[name]
    assert config.default_model_filename == "model.plan"
    assert config.max_batch_size == batch
    assert config.dynamic_batching.max_queue_delay_microseconds == delay
    first = 0 if batch == 1 else len(sizes)
    profiles = [str(first + number) for number in range(len(sizes))]
    assert list(config.instance_group[0].profile) == profiles
    cuda = config.optimization.cuda
    assert cuda.graphs
    specs = [
        (spec.batch_size, {key: list(shape.dim) for key, shape in spec.input.items()})
        for spec in cuda.graph_spec
    ]
    assert [count for count, _ in specs] == [*range(1, batch + 1)] * len(sizes)
    for (_, shapes), size in zip(specs[::batch], sizes, strict=True):
        assert shapes.keys() == {tensor.name for tensor in config.input}
        assert shapes["label_map"] == list(size)
        assert shapes.get("style", [256, 3]) == [256, 3]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_single_fixed_size_stands_in_the_dims(tmp_path: Path, name: str) -> None:
    one = write(tmp_path / "one", STYLED)[name]
    fixed = [1024, 2048] if name in FIXED else [-1, -1]
    assert list(one.input[0].dims) == list(one.input[1].dims) == fixed
    assert list(one.input[2].dims) == [256, 3]
    assert list(one.output[0].dims) == [*fixed, 3]
    several = write(tmp_path / "several", TWO_SIZES)[name]
    assert list(several.input[0].dims) == [-1, -1]
    assert list(several.output[0].dims) == [-1, -1, 3]


def test_onnx_runtime_takes_the_half_precision_graph_where_there_is_one(tmp_path: Path) -> None:
    # Without it the GPU's own graph in float32, not that of CPUs, whose norms are in parts.
    for half, file in ((False, "model.onnx"), (True, "fp16.onnx")):
        configs = write(tmp_path / file, PLAIN, half=half)
        assert configs["onnxruntime"].default_model_filename == file


def test_every_variant_names_its_engine(tmp_path: Path) -> None:
    for precision in ("fp32", "fp16"):
        configs = write(tmp_path / precision, PLAIN, half=precision == "fp16")
        named = {name: one.parameters["engine"].string_value for name, one in configs.items()}
        assert named == {
            "config": "onnxruntime-fp32",  # what it was told
            "embedded": "onnxruntime-fp32",
            "aoti": f"aoti-cuda-{precision}",
            "onnxruntime": f"onnxruntime-cuda-{precision}",
            "tensorrt": f"tensorrt-{precision}",
            "tensorrt-throughput": f"tensorrt-{precision}",
        }
        with TritonSynthesizer("fake", transport=Served(configs["tensorrt"])) as client:
            assert (client.engine, client.precision) == (f"tensorrt-{precision}", precision)


def test_onnx_runtime_leaves_batching_to_the_export(configs: dict[str, Config]) -> None:
    assert configs["onnxruntime"].max_batch_size == 2
    assert configs["onnxruntime"].dynamic_batching.max_queue_delay_microseconds == 300


def test_onnx_runtime_gets_the_options_that_are_meant_for_it(configs: dict[str, Config]) -> None:
    options = cuda_options(configs["onnxruntime"])
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert options["use_tf32"] == "0"
    assert options["cudnn_conv_use_max_workspace"] == "1"
    assert options.items() >= CUDA_OPTIONS.items()  # what is measured is what is served


def cuda_options(config: Config) -> dict[str, str]:
    """What Triton's ONNX Runtime backend makes of a configuration (onnxruntime.cc, LoadModel): the
    accelerator's parameters, and over them, as soon as the model has any parameter, these four of
    the model's own, or their defaults.
    """
    (cuda,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert cuda.name == "cuda"
    options = dict(cuda.parameters)
    if config.parameters:
        own = {key: value.string_value for key, value in config.parameters.items()}
        search = int(own.get("cudnn_conv_algo_search", "0"))
        options["cudnn_conv_algo_search"] = ("EXHAUSTIVE", "HEURISTIC", "DEFAULT")[search]
        options["gpu_mem_limit"] = own.get("gpu_mem_limit", str(2**64 - 1))
        strategy = int(own.get("arena_extend_strategy", "0"))
        options["arena_extend_strategy"] = ("kNextPowerOfTwo", "kSameAsRequested")[strategy]
        options["do_copy_in_default_stream"] = own.get("do_copy_in_default_stream", "1")
    return options


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-throughput"])
def test_a_plan_takes_the_memory_of_the_profile_in_use(
    configs: dict[str, Config], name: str
) -> None:
    strategy = configs[name].parameters["execution_context_allocation_strategy"].string_value
    assert strategy == "ON_PROFILE_CHANGE"


def test_client_pads_nothing_to_an_engines_size(tmp_path: Path) -> None:
    config = write(tmp_path, PLAIN)["tensorrt"]
    label_map, _ = blocky_maps(512, 512, seed=0, labels=11)
    with (
        TritonSynthesizer("fake", transport=Served(config)) as client,
        pytest.raises(SizeError, match="nearest is 2048x1024"),
    ):
        client.synthesize(label_map)


def write_aoti(folder: Path, contract: Contract) -> tuple[Config, Config]:
    """The variant, and the model behind it, parsed with Triton's own schema."""
    ensemble = write(folder, contract)["aoti"]
    text = (folder / "synthesis" / "aoti" / "config.pbtxt").read_text("utf-8")
    return ensemble, text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.mark.parametrize("contract", [PLAIN, STYLED, TWO_SIZES], ids=["plain", "styled", "two"])
def test_aoti_is_an_ensemble_of_the_usual_names_around_numbered_tensors(
    tmp_path: Path, contract: Contract
) -> None:
    """Triton's PyTorch backend, which the bundled server does not have, names inputs INPUT__0,
    INPUT__1, ... and the output OUTPUT__0, refuses other names, and takes one picture at a time
    (pt2/model_state.cc, pt2/model_instance_state.cc).
    """
    ensemble, behind = write_aoti(tmp_path, contract)
    assert (ensemble.name, ensemble.platform, ensemble.backend) == ("synthesis", "ensemble", "")
    assert not ensemble.instance_group  # Triton refuses one of an ensemble
    assert (behind.name, behind.backend) == ("synthesis_aoti", "pytorch")
    assert (behind.platform, behind.default_model_filename) == ("torch_aoti", "model.pt2")
    assert ensemble.max_batch_size == behind.max_batch_size == 1
    assert behind.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert behind.instance_group[0].count == 3
    assert behind.dynamic_batching.default_queue_policy.max_queue_size == 9
    names = ["label_map", "instance_map", "style"][: 3 if contract.style_channels else 1]
    numbered = [f"INPUT__{number}" for number in range(len(names))]
    assert [tensor.name for tensor in ensemble.input] == names
    assert [tensor.name for tensor in behind.input] == numbered
    (step,) = ensemble.ensemble_scheduling.step
    assert step.model_name == "synthesis_aoti"
    assert dict(step.input_map) == dict(zip(numbered, names, strict=True))
    assert dict(step.output_map) == {"OUTPUT__0": "image"}
    for mine, theirs in zip(ensemble.input, behind.input, strict=True):
        assert (mine.data_type, mine.dims) == (theirs.data_type, theirs.dims)
    assert list(ensemble.output[0].dims) == list(behind.output[0].dims) == [1024, 2048, 3]
    (sample,) = behind.model_warmup
    assert {name: list(one.dims) for name, one in sample.inputs.items()} == {
        tensor.name: list(tensor.dims) for tensor in behind.input
    }
    assert not behind.parameters  # the contract stands where clients look


def test_our_client_accepts_aoti(tmp_path: Path) -> None:
    ensemble, _ = write_aoti(tmp_path, TWO_SIZES)
    with TritonSynthesizer("fake", transport=Served(ensemble)) as client:
        assert client.contract == dataclasses.replace(TWO_SIZES, sizes=((1024, 2048),))
        assert (client.engine, client.max_batch_size) == ("aoti-cuda-fp32", 1)
