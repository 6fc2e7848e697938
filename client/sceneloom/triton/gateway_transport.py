"""A gateway in front of Triton, over HTTPS or HTTP: PNG files of maps out, encoded pictures back.

docs/gateway.md specifies its protocol; `draw` sends a map, `infer` the tensors of any transport.
Other answers than a picture are problem documents; `problem_error` maps them to SceneLoom's errors.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import re
import ssl
import time
from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np
from PIL import Image as Pillow

from sceneloom import errors, tracing
from sceneloom.contract import (
    DIFFERENCE_PARAMETER,
    ENGINE_PARAMETER,
    FAST_PARAMETER,
    INPUT_INSTANCES,
    INPUT_STYLE,
    PARAMETER,
    Contract,
)
from sceneloom.maps import Array, instance_map_png, label_map_png
from sceneloom.pictures import EncodedFormat, decode_picture, encode_picture
from sceneloom.text import one_line, parse_json, printable
from sceneloom.triton.access import KEY_VARIABLE, Access
from sceneloom.triton.grpc_transport import is_loopback
from sceneloom.triton.transport import (
    OUTPUT_SPECS,
    WRONG_FORM,
    Arrays,
    ModelConfig,
    input_specs,
    no_version,
    server_address,
)

BUNDLE_HEADER = "SceneLoom-Bundle"
"""Header of an answer: hash of the bundle that drew."""
_MEDIA: dict[EncodedFormat, str] = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
_PILLOW: dict[EncodedFormat, str] = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
_LARGEST_PICTURE, _LARGEST_DOCUMENT = 1 << 30, 1 << 24
_LONGEST_REST = 300.0
_CONNECTIONS = httpx.Limits(max_connections=None, max_keepalive_connections=256)
_COUNT = re.compile(
    r'^sceneloom_gateway_request_seconds_count\{route="/v1/synthesize",status="200"\} ([0-9.e+]+)$',
    re.MULTILINE,
)
_BY_NAME: dict[str, type[errors.ServingError]] = {
    "GatewayFull": errors.QueueFullError,
    "OutOfResourcesError": errors.QueueFullError,
    **{
        kind.__name__: kind
        for kind in (
            errors.QueueFullError,
            errors.QueueTimeoutError,
            errors.DeadlineExceededError,
            errors.ServerUnavailableError,
            errors.ModelNotFoundError,
            errors.RequestRejectedError,
            errors.ModelFailedError,
        )
    },
}
_BY_STATUS: dict[int, type[errors.ServingError]] = {
    408: errors.DeadlineExceededError,
    429: errors.QueueFullError,
    500: errors.ModelFailedError,
    501: errors.RequestRejectedError,
    504: errors.DeadlineExceededError,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn:
    """A gateway's picture."""

    file: bytes
    """In the requested format, of the map's size."""
    bundle_hash: str
    """Hash of the bundle that drew; empty if unknown."""


