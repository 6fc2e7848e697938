"""What of a run is kept when a part of it fails: everything else, and a mark."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from sceneloom.errors import EngineError, SceneLoomError, ServingError
from sceneloom_bench.load.answers import LoadFailedError
from sceneloom_bench.reports.report import Measurement, say


@dataclasses.dataclass(kw_only=True)
class Kept:
    """What was measured, and marks for what was not."""

    measured: list[Measurement] = dataclasses.field(default_factory=list)
    marks: list[str] = dataclasses.field(default_factory=list)
    failed: SceneLoomError | None = None
    """The first failure."""

    def run(self, what: str, measure: Callable[[], Measurement]) -> list[Measurement]:
        """As `run_all`, of one measurement."""
        return self.run_all(what, lambda: [measure()])

    def run_all(self, what: str, measure: Callable[[], Sequence[Measurement]]) -> list[Measurement]:
        """Measure, and keep it; none where the load, the server or the engine fails. An answer from
        a cache is no such failure: it makes the whole run void.

        Args:
            what: it is, for its mark.
            measure: does it.
        """
        try:
            found = list(measure())
        except (EngineError, LoadFailedError, ServingError) as error:
            say(f"{what} failed: {error}")
            self.failed = self.failed or error
            # An error's own text may name addresses and folders of a machine.
            why = error.mark if isinstance(error, LoadFailedError) else type(error).__name__
            self.marks.append(f"{what} left out: {why}")
            return []
        self.measured += found
        return found
