"""Maps that have been read and wait for their turn, taken from it in an order of sizes.

A server joins requests of equal size only: of one size it ran 16 requests in 4 executions, of two
alternating ones in 9. So all maps of the size that was taken last go first, then those of the size
that has waited longest. The shelf is bounded by its user, so no size waits for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from sceneloom.rendering.loading import Loaded


class Shelf:
    """Read maps by size."""

    def __init__(self) -> None:
        """Begin empty."""
        self._by_size: dict[tuple[int, int], deque[Loaded]] = {}  # sizes in order of arrival
        self._current: tuple[int, int] | None = None
        self.bytes = 0
        """Memory that its maps hold."""

    def __len__(self) -> int:
        """Number of maps."""
        return sum(map(len, self._by_size.values()))

    def add(self, loaded: Loaded) -> None:
        """Put a map on the shelf."""
        self._by_size.setdefault(loaded.size, deque()).append(loaded)
        self.bytes += loaded.bytes

    def take(self, most: Callable[[tuple[int, int]], int] = lambda size: 1) -> list[Loaded]:
        """Take maps of one size; the shelf must not be empty.

        Args:
            most: (height, width) -> how many of that size at most.
        """
        if self._current not in self._by_size:
            self._current = next(iter(self._by_size))
        assert self._current is not None
        queue = self._by_size[self._current]
        taken = [queue.popleft() for _ in range(min(most(self._current), len(queue)))]
        if not queue:
            del self._by_size[self._current]
        self.bytes -= sum(loaded.bytes for loaded in taken)
        return taken

    def clear(self) -> int:
        """Drop all maps; returns how many there were."""
        count = len(self)
        self._by_size.clear()
        self.bytes = 0
        return count
