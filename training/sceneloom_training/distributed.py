"""Several processes that train one model: started by torchrun, found by its environment variables.

torchrun --nproc-per-node 4 -m sceneloom.cli train configs/cityscapes-1024x512.toml --out runs/a
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import distributed

from sceneloom.errors import LostPeerError, TrainingError
from sceneloom.text import reason


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """Which process of how many this is."""

    rank: int = 0
    """Number of this process among all."""
    size: int = 1
    """How many there are."""
    local_rank: int = 0
    """Number of this process on its machine, which is the number of its GPU."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all must ask at the same place."""
        return any(self.gather(flag))

    def first_of(self, value: int | None) -> int | None:
        """The value of the first process that has one; all must ask at the same place."""
        return next((each for each in self.gather(value) if each is not None), None)

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank; all must call at the same place."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            distributed.barrier()


@contextlib.contextmanager
def join_world(device: str) -> Iterator[World]:
    """Join the other processes if torchrun started this one.

    Args:
        device: ``cpu`` (talks by gloo) or ``cuda`` (NCCL).
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    try:
        rank = int(os.environ["RANK"])
        world = World(rank=rank, size=size, local_rank=int(os.environ["LOCAL_RANK"]))
    except KeyError as error:
        raise TrainingError(
            f"WORLD_SIZE is {size} and {error.args[0]} is not set: start several processes with "
            "torchrun"
        ) from None
    if device == "cuda":
        torch.cuda.set_device(world.local_rank)
    # gloo as well: objects travel on the CPU.
    with _lost_peers():
        distributed.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl")
        try:
            yield world
        finally:
            distributed.destroy_process_group()


@contextlib.contextmanager
def _lost_peers() -> Iterator[None]:
    """Give the error of a process whose peers ended or are not reached a sentence of ours."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).strip().splitlines() or [""]
        if isinstance(error, distributed.DistError) or "gloo" in text[0].lower():
            raise LostPeerError(
                f"another process of this run has ended, or is not reached ({reason(error)})"
            ) from None
        raise
