"""gRPC with the tensors in system shared memory: the messages only say where they lie.

Each request in flight has a region of its own, inputs first, then the output. Regions are kept for
the next request and registered at the server once. How large an output is follows from the first
answer to inputs of the same shapes, which comes in a message.

The answer is copied out, so that it stays as it is when its region is used again. A region whose
request got no answer (a deadline passed, the connection broke) is never used again: the server may
still read from it and write to it.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sceneloom.errors import QueueFullError, QueueTimeoutError, RequestRejectedError
from sceneloom.grpc_transport import GrpcTransport
from sceneloom.region_pool import RegionPool, RegionRefusedError
from sceneloom.shared_memory import Region
from sceneloom.transport import NUMPY_DTYPES, TRITON_DTYPES

OLDEST_SERVER = (2, 50)
"""Older servers crash when a region is unregistered that a request still uses."""
_ALIGNMENT = 64
_MOST_SHAPES = 10_000
_FORGOTTEN = "Unable to find shared memory region"
_TOO_SMALL = "should be at least"


class SharedMemoryTransport(GrpcTransport):
    """gRPC with tensors in shared memory; safe to use from several threads.

    What cannot go that way (BYTES, or anything once no memory is left) goes in messages.
    `sceneloom.connect.connect` makes one only where it is proven to work.
    """

    def __init__(self, url: str, *, why: str = "shared memory was asked for") -> None:
        """Prepare a connection, and remove what killed clients left in /dev/shm.

        Args:
            url: ``HOST:PORT`` of the server's gRPC port, or ``grpc://HOST:PORT``.
            why: why this is the way, for `why`.

        Raises:
            InputError: the address is of another form.
        """
        super().__init__(url, why=why)
        self._pool = RegionPool(self._client)
        self._output_sizes: dict[tuple[Any, ...], int] = {}
        self._refused = False

    @property
    def kind(self) -> str:
        """``grpc-shm``; ``grpc`` once the server has refused a region."""
        return "grpc" if self._refused else "grpc-shm"

    def infer(
        self, model: str, inputs: Mapping[str, npt.NDArray[Any]], output: str, *, timeout: float
    ) -> npt.NDArray[Any]:
        """Send one request and wait for its output; see `sceneloom.transport.Transport.infer`."""
        self._check_open()
        deadline = time.monotonic() + timeout
        request = _Request.of(model, inputs, output, self._output_sizes)
        if request.offsets and not self._refused:
            try:
                return self._infer_in_memory(request, deadline)
            except RegionRefusedError as error:
                self._refused = True
                self._why = f"the server refused a region of shared memory ({error})"
            except OSError as error:
                self._why = f"some requests found no shared memory free ({error.strerror})"
        return super().infer(model, inputs, output, timeout=_left(deadline))

    def prove(
        self, model: str, inputs: Mapping[str, npt.NDArray[Any]], output: str, *, timeout: float
    ) -> str:
        """Send a request in messages and then through shared memory, and compare the answers.

        Args:
            model: the model's name.
            inputs: as for `infer`; random ones prove the most.
            output: name of the output, an array of numbers.
            timeout: seconds for each request.

        Returns:
            why shared memory cannot be used; empty if it can.

        Raises:
            ServingError: the server does not answer.
        """
        try:
            version = self._client.get_server_metadata(client_timeout=timeout).version
        except self._grpc.InferenceServerException as error:
            raise self._map(error, model) from None
        if not _is_recent(version):
            oldest = ".".join(map(str, OLDEST_SERVER))
            return f"shared memory is safe from Triton {oldest} on, and the server is {version}"
        plain = super().infer(model, inputs, output, timeout=timeout)
        request = _Request.of(model, inputs, output, {})
        request.output_size = plain.nbytes
        # What the server does not write is as far from its answer as can be.
        stale = ~np.ascontiguousarray(plain).reshape(-1).view(np.uint8)
        try:
            answer = self._infer_in_memory(request, time.monotonic() + timeout, stale)
        except RegionRefusedError as error:
            return f"the server cannot open shared memory of this machine ({error})"
        except OSError as error:
            return f"there is no shared memory to be had ({error.strerror})"
        # Engines may differ in the last digits from one run to the next.
        if answer.shape != plain.shape or np.abs(answer.astype(np.float64) - plain).mean() > 1:
            return "the answer through shared memory was not the one that came in a message"
        self._pool.sweep_server()
        return ""

    def close(self) -> None:
        """Unregister and remove the regions, and close the connection."""
        if not self._closed:
            self._closed = True
            self._pool.close()
        super().close()

    def _infer_in_memory(
        self, request: _Request, deadline: float, stale: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[Any]:
        region = self._pool.take(request.output_offset + request.output_size)
        try:
            for name, offset in request.offsets.items():
                region.write(offset, request.inputs[name])
            if stale is not None:
                region.write(request.output_offset, stale)
            answer = self._ask(request, region, deadline)
        except (QueueFullError, QueueTimeoutError, RequestRejectedError):
            self._pool.give_back(region)  # the server has done with the request
            raise
        except BaseException:
            self._pool.retire(region)
            raise
        self._pool.give_back(region)
        return answer

    def _ask(self, request: _Request, region: Region, deadline: float) -> npt.NDArray[Any]:
        for last in (False, True):
            try:
                self._pool.register(region, _left(deadline))
                return self._ask_once(request, region, _left(deadline))
            except self._grpc.InferenceServerException as error:
                message = str(error.message())
                forgotten = _FORGOTTEN in message  # by a server that was started again
                too_small = _TOO_SMALL in message and request.output_size > 0
                if last or not (forgotten or too_small):
                    raise self._map(error, request.model) from None
                region.registered = region.registered and not forgotten
                request.output_size = 0 if too_small else request.output_size
        raise AssertionError("unreachable")

    def _ask_once(self, request: _Request, region: Region, timeout: float) -> npt.NDArray[Any]:
        tensors = []
        for name, array in request.inputs.items():
            tensor = self._grpc.InferInput(name, list(array.shape), TRITON_DTYPES[array.dtype])
            if name in request.offsets:
                tensor.set_shared_memory(region.name, array.nbytes, request.offsets[name])
            else:
                tensor.set_data_from_numpy(np.ascontiguousarray(array))
            tensors.append(tensor)
        wanted = self._grpc.InferRequestedOutput(request.output)
        if request.output_size:
            wanted.set_shared_memory(region.name, request.output_size, request.output_offset)
        result = self._send(request.model, tensors, wanted, timeout)
        if request.output_size and not any(result.get_response().raw_output_contents):
            return self._read(result.get_output(request.output), request, region)
        answer = self._output(result, request.model, request.output)
        if answer.dtype != np.object_ and len(self._output_sizes) < _MOST_SHAPES:
            known = self._output_sizes.get(request.key, 0)
            self._output_sizes[request.key] = max(answer.nbytes, known)
        return answer

    def _read(self, described: Any, request: _Request, region: Region) -> npt.NDArray[Any]:
        dtype = NUMPY_DTYPES.get(described.datatype if described is not None else "")
        shape = tuple(described.shape) if described is not None else ()
        if dtype is None or math.prod(shape) * dtype.itemsize > request.output_size:
            raise self._no_output(request.model, request.output)
        return region.read(request.output_offset, dtype, shape)


@dataclasses.dataclass(kw_only=True)
class _Request:
    """A request, and where its tensors lie in a region."""

    model: str
    inputs: Mapping[str, npt.NDArray[Any]]
    output: str
    key: tuple[Any, ...]
    """What the size of the output is remembered under."""
    offsets: Mapping[str, int]
    """Of the inputs that go through memory."""
    output_offset: int
    output_size: int
    """Bytes that the output may have there; 0 where it comes in the message."""

    @classmethod
    def of(
        cls,
        model: str,
        inputs: Mapping[str, npt.NDArray[Any]],
        output: str,
        output_sizes: Mapping[tuple[Any, ...], int],
    ) -> _Request:
        offsets, end = {}, 0
        for name, array in inputs.items():
            if array.dtype != np.object_ and array.size:
                offsets[name] = end
                end += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        key = (model, output, *((name, array.shape) for name, array in inputs.items()))
        return cls(
            model=model,
            inputs=inputs,
            output=output,
            key=key,
            offsets=offsets,
            output_offset=end,
            output_size=output_sizes.get(key, 0),
        )


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)


def _is_recent(version: str) -> bool:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and tuple(map(int, numbers.groups())) >= OLDEST_SERVER
