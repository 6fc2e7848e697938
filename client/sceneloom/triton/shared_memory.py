"""gRPC with the tensors in system shared memory: the messages only say where they lie.

Each request in flight has a region of its own, inputs first, then the output. Regions are kept for
the next request and registered at the server once. The first answer to inputs of given shapes comes
in a message and tells the output's size.

The answer is copied out, so that reuse of its region does not change it. A region whose request got
no answer (a deadline passed, the connection broke) is never used again: the server may still read
from it and write to it.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import mmap
import os
import re
import secrets
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sceneloom.errors import QueueFullError, QueueTimeoutError, RequestRejectedError
from sceneloom.files import SHARED_MEMORY, is_ownerless, new_prefix
from sceneloom.maps import Array
from sceneloom.triton.access import Access
from sceneloom.triton.grpc_transport import GrpcTransport, Placement
from sceneloom.triton.transport import NUMPY_DTYPES, Arrays, seconds_left

_MARK = "-client-"  # in the names of regions
_STEP = 1 << 20
_ALIGNMENT = 64
_MOST_SHAPES = 10_000
_HOUSEKEEPING_SECONDS = 2.0
_SERVER_IS_AWAY = ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED")
_FORGOTTEN = "Unable to find shared memory region"
_TOO_SMALL = "should be at least"
OLDEST_SERVER = (2, 50)
"""Older servers crash when a region is unregistered that a request still uses."""


def new_region_prefix() -> str:
    """Prefix of the regions of one connection; random, since a server on another host must not have
    a file of such a name, even where a client of the same process id runs there.
    """
    return f"{new_prefix().removesuffix('-')}{_MARK}{secrets.token_hex(8)}-"


def sweep_regions() -> list[str]:
    """Remove the regions whose clients have ended, and return their names."""
    found = [path for path in SHARED_MEMORY.glob(f"sceneloom-*{_MARK}*") if is_ownerless(path.name)]
    for path in found:
        with contextlib.suppress(FileNotFoundError, PermissionError):
            path.unlink()
    return [path.name for path in found]


class Region:
    """Memory that client and server share."""

    def __init__(self, name: str, size: int) -> None:
        """Make a file in /dev/shm of at least `size` bytes, rounded up to whole MiB; raises OSError
        if this machine has no shared memory, or not enough is left.
        """
        self.name = name
        self.size = -(-size // _STEP) * _STEP
        self.registered = False
        """Whether the server knows it, as far as its client does."""
        path = SHARED_MEMORY / name
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self.remove = weakref.finalize(self, _unlink, path, os.getpid())
        """Remove the file; open memory stays. A second call does nothing."""
        try:
            # ftruncate would promise memory that is not there, and writing to it would end the
            # process with SIGBUS.
            os.posix_fallocate(file, 0, self.size)
            self._memory = mmap.mmap(file, self.size)
        except BaseException:
            self.remove()
            raise
        finally:
            os.close(file)

    def view(self, offset: int, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> Array:
        """Array in the memory, at a byte offset."""
        return np.frombuffer(self._memory, dtype, math.prod(shape), offset).reshape(shape)


def _unlink(path: Path, owner: int) -> None:
    # A forked child may end before its parent.
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            path.unlink()


class RegionRefusedError(Exception):
    """The server cannot open a region. The text is the server's."""


