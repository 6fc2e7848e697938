"""The GPU, driver and libraries of this machine that a TensorRT plan depends on, and a stream of
the GPU, by cuda-python's runtime bindings: they report a missing driver, where TensorRT's own
objects end the process.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sceneloom.errors import EngineError, require
from sceneloom_serving.plan_record import Machine

_DRIVER = Path("/proc/driver/nvidia/version")
_MODULES = ("tensorrt", "tensorrt_bindings")


def load_tensorrt() -> Any:
    """TensorRT's module, or its bindings beside an image's libraries; raises MissingDependencyError
    without both, EngineError if a library is missing.
    """
    found = [name for name in _MODULES if importlib.util.find_spec(name) is not None]
    if not found:
        require(_MODULES[:1], extra="gpu", purpose="running a TensorRT plan")
    try:
        return importlib.import_module(found[0])
    except (ImportError, OSError, RuntimeError) as error:
        hint = ""
        if ".so" in str(error):
            hint = (
                "; its libraries libnvinfer, libnvinfer_plugin and libnvonnxparser come with pip "
                "install 'sceneloom[gpu]' and are in NVIDIA's images"
            )
        raise EngineError(f"TensorRT's bindings cannot be loaded ({error}){hint}") from None


def load_cuda() -> Any:
    """The CUDA runtime's bindings; raises MissingDependencyError without cuda-python 12.6."""
    require(["cuda"], extra="gpu", purpose="running a TensorRT plan")
    require(["cuda.bindings"], extra="gpu", purpose="running a TensorRT plan")
    from cuda.bindings import runtime

    return runtime


def checked(result: Any, what: str) -> Any:
    """The value of a CUDA call, from (status, values...): None, one value, or a tuple of them.
    Raises EngineError about `what`, such as ``allocating 6 MiB``, on failure.
    """
    status, *values = result
    if int(status) != 0:
        raise EngineError(f"CUDA: {what} failed with {getattr(status, 'name', status)}")
    if not values:
        return None
    return values[0] if len(values) == 1 else tuple(values)


def this_machine(device: int = 0) -> Machine:
    """This machine with a GPU by CUDA's number; raises EngineError, MissingDependencyError."""
    tensorrt, cudart = load_tensorrt(), load_cuda()
    status, count = cudart.cudaGetDeviceCount()
    if int(status) != 0 or not count:
        reason = getattr(status, "name", status) if int(status) else "no device"
        most = int(checked(cudart.cudaDriverGetVersion(), "asking the driver's version"))
        runtime = int(checked(cudart.cudaRuntimeGetVersion(), "asking its version"))
        if 0 < most // 1000 < runtime // 1000:
            raise EngineError(
                f"the NVIDIA driver takes CUDA {_dotted(most)} at most, and cuda-python is of CUDA "
                f"{_dotted(runtime)}: install a newer driver"
            )
        raise EngineError(
            f"this machine has no NVIDIA GPU that CUDA can use ({reason}); TensorRT plans are "
            "built and run on the GPU"
        )
    if device >= count:
        raise EngineError(f"no GPU {device}; this machine has {count}, from 0")
    properties = checked(cudart.cudaGetDeviceProperties(device), "asking for the GPU's name")
    name = properties.name
    # Without it the newest CUDA that the driver takes: far below a driver's own numbers, so that a
    # record with those refuses it.
    driver = driver_version() or _dotted(checked(cudart.cudaDriverGetVersion(), "its version"))
    return Machine(
        # The three numbers of a release: 10.16.1.11 is 10.16.1.
        tensorrt=".".join(re.findall(r"\d+", tensorrt.__version__)[:3]),
        cuda_runtime=_dotted(checked(cudart.cudaRuntimeGetVersion(), "asking its version")),
        driver=driver,
        gpu=(name.decode() if isinstance(name, bytes) else str(name)).rstrip("\0"),
        compute_capability=f"{properties.major}.{properties.minor}",
    )


def driver_version() -> str:
    """Version of NVIDIA's driver, such as 580.65.06; empty if it is not known."""
    text = _DRIVER.read_text("utf-8", "replace") if _DRIVER.is_file() else ""
    found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", text)
    return found[0] if found else ""


def _dotted(cuda: int) -> str:
    """Write CUDA's number of a version, such as 13010, as 13.1."""
    return f"{cuda // 1000}.{cuda % 1000 // 10}"


class Stream:
    """A CUDA stream, not the default one: graphs cannot be captured there."""

    def __init__(self) -> None:
        self._cuda = load_cuda()
        flags = self._cuda.cudaStreamNonBlocking
        self.stream = checked(self._cuda.cudaStreamCreateWithFlags(flags), "creating a stream")
        self._start = checked(self._cuda.cudaEventCreate(), "creating an event")
        self._end = checked(self._cuda.cudaEventCreate(), "creating an event")

    @property
    def handle(self) -> int:
        """TensorRT's handle."""
        return int(self.stream)

    def wait(self) -> None:
        """Wait until all its work is done; raises EngineError if some failed."""
        checked(self._cuda.cudaStreamSynchronize(self.stream), "running the engine")

    def start_clock(self) -> None:
        """Note the time at which the GPU begins with the work that follows."""
        checked(self._cuda.cudaEventRecord(self._start, self.stream), "recording an event")

    def stop_clock(self) -> float:
        """Wait as `wait` does. Returns the GPU's seconds since `start_clock`."""
        checked(self._cuda.cudaEventRecord(self._end, self.stream), "recording an event")
        self.wait()
        taken = self._cuda.cudaEventElapsedTime(self._start, self._end)
        return float(checked(taken, "timing the engine")) / 1000

    def capture(self, work: Callable[[], None]) -> Any:
        """Record the work as a CUDA graph for `launch`, without running it. None on failure."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked(self._cuda.cudaStreamBeginCapture(self.stream, mode), "starting a capture")
        try:
            with contextlib.suppress(Exception):
                work()
        finally:
            status, graph = self._cuda.cudaStreamEndCapture(self.stream)
        if int(status) != 0:
            self._cuda.cudaGetLastError()  # else the next call would report this failure
            return None
        status, ready = self._cuda.cudaGraphInstantiate(graph, 0)
        self._cuda.cudaGraphDestroy(graph)
        if int(status) != 0:
            self._cuda.cudaGetLastError()
            return None
        return ready

    def launch(self, graph: Any) -> None:
        """Run a captured graph in this stream."""
        checked(self._cuda.cudaGraphLaunch(graph, self.stream), "launching a CUDA graph")

    def discard(self, graph: Any) -> None:
        """Release a captured graph."""
        self._cuda.cudaGraphExecDestroy(graph)

    def free(self) -> None:
        """Release the stream and its events."""
        self._cuda.cudaEventDestroy(self._start)
        self._cuda.cudaEventDestroy(self._end)
        self._cuda.cudaStreamDestroy(self.stream)
