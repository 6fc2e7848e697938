"""The gateway's routes: one map in, one picture out; the model; health and metrics.

Each request takes: admission, the body, decoding, the server, encoding. Threads decode and encode,
one per core; the event loop decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest

from sceneloom import errors
from sceneloom.contract import precision_of
from sceneloom.pictures import encode_picture
from sceneloom.triton.grpc_transport import is_loopback
from sceneloom.validation import checked
from sceneloom.version import __version__
from sceneloom_gateway.docs_page import POLICY, docs_page
from sceneloom_gateway.exchange import Exchange, Metrics, note_problem
from sceneloom_gateway.inputs import MEDIA, choose_format, read_upload
from sceneloom_gateway.job_routes import add_job_routes
from sceneloom_gateway.jobs import Jobs
from sceneloom_gateway.keys import Keys
from sceneloom_gateway.problems import MEDIA_TYPE, Problem, problem_of
from sceneloom_gateway.studio_routes import add_studio
from sceneloom_gateway.tritons import Tritons

T = TypeVar("T")


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """Limits of requests."""

    max_pixels: Annotated[int, Field(ge=1)] = 4096 * 2048
    """Largest map, in pixels."""
    max_bytes: Annotated[int, Field(ge=1 << 10)] = 64 << 20
    """Largest body of a request, in bytes."""
    body_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """Seconds for a body to arrive."""
    most_requests: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Most pictures being made or waiting; further requests get 503 at once."""


_PROBLEM = {"content": {MEDIA_TYPE: {"schema": {"type": "object"}}}}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"description": "A wrong form, field or parameter.", **_PROBLEM},
    401: {"description": "No API key, or an unknown one.", **_PROBLEM},
    406: {"description": "Accept takes no format of the gateway.", **_PROBLEM},
    408: {"description": "The body did not arrive in time.", **_PROBLEM},
    413: {"description": "The body or the map is too large.", **_PROBLEM},
    415: {"description": "The body is no form and no PNG file.", **_PROBLEM},
    422: {"description": "A map or a style does not fit the model.", **_PROBLEM},
    429: {"description": "A limit of the key; Retry-After says when.", **_PROBLEM},
    502: {"description": "The model failed.", **_PROBLEM},
    503: {"description": "No server answers, or no room; Retry-After says when.", **_PROBLEM},
    504: {"description": "The server took too long.", **_PROBLEM},
}
_FILE = {"type": "string", "format": "binary"}
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["label"],
                "properties": {
                    "label": {**_FILE, "description": "The label map."},
                    "instances": {**_FILE, "description": "The instance map, if the model has it."},
                    "boundaries": {
                        "type": "string",
                        "enum": ["instances", "labels", "components"],
                        "description": "In place of a missing instance map: edges of the labels, "
                        "or their connected components.",
                    },
                    "unknown": {
                        "type": "string",
                        "enum": ["error", "unlabelled"],
                        "description": "Refuse ids outside the model's schema, or read them as "
                        "its unlabelled id.",
                    },
                    "style_seed": {"type": "integer", "description": "Draw styles for things."},
                    "style_of": {"type": "string", "enum": ["things", "all"]},
                    "style": {
                        "type": "string",
                        "description": 'JSON: instance id to cluster, such as {"26001": 3}.',
                    },
                    "style_rows": {
                        "type": "string",
                        "description": "JSON: a style for each instance, in the order of their "
                        "ids, such as [[0.1, 0, -0.2]]; in place of the others.",
                    },
                    "quality": {"type": "integer", "minimum": 1, "maximum": 100},
                },
            }
        },
        "image/png": {"schema": _FILE},
    },
}
_PICTURE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The picture.",
        "headers": {
            "SceneLoom-Bundle": {
                "description": "Hash of the bundle that made the picture, as /v1/model has it.",
                "schema": {"type": "string"},
            }
        },
        "content": {media: {"schema": _FILE} for media in MEDIA.values()},
    }
}


