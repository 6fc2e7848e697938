"""The served graph of a bundle -> a package of AOTInductor: machine code for one size, by PyTorch's
compiler, on the device that will run it.

The network is built anew, from the architecture in report.json and the weights in the exported
graph, whose names are PyTorch's. Norms and the last step are float32 in either precision, as in
every engine. C++ is compiled for the CPU of this machine, in a package for a GPU too.

Needs torch, onnx and a C++ compiler.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from sceneloom.contract import Contract
from sceneloom.errors import CheckpointError, EngineError, said
from sceneloom_export.graph import quiet
from sceneloom_export.settings import PlanSettings
from sceneloom_serving.aoti_runtime import torch_machine
from sceneloom_serving.plan_record import TENSOR_TYPES, Machine, Profile
from sceneloom_training.networks import (
    HalfGenerator,
    ServedGenerator,
    SynthesisNetwork,
    architecture_from_json,
    load_weights,
)

_PREFIX = "generator."  # of the network in the served graph


def build_machine(device: int) -> Machine:
    """This machine with the GPU that PyTorch sees under CUDA's number, or else its CPU; raises
    EngineError without a C++ compiler.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise EngineError(
            f"AOTInductor compiles C++, and this machine has no {compiler}: apt-get install g++, "
            "or name another compiler in the variable CXX"
        )
    return torch_machine(device if torch.cuda.is_available() else None)


def build_package(
    graph: Path,
    architecture: Any,
    contract: Contract,
    profile: Profile,
    settings: PlanSettings,
    package: Path,
) -> None:
    """Compile the network of an exported float32 graph, for the size of a profile, into a file.

    `architecture` is as in report.json. Raises EngineError if the graph is not of it, or with the
    compiler's own words.
    """
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", settings.device) if on_gpu else torch.device("cpu")
    generator: Any = read_network(graph, architecture)
    if settings.precision == "fp16":
        generator = HalfGenerator(generator).eval()
    if on_gpu:  # where its convolutions are the fastest; on a CPU oneDNN has orders of its own
        generator = generator.to(memory_format=torch.channels_last)
    served = ServedGenerator(generator, contract).to(device).eval()
    examples = tuple(
        torch.from_numpy(np.zeros(shape, TENSOR_TYPES[name])).to(device)
        for name, shape in profile.shapes(contract, "tuned").items()
    )
    # As many threads as the process may use, not as at the build.
    options: dict[str, Any] = {"cpp.dynamic_threads": True}
    if not on_gpu:  # one file of C++
        options["compile_threads"] = 1
    from torch._inductor.utils import fresh_cache

    try:
        # What the compiler leaves, some times the weights, goes with the folder of the build.
        with quiet(None), torch.no_grad(), fresh_cache(dir=str(package.parent)):
            program = torch.export.export(served, examples)
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(package), inductor_configs=options
            )
    except Exception as error:  # of the exporter, the compiler, g++ or the GPU
        raise EngineError(
            f"{graph}: PyTorch {torch.__version__} cannot compile it ({said(error)})"
        ) from None


def read_network(graph: Path, architecture: Any) -> SynthesisNetwork:
    """The float32 generator of an exported graph, in eval mode; raises EngineError if the graph is
    not of the architecture.
    """
    weights = {
        tensor.name.removeprefix(_PREFIX): torch.from_numpy(
            numpy_helper.to_array(tensor, base_dir=str(graph.parent)).copy()
        )
        for tensor in onnx.load(graph, load_external_data=False).graph.initializer
        if tensor.name.startswith(_PREFIX)
    }
    try:
        found = architecture_from_json(architecture, source="report.json")
        return load_weights(found, weights)
    except (CheckpointError, RuntimeError) as error:
        raise EngineError(
            f"{graph}: its weights are not of the architecture in report.json ({said(error)}); "
            "export the model again"
        ) from None
