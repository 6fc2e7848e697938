"""TensorRT as a Synthesizer: a plan on an NVIDIA GPU, without torch.

Everything that a picture needs is allocated before the first one: pinned host and GPU memory at
each profile's largest shape, and a CUDA graph that uploads, computes and downloads. The Python
interface used here (tensors by name, enqueueV3) is the same in TensorRT 8.6, 10 and 11;
tests/export/test_tensorrt_bindings.py checks it against the real bindings of each.
"""

from __future__ import annotations

import ctypes
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sceneloom.contract import (
    INPUT_INSTANCES,
    INPUT_LABELS,
    INPUT_PICTURE,
    INPUT_STYLE,
    OUTPUT_IMAGE,
)
from sceneloom.errors import EngineError, SizeError
from sceneloom.maps import Image, InstanceMap, LabelMap, Style
from sceneloom.request import tensors
from sceneloom.synthesizer import Synthesizer
from sceneloom_serving.gpu import Stream, checked, load_cuda, load_tensorrt, this_machine
from sceneloom_serving.plan_record import (
    TENSOR_TYPES,
    PlanRecord,
    choose_profile,
    input_shapes,
    verified_plan,
)


class TensorRTSynthesizer(Synthesizer):
    """Runs the plan that `sceneloom engine` built."""

    def __init__(self, plan: Path, *, device: int = 0, cuda_graphs: bool = True) -> None:
        """Load a plan after its hash and this machine are checked against the record beside it.

        Raises MissingDependencyError without tensorrt or cuda-python, PlanRefusedError if the
        record does not match, EngineError without a GPU or if TensorRT cannot load the plan.
        """
        self._executions: dict[int, _Execution] = {}
        record, blob = verified_plan(plan, this_machine(device))
        checked(load_cuda().cudaSetDevice(device), f"choosing GPU {device}")
        self._device, self._cuda_graphs = device, cuda_graphs
        self.record = record
        trt = load_tensorrt()
        # The logger must outlive the runtime, and the runtime the engine.
        self._logger = trt.Logger(trt.Logger.ERROR)
        if record.norms == "plugin":
            trt.init_libnvinfer_plugins(self._logger, "")
        self._runtime = runtime = trt.Runtime(self._logger)
        # A version-compatible plan brings its runtime along as host code. Its hash was checked.
        runtime.engine_host_code_allowed = record.version_compatible
        self._engine = runtime.deserialize_cuda_engine(blob)
        if self._engine is None:
            raise EngineError(f"{plan}: TensorRT {trt.__version__} cannot load it")
        _check_tensors(self._engine, record, str(plan))
        self._stream = Stream()
        self._lock = threading.Lock()
        self.copy_seconds = 0.0
        """Seconds of the last batch's copies between arrays and pinned memory of the host."""
        super().__init__(record.served_contract, max(p.batch[2] for p in record.profiles))
        self.engine = f"tensorrt-{record.precision}"

    def run_batch(
        self, label_maps: LabelMap, instance_maps: InstanceMap | None, styles: Style | None
    ) -> Image:
        """Run one batch, in parts if need be; raises SizeError if no profile takes the size."""
        inputs = tensors(label_maps, instance_maps, styles)
        batch, height, width = label_maps.shape[:3]
        images = np.empty((batch, height, width, 3), np.uint8)
        done, copying, seconds = 0, 0.0, 0.0
        with self._lock:
            # The current GPU is a thread's own, and this may be another thread than the last.
            checked(load_cuda().cudaSetDevice(self._device), f"choosing GPU {self._device}")
            while done < batch:
                chosen = choose_profile(self.record.profiles, batch - done, height, width)
                if chosen is None:
                    profiles = ", ".join(map(str, self.record.profiles))
                    raise SizeError(
                        f"a batch of {batch - done} at {width}x{height} (width x height) is "
                        f"outside the plan's profiles: {profiles}"
                    )
                index, count = chosen
                part = {name: array[done : done + count] for name, array in inputs.items()}
                if index not in self._executions:
                    self._executions[index] = _Execution(
                        self._engine, index, self.record, self._stream, self._cuda_graphs
                    )
                copied, ran = self._executions[index].run(part, images[done : done + count])
                copying += copied
                seconds += ran
                done += count
            self.copy_seconds, self.device_seconds = copying, seconds
        return images

    @property
    def captured(self) -> bool:
        """Whether the last picture of every profile in use came from a CUDA graph."""
        used = self._executions.values()
        return bool(used) and all(execution.graph is not None for execution in used)

    def close(self) -> None:
        """Release the GPU's memory. May be called again."""
        for execution in self._executions.values():
            execution.close()
        self._executions.clear()
        if self._engine is not None:
            self._stream.free()
            # TensorRT wants the engine gone before the runtime that made it.
            self._engine = None
            self._runtime = None