def build_app(
    tritons: Tritons,
    *,
    limits: RequestLimits | None = None,
    keys: Keys | None = None,
    keys_on_loopback: bool = False,
    jobs: Jobs | None = None,
    studio: bool = False,
    logs: bool = True,
) -> Exchange:
    """The whole application, for opened `tritons`, which it closes. Without `keys` every request is
    admitted; with them, those that come from this machine are, too, unless `keys_on_loopback`. With
    `studio` it has the page of the studio; without `logs` only failures are logged.
    """
    limits, metrics = limits or RequestLimits(), Metrics()
    threads = ThreadPoolExecutor(os.cpu_count() or 1, "sceneloom-gateway")
    waiting = 0

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        if jobs is not None:
            await jobs.close()
        await tritons.close()
        threads.shutdown(cancel_futures=True)

    async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, work, *arguments)

    app = FastAPI(
        title="SceneLoom gateway",
        version=__version__,
        summary="Label maps in, photographs out.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # `Exchange` has the span of a request; FastAPI's own would be a second one beside it.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    metrics.level("at_servers", "Requests in flight to Triton.", tritons.in_flight)
    metrics.level("pictures_waiting", "Pictures being made or waiting.", lambda: waiting)
    by_key = [Depends(_admission(keys, keys_on_loopback))]

    @app.post(
        "/v1/synthesize",
        dependencies=by_key,
        responses={**_PICTURE, **_PROBLEMS},
        response_class=Response,
        openapi_extra={"requestBody": _BODY},
    )
    async def synthesize(request: HttpRequest) -> Response:
        """Turn a label map into a picture, as JPEG, PNG or WebP by Accept."""
        nonlocal waiting
        if waiting >= limits.most_requests:
            raise Problem(
                503,
                f"{waiting} pictures are being made or waiting, the most at the same time",
                kind="GatewayFull",
                retry_after=1,
            )
        if jobs is not None:
            jobs.give_way()
        waiting += 1
        try:
            format = choose_format(request.headers.get("accept", ""))
            upload = await read_upload(request)
            quality = upload.quality
            with tritons.using() as served:
                contract = served.contract
                prepared = await in_thread(upload.request, contract, limits.max_pixels)
                image, request.state.server = await served.picture(prepared)
            request.state.bundle = contract.bundle_hash

            def encode() -> bytes:
                return encode_picture(image, format, quality=quality)

            data = await in_thread(encode)
        finally:
            waiting -= 1
        headers = {"Vary": "Accept"}
        if contract.bundle_hash:
            headers["SceneLoom-Bundle"] = contract.bundle_hash
        return Response(data, media_type=MEDIA[format], headers=headers)

    _add_status_routes(app, tritons, metrics, limits, by_key)
    uploads = {} if jobs is None else add_job_routes(app, jobs, metrics, by_key)
    if studio:
        add_studio(app, tritons)
    for kind in (Problem, errors.SceneLoomError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _on_error)
    most, seconds = limits.max_bytes, limits.body_seconds
    return Exchange(app, metrics, most_bytes=most, body_seconds=seconds, uploads=uploads, logs=logs)


def _key_of(request: HttpRequest) -> str:
    """The key of a request, of Authorization or X-API-Key; empty without one."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return text.strip()
    return request.headers.get("x-api-key", "").strip()


def _admission(
    keys: Keys | None, keys_on_loopback: bool
) -> Callable[[HttpRequest], AsyncIterator[None]]:
    """The dependency of routes that take a key."""

    async def admitted(request: HttpRequest) -> AsyncIterator[None]:
        """Admit a request by its key, and count it until it is answered."""
        local = request.client is None or is_loopback(f"{request.client.host}:0")
        text = _key_of(request)
        if keys is None or (local and not keys_on_loopback and not text):
            yield
            return
        if not text:
            raise Problem(
                401,
                "an API key is wanted: send it as Authorization: Bearer KEY",
                field="Authorization",
                headers={"WWW-Authenticate": "Bearer"},
            )
        key = await asyncio.get_running_loop().run_in_executor(None, keys.find, text)
        request.state.key = key.name
        with keys.admitted(key):
            yield

    return admitted


def _add_status_routes(
    app: FastAPI, tritons: Tritons, metrics: Metrics, limits: RequestLimits, by_key: list[Any]
) -> None:
    """The routes that are read only: the model, health, metrics."""

    @app.get("/v1/model", dependencies=by_key, responses={401: _PROBLEMS[401]})
    async def model() -> dict[str, Any]:
        """The served model: contract with labels, colours, sizes and styles; engine; limits."""
        first = tritons.first
        return {
            "model": first.model,
            "version": first.version,
            "bundle_hash": first.contract.bundle_hash,
            "engine": first.engine,
            "precision": precision_of(first.engine),
            "difference": first.difference,
            "fast": first.fast,
            "contract": first.contract.to_json(),
            "limits": dataclasses.asdict(limits),
        }

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()), headers={"Content-Security-Policy": POLICY})

    @app.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        """The gateway is alive."""
        return "alive\n"

    @app.get("/readyz", response_class=PlainTextResponse, responses={503: _PROBLEMS[503]})
    async def readyz() -> str:
        """A server has drawn a picture within the last seconds."""
        try:
            await tritons.prove()
        except errors.SceneLoomError as error:
            raise Problem(503, str(error), kind=type(error).__name__, retry_after=1) from None
        return "ready\n"

    @app.get("/metrics", dependencies=by_key, response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        """Metrics in Prometheus's text form."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def _on_error(request: HttpRequest, error: Exception) -> JSONResponse:
    if isinstance(error, errors.SceneLoomError):
        problem = problem_of(error)
    elif isinstance(error, HTTPException):
        headers = dict(error.headers or {})
        problem = Problem(error.status_code, str(error.detail), headers=headers)
    elif isinstance(error, RequestValidationError):
        problem = Problem(422, str(error))
    else:
        assert isinstance(error, Problem)
        problem = error
    note_problem(request.scope, problem)
    return problem.response(request.state.request_id)
