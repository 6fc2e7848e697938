"""How long a server has computed, by its own statistics."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from sceneloom.errors import ServingError
from sceneloom.triton.grpc_transport import channel_options
from sceneloom.triton.transport import map_triton_error, server_address
from sceneloom_bench.load.server_statistics import STARTED_ANEW

_BETWEEN_READINGS = 0.05
_LONGEST_WAIT = 5.0


class BusyTime:
    """Seconds that a model's executions take from now on, once the server stands still."""

    def __init__(self, url: str, model: str) -> None:
        """Read where the server stands.

        Args:
            url: ``HOST:PORT`` of its gRPC port.
            model: whose executions count.

        Raises:
            ServingError: it does not answer.
        """
        address = server_address(url, "grpc")
        self._client = InferenceServerClient(address, channel_args=channel_options(address))
        self._model = model
        self._where = f"{url}, model {model!r}"
        config = self._ask(self._client.get_model_config).config
        self.instances = sum(_instances(group) for group in config.instance_group) or 1
        """Executions that it can run at once."""
        self._before = self._settled()

    def seconds(self) -> float:
        """Of all instances together, since the object was made; the connection is closed then.

        Raises:
            ServingError: it does not answer, or was started anew.
        """
        nanoseconds = self._settled() - self._before
        self._client.close()
        if nanoseconds < 0:
            raise ServingError(STARTED_ANEW)
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
        statistics = self._ask(self._client.get_inference_statistics).model_stats
        return sum(_of(batch) for version in statistics for batch in version.batch_stats)

    def _ask(self, method: Callable[..., Any]) -> Any:
        try:
            return method(self._model, client_timeout=_LONGEST_WAIT)
        except InferenceServerException as error:
            status, text = str(error.status() or ""), str(error.message() or error)
            raise map_triton_error(status, text, where=self._where, seen_ready=False) from None


def _instances(group: Any) -> int:
    """Of a group; on GPUs so many on each of them."""
    count = max(group.count, 1) * max(len(group.gpus), 1)
    return int(count)


def _of(batch: Any) -> int:
    parts = (batch.compute_input, batch.compute_infer, batch.compute_output)
    return sum(part.ns for part in parts)
