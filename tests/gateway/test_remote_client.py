"""The client through a gateway: TLS, keys, styles, errors, kills, and grpcs:// to Triton itself."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import trustme
from fake_triton import FakeTriton
from gateways import Gateway, Triton, contract, png, serve_fake, start
from map_sets import small_maps, write_folder
from PIL import Image
from support import blocky_maps, run_here
from tritonclient.grpc import service_pb2_grpc

from noop_server import NoopServer, write_noop_repository
from render_limits import Client, compare, write_small_maps
from sceneloom import errors
from sceneloom.contract import Contract
from sceneloom.pictures import decode_picture, encode_picture
from sceneloom.png import SIGNATURE
from sceneloom.rendering.manifest import FILE_NAME, Manifest
from sceneloom.testing import FakeTransport
from sceneloom.triton.access import KEY_VARIABLE, Access, AccessFlags
from sceneloom.triton.client import TritonSynthesizer, connect
from sceneloom.triton.gateway_transport import BUNDLE_HEADER, GatewayTransport, problem_error
from sceneloom_export.bundle import Exported
from sceneloom_gateway.keys import Limits, new_key, read_keys, write_keys
from sceneloom_serving.embedded import EmbeddedServer


@dataclasses.dataclass(frozen=True)
class Secured:
    """A gateway with TLS and keys before a fake Triton, and a client's files."""

    gateway: Gateway
    triton: Triton
    ca: Path
    key: Path
    keys: Path

    @property
    def access(self) -> Access:
        return AccessFlags(api_key=self.key, ca=self.ca).read([self.gateway.url])

    @property
    def flags(self) -> tuple[str, ...]:
        return ("--url", self.gateway.url, "--ca", str(self.ca), "--api-key", str(self.key))


@dataclasses.dataclass(frozen=True)
class Certificates:
    chain: Path
    key: Path
    ca: Path

    @property
    def flags(self) -> tuple[str | Path, ...]:
        return ("--tls-cert", self.chain, "--tls-key", self.key)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    found = Certificates(*(folder / name for name in ("cert.pem", "key.pem", "ca.pem")))
    certificate.cert_chain_pems[0].write_to_path(str(found.chain))
    certificate.private_key_pem.write_to_path(str(found.key))
    authority.cert_pem.write_to_path(str(found.ca))
    return found


