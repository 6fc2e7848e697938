"""How long a server has computed, by its own statistics."""

from __future__ import annotations

import time
from typing import Any

from tritonclient.grpc import InferenceServerClient

from sceneloom.transport import server_address

_BETWEEN_READINGS = 0.05
_LONGEST_WAIT = 5.0


class BusyTime:
    """Seconds that a model's executions take from now on, once the server stands still."""

    def __init__(self, url: str, model: str) -> None:
        """Read where the server stands.

        Args:
            url: ``HOST:PORT`` of its gRPC port.
            model: whose executions count.
        """
        self._client = InferenceServerClient(server_address(url, "grpc"))
        self._model = model
        config = self._client.get_model_config(model).config
        self.instances = sum(_instances(group) for group in config.instance_group) or 1
        """Executions that it can run at once."""
        self._before = self._settled()

    def seconds(self) -> float:
        """Of all instances together, since the object was made; the connection is closed then."""
        nanoseconds = self._settled() - self._before
        self._client.close()
        return nanoseconds / 1e9

    def _settled(self) -> int:
        """Once two readings agree: an answer may be there before it is counted."""
        last, deadline = self._nanoseconds(), time.monotonic() + _LONGEST_WAIT
        while time.monotonic() < deadline:
            time.sleep(_BETWEEN_READINGS)
            now = self._nanoseconds()
            if now == last:
                break
            last = now
        return last

    def _nanoseconds(self) -> int:
        """Of executions, not of requests: those that share one are counted once."""
        statistics = self._client.get_inference_statistics(self._model).model_stats
        return sum(_of(batch) for version in statistics for batch in version.batch_stats)


def _instances(group: Any) -> int:
    """Of a group; on GPUs so many on each of them."""
    count = max(group.count, 1) * max(len(group.gpus), 1)
    return int(count)


def _of(batch: Any) -> int:
    parts = (batch.compute_input, batch.compute_infer, batch.compute_output)
    return sum(part.ns for part in parts)
