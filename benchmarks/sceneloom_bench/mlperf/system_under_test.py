"""The served model as LoadGen's system under test: one request for each query, or batches of the
one query that Offline is.

LoadGen waits for ever for a sample that is not completed, so whatever happens to a request, its
samples are completed; how many failed is counted, and makes a run void whatever LoadGen says of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from sceneloom.request import Request
from sceneloom.synthesizer import Synthesizer

Complete = Callable[[Sequence[int]], None]
"""Told the ids of samples that are done."""


class SystemUnderTest:
    """Asks a synthesizer from a pool of threads; the issuing thread never waits."""

    def __init__(
        self,
        synthesizer: Synthesizer,
        library: Sequence[Request],
        complete: Complete,
        *,
        workers: int,
        batch: int = 1,
    ) -> None:
        """Start nothing yet.

        Args:
            synthesizer: safe to use from several threads.
            library: what there is to ask, by sample index.
            complete: called from the pool's threads.
            workers: requests in flight at most; what comes above waits here, and its latency counts
                from when it came.
            batch: samples of one request at most.
        """
        self._synthesizer = synthesizer
        self._library = library
        self._complete = complete
        self._batch = batch
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="query")
        self._lock = threading.Lock()
        self.began: float | None = None
        """When the first query came, by `time.perf_counter`."""
        self.seconds: list[float] = []
        """From a request's issue to its answer, in the order of answers."""
        self.samples = 0
        """Samples that were completed."""
        self.failed = 0
        """Samples whose request failed."""
        self.first_error = ""
        """What the first one that failed said."""

    def issue(self, samples: Iterable[tuple[int, int]]) -> None:
        """Take a query: (id, index into the library) of its samples."""
        came = time.perf_counter()
        self.began = self.began or came
        for group in self._batches(samples):
            self._pool.submit(self._ask, group, came)

    def _batches(self, samples: Iterable[tuple[int, int]]) -> Iterable[list[tuple[int, int]]]:
        """Samples of equal size together, in the order that they came."""
        open_groups: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for sample in samples:
            shape = self._library[sample[1]].label_map.shape
            group = open_groups.setdefault(shape, [])
            group.append(sample)
            if len(group) == self._batch:
                yield open_groups.pop(shape)
        yield from open_groups.values()

    def _ask(self, samples: list[tuple[int, int]], came: float) -> None:
        error = ""
        try:
            self._synthesizer.run_requests([self._library[index] for _, index in samples])
        except Exception as caught:
            error = f"{type(caught).__name__}: {caught}"
        took = time.perf_counter() - came
        with self._lock:
            self.seconds.append(took)
            self.samples += len(samples)
            self.failed += len(samples) if error else 0
            self.first_error = self.first_error or error
        self._complete([number for number, _ in samples])

    def close(self) -> None:
        """Wait for what is in flight."""
        self._pool.shutdown()