class _Execution:
    """One profile of a plan, with its own context, memory and CUDA graph."""

    def __init__(
        self, engine: Any, index: int, record: PlanRecord, stream: Stream, cuda_graphs: bool
    ) -> None:
        """Allocate memory for the profile's largest shape; raises EngineError if it is short."""
        profile = record.profiles[index]
        self._stream, self._cuda_graphs = stream, cuda_graphs
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.graph: Any = None
        self._buffers: dict[str, TensorBuffer] = {}
        eight = record.machine.tensorrt.startswith("8.")
        self._context = _whole_context(engine) if eight else _own_context(engine)
        if self._context is None:
            raise EngineError(f"the GPU has not enough memory for the plan's profile {profile}")
        if not self._context.set_optimization_profile_async(index, stream.handle):
            raise EngineError(f"TensorRT refuses profile {index} of the plan, {profile}")
        stream.wait()
        largest = profile.shapes(record.contract, "most")
        largest[OUTPUT_IMAGE] = (*largest[record.contract.main_input][:3], 3)
        for name, shape in largest.items():
            self._buffers[name] = TensorBuffer(shape, TENSOR_TYPES[name])
            if not self._context.set_tensor_address(name, self._buffers[name].device):
                raise EngineError(f"TensorRT refuses the memory of {name}")

    def run(self, inputs: dict[str, npt.NDArray[Any]], image: Image) -> tuple[float, float]:
        """Run one batch that the profile takes into uint8 [N, H, W, 3]. Returns the seconds of the
        copies in the host's memory, and those of the GPU, uploads and downloads included.
        """
        started = time.perf_counter()
        shapes: dict[str, tuple[int, ...]] = {name: array.shape for name, array in inputs.items()}
        shapes[OUTPUT_IMAGE] = image.shape
        for name, array in inputs.items():
            np.copyto(self._buffers[name].host(array.shape), array, casting="no")
        copying = time.perf_counter() - started
        self._stream.start_clock()
        if shapes != self._shapes:
            self._set_shapes(shapes)
        elif self.graph is not None:
            self._stream.launch(self.graph)
        else:
            self._enqueue()
        seconds = self._stream.stop_clock()
        started = time.perf_counter()
        np.copyto(image, self._buffers[OUTPUT_IMAGE].host(image.shape))
        return copying + time.perf_counter() - started, seconds

    def _set_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Run once in the new shapes, which completes the work that TensorRT leaves to the next
        enqueue, then capture a graph for them.
        """
        self._discard_graph()
        self._shapes = {}
        for name, shape in shapes.items():
            if name != OUTPUT_IMAGE and not self._context.set_input_shape(name, shape):
                raise EngineError(f"TensorRT refuses shape {list(shape)} of {name}")
        given = tuple(self._context.get_tensor_shape(OUTPUT_IMAGE))
        if given != shapes[OUTPUT_IMAGE]:
            raise EngineError(
                f"the plan gives pictures of shape {list(given)}, not {list(shapes[OUTPUT_IMAGE])}"
            )
        self._shapes = shapes
        self._enqueue()
        if self._cuda_graphs:
            self._stream.wait()
            self.graph = self._stream.capture(self._enqueue)

    def _enqueue(self) -> None:
        """Upload, compute, download, in the stream's order."""
        for name, shape in self._shapes.items():
            if name != OUTPUT_IMAGE:
                self._buffers[name].copy(shape, self._stream.stream)
        if not self._context.execute_async_v3(self._stream.handle):
            raise EngineError("TensorRT could not run the plan")
        image = self._buffers[OUTPUT_IMAGE]
        image.copy(self._shapes[OUTPUT_IMAGE], self._stream.stream, back=True)

    def _discard_graph(self) -> None:
        if self.graph is not None:
            self._stream.discard(self.graph)
            self.graph = None

    def close(self) -> None:
        self._discard_graph()
        self._context = None
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers.clear()


