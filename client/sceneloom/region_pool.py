"""The regions of one connection: as many as there were requests in flight, each registered at the
server once.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from typing import Any

from sceneloom.shared_memory import Region, is_ownerless_region, new_region_prefix, sweep_regions

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
