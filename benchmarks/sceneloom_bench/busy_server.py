"""How long a server has computed, by its own statistics."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import InferenceServerClient

from sceneloom.transport import server_address


class BusyTime:
    """Seconds that a model's executions take from now on."""

    def __init__(self, url: str, model: str) -> None:
        """Read where the server stands.

        Args:
            url: ``HOST:PORT`` of its gRPC port.
            model: whose executions count.
        """
        self._client = InferenceServerClient(server_address(url, "grpc"))
        self._model = model
        config = self._client.get_model_config(model).config
        self.instances = sum(max(group.count, 1) for group in config.instance_group) or 1
        """Executions that it can run at once."""
        self._before = self._nanoseconds()

    def seconds(self) -> float:
        """Of all instances together, since the object was made; the connection is closed then."""
        nanoseconds = self._nanoseconds() - self._before
        self._client.close()
        return nanoseconds / 1e9

    def _nanoseconds(self) -> int:
        """Of executions, not of requests: those that share one are counted once."""
        statistics = self._client.get_inference_statistics(self._model).model_stats
        return sum(_of(batch) for version in statistics for batch in version.batch_stats)


def _of(batch: Any) -> int:
    parts = (batch.compute_input, batch.compute_infer, batch.compute_output)
    return sum(part.ns for part in parts)
