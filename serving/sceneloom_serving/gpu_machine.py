"""The facts of this machine that a TensorRT plan depends on.

Asked of CUDA through cuda-python's runtime bindings, which answer in words where there is no driver
(TensorRT's own objects end the process there), or of nvidia-smi where only trtexec is installed.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from sceneloom.errors import EngineError, require
from sceneloom.text import one_line
from sceneloom_serving.plan_record import Machine

_DRIVER = Path("/proc/driver/nvidia/version")
_QUERY = "--query-gpu=name,compute_cap,driver_version"


def load_tensorrt() -> Any:
    """TensorRT's Python module.

    Raises:
        MissingDependencyError: it is not installed, or its libraries are missing.
    """
    require(["tensorrt"], extra="gpu", purpose="running a TensorRT plan")
    try:
        import tensorrt
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(f"TensorRT's Python module cannot be loaded ({error})") from None
    return tensorrt


def load_cuda() -> Any:
    """cuda-python's bindings of the CUDA runtime.

    Raises:
        MissingDependencyError: cuda-python is not installed, or is older than 12.6.
    """
    require(["cuda"], extra="gpu", purpose="running a TensorRT plan")
    require(["cuda.bindings"], extra="gpu", purpose="running a TensorRT plan")
    from cuda.bindings import runtime

    return runtime


def checked(result: Any, what: str) -> Any:
    """The value of a CUDA call, which gives its status first.

    Args:
        result: what the call gave: (status, values...).
        what: the sentence's subject in an error, such as ``allocating 6 MiB``.

    Returns:
        nothing, the one value, or a tuple of them.

    Raises:
        EngineError: the status is not success.
    """
    status, *values = result
    if int(status) != 0:
        raise EngineError(f"CUDA: {what} failed with {getattr(status, 'name', status)}")
    if not values:
        return None
    return values[0] if len(values) == 1 else tuple(values)


def this_machine(device: int = 0) -> Machine:
    """The facts, for the Python runtime.

    Args:
        device: CUDA's number of the GPU.

    Raises:
        MissingDependencyError: TensorRT or cuda-python is not installed.
        EngineError: there is no GPU that CUDA can use.
    """
    tensorrt, cudart = load_tensorrt(), load_cuda()
    status, count = cudart.cudaGetDeviceCount()
    if int(status) != 0 or not count:
        reason = getattr(status, "name", status) if int(status) else "no device"
        raise EngineError(
            f"this machine has no NVIDIA GPU that CUDA can use ({reason}); TensorRT plans are "
            "built and run where the GPU is"
        )
    if device >= count:
        raise EngineError(f"there is no GPU {device}; this machine has {count}, from 0")
    properties = checked(cudart.cudaGetDeviceProperties(device), "asking for the GPU's name")
    name = properties.name
    return Machine(
        tensorrt=release(tensorrt.__version__),
        cuda_runtime=_cuda_version(checked(cudart.cudaRuntimeGetVersion(), "asking its version")),
        driver=_driver(cudart),
        gpu=(name.decode() if isinstance(name, bytes) else str(name)).rstrip("\0"),
        compute_capability=f"{properties.major}.{properties.minor}",
    )


def machine_without_python(tensorrt: str, device: int = 0) -> Machine:
    """The facts where only trtexec is installed, from nvidia-smi.

    Args:
        tensorrt: the version that trtexec names.
        device: number of the GPU.

    Raises:
        EngineError: nvidia-smi is not there or lists no such GPU.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        raise EngineError("this machine has no NVIDIA GPU (there is no nvidia-smi)")
    done = subprocess.run(
        [tool, _QUERY, "--format=csv,noheader", f"--id={device}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    fields = [field.strip() for field in done.stdout.strip().split(",")]
    if done.returncode or len(fields) != 3:
        raise EngineError(
            f"nvidia-smi names no GPU {device} ({one_line(done.stdout + done.stderr)})"
        )
    gpu, capability, driver = fields
    return Machine(
        tensorrt=tensorrt, cuda_runtime="", driver=driver, gpu=gpu, compute_capability=capability
    )


def has_python_module() -> bool:
    """Whether TensorRT's Python module is installed."""
    return importlib.util.find_spec("tensorrt") is not None


def release(version: str) -> str:
    """The three numbers that name a release of TensorRT: 10.16.1.11 is 10.16.1."""
    return ".".join(re.findall(r"\d+", version)[:3])


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _driver(cudart: Any) -> str:
    """The driver's own version, or else the newest CUDA that it takes."""
    if _DRIVER.is_file():
        found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", _DRIVER.read_text("utf-8", "replace"))
        if found:
            return found[0]
    # Its numbers are far below a driver's own: a record with those refuses it, as it should.
    return _cuda_version(checked(cudart.cudaDriverGetVersion(), "asking the driver's version"))
