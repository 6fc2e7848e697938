"""Blocks between the process that has them and those that take them, in an actor of its own. It
imports next to nothing, so that it is there soon.
"""

from __future__ import annotations

import asyncio
from collections import Counter


class BlockQueue:
    """Hands blocks out by their numbers, and holds each until it has its answer: who reads them and
    dies begins again at the first one.
    """

    def __init__(self) -> None:
        """Begin without a block."""
        self._blocks: dict[int, bytes | None] = {}
        self._count = 0
        self._stopped = False
        self._tries: Counter[int] = Counter()
        self._changed = asyncio.Condition()

    async def put(self, number: int, block: bytes | None) -> None:
        """Take a block, or with None the end.

        Args:
            number: counts from 0.
            block: the maps, pickled.
        """
        async with self._changed:
            self._blocks[number] = block
            self._count = number + 1
            self._changed.notify_all()

    async def get(self, number: int) -> bytes | None:
        """A block, once it is there; None at the end, nothing for a block that was answered."""
        async with self._changed:
            await self._changed.wait_for(lambda: number < self._count)
        return self._blocks.get(number, b"")

    async def begin(self, number: int) -> int:
        """Which try at a block this is, from 1; 0 where the run stops."""
        self._tries[number] += 1
        return 0 if self._stopped else self._tries[number]

    async def drop(self, number: int) -> None:
        """Report that a block was answered."""
        self._blocks.pop(number, None)
        self._tries.pop(number, None)

    async def stop(self) -> None:
        """Have no further block begun."""
        self._stopped = True
