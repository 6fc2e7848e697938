"""The golden probe, again and again: whether a running server still gives the picture that was
exported.

A server whose model hangs or has died goes on saying that it is ready. A server with a long queue
answers no probe in time and is well all the same, as long as it answers others.
"""

from __future__ import annotations

import threading
from types import TracebackType

from typing_extensions import Self

from sceneloom.errors import DeadlineExceededError, SceneLoomError
from sceneloom.triton.client import TritonSynthesizer
from sceneloom.triton.grpc_transport import GrpcTransport
from sceneloom.triton.transport import Timeouts
from sceneloom_serving.golden import Golden, check_golden

_TRIES = 3
"""Probes in a row that fail before a server counts as broken."""
_PAUSE = 1.0
"""Seconds from a probe that failed to the next."""


class Heartbeat:
    """Probes a server from a thread of its own, for as long as it is entered."""

    def __init__(self, url: str, golden: Golden, *, every: float) -> None:
        """Prepare it.

        Args:
            url: ``HOST:PORT`` of the server's gRPC port.
            golden: of the bundle that it serves.
            every: seconds between probes, and for the answer to one.
        """
        self._url, self._golden, self._every = url, golden, every
        self._done = threading.Event()
        self.failure: str | None = None
        """Why the server counts as broken; None while it does not."""

    def __enter__(self) -> Self:
        """Begin."""
        threading.Thread(target=self._beat, name="sceneloom-heartbeat", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop; a probe that is under way is not waited for."""
        self._done.set()

    def _beat(self) -> None:
        failed, pause = 0, self._every
        while not self._done.wait(pause):
            try:
                self._probe()
                failed, pause = 0, self._every
            except SceneLoomError as error:
                failed, pause = failed + 1, min(_PAUSE, self._every)
                if failed == _TRIES:
                    self.failure = str(error)
                    return

    def _probe(self) -> None:
        timeouts = Timeouts(infer=self._every)
        transport = GrpcTransport(self._url)
        with TritonSynthesizer(self._url, timeouts=timeouts, transport=transport) as synthesizer:
            answers = transport.answered(synthesizer.model, timeout=timeouts.connect)
            try:
                check_golden(synthesizer, self._golden, synthesizer.engine)
            except DeadlineExceededError:
                if transport.answered(synthesizer.model, timeout=timeouts.connect) == answers:
                    raise
