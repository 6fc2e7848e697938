"""One HTTP/1.1 connection whose every wait ends at a deadline, and which sends from and reads into
buffers of the caller.
"""

from __future__ import annotations

import contextlib
import http.client
import select
import time
from collections.abc import Mapping, Sequence

_PIECE = 1 << 20


class HttpConnection:
    """A connection that carries one exchange after the other; for one thread at a time."""

    def __init__(self, host: str, port: int) -> None:
        """Prepare it; the first exchange opens it."""
        self._http = http.client.HTTPConnection(host, port)
        self._deadline = 0.0
        self._answer: http.client.HTTPResponse | None = None

    def exchange(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        parts: Sequence[bytes | memoryview],
        deadline: float,
    ) -> None:
        """Send a request and read the status and header fields of its answer.

        Args:
            method: such as ``POST``.
            path: from the root, quoted.
            headers: the header fields beside the length.
            parts: what the body is joined of.
            deadline: of `time.monotonic`, for this and for reading the answer.

        Raises:
            TimeoutError: the deadline has passed.
            OSError: the server is not reachable or went away.
            HTTPException: what answers does not speak HTTP.
        """
        self._deadline, self._answer = deadline, None
        if self._http.sock is None:
            self._http.timeout = self._left()
            self._http.connect()
        # With an answer that closes the connection, http.client forgets the socket before the
        # answer's body is read.
        self._socket = self._http.sock
        self._socket.settimeout(self._left())
        self._http.putrequest(method, path)
        for name, value in headers.items():
            self._http.putheader(name, value)
        self._http.putheader("Content-Length", str(sum(len(part) for part in parts)))
        self._http.endheaders()
        # A server that refuses a request may close the connection before it has read it all, and
        # have said why.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for part in parts:
                self._socket.settimeout(self._left())
                self._http.send(part)
        self._socket.settimeout(self._left())
        self._answer = self._http.getresponse()

    @property
    def status(self) -> int:
        """Status of the answer."""
        return self._read_from().status

    def header(self, name: str) -> str:
        """A header field of the answer; empty where it has none."""
        return self._read_from().headers.get(name, "")

    def read(self, limit: int) -> bytes:
        """Read the rest of the answer's body.

        Raises:
            HTTPException: it has more than `limit` bytes, or ends too early.
            OSError: see `exchange`.
        """
        answer, read = self._read_from(), bytearray()
        while not answer.isclosed():
            self._socket.settimeout(self._left())
            piece = answer.read(_PIECE)
            if not piece:
                break
            read += piece
            if len(read) > limit:
                raise http.client.HTTPException(f"an answer of more than {limit:,} bytes")
        if answer.length:
            raise http.client.IncompleteRead(b"", answer.length)
        return bytes(read)

    def read_into(self, buffer: memoryview) -> None:
        """Fill a buffer of bytes from the answer's body.

        Raises:
            HTTPException: the body ends before.
            OSError: see `exchange`.
        """
        filled = 0
        while filled < len(buffer):
            self._socket.settimeout(self._left())
            count = self._read_from().readinto(buffer[filled : filled + _PIECE])
            if not count:
                raise http.client.IncompleteRead(b"", len(buffer) - filled)
            filled += count

    def is_reusable(self) -> bool:
        """Whether the answer was read to its end and the connection is still open."""
        if self._answer is None or not self._answer.isclosed() or self._http.sock is None:
            return False
        # Between answers there is nothing to read, except that the server has closed it.
        readable, _, _ = select.select([self._http.sock], [], [], 0)
        return not readable

    def close(self) -> None:
        """Close it; calling it twice is fine."""
        self._http.close()

    def _read_from(self) -> http.client.HTTPResponse:
        assert self._answer is not None, "nothing was asked"
        return self._answer

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        return left
