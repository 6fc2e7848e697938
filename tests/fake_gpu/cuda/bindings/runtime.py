"""A CUDA runtime that is not there: memory of the host in the GPU's place, streams that run at
once, and graphs that are lists of what was captured. Its calls have the real names and order.
"""

from __future__ import annotations

import ctypes
import enum
import os
import time
from collections.abc import Callable
from typing import Any

cudaHostAllocDefault = 0
cudaStreamNonBlocking = 1


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


OK = cudaError_t.cudaSuccess
memory: dict[int, Any] = {}
streams: dict[int, list[Callable[[], None]] | None] = {}
"""Stream -> what it has captured, or None if it captures nothing."""
counts = {"launched": 0, "captured": 0, "enqueued": 0}


class _Properties:
    name = os.environ.get("FAKE_GPU", "Fake GPU").encode()
    major, minor = 9, 0


def run(stream: int, work: Callable[[], None]) -> None:
    """What the fake TensorRT calls too: do it now, or keep it for the graph."""
    captured = streams[int(stream)]
    if captured is None:
        work()
    else:
        captured.append(work)


def cudaGetDeviceCount() -> tuple[Any, int]:
    if "FAKE_GPU" not in os.environ:
        return cudaError_t.cudaErrorInsufficientDriver, 0
    return OK, 1


def cudaGetDeviceProperties(device: int) -> tuple[Any, Any]:
    return OK, _Properties()


def cudaRuntimeGetVersion() -> tuple[Any, int]:
    return OK, 12090


def cudaDriverGetVersion() -> tuple[Any, int]:
    return OK, int(os.environ.get("FAKE_DRIVER_CUDA", "12080"))


def cudaSetDevice(device: int) -> tuple[Any]:
    return (OK,)


def cudaMalloc(size: int) -> tuple[Any, int]:
    block = (ctypes.c_uint8 * size)()
    memory[ctypes.addressof(block)] = block
    return OK, ctypes.addressof(block)


def cudaHostAlloc(size: int, flags: int) -> tuple[Any, int]:
    return cudaMalloc(size)


def cudaFree(address: int) -> tuple[Any]:
    del memory[address]
    return (OK,)


cudaFreeHost = cudaFree


def cudaMemcpyAsync(to: int, source: int, size: int, kind: Any, stream: int) -> tuple[Any]:
    run(stream, lambda: ctypes.memmove(to, source, size) and None)
    return (OK,)


def cudaStreamCreateWithFlags(flags: int) -> tuple[Any, int]:
    streams[len(streams) + 1] = None
    return OK, len(streams)


def cudaStreamDestroy(stream: int) -> tuple[Any]:
    return (OK,)


def cudaStreamSynchronize(stream: int) -> tuple[Any]:
    return (OK,)


def cudaEventCreate() -> tuple[Any, list[float]]:
    return OK, []


def cudaEventRecord(event: list[float], stream: int) -> tuple[Any]:
    assert streams[int(stream)] is None, "an event of a graph times nothing"
    event[:] = [time.perf_counter()]
    return (OK,)


def cudaEventElapsedTime(start: list[float], end: list[float]) -> tuple[Any, float]:
    return OK, (end[0] - start[0]) * 1000


def cudaEventDestroy(event: list[float]) -> tuple[Any]:
    return (OK,)


def cudaStreamBeginCapture(stream: int, mode: Any) -> tuple[Any]:
    streams[stream] = []
    return (OK,)


def cudaStreamEndCapture(stream: int) -> tuple[Any, Any]:
    captured, streams[stream] = streams[stream], None
    if "FAKE_NO_CAPTURE" in os.environ:
        return cudaError_t.cudaErrorStreamCaptureInvalidated, None
    counts["captured"] += 1
    return OK, captured


def cudaGetLastError() -> tuple[Any]:
    return (OK,)


def cudaGraphInstantiate(graph: Any, flags: int) -> tuple[Any, Any]:
    return OK, list(graph)


def cudaGraphDestroy(graph: Any) -> tuple[Any]:
    return (OK,)


def cudaGraphExecDestroy(graph: Any) -> tuple[Any]:
    return (OK,)


def cudaGraphLaunch(graph: Any, stream: int) -> tuple[Any]:
    counts["launched"] += 1
    for work in graph:
        work()
    return (OK,)
