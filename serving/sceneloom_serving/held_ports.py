"""The embedded server's ports: chosen together, and kept for it while it restarts.

A socket that is bound, does not listen and lets its address be used again keeps the kernel from
giving the port to anything that takes a free one: another server, or a client's connection, which
could even connect to itself. A server that names the port can still listen on it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping

from sceneloom.errors import ServerStartError

HOST = "127.0.0.1"


class HeldPorts:
    """Ports of 127.0.0.1 that are reserved until `release`."""

    def __init__(self, ports: Mapping[str, int]) -> None:
        """Reserve the ports.

        Args:
            ports: purpose -> port; 0 takes a free one. Named ports are reserved first, so that a
                free one is never one of them.

        Raises:
            ServerStartError: a named port is in use; the text names it and its flag.
        """
        self.addresses: dict[str, str] = {}
        """Purpose -> ``HOST:PORT``."""
        with contextlib.ExitStack() as sockets:
            for purpose in sorted(ports, key=lambda name: ports[name] == 0):
                held = sockets.enter_context(socket.socket())
                # Without SO_REUSEADDR a port is refused for a minute after a server on it has
                # stopped, and no server could listen on a held one.
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    held.bind((HOST, ports[purpose]))
                except OSError as error:
                    raise ServerStartError(
                        f"port {ports[purpose]} for {purpose} cannot be used ({error.strerror}); "
                        f"choose another with --{purpose}-port"
                    ) from None
                self.addresses[purpose] = f"{HOST}:{held.getsockname()[1]}"
            self._sockets = sockets.pop_all()

    def release(self) -> None:
        """Give the ports back; twice is fine."""
        self._sockets.close()