class SharedMemoryTransport(GrpcTransport):
    """gRPC with tensors in shared memory; safe to use from several threads. BYTES, and all tensors
    once no memory is left, go in messages. `client.connect` makes one only if `prove` succeeds.
    """

    def __init__(self, url: str, *, why: str = "requested", access: Access | None = None) -> None:
        """Prepare a connection as `GrpcTransport`, and remove the regions of killed clients."""
        super().__init__(url, why=why, access=access)
        self.kind = "grpc-shm"  # grpc once the server has refused a region
        sweep_regions()
        self._prefix = new_region_prefix()
        self._numbers = itertools.count(1)
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._free: list[Region] = []
        self._taken: list[Region] = []
        self._retired: list[Region] = []
        self._output_sizes: dict[tuple[Any, ...], int] = {}

    def infer(
        self, model: str, inputs: Arrays, output: str, *, timeout: float, version: str = ""
    ) -> Array:
        """Send one request and wait for its output; see `Transport.infer`."""
        self._check_open()
        deadline = time.monotonic() + timeout
        fitting = any(array.dtype != np.object_ and array.size for array in inputs.values())
        if fitting and self.kind == "grpc-shm":
            try:
                return self._infer_in_memory(model, inputs, output, deadline, version)
            except RegionRefusedError as error:
                self.kind = "grpc"
                self.why = f"the server refused a region of shared memory ({error})"
            except OSError as error:
                self.why = f"some requests found no shared memory free ({error.strerror})"
        left = seconds_left(deadline)
        return super().infer(model, inputs, output, timeout=left, version=version)

    def prove(
        self, model: str, inputs: Arrays, output: str, *, timeout: float, version: str = ""
    ) -> str:
        """Send a request in messages and then through shared memory, and compare the answers.

        Random inputs prove the most; the output is an array of numbers; `timeout` is seconds for
        each request. Returns the reason against shared memory, empty if it works. Raises a
        ServingError if the server does not answer.
        """
        housekeeping = {"client_timeout": _HOUSEKEEPING_SECONDS}
        try:
            server = self._client.get_server_metadata(client_timeout=timeout).version
        except self._grpc.InferenceServerException as error:
            raise self._map(error, model) from None
        numbers = re.match(r"(\d+)\.(\d+)", server)
        if numbers is None or tuple(map(int, numbers.groups())) < OLDEST_SERVER:
            oldest = ".".join(map(str, OLDEST_SERVER))
            return f"shared memory needs Triton {oldest}; the server is {server}"
        plain = super().infer(model, inputs, output, timeout=timeout, version=version)
        try:
            deadline = time.monotonic() + timeout
            answer = self._infer_in_memory(model, inputs, output, deadline, version, expected=plain)
        except RegionRefusedError as error:
            return f"the server cannot open shared memory of this machine ({error})"
        except OSError as error:
            return f"no shared memory is free ({error.strerror})"
        # Engines may differ in the last digits from one run to the next.
        if answer.shape != plain.shape or np.abs(answer.astype(np.float64) - plain).mean() > 1:
            return "the picture through shared memory differs from the one over gRPC"
        # The server still holds regions of ended clients. It is known to be on this machine now:
        # elsewhere these process ids are those of other processes.
        with contextlib.suppress(self._grpc.InferenceServerException):
            known = self._client.get_system_shared_memory_status(**housekeeping).regions
            for name in known:
                if _MARK not in name or not is_ownerless(name):
                    continue
                with contextlib.suppress(self._grpc.InferenceServerException):  # still in use
                    self._client.unregister_system_shared_memory(name, **housekeeping)
        return ""

    def close(self) -> None:
        """Remove the regions, unregister those that the server does not use, and close the
        connection; a request in flight has two seconds to end.
        """
        with self._lock:
            is_first, self._closed = not self._closed, True
            regions = [*self._free, *self._taken, *self._retired] if is_first else []
            self._free, self._retired = [], []
        for region in regions:
            region.remove()
        if os.getpid() == self._owner:  # not in a forked child
            deadline = time.monotonic() + _HOUSEKEEPING_SECONDS
            while (regions := self._unregister(regions)) and time.monotonic() < deadline:
                time.sleep(0.02)
        super().close()

    def _infer_in_memory(
        self,
        model: str,
        inputs: Arrays,
        output: str,
        deadline: float,
        version: str,
        *,
        expected: Array | None = None,
    ) -> Array:
        """Raises RegionRefusedError, OSError without free memory, or a ServingError."""
        offsets, end = {}, 0
        for name, array in inputs.items():
            if array.dtype != np.object_ and array.size:
                offsets[name] = end
                end += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        key = (model, output, *((name, array.shape) for name, array in inputs.items()))
        size = self._output_sizes.get(key, 0) if expected is None else expected.nbytes
        region = self._take(end + size)
        reusable = False
        try:
            for name, offset in offsets.items():
                array = inputs[name]
                np.copyto(region.view(offset, array.dtype, array.shape), array)
            if expected is not None:
                # What the server does not write is as far from its answer as can be.
                stale = ~np.ascontiguousarray(expected).reshape(-1).view(np.uint8)
                np.copyto(region.view(end, np.uint8, stale.shape), stale)
            place = Placement(
                region=region.name, offsets=offsets, output_offset=end, output_size=size
            )
            answer = self._ask_in_memory(model, inputs, output, deadline, version, region, place)
            in_message = not place.output_size and answer.dtype != np.object_
            if in_message and len(self._output_sizes) < _MOST_SHAPES:
                self._output_sizes[key] = max(answer.nbytes, self._output_sizes.get(key, 0))
            reusable = True
            return answer
        except (QueueFullError, QueueTimeoutError, RequestRejectedError):
            reusable = True  # the server has done with the request
            raise
        finally:
            if not reusable:
                region.remove()
            with self._lock:
                self._taken.remove(region)
                if not self._closed:
                    (self._free if reusable else self._retired).append(region)

    def _ask_in_memory(
        self,
        model: str,
        inputs: Arrays,
        output: str,
        deadline: float,
        version: str,
        region: Region,
        place: Placement,
    ) -> Array:
        """Ask again once where the server has forgotten the region or the output has grown."""
        for last in (False, True):
            try:
                if not region.registered:
                    region.registered = True  # it may be even where the answer is lost
                    try:
                        self._client.register_system_shared_memory(
                            region.name,
                            f"/{region.name}",
                            region.size,
                            client_timeout=seconds_left(deadline),
                        )
                    except self._grpc.InferenceServerException as error:
                        if error.status() in _SERVER_IS_AWAY and not self._is_closed(error):
                            raise
                        region.registered = error.status() == "StatusCode.ALREADY_EXISTS"
                        if not region.registered:
                            raise RegionRefusedError(error.message()) from None
                left = seconds_left(deadline)
                result, answer = self._ask(model, inputs, output, left, place, version=version)
                break
            except self._grpc.InferenceServerException as error:
                forgotten = _FORGOTTEN in str(error.message())  # by a server that was restarted
                too_small = _TOO_SMALL in str(error.message()) and place.output_size > 0
                if last or not (forgotten or too_small):
                    raise self._map(error, model) from None
                region.registered = region.registered and not forgotten
                place.output_size = 0 if too_small else place.output_size
        if answer is not None:
            return answer
        described = result.get_output(output)
        dtype = NUMPY_DTYPES.get(described.datatype if described is not None else "")
        shape = tuple(described.shape) if described is not None else ()
        if dtype is None or math.prod(shape) * dtype.itemsize > place.output_size:
            raise self._no_output(model, output)
        return region.view(place.output_offset, dtype, shape).copy()

    def _is_closed(self, error: Exception) -> bool:
        """Whether UNAVAILABLE means that the server takes no regions (a restricted API, or from
        26.04 on a server without --allow-client-shm): then it answers other calls.
        """
        if error.status() != "StatusCode.UNAVAILABLE":  # type: ignore[attr-defined]
            return False
        try:
            self._client.get_server_metadata(client_timeout=_HOUSEKEEPING_SECONDS)
        except self._grpc.InferenceServerException:
            return False
        return True

    def _take(self, size: int) -> Region:
        """A region of at least `size` bytes; raises OSError without free memory."""
        with self._lock:
            large_enough = [region for region in self._free if region.size >= size]
            if large_enough:
                self._free.remove(large_enough[-1])
                self._taken.append(large_enough[-1])
                return large_enough[-1]
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

    def _unregister(self, regions: list[Region]) -> list[Region]:
        """Unregister regions, and return those still in use, as they may be for a moment after
        the answer.
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
            except self._grpc.InferenceServerException as error:
                if error.status() in _SERVER_IS_AWAY:
                    break  # and all that was registered with it
                in_use.append(region)
        return in_use
