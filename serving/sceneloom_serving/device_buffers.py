"""Memory that is allocated once: for each tensor a block on the GPU and a pinned one on the host,
and the stream and CUDA graph that move and compute between them. Needs cuda-python and NumPy only.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from sceneloom_serving.gpu_machine import checked, load_cuda


class TensorBuffer:
    """One tensor's memory on both sides, for shapes up to a largest one."""

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        """Allocate it.

        Args:
            shape: the largest shape that it will hold.
            dtype: of its elements.

        Raises:
            EngineError: the GPU or the host has not enough memory.
        """
        self._cuda = load_cuda()
        self.dtype = np.dtype(dtype)
        size = max(int(np.prod(shape)) * self.dtype.itemsize, 1)
        self.device = int(
            checked(self._cuda.cudaMalloc(size), f"allocating {size:,} bytes on the GPU")
        )
        """Address on the GPU."""
        try:
            self._host = int(
                checked(
                    self._cuda.cudaHostAlloc(size, self._cuda.cudaHostAllocDefault),
                    f"allocating {size:,} pinned bytes on the host",
                )
            )
        except BaseException:
            self._cuda.cudaFree(self.device)
            raise
        self._bytes = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self._host))

    def host(self, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """The pinned memory as an array of this shape: C order, from the block's beginning."""
        size = int(np.prod(shape)) * self.dtype.itemsize
        return self._bytes[:size].view(self.dtype).reshape(shape)

    def upload(self, shape: tuple[int, ...], stream: Any) -> None:
        """Copy what is in the pinned memory to the GPU, in the stream's order."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(self.device, self._host, shape, kind, stream)

    def download(self, shape: tuple[int, ...], stream: Any) -> None:
        """Copy what is on the GPU to the pinned memory, in the stream's order."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(self._host, self.device, shape, kind, stream)

    def _copy(self, to: int, source: int, shape: tuple[int, ...], kind: Any, stream: Any) -> None:
        size = int(np.prod(shape)) * self.dtype.itemsize
        checked(self._cuda.cudaMemcpyAsync(to, source, size, kind, stream), "copying a tensor")

    def free(self) -> None:
        """Give both blocks back; no array of `host` may be used after it."""
        self._bytes = np.zeros(0, np.uint8)
        self._cuda.cudaFree(self.device)
        self._cuda.cudaFreeHost(self._host)


class Stream:
    """A CUDA stream, not the default one: graphs cannot be captured there."""

    def __init__(self) -> None:
        """Create it."""
        self._cuda = load_cuda()
        flags = self._cuda.cudaStreamNonBlocking
        self.stream = checked(self._cuda.cudaStreamCreateWithFlags(flags), "creating a stream")

    @property
    def handle(self) -> int:
        """The handle that TensorRT takes."""
        return int(self.stream)

    def wait(self) -> None:
        """Wait until everything in it is done.

        Raises:
            EngineError: something in it failed.
        """
        checked(self._cuda.cudaStreamSynchronize(self.stream), "running the engine")

    def capture(self, work: Callable[[], None]) -> Any:
        """Record what `work` puts into the stream as a CUDA graph, without running it.

        Returns:
            the graph, to be launched with `launch`; None if the work cannot be captured.
        """
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
        """Give a captured graph back."""
        self._cuda.cudaGraphExecDestroy(graph)

    def free(self) -> None:
        """Give the stream back."""
        self._cuda.cudaStreamDestroy(self.stream)
