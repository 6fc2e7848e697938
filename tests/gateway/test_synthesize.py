"""POST /v1/synthesize and its neighbours, over real sockets, before a fake Triton."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
import zlib
from contextlib import ExitStack

import httpx
import numpy as np
import pytest
from gateways import Gateway, StartGateway, Triton, contract, png, serve_fake

from sceneloom.maps import read_instance_map, read_label_map
from sceneloom.pictures import decode_picture
from sceneloom.style import clusters_by_seed, styles_by_cluster
from sceneloom.testing import FakeTransport
from sceneloom.triton.client import TritonSynthesizer

ROUTE = "/v1/synthesize"
PROBLEM = "application/problem+json"


def test_the_picture_is_the_server_s_in_the_format_of_accept(
    client: httpx.Client, triton: Triton, maps: dict[str, bytes]
) -> None:
    schema = triton.transport.contract.schema
    assert schema is not None
    with TritonSynthesizer(triton.url) as synthesizer:
        picture = synthesizer.synthesize(
            read_label_map(maps["label"], schema), read_instance_map(maps["instances"])
        )
    for accept, media in (
        ("*/*", "image/jpeg"),
        ("image/png", "image/png"),
        ("image/webp, image/png;q=0.5", "image/webp"),
        ("text/html, image/*;q=0.8, image/jpeg;q=0", "image/png"),
    ):
        answer = client.post(ROUTE, files=maps, headers={"Accept": accept}, params={"quality": 100})
        assert (answer.status_code, answer.headers["content-type"]) == (200, media)
        assert answer.headers["vary"] == "Accept"
        found = decode_picture(answer.content)
        if media != "image/jpeg":
            np.testing.assert_array_equal(found, picture)
        else:
            assert found.shape == picture.shape


def test_a_png_body_is_the_label_map(client: httpx.Client, maps: dict[str, bytes]) -> None:
    headers = {"Content-Type": "image/png", "Accept": "image/png"}
    answer = client.post(
        ROUTE, content=maps["label"], headers=headers, params={"boundaries": "labels"}
    )
    assert decode_picture(answer.content).shape == (48, 64, 3)


def bomb(width: int, height: int) -> bytes:
    """A PNG file whose header says that it is large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(100_000), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


COLOURS = png(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
UNKNOWN = png(np.full((48, 64), 99, np.uint8))
SMALL = png(np.zeros((24, 32), np.uint16))


@pytest.mark.parametrize(
    ("changes", "status", "field", "words"),
    [
        ({"label": COLOURS}, 422, "label", "colour"),
        ({"label": UNKNOWN}, 422, "label", "99"),
        ({"label": b"no picture"}, 422, "label", "label"),
        ({"label": bomb(30_000, 30_000)}, 413, "label", "pixels"),
        ({"label": bomb(200, 200)}, 422, "label", "label"),
        ({"instances": SMALL}, 422, "label", "32x24"),
        ({"instances": None}, 422, "instances", "boundaries=labels"),
        ({"label": None}, 400, "label", "curl -F label=@map.png"),
        ({"lable": b""}, 400, "lable", "did you mean label?"),
        ({"?quality": "101"}, 422, "quality", "from 1 to 100"),
        ({"?quality": "x"}, 422, "quality", "whole number"),
        ({"?boundaries": "edges"}, 422, "boundaries", "components"),
        ({"?unknown": "x"}, 422, "unknown", "error or unlabelled"),
        ({"?style_seed": "1"}, 422, "style_seed", "takes no style"),
        ({"?qualty": "1"}, 400, "qualty", "did you mean quality?"),
    ],
)
def test_a_wrong_input_is_a_problem_that_names_its_field(
    client: httpx.Client,
    maps: dict[str, bytes],
    triton: Triton,
    changes: dict[str, bytes | str | None],
    status: int,
    field: str,
    words: str,
) -> None:
    files = {**maps, **{k: v for k, v in changes.items() if not k.startswith("?")}}
    given = {name: data for name, data in files.items() if isinstance(data, bytes)}
    params = {k[1:]: str(v) for k, v in changes.items() if k.startswith("?")}
    asked = len(triton.transport.requests)
    answer = client.post(ROUTE, files=given, params=params)
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), problem
    assert problem["field"] == field
    assert words in problem["detail"]
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert len(triton.transport.requests) == asked  # nothing reached Triton


def test_unknown_ids_are_unlabelled_where_asked_for(
    client: httpx.Client, maps: dict[str, bytes], triton: Triton
) -> None:
    answer = client.post(ROUTE, files={**maps, "label": UNKNOWN}, data={"unknown": "unlabelled"})
    assert answer.status_code == 200
    assert not triton.transport.requests[-1]["label_map"].any()