@pytest.fixture(scope="module")
def secured(
    triton: Triton, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    entry, text = new_key("alice", Limits())
    (folder / "alice.key").write_text(f"{text}\n")
    write_keys(folder / "keys.json", (entry,))
    keys = ("--keys", folder / "keys.json", "--keys-on-loopback")
    with ExitStack() as stack:
        gateway = start(stack, folder, "--triton", triton.url, *certificates.flags, *keys)
        yield Secured(gateway, triton, certificates.ca, folder / "alice.key", folder / "keys.json")


def test_a_gateway_gives_the_pictures_of_its_server(secured: Secured) -> None:
    with (
        TritonSynthesizer(secured.gateway.url, access=secured.access) as remote,
        TritonSynthesizer(secured.triton.url) as direct,
    ):
        assert remote.transport.kind == "gateway"
        assert (remote.contract, remote.engine) == (direct.contract, "fake-fp32")
        sizes = [(48, 64), (33, 50), (48, 64)]  # the second is padded
        pairs = [blocky_maps(*size, seed=seed) for seed, size in enumerate(sizes)]
        maps = [list(one) for one in zip(*pairs, strict=True)]
        for ours, theirs in zip(
            remote.synthesize_batch(*maps), direct.synthesize_batch(*maps), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
        with pytest.raises(errors.ModelNotFoundError, match="has model 'synthesis', not 'x'"):
            remote.transport.model_config("x", timeout=10)
        with pytest.raises(errors.ModelNotFoundError, match=r"no version '7'.*serves 1"):
            remote.transport.model_config("synthesis", timeout=10, version="7")
        served = remote.transport
    with pytest.raises(errors.ConnectionClosedError):
        served.model_config("synthesis", timeout=10)


def serve_http2(
    stack: ExitStack, certificates: Certificates, app: Callable[..., Coroutine[Any, Any, None]]
) -> str:
    """Serve an ASGI application over TLS by a server that offers HTTP/2; its address."""
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config, end = Config(), threading.Event()
    config.bind = [f"127.0.0.1:{port}"]
    config.certfile, config.keyfile = str(certificates.chain), str(certificates.key)

    async def stopped() -> None:
        while not end.is_set():
            await asyncio.sleep(0.05)

    serving = threading.Thread(
        target=lambda: asyncio.run(serve(app, config, shutdown_trigger=stopped))  # type: ignore[arg-type]
    )
    serving.start()
    stack.callback(serving.join)
    stack.callback(end.set)
    while serving.is_alive():
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            break
        time.sleep(0.05)
    return f"https://127.0.0.1:{port}"


def test_http_2_is_spoken_where_it_is_offered(
    triton: Triton, certificates: Certificates, tmp_path: Path
) -> None:
    """As by a proxy in front of gateways."""
    spoken: list[str] = []
    with ExitStack() as stack:
        gateway = start(stack, tmp_path, "--triton", triton.url)

        async def forward(scope: Any, receive: Any, send: Any) -> None:
            assert scope["type"] == "http", "no lifespan"
            spoken.append(scope["http_version"])
            body, more = b"", True
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
            async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
                headers = [one for one in scope["headers"] if one[0] != b"host"]
                path = scope["raw_path"].decode()
                answer = await client.request(
                    scope["method"], path, headers=headers, content=body, timeout=60
                )
            kept = [one for one in answer.headers.raw if one[0].lower() in (b"content-type",)]
            await send({"type": "http.response.start", "status": 200, "headers": kept})
            await send({"type": "http.response.body", "body": answer.content})

        url = serve_http2(stack, certificates, forward)
        access = AccessFlags(ca=certificates.ca).read([url])
        with (
            TritonSynthesizer(url, access=access) as remote,
            TritonSynthesizer(triton.url) as direct,
            ThreadPoolExecutor(4) as pool,
        ):
            pairs = [blocky_maps(48, 64, seed=seed) for seed in range(8)]
            pictures = list(pool.map(lambda pair: remote.synthesize(*pair), pairs))
            for picture, pair in zip(pictures, pairs, strict=True):
                np.testing.assert_array_equal(picture, direct.synthesize(*pair))
    assert set(spoken) == {"2"}
    assert len(spoken) >= 9


@pytest.mark.parametrize("grey", [False, True])
def test_models_of_pictures_through_a_gateway(tmp_path: Path, grey: bool) -> None:
    of_pictures = Contract(kind="picture", boundaries=False, size_multiple=8, grey=grey)
    photos = np.random.default_rng(0).integers(0, 255, (3, 45, 60, 3)).astype(np.uint8)
    (tmp_path / "photos" / "test_A").mkdir(parents=True)
    for number, photo in enumerate(photos):
        Image.fromarray(photo).save(tmp_path / "photos" / "test_A" / f"{number}.png")
    flags = ("--format", "png", "--grey") if grey else ("--format", "jxl")
    with ExitStack() as stack:
        triton = serve_fake(stack, FakeTransport(of_pictures))
        gateway = start(stack, tmp_path, "--triton", triton.url)
        command = ("render", tmp_path / "photos", tmp_path / "out", *flags, "--log", "none")
        done = run_here(*command, "--url", gateway.url)
        assert done.returncode == 0, done.stderr
        assert f"pictures come as png, written as {flags[1]}" in done.stdout
        with TritonSynthesizer(triton.url) as direct:
            expected = [direct.synthesize(photo) for photo in photos]
    written = sorted((tmp_path / "out").glob(f"*.{flags[1]}"))
    for path, picture in zip(written, expected, strict=True):
        given = decode_picture(path.read_bytes())
        np.testing.assert_array_equal(given, picture[..., :1].repeat(3, -1) if grey else picture)


def test_styles_reach_the_server_exactly(tmp_path: Path) -> None:
    styled = contract(style_channels=3, style_defaults={26: (0.1, 0.2, 0.3)})
    label_map, instance_map = blocky_maps(48, 64, seed=3)
    rows = len(np.unique(instance_map))
    style = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    with ExitStack() as stack:
        transport = FakeTransport(styled)
        triton = serve_fake(stack, transport)
        gateway = start(stack, tmp_path, "--triton", triton.url)
        with TritonSynthesizer(gateway.url) as remote, TritonSynthesizer(triton.url) as direct:
            for given in (style, None):
                for synthesizer in (remote, direct):
                    synthesizer.synthesize(label_map, instance_map, given)
        for ours, theirs in (transport.requests[-4:-2], transport.requests[-2:]):
            for name in theirs:
                np.testing.assert_array_equal(ours[name], theirs[name])
        wrong = {"label": png(label_map), "instances": png(instance_map.astype(np.uint16))}
        for rows_text in ("[[1, 2, 3]]", "[[1], [1, 2]]", "[]", "{", '[["a"]]'):
            answer = httpx.post(
                f"{gateway.url}/v1/synthesize",
                files=wrong,
                data={"style_rows": rows_text},
                trust_env=False,
            )
            assert answer.status_code == 422, answer.text


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
def test_render_keeps_the_pictures_as_they_came(
    secured: Secured, tmp_path: Path, format: str
) -> None:
    write_folder(tmp_path / "maps", small_maps(24))
    command = ("render", tmp_path / "maps", tmp_path / "pictures", "--format", format)
    done = run_here(*command, *secured.flags, "--log", "none")
    assert done.returncode == 0, done.stderr
    assert "the gateway; pictures come as" in done.stdout
    verified = run_here(*command, *secured.flags, "--verify")
    assert verified.returncode == 0, verified.stdout
    with (
        Manifest(tmp_path / "pictures" / FILE_NAME) as manifest,
        TritonSynthesizer(secured.triton.url) as direct,
    ):
        rows = list(manifest.rows())
        assert len(rows) == 24
        assert {row.origin.bundle_hash for row in rows} == {"a" * 64}
        for row in rows:  # bytes of the same encoder, of the same picture
            label, instance = small_maps(24)[row.key]
            labels, instances = (np.asarray(_gray(data)) for data in (label, instance))
            channels, _ = direct.contract.schema.to_channels(labels)  # type: ignore[union-attr]
            expected = encode_picture(direct.synthesize(channels, instances), format)  # type: ignore[arg-type]
            assert (tmp_path / "pictures" / row.output).read_bytes() == expected
    again = run_here(*command, *secured.flags, "--log", "none")
    assert "nothing to do: 24 of 24 are there" in again.stdout


def _gray(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_keys_stay_out_of_sight_and_are_wanted(
    secured: Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "maps", small_maps(2))
    key, url = secured.key.read_text().strip(), secured.gateway.url
    command = ("render", tmp_path / "maps", tmp_path / "pictures", "--log", "none")
    tls = ("--url", url, "--ca", secured.ca)
    for flags, code, said in (
        ((*tls,), 1, "an API key is wanted.*--api-key FILE or SCENELOOM_API_KEY gives one"),
        ((*tls, "--api-key", key), 2, "--api-key: cannot be read .*; name a file"),
        (("--url", url, "--api-key", secured.key), 1, "its certificate is not trusted"),
        (("--url", "127.0.0.1:9", "--api-key", secured.key), 2, "--api-key is for servers at"),
        (("--url", "http://1.1.1.1:80", "--transport", "gateway", "--api-key", secured.key), 1,
         "an API key is sent over https:// only"),
    ):  # fmt: skip
        done = run_here(*command, *flags)
        assert done.returncode == code, done.stderr
        assert re.search(said, done.stderr), done.stderr
        assert key not in done.stdout + done.stderr
    monkeypatch.setenv(KEY_VARIABLE, key)
    assert run_here(*command, *tls).returncode == 0
    assert key not in repr(secured.access)
    assert key not in (tmp_path / "pictures" / "manifest.jsonl").read_text()


def test_headers_are_lines_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("X-Team: streets\n\nAuthorization: Basic a:b\n")
    found = AccessFlags(headers=file).read([]).headers
    assert found == {"X-Team": "streets", "Authorization": "Basic a:b"}
    for text, said in (
        ("secret\n", "line 1 is not NAME: VALUE"),
        ("a: b\nA: c\n", "line 2 gives a header twice"),
        ("a b: secret\n", "'a b' is not the name of a header"),
        ("a:\n", "the value of header a is empty"),
    ):
        file.write_text(text)
        with pytest.raises(errors.InputError, match=said) as caught:
            AccessFlags(headers=file).read([])
        assert "secret" not in str(caught.value)


DOCUMENT = "application/problem+json"


@pytest.mark.parametrize(
    ("status", "named", "kind"),
    [
        (400, "", errors.RequestRejectedError),
        (401, "", errors.RequestRejectedError),
        (403, None, errors.RequestRejectedError),
        (404, None, errors.RequestRejectedError),
        (408, "", errors.DeadlineExceededError),
        (413, "ImageTooLargeError", errors.RequestRejectedError),
        (422, "UnknownLabelError", errors.RequestRejectedError),
        (429, "InFlightLimit", errors.QueueFullError),
        (429, None, errors.QueueFullError),
        (500, "", errors.ModelFailedError),
        (502, "ModelFailedError", errors.ModelFailedError),
        (502, "RequestRejectedError", errors.RequestRejectedError),
        (502, "ModelNotFoundError", errors.ModelNotFoundError),
        (502, None, errors.ServerUnavailableError),
        (503, "QueueFullError", errors.QueueFullError),
        (503, "GatewayFull", errors.QueueFullError),
        (503, "OutOfResourcesError", errors.QueueFullError),
        (503, "QueueTimeoutError", errors.QueueTimeoutError),
        (503, "ServerUnavailableError", errors.ServerUnavailableError),
        (503, None, errors.ServerUnavailableError),
        (504, "DeadlineExceededError", errors.DeadlineExceededError),
        (504, None, errors.DeadlineExceededError),
        (302, None, errors.RequestRejectedError),
    ],
)
def test_each_status_has_its_class(
    status: int, named: str | None, kind: type[errors.ServingError]
) -> None:
    body, headers = b"<html>", httpx.Headers({"Retry-After": "7"})
    if named is not None:
        document = {"type": f"urn:sceneloom:{named}" if named else "about:blank"}
        document |= {"detail": "why", "field": "label", "request_id": "abc"}
        body, headers["Content-Type"] = json.dumps(document).encode(), DOCUMENT
    error = problem_error(status, headers, body, where="https://x:443")
    assert type(error) is kind
    words = "why (field label) (request abc)" if named is not None else f"HTTP status {status}"
    assert str(error) == f"https://x:443: {words}"
    assert error.retry_after == (7 if kind.retryable else 0)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"type": 5, "detail": [1]}', b"\xff"])
def test_a_damaged_problem_document_is_an_error_of_its_status(body: bytes) -> None:
    headers = httpx.Headers({"Content-Type": DOCUMENT, "Retry-After": "Wed, 21 Oct 2099"})
    error = problem_error(422, headers, body, where="x")
    assert (type(error), error.retry_after) == (errors.RequestRejectedError, 0)


def test_a_limited_key_slows_a_run_and_loses_nothing(secured: Secured, tmp_path: Path) -> None:
    entry, text = new_key("bob", Limits(rate=4.0, in_flight=2))
    write_keys(secured.keys, (*read_keys(secured.keys), entry))
    time.sleep(1.1)  # the gateway reads the file again then
    (tmp_path / "bob.key").write_text(text)
    write_folder(tmp_path / "maps", small_maps(16))
    start = time.monotonic()
    done = run_here(
        *("render", tmp_path / "maps", tmp_path / "pictures", "--log", "none"),
        *("--url", secured.gateway.url, "--ca", secured.ca, "--api-key", tmp_path / "bob.key"),
    )
    assert done.returncode == 0, done.stdout
    assert time.monotonic() - start > 2
    statuses: list[int] = []
    while statuses.count(200) < 17 and time.monotonic() < start + 60:  # lines follow their answers
        statuses = [line["status"] for line in secured.gateway.log() if line["key"] == "bob"]
    assert statuses.count(200) == 17  # the model, and each picture once
    assert 0 < statuses.count(429) <= 30  # a client that does not wait sends hundreds


class FakeGateway(BaseHTTPRequestHandler):
    """Two bundles that change places, and a proxy's page in between."""

    protocol_version = "HTTP/1.1"
    model: bytes
    count = 0

    def do_GET(self) -> None:
        self.answer(200, self.model, "application/json")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        header = body[body.index(SIGNATURE) :][16:24]
        width, height = (int.from_bytes(header[at : at + 4], "big") for at in (0, 4))
        type(self).count += 1
        if self.count % 5 == 0:
            self.answer(200, b"<html>a proxy's own page</html>", "text/html")
            return
        picture = encode_picture(np.zeros((height, width, 3), np.uint8), "png")
        self.answer(200, picture, "image/png", bundle="ab"[self.count % 2] * 64)

    def answer(self, status: int, body: bytes, media: str, bundle: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(body)))
        if bundle:
            self.send_header(BUNDLE_HEADER, bundle)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_the_manifest_names_the_bundle_of_each_picture(tmp_path: Path) -> None:
    told = {"model": "synthesis", "version": "1", "engine": "x-fp32", "difference": ""}
    FakeGateway.model = json.dumps({**told, "contract": contract().to_json()}).encode()
    write_folder(tmp_path / "maps", small_maps(12))
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeGateway)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"  # answers as a gateway
        done = run_here("render", tmp_path / "maps", tmp_path / "p", "--url", url, "--log", "none")
        transport = connect(url)
        assert (transport.kind, transport.why) == ("gateway", "a gateway answered")
        transport.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert done.returncode == 0, done.stdout
    with Manifest(tmp_path / "p" / FILE_NAME) as manifest:
        bundles = {row.origin.bundle_hash[0] for row in manifest.rows()}
        assert bundles == {"a", "b"}
        assert max(row.attempts for row in manifest.rows()) > 1  # the page was no picture


