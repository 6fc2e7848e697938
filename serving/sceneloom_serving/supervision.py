"""Keeping the embedded server up: it is started again whenever it ends or breaks, later and later
while it does so again and again, and given up in the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from sceneloom.errors import SceneLoomError
from sceneloom_serving.embedded import EmbeddedServer

_SHORT = 60.0
"""A server that ends within so many seconds of its start has ended early."""
WAITS = (0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds until the next start, by how many early ends came one after the other: one bad request
costs nothing but the start itself, a server that cannot live is given up.
"""


def keep_up(
    server: EmbeddedServer,
    *,
    check: Callable[[], object],
    on_ready: Callable[[], None],
    say: Callable[[str], None],
    waits: Sequence[float] = WAITS,
) -> str:
    """Restart a server whenever it ends, until it has ended early too often.

    Args:
        server: started, and proven.
        check: called before each start; raises a SceneLoomError where the server must not start.
        on_ready: called whenever the server is proven, now included.
        say: is told what ended and why.
        waits: seconds before each start that follows an early end.

    Returns:
        one sentence on why it was given up.
    """
    on_ready()
    early, started, reason = 0, time.monotonic(), server.watch()
    while True:
        early = 1 if time.monotonic() - started >= _SHORT else early + 1
        while True:
            if early > len(waits):
                return f"{reason}; this was early end {early} in a row, so it is not started again"
            wait = waits[early - 1]
            say(f"{reason}; starting it again" + (f" in {wait:g} s" if wait else ""))
            time.sleep(wait)
            try:
                check()
                server.restart()
                break
            except (SceneLoomError, OSError) as error:
                early, reason = early + 1, str(error)
        on_ready()
        started, reason = time.monotonic(), server.watch()
