"""The closed loop: so many requests are in flight, and the next is sent when one is answered.

It asks what a server can do at most, and what one patient client sees. It cannot say what users who
come by themselves would wait: while the server stands still, it asks nothing.
"""

from __future__ import annotations

import itertools

from sceneloom_bench.load.answers import Load, Recorder, Send


def run_closed(
    send: Send, *, in_flight: int, seconds: float, requests: int, most_failures: int = 100
) -> Load:
    """Keep requests in flight for some seconds, and until so many were sent.

    Args:
        send: what a request is.
        in_flight: threads that send, each one request at a time.
        seconds: at least.
        requests: at least.
        most_failures: so many failures in a row end it.

    Raises:
        LoadFailedError: they did, or all failed.
    """
    recorder = Recorder(send, most_failures)
    numbers = itertools.count()

    def work() -> None:
        while not recorder.stopped.is_set():
            number = next(numbers)  # one call, so no other thread gets the same
            if number >= requests and recorder.now() >= seconds:
                return
            recorder.ask(number)

    return Load(requests=recorder.run(work, in_flight), in_flight=in_flight)
