"""The regions of one connection: as many as there were requests in flight, each registered at the
server once.
"""

from __future__ import annotations

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
            outgrown = [self._free.pop()] if self._free else []
            to_unregister, self._retired = outgrown + self._retired, []
        for region in outgrown:
            region.remove()
        self._unregister(to_unregister)
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
        try:
            region.register(self._client, timeout)
        except self._answer_is_error as error:
            if error.status() in _SERVER_IS_AWAY:
                raise
            # A call whose answer was lost may have been heard.
            if error.status() != "StatusCode.ALREADY_EXISTS":
                raise RegionRefusedError(error.message()) from None
        region.registered = True

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
        try:
            answer = self._client.get_system_shared_memory_status(
                client_timeout=_HOUSEKEEPING_SECONDS
            )
            for name in filter(is_ownerless_region, answer.regions):
                self._client.unregister_system_shared_memory(
                    name, client_timeout=_HOUSEKEEPING_SECONDS
                )
        except self._answer_is_error:
            pass  # the next client's turn

    def close(self) -> None:
        """Remove every region, and unregister those that the server does not use."""
        with self._lock:
            self._closed = True
            regions = [*self._free, *self._taken, *self._retired]
            self._free, self._retired = [], []
        for region in regions:
            region.remove()
        if os.getpid() == self._owner:
            self._unregister(regions)

    def _unregister(self, regions: list[Region]) -> None:
        """Unregister regions; those that the server still uses, or that it could not be told about,
        are kept for later.
        """
        deadline = time.monotonic() + _HOUSEKEEPING_SECONDS
        for region in regions:
            if not region.registered:
                continue
            left = deadline - time.monotonic()
            try:
                if left <= 0:
                    raise self._answer_is_error("no time is left")
                self._client.unregister_system_shared_memory(region.name, client_timeout=left)
                region.registered = False
            except self._answer_is_error:
                with self._lock:
                    self._retired.append(region)
