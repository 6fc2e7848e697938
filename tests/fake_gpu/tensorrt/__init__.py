"""A TensorRT that is not there: it "builds" a plan that names the graph, and runs the graph with
ONNX Runtime on the fake CUDA memory. Only what SceneLoom uses exists, with the real names;
FAKE_TENSORRT is its version; plans with FAKE_FAILING_NORMS do not build, and those with
FAKE_WRONG_NORMS give wrong pictures.
"""

from __future__ import annotations

import ctypes
import enum
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from cuda.bindings import runtime as cuda

__version__ = os.environ.get("FAKE_TENSORRT", "10.16.1.11")


class DataType(enum.Enum):
    FLOAT, HALF, INT32, UINT8 = range(4)


class BuilderFlag(enum.Enum):
    FP16, OBEY_PRECISION_CONSTRAINTS, TF32, VERSION_COMPATIBLE = range(4)


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH, STRONGLY_TYPED = range(2)


class OnnxParserFlag(enum.Enum):
    NATIVE_INSTANCENORM = 0


class TacticSource(enum.IntEnum):
    CUBLAS, CUBLAS_LT, CUDNN = range(3)


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC, ON_PROFILE_CHANGE = range(2)


class ILogger:
    ERROR, INTERNAL_ERROR = range(2)


class Logger(ILogger):
    def __init__(self, severity: int) -> None:
        self.severity = severity


def init_libnvinfer_plugins(logger: Any, namespace: str) -> bool:
    return True


class _Network:
    def __init__(self, flags: int) -> None:
        self.flags, self.graph, self.norms = flags, "", "native"


class Builder:
    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def create_network(self, flags: int = 0) -> _Network:
        return _Network(flags)

    def create_builder_config(self) -> _Config:
        return _Config()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        if os.environ.get("FAKE_FAILING_NORMS") == network.norms:
            self.logger.log(ILogger.ERROR, "could not find any implementation")
            return None
        profiles = [profile.shapes for profile in config.profiles]
        plan = {
            "graph": network.graph,
            "norms": network.norms,
            "flags": network.flags,
            "set": sorted(flag.name for flag in config.on),
            "profiles": profiles,
        }
        return json.dumps(plan).encode()


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, least: Any, tuned: Any, most: Any) -> None:
        self.shapes[name] = [list(least), list(tuned), list(most)]


class _Config:
    def __init__(self) -> None:
        self.on = {BuilderFlag.TF32}
        self.profiles: list[_Profile] = []
        self.builder_optimization_level = 3

    def set_flag(self, flag: BuilderFlag) -> None:
        self.on.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.on.discard(flag)

    def get_tactic_sources(self) -> int:
        return 0b1111

    def set_tactic_sources(self, sources: int) -> None:
        assert sources == 0b1000  # TensorRT's own alone

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        assert size > 0

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1


class OnnxParser:
    def __init__(self, network: _Network, logger: Any) -> None:
        self.network, self.num_errors = network, 0

    def set_flag(self, flag: OnnxParserFlag) -> None:
        self.network.norms = "native"

    def clear_flag(self, flag: OnnxParserFlag) -> None:
        self.network.norms = "plugin"

    def parse_from_file(self, path: str) -> bool:
        self.network.graph = str(Path(path).resolve())
        return True


class Runtime:
    engine_host_code_allowed = False

    def __init__(self, logger: Any) -> None:
        pass

    def deserialize_cuda_engine(self, plan: bytes) -> _Engine | None:
        return _Engine(json.loads(plan))


class _Engine:
    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(plan["graph"], options)
        self.names = [i.name for i in self.session.get_inputs()] + ["image"]
        self.num_io_tensors = len(self.names)
        self.num_optimization_profiles = len(plan["profiles"])

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_dtype(self, name: str) -> DataType:
        kinds = {"instance_map": DataType.INT32, "style": DataType.FLOAT}
        return kinds.get(name, DataType.UINT8)

    def create_execution_context(
        self, strategy: Any = ExecutionContextAllocationStrategy.STATIC
    ) -> _Context:
        return _Context(self, strategy)

    def pixels(self, profile: int) -> int:
        """Pixels of a profile's largest batch: what a context's memory grows with."""
        shapes = self.plan["profiles"][profile]
        return int(np.prod((shapes.get("label_map") or shapes["picture"])[2][:3]))


context_pixels: list[int] = []
"""The memory of each context, in pixels."""


class _Context:
    def __init__(self, engine: _Engine, strategy: Any) -> None:
        self.engine, self.profile, self.strategy = engine, -1, strategy
        profiles = range(engine.num_optimization_profiles)
        self.number = len(context_pixels)
        context_pixels.append(max(engine.pixels(profile) for profile in profiles))
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = index
        if self.strategy is ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE:
            context_pixels[self.number] = self.engine.pixels(index)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address in cuda.memory
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.plan["profiles"][self.profile][name]
        if not all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True)):
            return False
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert name == "image"
        main = self.shapes.get("label_map") or self.shapes["picture"]
        return (*main[:3], 3)

    def execute_async_v3(self, stream: int) -> bool:
        cuda.counts["enqueued"] += 1
        shapes = dict(self.shapes)  # a graph keeps the shapes that it was captured with
        cuda.run(stream, lambda: self._compute(shapes))
        return True

    def _compute(self, shapes: dict[str, tuple[int, ...]]) -> None:
        kinds = {"instance_map": np.int32, "style": np.float32}
        feeds = {}
        for name, shape in shapes.items():
            dtype = np.dtype(kinds.get(name, np.uint8))
            feeds[name] = self._tensor(name, shape, dtype)
        picture = self.engine.session.run(["image"], feeds)[0]
        if self.engine.plan["norms"] == os.environ.get("FAKE_WRONG_NORMS"):
            picture = picture ^ 64
        self._tensor("image", picture.shape, np.dtype(np.uint8))[...] = picture

    def _tensor(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        size = int(np.prod(shape)) * dtype.itemsize
        block = (ctypes.c_uint8 * size).from_address(self.addresses[name])
        return np.frombuffer(block, dtype).reshape(shape)
