"""Gives the maps of a source away in blocks, from a thread of its own; as many are on their way as
are needed to keep whoever takes them busy.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from sceneloom.rendering.cluster.blocks import Given
from sceneloom.rendering.interfaces import MapItem, Source
from sceneloom.rendering.manifest import Row
from sceneloom.rendering.store import Store


class Taker(Protocol):
    """Where blocks go."""

    def put(self, number: int, block: Sequence[Given] | None) -> None:
        """Take a block, or with None the end.

        Args:
            number: counts from 0.
            block: the maps.
        """


class BlockFeeder:
    """Gives blocks until the source ends or the run stops; then the end."""

    def __init__(
        self,
        source: Source,
        store: Store,
        taker: Taker,
        *,
        maps_per_block: int,
        most_blocks: int,
        threads: int,
    ) -> None:
        """Prepare.

        Args:
            source: the maps.
            store: knows which pictures are there.
            taker: where blocks go.
            maps_per_block: how many maps make one.
            most_blocks: that are on their way at once.
            threads: how many look for pictures that are there.
        """
        self._source, self._store, self._taker = source, store, taker
        self._maps_per_block = maps_per_block
        self._room = threading.Semaphore(most_blocks)
        self._given: dict[int, dict[str, Row | None]] = {}
        self._lookers = ThreadPoolExecutor(threads, "sceneloom-look")
        self._thread = threading.Thread(target=self._feed, name="sceneloom-feed", daemon=True)
        self._stopping = False
        self.error: Exception | None = None
        """Why the source could not be read to its end."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Give no further block. Safe to call from a signal handler."""
        self._stopping = True
        self._room.release()  # the thread may wait for it

    def take(self, number: int) -> dict[str, Row | None] | None:
        """Report that a block was answered.

        Returns:
            key -> the row of the picture that was there when the block was given, or None where
            there was none; None for a block that was answered before.
        """
        block = self._given.pop(number, None)
        if block is not None:
            self._room.release()
        return block

    def maps_given(self) -> int:
        """How many maps are on their way."""
        return sum(len(block) for block in list(self._given.values()))

    def close(self) -> None:
        """Stop, and wait for the thread."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join()
        self._lookers.shutdown(cancel_futures=True)

    def _feed(self) -> None:
        number = 0
        try:
            for items in self._blocks():
                self._room.acquire()
                if self._stopping:
                    break
                self._give(number, items)
                number += 1
        except Exception as error:
            self.error = error
        with contextlib.suppress(Exception):  # its answers say what is wrong with it
            self._taker.put(number, None)

    def _give(self, number: int, items: list[MapItem]) -> None:
        keys = [item.key for item in items]
        rows = dict(zip(keys, self._lookers.map(self._found, keys), strict=True))
        known = {key: "" if row is None else row.input_hash for key, row in rows.items()}
        self._given[number] = rows
        self._taker.put(number, [Given(item=item, known=known[item.key]) for item in items])

    def _found(self, key: str) -> Row | None:
        try:
            return self._store.found(key)
        except OSError:
            return None  # what cannot be read is made again

    def _blocks(self) -> Iterator[list[MapItem]]:
        """The source's maps in blocks; where it breaks off, those before come first."""
        block: list[MapItem] = []
        try:
            for item in self._source:
                block.append(item)
                if len(block) == self._maps_per_block:
                    yield block
                    block = []
        except Exception:
            if block:
                yield block
            raise
        if block:
            yield block
