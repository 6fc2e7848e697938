"""The open loop: requests are sent at planned moments, whether earlier ones were answered or not,
and latency is counted from the plan.

A worker takes the next request of the plan, sleeps until its moment, sends it and waits for the
answer. There are enough workers that some always sleep; where all are busy a request is sent late,
and its waiting is part of its latency. So nothing the server does can make the loop ask less: there
is no coordinated omission (Tene, How NOT to Measure Latency).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from sceneloom_bench.load.answers import Load, Recorder, Send

_LEAD_IN = 0.1


def run_open(
    send: Send, planned: Sequence[float], *, most_in_flight: int = 256, most_failures: int = 100
) -> Load:
    """Send requests at their moments and wait for the last answer.

    Args:
        send: what a request is.
        planned: moments in seconds from the start, in order (`schedule.plan_arrivals`).
        most_in_flight: workers; a request that finds none free waits, and is marked.
        most_failures: so many failures in a row end it.

    Raises:
        LoadFailedError: they did, or all failed.
    """
    recorder = Recorder(send, most_failures)
    numbers = itertools.count()

    def work() -> None:
        while True:
            number = next(numbers)  # one call, so no other thread gets the same
            if number >= len(planned):
                return
            ahead = planned[number] - recorder.now()
            if recorder.stopped.wait(ahead) if ahead > 0 else recorder.stopped.is_set():
                return
            recorder.ask(number, planned[number], waited=ahead < 0)

    threads = min(most_in_flight, len(planned))
    return Load(requests=recorder.run(work, threads, _LEAD_IN))
