"""Ray itself: on this machine, or a cluster that is running."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from sceneloom.errors import InputError, SceneLoomError
from sceneloom.files import SHARED_MEMORY
from sceneloom.rendering.settings import RenderSettings
from sceneloom.triton.shared_memory import sweep_regions

_MIB = 1 << 20
_ENDING_SECONDS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class RaySettings:
    """How a run is spread over Ray's actors."""

    address: str | None = None
    """Of a running cluster, such as auto on one of its machines; without it Ray is started here,
    and stopped with the run.
    """
    actors: int | None = None
    """Most actors; without it as many as there are cores for. They start as there is work."""
    cpus: int = 1
    """Cores of an actor: as many threads decode and encode in it."""
    maps_per_block: int = 16
    """Maps that an actor is given at once. Their pictures are in memory together."""
    object_store: int = 1024
    """MiB of shared memory for what is on its way, where Ray is started here; more goes to disk."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, low, high in (
            ("actors", 1, 100_000),
            ("cpus", 1, 1024),
            ("maps_per_block", 1, 10_000),
            ("object_store", 128, 1 << 20),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"{name} is {value}; it is from {low} to {high}")


def most_actors(settings: RaySettings) -> int:
    """The most actors of a run; Ray must have been started."""
    import ray

    if settings.actors is not None:
        return settings.actors
    cores = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
    return max(1, int(cores) // settings.cpus)


@contextlib.contextmanager
def ray_started(settings: RaySettings) -> Iterator[set[int]]:
    """Ray while it is wanted: what the caller has started stays, and else it is started, or a
    cluster connected to, and stopped again.

    Yields:
        takes the process ids of the actors that were seen. Those that Ray ends on this machine have
        no time to clear up; it is done for them.

    Raises:
        SceneLoomError: it cannot be started, or no cluster is there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    import ray

    workers: set[int] = set()
    if ray.is_initialized():
        yield workers
        return
    here: dict[str, Any] = {}
    if settings.address is None:
        here = {
            "num_cpus": max(RenderSettings().threads, settings.cpus * (settings.actors or 1)),
            "include_dashboard": False,
            "object_store_memory": settings.object_store * _MIB,
        }
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=settings.address or "local",
            logging_level=logging.ERROR,
            log_to_driver=False,
            **here,
        )
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's own would end the run at once
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SceneLoomError(f"Ray cannot be started or reached: {error}") from error
    try:
        yield workers
    finally:
        ray.shutdown()
        if settings.address is None:
            _sweep_after(workers)


def _sweep_after(processes: set[int]) -> None:
    """Remove what is in shared memory of processes that are ending."""
    deadline = time.monotonic() + _ENDING_SECONDS
    while any(list(SHARED_MEMORY.glob(f"sceneloom-{pid}-*")) for pid in processes):
        if time.monotonic() > deadline:  # the next connection does it
            return
        sweep_regions()
        time.sleep(0.05)
