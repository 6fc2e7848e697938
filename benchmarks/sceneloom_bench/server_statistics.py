"""A Triton server's own statistics of a load: queue, compute, batches and cache hits.

Triton counts nanoseconds since its start per model. It may count a request after its answer, so
statistics are read until two readings agree.
"""

from __future__ import annotations

import dataclasses
import http.client
import time
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from sceneloom.errors import SceneLoomError, ServerUnavailableError, ServingError
from sceneloom.text import parse_json
from sceneloom.triton.access import Access
from sceneloom.triton.grpc_transport import channel_options, tls_credentials
from sceneloom.triton.transport import map_triton_error, server_address
from sceneloom_bench.reports.report import Figure

PARTS = {
    "queue": "queue",
    "compute_input": "compute_input",
    "compute": "compute_infer",
    "compute_output": "compute_output",
}
"""Figure -> Triton's name of it."""
_TIMEOUT = 10.0
_WITHOUT_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_SETTLE_SECONDS = 0.05
_SETTLE_READINGS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counters:
    """Counts of one model, since the server's start or between two readings."""

    requests: int
    failed: int
    pictures: int
    executions: int
    cache_hits: int
    """Requests answered from the response cache."""
    nanoseconds: Mapping[str, int]
    """``total`` and the keys of `PARTS` -> sum over the requests."""
    busy_nanoseconds: int = 0
    """Sum over the executions of all instances; a batch of requests counts once."""

    def since(self, earlier: Counters) -> Counters:
        """Counts since an earlier reading; raises ServingError if the server restarted."""
        if self.requests < earlier.requests or self.failed < earlier.failed:
            raise ServingError("the server was restarted during the load: its counts are void")
        own, before = vars(self), vars(earlier)
        less = {k: own[k] - before[k] for k in own if k != "nanoseconds"}
        parts = {k: v - earlier.nanoseconds[k] for k, v in self.nanoseconds.items()}
        return Counters(**less, nanoseconds=parts)

    def mean_ms(self, part: str) -> float:
        """Mean milliseconds of a request: ``total`` or a key of `PARTS`."""
        return self.nanoseconds[part] / max(self.requests, 1) / 1e6

    def figures(self) -> dict[str, Figure]:
        """Mean milliseconds of a request in each part of the server."""
        return {part: Figure(value=self.mean_ms(part), unit="ms", better="lower") for part in PARTS}

    def to_json(self) -> dict[str, Any]:
        """The counts for `Measurement.extra`."""
        return {
            "requests": self.requests,
            "failed": self.failed,
            "executions": self.executions,
            "mean_batch": round(self.pictures / max(self.executions, 1), 3),
            "total_ms": round(self.mean_ms("total"), 4),
            **{f"{part}_ms": round(self.mean_ms(part), 4) for part in PARTS},
        }