def test_other_media_types_are_refused(client: httpx.Client, maps: dict[str, bytes]) -> None:
    for headers, content, status in (
        ({"Content-Type": "application/json"}, b"{}", 415),
        ({}, b"x", 415),
        ({"Content-Type": "image/png"}, b"GIF89a", 415),
        ({"Content-Type": "multipart/form-data"}, b"x", 400),
        ({"Content-Type": "multipart/form-data; boundary=a"}, b"--b\r\nx", 400),
        ({"Content-Type": "multipart/form-data; boundary=a"}, b"--a\r\nlabel\r\n\r\n", 400),
        ({"Content-Type": "image/png", "Accept": "text/html"}, maps["label"], 406),
        ({"Content-Type": "image/png", "Accept": "image/png;q=x"}, maps["label"], 400),
    ):
        answer = client.post(ROUTE, content=content, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), headers
    assert client.get("/nowhere").json()["status"] == 404
    assert client.get(ROUTE).json()["status"] == 405


def test_the_model_is_described(client: httpx.Client, triton: Triton) -> None:
    found = client.get("/v1/model").json()
    assert found["contract"] == triton.transport.contract.to_json()
    assert (found["engine"], found["precision"]) == ("fake-fp32", "fp32")
    assert found["bundle_hash"] == "a" * 64
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {ROUTE, "/v1/model", "/healthz", "/readyz", "/metrics"}
    assert "label" in json.dumps(paths[ROUTE]["post"]["requestBody"])


def test_the_page_of_the_routes_needs_no_network_and_no_script(client: httpx.Client) -> None:
    answer = client.get("/docs")
    for words in ("POST /v1/synthesize", "style_seed", "1 to 100", "image/webp", "429"):
        assert words in answer.text
    for foreign in ("<script", "http://", "https://", "src="):
        assert foreign not in answer.text
    (style,) = re.findall("<style>(.*?)</style>", answer.text, re.S)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert answer.headers["content-security-policy"] == (
        f"default-src 'none'; style-src 'sha256-{digest}'; frame-ancestors 'none'"
    )


def test_headers_that_browsers_obey(client: httpx.Client) -> None:
    given = {"Origin": "https://elsewhere", "X-Request-Id": "mine"}
    for method, path in (
        *(("GET", path) for path in ("/healthz", "/docs", "/openapi.json", "/metrics", "/nowhere")),
        ("OPTIONS", ROUTE),
        ("POST", ROUTE),
    ):
        answer = client.request(method, path, headers=given)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["x-request-id"] == "mine"
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers
    strange = client.get("/healthz", headers={"X-Request-Id": "a b"})
    assert strange.headers["x-request-id"] != "a b"


def test_styles_by_seed_and_by_cluster(start_gateway: StartGateway, maps: dict[str, bytes]) -> None:
    styled = contract(
        style_channels=2,
        style_clusters={26: ((1.0, 2.0), (3.0, 4.0), (5.0, 6.0)), 7: ((7.0, 8.0),)},
    )
    label = np.full((48, 64), 7, np.uint8)
    label[:, 32:] = 26
    instances = np.where(label == 26, 26001, 7).astype(np.uint16)
    files = {"label": png(label), "instances": png(instances)}
    with ExitStack() as stack:
        triton = serve_fake(stack, FakeTransport(styled))
        gateway = start_gateway(url=triton.url)
        with httpx.Client(base_url=gateway.url, trust_env=False) as client:

            def row(data: dict[str, str]) -> list[float]:
                answer = client.post(ROUTE, files=files, data=data)
                assert answer.status_code == 200, answer.text
                return list(triton.transport.requests[-1]["style"][0, 1])

            assert row({}) == [0, 0]
            assert row({"style": '{"26001": 2}'}) == [5, 6]
            schema = styled.schema
            assert schema is not None
            channels = read_label_map(files["label"], schema)
            drawn = clusters_by_seed(styled, channels, instances, 7)
            table = styles_by_cluster(styled, channels, instances, drawn)
            assert row({"style_seed": "7"}) == list(table[1])
            for style, words in (
                ('{"26001": 3}', "clusters 0 to 2"),
                ('{"26002": 0}', "26001"),
                ('{"26001": -1}', "at least 0"),
                ("[" * 20_000, "nested"),
                ("{", "JSON"),
            ):
                answer = client.post(ROUTE, files=files, data={"style": style})
                assert (answer.status_code, answer.json()["field"]) == (422, "style")
                assert words in answer.json()["detail"]


def test_the_log_has_a_line_for_each_request_and_metrics_count_them(
    client: httpx.Client, gateway: Gateway, triton: Triton, maps: dict[str, bytes]
) -> None:
    answer = client.post(ROUTE, files=maps, headers={"X-Request-Id": "look-here"})
    client.post(ROUTE, content=b"", headers={"X-Request-Id": "and-here"})
    text = client.get("/metrics").text
    line = gateway.logged(request_id="look-here")
    assert (line["status"], line["path"], line["server"]) == (200, ROUTE, triton.url)
    assert line["sent"] == len(answer.content)
    assert line["received"] > len(maps["label"])
    gateway.logged(request_id="and-here", status=415, problem="415")
    assert f'request_seconds_bucket{{le="0.002",route="{ROUTE}",status="200"}}' in text
    assert f'request_seconds_bucket{{le="60.0",route="{ROUTE}",status="200"}}' in text
    assert 'sceneloom_gateway_rejections_total{kind="415"}' in text
    assert "sceneloom_gateway_pictures_waiting 0.0" in text