class GatewayTransport:
    """HTTPS or HTTP to a gateway; safe to use from several threads."""

    def __init__(self, url: str, *, why: str = "requested", access: Access | None = None) -> None:
        """Prepare a connection to ``https://HOST[:PORT]`` or ``http://HOST:PORT``; the first call
        opens it.

        Raises InputError for an address of another form, certificates that cannot be read, or an
        API key that would leave this machine in the clear.
        """
        scheme, address = server_address(url, "https", "http")
        self.address, self.kind, self.why = f"{scheme}://{address}", "gateway", why
        access, local = access or Access(), is_loopback(address)
        if access.api_key and scheme == "http" and not local:
            raise errors.InputError(
                f"{self.address}: an API key is sent over https:// only, for others could read it"
            )
        headers = {"Accept-Encoding": "identity", **access.headers}
        if access.api_key:
            headers["Authorization"] = f"Bearer {access.api_key}"
        try:
            trusted = ssl.create_default_context(cadata=access.ca or None)
        except (ssl.SSLError, ValueError) as error:
            raise errors.InputError(f"the certificates to trust cannot be read ({error})") from None
        self._http = httpx.Client(
            base_url=self.address,
            headers=headers,
            verify=trusted,
            http2=importlib.util.find_spec("h2") is not None,
            limits=_CONNECTIONS,
            trust_env=not local,  # the proxies of the environment
        )
        self._has_key, self._answered = bool(access.api_key), False
        self._contract: Contract | None = None

    def model_config(self, model: str, *, timeout: float, version: str = "") -> ModelConfig:
        """Read the configuration of the gateway's model; see `Transport.model_config`."""
        body, _ = self._ask("GET", "/v1/model", timeout, _LARGEST_DOCUMENT)
        try:
            found = parse_json(body)
            name, served = str(found["model"]), str(found["version"])
            text = json.dumps(found["contract"])
            told = {
                ENGINE_PARAMETER: str(found["engine"]),
                DIFFERENCE_PARAMETER: str(found["difference"]),
                FAST_PARAMETER: str(found.get("fast", "")),
            }
        except WRONG_FORM:
            raise errors.ModelNotFoundError(
                f"{self.address}: is no gateway of SceneLoom's"
            ) from None
        if name != model:
            raise errors.ModelNotFoundError(f"{self.address}: has model {name!r}, not {model!r}")
        if version and version != served:
            raise no_version(f"{self.address}, model {model!r}", version, [served])
        self._contract = contract = Contract.loads(text, source=self.address)
        return ModelConfig(
            parameters={PARAMETER: text, **told},
            max_batch_size=1,
            inputs=input_specs(contract),
            outputs=OUTPUT_SPECS,
            version=served,
            dynamic_batching=True,
        )

    def draw(
        self,
        label_file: bytes,
        instance_file: bytes | None = None,
        style: Array | None = None,
        *,
        size: tuple[int, int],
        timeout: float,
        format: EncodedFormat = "png",
        quality: int = 95,
    ) -> Drawn:
        """Turn PNG files of label ids and instance ids, of `size` (height, width), into a picture.

        `style` is float [K, F], row k for the k-th smallest instance id; None takes the contract's
        defaults. Raises a ServingError: see `problem_error`; ModelFailedError for another answer
        than a picture of this format and size.
        """
        files = {"label": ("label.png", label_file, "image/png")}
        if instance_file is not None:
            files["instances"] = ("instances.png", instance_file, "image/png")
        fields = {"quality": str(quality)}
        if style is not None:
            fields["style_rows"] = json.dumps(np.asarray(style, np.float64).tolist())
        body, headers = self._ask(
            "POST",
            "/v1/synthesize",
            timeout,
            _LARGEST_PICTURE,
            files=files,
            data=fields,
            headers={"Accept": _MEDIA[format]},
        )
        try:
            with Pillow.open(io.BytesIO(body), formats=[_PILLOW[format]]) as header:
                found: tuple[int, int] | None = header.size[::-1]
        except Exception:  # Pillow raises nearly anything on damaged headers
            found = None
        if found != size:
            raise errors.ModelFailedError(
                f"{self.address}: answered no {format} of {size[1]}x{size[0]} to a map of this size"
            )
        return Drawn(file=body, bundle_hash=headers.get(BUNDLE_HEADER, ""))

    def infer(
        self, model: str, inputs: Arrays, output: str, *, timeout: float, version: str = ""
    ) -> Array:
        """Send the tensors of one map as PNG files, and decode the answer, a PNG, too: the picture
        is the one that tensors give. See `Transport.infer`.
        """
        if self._contract is None:
            self.model_config(model, timeout=timeout, version=version)
        contract = self._contract
        assert contract is not None
        (main,), instances = inputs[contract.main_input], inputs.get(INPUT_INSTANCES)
        drawn = self.draw(
            encode_picture(main, "png") if main.ndim == 3 else label_map_png(contract, main),
            None if instances is None else instance_map_png(contract, main, instances[0]),
            inputs[INPUT_STYLE][0] if INPUT_STYLE in inputs else None,
            size=(main.shape[0], main.shape[1]),
            timeout=timeout,
        )
        return decode_picture(drawn.file, max_pixels=main.size, name=self.address)[None]

    def answered(self, model: str, *, timeout: float) -> int:
        """Number of pictures that the gateway has answered since its start; raises a
        ServingError.
        """
        body, _ = self._ask("GET", "/metrics", timeout, _LARGEST_DOCUMENT)
        count = _COUNT.search(body.decode(errors="replace"))
        return int(float(count[1])) if count else 0

    def close(self) -> None:
        """Close the connections; later calls raise ConnectionClosedError."""
        self._http.close()

    def _ask(
        self,
        method: str,
        path: str,
        timeout: float,
        largest: int,
        *,
        headers: Mapping[str, str] | None = None,
        **parts: Any,
    ) -> tuple[bytes, Mapping[str, str]]:
        """Body and headers of an answer with the status 200; raises a ServingError, or InputError
        for a certificate that is not trusted from the start.
        """
        if self._http.is_closed:
            raise errors.ConnectionClosedError(f"{self.address}: this connection was closed")
        deadline, body = time.monotonic() + timeout, bytearray()
        try:
            with (
                tracing.span(f"{method} {path}", attributes={"server.address": self.address}) as at,
                self._http.stream(
                    method,
                    path,
                    timeout=timeout,
                    headers={**(headers or {}), **({tracing.HEADER: at} if at else {})},
                    **parts,
                ) as answer,
            ):
                for piece in answer.iter_raw():
                    body += piece
                    if time.monotonic() > deadline:
                        raise httpx.ReadTimeout("")
                    if len(body) > largest:
                        raise httpx.ReadError(f"an answer of more than {largest:,} bytes")
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            said = one_line(str(error)) or type(error).__name__
            if "CERTIFICATE_VERIFY_FAILED" in said and not self._answered:
                raise errors.InputError(
                    f"{self.address}: its certificate is not trusted ({said}); --ca FILE names "
                    "the authority's"
                ) from None
            raise errors.ServerUnavailableError(f"{self.address}: {said}") from None
        except httpx.TimeoutException:
            raise errors.DeadlineExceededError(
                f"{self.address}: no answer within the client's deadline"
            ) from None
        except (httpx.HTTPError, RuntimeError) as error:  # httpx's client, closed meanwhile
            if self._http.is_closed:
                raise errors.ConnectionClosedError(
                    f"{self.address}: this connection was closed"
                ) from None
            said = one_line(str(error)) or type(error).__name__
            raise errors.ServerUnavailableError(f"{self.address}: {said}") from None
        self._answered = True
        if answer.status_code != 200:
            refusal = problem_error(
                answer.status_code, answer.headers, bytes(body), where=self.address
            )
            if answer.status_code == 401 and not self._has_key:
                refusal.args = (f"{refusal}; --api-key FILE or {KEY_VARIABLE} gives one",)
            raise refusal
        return bytes(body), answer.headers


def problem_error(
    status: int, headers: Mapping[str, str], body: bytes, *, where: str
) -> errors.ServingError:
    """The error of an answer other than 200: the class that the problem document names, else that
    of the status (docs/errors.md). A proxy's own 5xx means that the gateway does not answer.
    """
    document: Any = {}
    if "problem" in headers.get("Content-Type", ""):
        try:
            document = parse_json(body)
        except ValueError:
            document = {}
    if not isinstance(document, dict):
        document = {}
    named = str(document.get("type", "")).removeprefix("urn:sceneloom:")
    below = errors.ServerUnavailableError if status >= 500 else errors.RequestRejectedError
    kind = _BY_NAME.get(named) or _BY_STATUS.get(status, below)
    said = one_line(printable(document.get("detail") or f"HTTP status {status}"))
    if field := document.get("field"):
        said += f" (field {printable(field)[:40]})"
    if request_id := document.get("request_id"):
        said += f" (request {printable(request_id)[:64]})"
    error = kind(f"{where}: {said}")
    rest = headers.get("Retry-After", "")
    if error.retryable and re.fullmatch("[0-9]{1,9}", rest, re.ASCII):
        error.retry_after = min(float(rest), _LONGEST_REST)
    return error