class ServerView:
    """A server's statistics and configuration, over gRPC or HTTP. Methods raise ServingError if the
    server does not answer or has no such model.
    """

    def __init__(self, url: str, metrics: str | None = None, access: Access | None = None) -> None:
        """Prepare for a ``HOST:PORT`` of gRPC or ``http://HOST:PORT``, and one of the metrics."""
        scheme, address = server_address(url)
        access = access or Access()
        self._url = f"http://{address}" if scheme == "http" else url
        self._metrics = metrics
        self._client: Any = None
        self._headers = {name.lower(): value for name, value in access.headers.items()}
        if scheme in ("grpc", "grpcs"):
            import tritonclient.grpc

            self._client = tritonclient.grpc.InferenceServerClient(
                address,
                channel_args=channel_options(address),
                creds=tls_credentials(access) if scheme == "grpcs" else None,
            )

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()

    def counters(self, models: Sequence[str]) -> dict[str, Counters]:
        """Counts of each model after two equal readings, or after a second of other requests."""
        last = [self._read(model) for model in models]
        for _ in range(_SETTLE_READINGS):
            time.sleep(_SETTLE_SECONDS)
            now = [self._read(model) for model in models]
            if now == last:
                break
            last = now
        return dict(zip(models, last, strict=True))

    def cache_hits(self) -> int | None:
        """Cache hits of all models by the metrics; None without their address."""
        if self._metrics is None:
            return None
        text = _get(f"http://{self._metrics}/metrics").decode("utf-8", "replace")
        return sum(
            int(float(line.rpartition(" ")[2]))
            for line in text.splitlines()
            if line.startswith("nv_cache_num_hits_per_model")
        )

    def instances(self, model: str) -> int:
        """Parallel executions of a model, on all GPUs together."""
        groups = self.describe(model)["model"]["instance_groups"]
        return max(sum(int(group["count"]) for group in groups), 1)

    def describe(self, model: str) -> dict[str, Any]:
        """Name and version of the server, and the model's configuration for speed."""
        server = self._ask("metadata", "")
        config = self._ask("config", model)
        groups = [
            {
                "count": int(group.get("count", 1)) * max(len(group.get("gpus", [])), 1),
                "kind": group.get("kind", "KIND_AUTO"),
            }
            for group in config.get("instance_group", [])
        ]
        return {
            "server": {key: server.get(key) for key in ("name", "version")},
            "model": {
                "name": model,
                "backend": config.get("backend") or config.get("platform", ""),
                "max_batch_size": int(config.get("max_batch_size", 0)),
                "dynamic_batching": config.get("dynamic_batching"),
                "instance_groups": groups,
                "response_cache": bool(config.get("response_cache", {}).get("enable")),
            },
        }

    def _read(self, model: str) -> Counters:
        versions = self._ask("statistics", model).get("model_stats", [])

        def total(stats: Sequence[Mapping[str, Any]], name: str, key: str) -> int:
            return sum(int(one.get(name, {}).get(key, 0)) for one in stats)

        sums = [v.get("inference_stats", {}) for v in versions]
        runs = [batch for v in versions for batch in v.get("batch_stats", [])]
        computed = ("compute_input", "compute_infer", "compute_output")
        return Counters(
            requests=total(sums, "success", "count"),
            failed=total(sums, "fail", "count"),
            pictures=sum(int(v.get("inference_count", 0)) for v in versions),
            executions=sum(int(v.get("execution_count", 0)) for v in versions),
            cache_hits=total(sums, "cache_hit", "count"),
            nanoseconds={
                "total": total(sums, "success", "ns"),
                **{part: total(sums, theirs, "ns") for part, theirs in PARTS.items()},
            },
            busy_nanoseconds=sum(total(runs, name, "ns") for name in computed),
        )

    def _ask(self, what: str, model: str) -> dict[str, Any]:
        """Read ``metadata``, ``config`` or ``statistics`` in the JSON form of both protocols."""
        if self._client is None:
            name = quote(model, safe="")
            path = {"metadata": "", "config": f"/models/{name}/config"}
            path["statistics"] = f"/models/{name}/stats"
            answer: dict[str, Any] = parse_json(_get(f"{self._url}/v2{path[what]}"))
            return answer
        from tritonclient.utils import InferenceServerException

        limits: dict[str, Any] = {
            "as_json": True,
            "client_timeout": _TIMEOUT,
            "headers": self._headers,
        }
        try:
            if what == "metadata":
                answer = self._client.get_server_metadata(**limits)
            elif what == "config":
                answer = self._client.get_model_config(model, **limits)["config"]
            else:
                answer = self._client.get_inference_statistics(model, **limits)
        except InferenceServerException as error:
            status, text = str(error.status() or ""), str(error.message() or error)
            where = f"{self._url}, model {model!r}"
            raise map_triton_error(status, text, where=where, seen_ready=False) from None
        return answer


class GatewayView:
    """In place of a `ServerView`: a gateway shows no statistics of the servers behind it."""

    def close(self) -> None:
        """No connection to close."""

    def counters(self, models: Sequence[str]) -> dict[str, Counters]:
        """Counts of no model."""
        assert not models
        return {}

    def cache_hits(self) -> int | None:
        """Unknown."""
        return None

    def describe(self, model: str) -> dict[str, Any]:
        """A gateway, of unknown servers."""
        return {"server": {"name": "a gateway", "version": ""}, "model": {"name": model}}


View = ServerView | GatewayView


class Watch:
    """A server's counters around a load."""

    def __init__(self, view: View, models: Sequence[str]) -> None:
        """Read the counters before the load."""
        self._view, self._models = view, models
        self._before, self._hits = view.counters(models), view.cache_hits()

    def counted(self) -> dict[str, Counters]:
        """Counts of each model since then; raises SceneLoomError for answers from the cache."""
        after, hits = self._view.counters(self._models), self._view.cache_hits()
        counted = {model: after[model].since(self._before[model]) for model in self._models}
        known = 0 if hits is None or self._hits is None else hits - self._hits
        found = max([known, *(counters.cache_hits for counters in counted.values())])
        if found > 0:
            raise SceneLoomError(
                f"{found} requests of this load were answered from the server's response cache, "
                "not by the model: serve it without response_cache"
            )
        return counted


def _get(url: str) -> bytes:
    try:
        with _WITHOUT_PROXY.open(url, timeout=_TIMEOUT) as answer:
            body: bytes = answer.read()
            return body
    except http.client.HTTPException as error:
        said = f"{url}: does not speak HTTP ({type(error).__name__})"
        raise ServerUnavailableError(said) from None
    except OSError as error:
        raise ServerUnavailableError(f"{url}: {getattr(error, 'reason', error)}") from None