def _whole_context(engine: Any) -> Any:
    """A context with memory for the largest of all profiles: TensorRT 8.6 has no other."""
    return engine.create_execution_context()


def _own_context(engine: Any) -> Any:
    """A context with memory for the profile that is chosen for it."""
    trt = load_tensorrt()
    return engine.create_execution_context(trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE)


def _check_tensors(engine: Any, record: PlanRecord, source: str) -> None:
    trt = load_tensorrt()
    kinds = {
        INPUT_LABELS: trt.DataType.UINT8,
        INPUT_PICTURE: trt.DataType.UINT8,
        INPUT_INSTANCES: trt.DataType.INT32,
        INPUT_STYLE: trt.DataType.FLOAT,
        OUTPUT_IMAGE: trt.DataType.UINT8,
    }
    expected = {*input_shapes(record.contract, 1, 1, 1), OUTPUT_IMAGE}
    names = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
    if names != expected:
        raise EngineError(f"{source}: has tensors {sorted(names)}, not {sorted(expected)}")
    for name in expected:
        if engine.get_tensor_dtype(name) != kinds[name]:
            raise EngineError(f"{source}: {name} is not of type {kinds[name]}")
    count, wanted = engine.num_optimization_profiles, len(record.profiles)
    if count != wanted:
        raise EngineError(f"{source}: has {count} profiles, its record names {wanted}")


class TensorBuffer:
    """One tensor's memory on host and GPU, for shapes up to a largest one."""

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        """Allocate it for the largest shape; raises EngineError if it is short."""
        self._cuda = load_cuda()
        self.dtype = np.dtype(dtype)
        size = max(int(np.prod(shape)) * self.dtype.itemsize, 1)
        allocated = self._cuda.cudaMalloc(size)
        self.device = int(checked(allocated, f"allocating {size:,} bytes on the GPU"))
        """Address on the GPU."""
        try:
            pinned = self._cuda.cudaHostAlloc(size, self._cuda.cudaHostAllocDefault)
            self._host = int(checked(pinned, f"allocating {size:,} pinned bytes on the host"))
        except BaseException:
            self._cuda.cudaFree(self.device)
            raise
        self._bytes = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self._host))

    def host(self, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """The pinned memory from its start as an array of this shape, in C order."""
        size = int(np.prod(shape)) * self.dtype.itemsize
        return self._bytes[:size].view(self.dtype).reshape(shape)

    def copy(self, shape: tuple[int, ...], stream: Any, *, back: bool = False) -> None:
        """Copy the pinned memory to the GPU, or back, in the stream's order."""
        to, source = (self._host, self.device) if back else (self.device, self._host)
        there = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost if back else there
        size = int(np.prod(shape)) * self.dtype.itemsize
        checked(self._cuda.cudaMemcpyAsync(to, source, size, kind, stream), "copying a tensor")

    def free(self) -> None:
        """Release both blocks; arrays of `host` become invalid."""
        self._bytes = np.zeros(0, np.uint8)
        self._cuda.cudaFree(self.device)
        self._cuda.cudaFreeHost(self._host)
