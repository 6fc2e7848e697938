"""gRPC with the tensors in system shared memory: the messages only say where they lie.

Each request in flight has a region of its own, inputs first, then the output. Regions are kept for
the next request and registered at the server once. How large an output is follows from the first
answer to inputs of the same shapes, which comes in a message.

The answer is copied out, so that it stays as it is when its region is used again. A region whose
request got no answer (a deadline passed, the connection broke) is never used again: the server may
still read from it and write to it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import mmap
import os
import re
import secrets
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sceneloom.errors import QueueFullError, QueueTimeoutError, RequestRejectedError
from sceneloom.files import SHARED_MEMORY, is_ownerless, new_prefix
from sceneloom.triton.grpc_transport import GrpcTransport
from sceneloom.triton.transport import NUMPY_DTYPES, TRITON_DTYPES

_MARK = "client-"
_STEP = 1 << 20


def new_region_prefix() -> str:
    """Prefix for the regions of one connection.

    Nobody can guess it: a server on another host has no file of such a name, even where a client of
    the same process id runs there.
    """
    return f"{new_prefix()}{_MARK}{secrets.token_hex(8)}-"


def is_ownerless_region(name: str) -> bool:
    """Whether this is the name of a region whose client is gone."""
    return f"-{_MARK}" in name and is_ownerless(name)


def sweep_regions() -> list[str]:
    """Remove the regions of clients that are gone; the names removed."""
    gone = [path for path in SHARED_MEMORY.glob("sceneloom-*") if is_ownerless_region(path.name)]
    for path in gone:
        with contextlib.suppress(FileNotFoundError, PermissionError):
            path.unlink()
    return [path.name for path in gone]


class Region:
    """One region: as long as it is there, both processes can use its memory."""

    def __init__(self, name: str, size: int) -> None:
        """Make a region.

        Args:
            name: file name in /dev/shm.
            size: bytes it must have; rounded up to whole MiB.

        Raises:
            OSError: there is no shared memory here, or not enough is left.
        """
        self.name = name
        self.size = -(-size // _STEP) * _STEP
        self.registered = False
        """Whether the server knows it, as far as its client does."""
        path = SHARED_MEMORY / name
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self._remove = weakref.finalize(self, _unlink, path, os.getpid())
        try:
            # ftruncate would promise memory that is not there, and writing to it would end the
            # process with SIGBUS.
            os.posix_fallocate(file, 0, self.size)
            self._memory = mmap.mmap(file, self.size)
        except BaseException:
            self._remove()
            raise
        finally:
            os.close(file)

    def register(self, client: Any, timeout: float) -> None:
        """Make it known to the server of a tritonclient; raises InferenceServerException."""
        client.register_system_shared_memory(
            self.name, f"/{self.name}", self.size, client_timeout=timeout
        )

    def write(self, offset: int, array: npt.NDArray[Any]) -> None:
        """Copy an array of numbers to `offset`."""
        np.copyto(self._view(offset, array.dtype, array.shape), array)

    def read(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """A copy of the array at `offset`."""
        return self._view(offset, dtype, shape).copy()

    def remove(self) -> None:
        """Remove the file; who has its memory open keeps it. Calling it twice is fine."""
        self._remove()

    def _view(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        return np.frombuffer(self._memory, dtype, math.prod(shape), offset).reshape(shape)


def _unlink(path: Path, owner: int) -> None:
    # A child that was forked ends while its parent goes on.
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            path.unlink()


_HOUSEKEEPING_SECONDS = 2.0
_SERVER_IS_AWAY = ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED")


class RegionRefusedError(Exception):
    """The server cannot open a region; the text is its own."""


class RegionPool:
    """Regions to be taken for one request each; safe to use from several threads."""

    def __init__(self, client: Any) -> None:
        """Prepare an empty pool, and remove what killed clients left in /dev/shm.

        Args:
            client: tritonclient's gRPC client of the server.
        """
        from tritonclient.utils import InferenceServerException

        sweep_regions()
        self._answer_is_error: type[Any] = InferenceServerException
        self._client = client
        self._prefix = new_region_prefix()
        self._numbers = itertools.count(1)
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._free: list[Region] = []
        self._taken: list[Region] = []
        self._retired: list[Region] = []
        self._closed = False

    def take(self, size: int) -> Region:
        """A region of at least `size` bytes, which nobody else uses until it is given back.

        Raises:
            OSError: there is not so much shared memory.
        """
        with self._lock:
            large_enough = [region for region in self._free if region.size >= size]
            region = large_enough[-1] if large_enough else None
            if region is not None:
                self._free.remove(region)
                self._taken.append(region)
                return region
            outgrown = sorted(self._free, key=lambda region: region.size)[:1]
            self._free = [region for region in self._free if region not in outgrown]
            to_unregister, self._retired = outgrown + self._retired, []
        for region in outgrown:
            region.remove()
        in_use = self._unregister(to_unregister)
        with self._lock:
            self._retired += in_use
        region = Region(f"{self._prefix}{next(self._numbers)}", size)
        with self._lock:
            self._taken.append(region)
        return region

    def register(self, region: Region, timeout: float) -> None:
        """Make a region known to the server, unless it is.

        Raises:
            RegionRefusedError: the server cannot open it.
            InferenceServerException: the server does not answer.
        """
        if region.registered:
            return
        region.registered = True  # it may be even where the answer is lost
        try:
            region.register(self._client, timeout)
        except self._answer_is_error as error:
            if error.status() in _SERVER_IS_AWAY:
                raise
            region.registered = error.status() == "StatusCode.ALREADY_EXISTS"
            if not region.registered:
                raise RegionRefusedError(error.message()) from None

    def give_back(self, region: Region) -> None:
        """Let others use a region whose request was answered."""
        with self._lock:
            self._taken.remove(region)
            if not self._closed:
                self._free.append(region)

    def retire(self, region: Region) -> None:
        """Give back a region that the server may still write to: nobody will use it again."""
        region.remove()
        with self._lock:
            self._taken.remove(region)
            if not self._closed:
                self._retired.append(region)

    def sweep_server(self) -> None:
        """Unregister the regions of clients that are gone, whose memory the server still holds.

        Only for a server that is known to be on this machine: elsewhere other processes have these
        process ids.
        """
        seconds = _HOUSEKEEPING_SECONDS
        with contextlib.suppress(self._answer_is_error):
            answer = self._client.get_system_shared_memory_status(client_timeout=seconds)
            for name in filter(is_ownerless_region, answer.regions):
                with contextlib.suppress(self._answer_is_error):  # a request still uses it
                    self._client.unregister_system_shared_memory(name, client_timeout=seconds)

    def close(self) -> None:
        """Remove every region, and unregister those that the server does not use; it is given a
        moment to be done with them.
        """
        with self._lock:
            self._closed = True
            regions = [*self._free, *self._taken, *self._retired]
            self._free, self._retired = [], []
        for region in regions:
            region.remove()
        if os.getpid() != self._owner:
            return  # a forked child; its parent goes on
        deadline = time.monotonic() + _HOUSEKEEPING_SECONDS
        while (regions := self._unregister(regions)) and time.monotonic() < deadline:
            time.sleep(0.02)

    def _unregister(self, regions: list[Region]) -> list[Region]:
        """Unregister regions; those that the server still uses, which it may for a moment after it
        has answered.
        """
        in_use = []
        deadline = time.monotonic() + _HOUSEKEEPING_SECONDS
        for region in regions:
            left = deadline - time.monotonic()
            if not region.registered or left <= 0:
                continue
            try:
                self._client.unregister_system_shared_memory(region.name, client_timeout=left)
                region.registered = False
            except self._answer_is_error as error:
                if error.status() in _SERVER_IS_AWAY:
                    break  # and what it had registered with it
                in_use.append(region)
        return in_use


OLDEST_SERVER = (2, 50)
"""Older servers crash when a region is unregistered that a request still uses."""
_ALIGNMENT = 64
_MOST_SHAPES = 10_000
_FORGOTTEN = "Unable to find shared memory region"
_TOO_SMALL = "should be at least"


class SharedMemoryTransport(GrpcTransport):
    """gRPC with tensors in shared memory; safe to use from several threads.

    What cannot go that way (BYTES, or anything once no memory is left) goes in messages.
    `sceneloom.triton.client.connect` makes one only where it is proven to work.
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
        """Send one request and wait for its output; see `Transport.infer`."""
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
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if numbers is None or tuple(map(int, numbers.groups())) < OLDEST_SERVER:
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
            described = result.get_output(request.output)
            dtype = NUMPY_DTYPES.get(described.datatype if described is not None else "")
            shape = tuple(described.shape) if described is not None else ()
            if dtype is None or math.prod(shape) * dtype.itemsize > request.output_size:
                raise self._no_output(request.model, request.output)
            return region.read(request.output_offset, dtype, shape)
        answer = self._output(result, request.model, request.output)
        if answer.dtype != np.object_ and len(self._output_sizes) < _MOST_SHAPES:
            known = self._output_sizes.get(request.key, 0)
            self._output_sizes[request.key] = max(answer.nbytes, known)
        return answer


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