def render_and_kill(
    tmp_path: Path, certificates: Certificates, *, maps: int, gateway_kills: int, client_kills: int
) -> None:
    """Render through a gateway that is killed and started again, by a client that is, too."""
    write_small_maps(tmp_path / "maps", maps)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    repository = write_noop_repository(tmp_path / "repository", delay_per_picture=0.02)
    flags = (*certificates.flags, "--keys", tmp_path / "keys.json", "--keys-on-loopback")
    entry, text = new_key("alice", Limits())
    write_keys(tmp_path / "keys.json", (entry,))
    (tmp_path / "alice.key").write_text(text)
    access = ("--ca", str(certificates.ca), "--api-key", str(tmp_path / "alice.key"))
    kills = gateway_kills + client_kills
    with ExitStack() as stack:
        server = stack.enter_context(NoopServer(repository))

        def open_gateway() -> Gateway:
            listen = f"127.0.0.1:{port}"
            return start(stack, tmp_path, "--triton", server.grpc, *flags, listen=listen)

        def begin() -> Client:
            pictures, url = tmp_path / "pictures", f"https://127.0.0.1:{port}"
            return Client(tmp_path / "maps", pictures, url, "folder", access)

        gateway, client = open_gateway(), begin()
        for number in range(kills):
            if not client.wait_until((number + 1) * maps // (kills + 2)):
                break
            if number % 2 and client_kills:
                client_kills -= 1
                client.kill()
                client = begin()
            else:
                gateway_kills -= 1
                gateway.process.kill()
                gateway.process.wait()
                gateway = open_gateway()
        assert client.wait() == 0, client.said()
        assert (gateway_kills, client_kills) == (0, 0)
        url = ("--url", f"https://127.0.0.1:{port}", *access, "--labels", ".", "--instances", ".")
        verified = run_here("render", tmp_path / "maps", tmp_path / "pictures", *url, "--verify")
        assert verified.returncode == 0, verified.stdout
    found = compare(tmp_path / "maps", tmp_path / "pictures", "folder")
    assert found["pictures"] == maps
    assert found["attempts_per_picture"] < 3


@pytest.mark.triton
def test_kills_lose_nothing(tmp_path: Path, certificates: Certificates) -> None:
    render_and_kill(tmp_path, certificates, maps=120, gateway_kills=2, client_kills=2)


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_kills_lose_nothing(tmp_path: Path, certificates: Certificates) -> None:
    render_and_kill(tmp_path, certificates, maps=600, gateway_kills=10, client_kills=10)


@pytest.mark.triton
def test_probe_and_bench_through_a_gateway(
    server: EmbeddedServer, exported: Exported, certificates: Certificates, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        gateway = start(stack, tmp_path, "--triton", server.grpc, *certificates.flags)
        tls = ("--url", gateway.url, "--ca", certificates.ca)
        done = run_here("probe", exported.repository, *tls)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"{gateway.url}: right, 0.")
        done = run_here(
            *("bench", "server", *tls, "--out", tmp_path / "bench", "--size", "128x64"),
            *("--seconds", "0.2", "--requests", "4", "--warm-up", "2", "--in-flight", "1", "2"),
            *("--no-open", "--different-maps", "3"),
        )
        assert done.returncode == 0, done.stderr
        report = json.loads((tmp_path / "bench" / "server.json").read_text())
        assert [one["load"]["transport"] for one in report["measurements"]] == ["gateway"] * 2
        assert gateway.url.rpartition("/")[2] not in json.dumps(report)
        transport = GatewayTransport(
            gateway.url, access=AccessFlags(ca=certificates.ca).read([gateway.url])
        )
        assert transport.answered("synthesis", timeout=10) >= 9
        transport.close()


class SeenTriton(FakeTriton):
    """Keeps the headers of its calls."""

    seen: list[dict[str, str]]

    def ModelInfer(self, request: Any, context: Any) -> Any:
        self.seen.append({key: value for key, value in context.invocation_metadata()})
        return super().ModelInfer(request, context)


def test_grpcs_with_headers(certificates: Certificates, tmp_path: Path) -> None:
    fake = SeenTriton(FakeTransport(contract()))
    fake.seen = []
    server = grpc.server(ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)
    pair = (certificates.key.read_bytes(), certificates.chain.read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    try:
        url = f"grpcs://127.0.0.1:{port}"
        (tmp_path / "headers").write_text("X-Team: streets\n")
        flags = ("--ca", certificates.ca, "--headers", tmp_path / "headers")
        write_folder(tmp_path / "maps", small_maps(3))
        command = ("render", tmp_path / "maps", tmp_path / "pictures", "--log", "none")
        done = run_here(*command, "--url", url, *flags)
        assert done.returncode == 0, done.stdout
        assert "grpc: TLS address" in done.stdout
        assert [one["x-team"] for one in fake.seen] == ["streets"] * 3
        with pytest.raises(errors.ServerUnavailableError):
            TritonSynthesizer(url)  # an authority that the system does not know
        with pytest.raises(errors.ServerUnavailableError):
            TritonSynthesizer(f"127.0.0.1:{port}", access=Access())
    finally:
        server.stop(0).wait()
