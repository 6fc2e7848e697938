"""ONNX -> TensorRT plan through TensorRT's Python module, on the GPU that will run it.

The differences of three generations are in this file only:

    8.6      FP16 is a flag; float32 is set per layer, by the node names of write_group_norms, and
             must be obeyed
    10.12+   strongly typed networks: every type is in the graph. InstanceNormalization as the
             native layer or as the plugin, by a flag of the parser
    11       as 10, but always strongly typed, without the flags of the others

Needs NumPy, tensorrt and cuda-python: no torch, no onnx.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sceneloom.contract import Contract
from sceneloom.errors import EngineError
from sceneloom.files import write_whole
from sceneloom.text import one_line
from sceneloom_export.settings import FLOAT32, PlanSettings
from sceneloom_serving.gpu import checked, load_cuda, load_tensorrt
from sceneloom_serving.plan_record import Profile


def generation(version: str) -> int:
    """The generation of a TensorRT version, 8, 10 or 11; raises EngineError for others."""
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) == (8, 6) or (major == 10 and minor >= 12) or major == 11:
        return major
    raise EngineError(f"TensorRT {version}: plans are built with 8.6, 10.12 or newer, and 11")


def norm_choices(version: str, settings: PlanSettings) -> list[str]:
    """The forms of InstanceNormalization to build, of which the fastest is kept."""
    if generation(version) == 8:
        return ["group"]
    if settings.version_compatible or settings.hardware != "none":
        return ["native"]
    return ["native", "plugin"] if settings.norms == "fastest" else [settings.norms]


def build_plan(
    graph: Path,
    contract: Contract,
    profiles: tuple[Profile, ...],
    settings: PlanSettings,
    norms: str,
) -> bytes:
    """Build a serialized plan, in minutes; raises EngineError with TensorRT's own words."""
    trt = load_tensorrt()
    checked(load_cuda().cudaSetDevice(settings.device), f"choosing GPU {settings.device}")
    generation_ = generation(trt.__version__)
    logger = collecting_logger(trt)
    if norms == "plugin":
        trt.init_libnvinfer_plugins(logger, "")
    builder = trt.Builder(logger)
    network = builder.create_network(network_flags(trt, generation_))
    parser = trt.OnnxParser(network, logger)
    if generation_ >= 10:
        _choose_norms(trt, parser, norms)
    if not parser.parse_from_file(str(graph)):
        reasons = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError(
            f"{graph}: TensorRT {trt.__version__} cannot parse it ({one_line(reasons, most=600)})"
        )
    config = builder.create_builder_config()
    # Float32 stays float32: TF32 keeps 10 bits of the mantissa, and is on unless cleared.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.builder_optimization_level = settings.builder_level
    if workspace := round(settings.workspace_gib * (1 << 30)):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if settings.hardware == "ampere+":
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    elif settings.hardware == "same-capability":
        _same_capability(trt, config)
    if generation_ == 8:
        _configure_8(trt, config, network, settings)
    for profile in profiles:
        added = builder.create_optimization_profile()
        least, tuned, most = (profile.shapes(contract, p) for p in ("least", "tuned", "most"))
        for name in tuned:
            added.set_shape(name, least[name], tuned[name], most[name])
        if config.add_optimization_profile(added) < 0:
            raise EngineError(f"TensorRT refuses the profile {profile}")
    timing = settings.timing_cache
    if timing is not None:
        cache = config.create_timing_cache(timing.read_bytes() if timing.is_file() else b"")
        if cache is None or not config.set_timing_cache(cache, False):
            raise EngineError(f"{timing}: is no timing cache of this TensorRT on this GPU")
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        reasons = one_line("; ".join(logger.errors), most=600) or "it gives no reason"
        raise EngineError(f"{graph}: TensorRT {trt.__version__} cannot build it ({reasons})")
    if timing is not None:
        write_whole(timing, bytes(config.get_timing_cache().serialize()))
    return bytes(serialized)


def collecting_logger(trt: Any) -> Any:
    """A logger that keeps the errors: TensorRT's functions only report failure."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message.strip())

    return Log()


def network_flags(trt: Any, generation_: int) -> int:
    """The flags of `create_network`."""
    if generation_ == 8:
        return _network_flags_8(trt)
    return _network_flags_10(trt) if generation_ == 10 else 0


def _network_flags_8(trt: Any) -> int:
    return 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)


def _network_flags_10(trt: Any) -> int:
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _choose_norms(trt: Any, parser: Any, norms: str) -> None:
    if norms == "plugin":
        parser.clear_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)
    else:
        parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)


def _same_capability(trt: Any, config: Any) -> None:
    config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY


def _configure_8(trt: Any, config: Any, network: Any, settings: PlanSettings) -> None:
    # Other kernels need libraries that a machine for 8.6 may lack.
    sources = config.get_tactic_sources()
    for source in (trt.TacticSource.CUBLAS, trt.TacticSource.CUBLAS_LT, trt.TacticSource.CUDNN):
        sources &= ~(1 << int(source))
    config.set_tactic_sources(sources)
    if settings.precision != "fp16":
        return
    config.set_flag(trt.BuilderFlag.FP16)
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    constrained = 0
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        normalizes = layer.type == trt.LayerType.NORMALIZATION
        if normalizes or layer.name.startswith(FLOAT32):
            constrained += _constrain(trt, layer, whole=not normalizes)
    if not constrained:
        raise EngineError(f"no layer is named {FLOAT32}...: it is not a graph for TensorRT 8.6")


def _constrain(trt: Any, layer: Any, *, whole: bool) -> bool:
    """Set a layer to float32, and its outputs if `whole`: a norm's may be half."""
    outputs = range(layer.num_outputs)
    if any(layer.get_output(i).dtype != trt.DataType.FLOAT for i in outputs):
        return False
    layer.precision = trt.DataType.FLOAT
    if whole:
        for i in outputs:
            layer.set_output_type(i, trt.DataType.FLOAT)
    return True
