"""The encoded path through the real tritonserver: equal to the raw path, and not to be broken."""

from __future__ import annotations

import dataclasses
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tritonclient.grpc
from support import blocky_maps, free_ports, run_command
from tritonclient.grpc import model_config_pb2

from noop_server import NoopServer, write_model
from sceneloom import TritonSynthesizer
from sceneloom.contract import PARAMETER, Contract
from sceneloom.errors import (
    ModelNotFoundError,
    QueueFullError,
    RequestRejectedError,
    ServerStartError,
)
from sceneloom.maps import instance_map_png, label_map_png
from sceneloom.pictures import EncodedFormat, decode_picture, encode_picture
from sceneloom.schema import load_schema
from sceneloom.triton.encoded import EncodedClient
from sceneloom.triton.grpc_transport import GrpcTransport
from sceneloom.triton.http_transport import HttpTransport
from sceneloom.triton.shared_memory import SharedMemoryTransport
from sceneloom_export.bundle import Exported
from sceneloom_export.repository import write_encoded_models
from sceneloom_export.settings import TritonSettings
from sceneloom_serving.embedded import EmbeddedServer

pytestmark = pytest.mark.triton

STREETS = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)
STYLED = dataclasses.replace(
    STREETS, style_channels=3, sizes=((64, 96),), style_defaults={7: (10.0, 20.0, 30.0)}
)
STYLE_PAINTER = '''"""Paints every pixel with its instance's style; takes a while."""

import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.2)
        return [self.answer(request) for request in requests]

    def answer(self, request):
        def array(name):
            return pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0]

        image = array("style")[array("instance_map")].astype("uint8")
        image[..., 0] += array("label_map")
        return pb_utils.InferenceResponse([pb_utils.Tensor("image", image[None])])
'''


def files_of(contract: Contract, maps: tuple[Any, Any]) -> tuple[bytes, bytes]:
    return label_map_png(contract, maps[0]), instance_map_png(contract, *maps)


@pytest.fixture(scope="module")
def url(exported: Exported) -> Iterator[str]:
    """The exported bundle with the encoded path, which its start has proven."""
    settings = free_ports()
    with EmbeddedServer(
        exported.repository, settings, engine="openvino-fp32", encoded=True
    ) as running:
        assert len(running.model_processes) == 3
        yield running.grpc


@pytest.fixture(scope="module")
def encoded(url: str) -> Iterator[EncodedClient]:
    transport = GrpcTransport(url)
    yield EncodedClient(transport)
    transport.close()


@pytest.fixture(scope="module")
def raw(url: str) -> Iterator[TritonSynthesizer]:
    with TritonSynthesizer(url) as client:
        yield client


@pytest.mark.parametrize("size", [(64, 96), (61, 97), (40, 33)])
def test_png_has_the_pixels_of_the_raw_path(
    encoded: EncodedClient, raw: TritonSynthesizer, size: tuple[int, int]
) -> None:
    assert encoded.contract == raw.contract
    maps = blocky_maps(*size, seed=1)
    picture = decode_picture(encoded.synthesize(*files_of(STREETS, maps)))
    assert picture.shape == (*size, 3)
    assert picture.std() > 10
    np.testing.assert_array_equal(picture, raw.synthesize(*maps))


@pytest.mark.parametrize(("format", "quality"), [("png", 95), ("jpg", 80), ("webp", 70)])
def test_files_are_those_that_the_client_would_write(
    encoded: EncodedClient, raw: TritonSynthesizer, format: EncodedFormat, quality: int
) -> None:
    maps = blocky_maps(61, 97, seed=2)
    file = encoded.synthesize(*files_of(STREETS, maps), format=format, quality=quality)
    assert file == encode_picture(raw.synthesize(*maps), format, quality=quality)


def test_many_threads_with_maps_of_many_sizes(
    encoded: EncodedClient, raw: TritonSynthesizer
) -> None:
    maps = [blocky_maps(32 + 8 * (i % 2), 40 + i % 4, seed=i) for i in range(12)]
    expected = [raw.synthesize(*pair) for pair in maps]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda pair: encoded.synthesize(*files_of(STREETS, pair)), maps))
    for file, image in zip(got, expected, strict=True):
        np.testing.assert_array_equal(decode_picture(file), image)


def test_unlabelled_is_asked_for(encoded: EncodedClient, raw: TritonSynthesizer) -> None:
    labels, instances = blocky_maps(40, 48, seed=3)
    labels[:8] = 0
    values = labels.copy()
    values[:8] = 99
    file = cv2.imencode(".png", values)[1].tobytes()
    instance_file = files_of(STREETS, (labels, instances))[1]
    with pytest.raises(RequestRejectedError, match=r"label_map: unknown label id 99"):
        encoded.synthesize(file, instance_file)
    picture = decode_picture(encoded.synthesize(file, instance_file, unknown="unlabelled"))
    np.testing.assert_array_equal(picture, raw.synthesize(labels, instances))


def test_what_is_refused_and_the_server_goes_on(encoded: EncodedClient) -> None:
    maps = blocky_maps(40, 48, seed=4)
    label_file, instance_file = files_of(STREETS, maps)
    header = b"IHDR" + (100_000).to_bytes(4, "big") * 2 + label_file[24:29]
    huge = label_file[:12] + header + zlib.crc32(header).to_bytes(4, "big") + label_file[33:]
    colours = cv2.imencode(".png", np.zeros((40, 48, 3), np.uint8))[1].tobytes()
    wrong = {
        "the file is empty": b"",
        "not a PNG file": b"\xff\xd8\xff\xe0 a JPEG file",
        "truncated or damaged": label_file[:-20],
        "10,000,000,000 pixels; the limit": huge,
        "a colour picture": colours,
        "usually an instance map": instance_file,
    }
    for reason, file in wrong.items():
        with pytest.raises(RequestRejectedError, match=f"label_map: .*{reason}"):
            encoded.synthesize(file, instance_file)
    small = files_of(STREETS, blocky_maps(32, 48, seed=4))[1]
    with pytest.raises(RequestRejectedError, match="must be equal"):
        encoded.synthesize(label_file, small)
    assert len(encoded.synthesize(label_file, instance_file)) > 1000


def test_what_travels_in_literal_names_and_shapes(url: str, raw: TritonSynthesizer) -> None:
    maps = blocky_maps(40, 48, seed=5)
    files = files_of(STREETS, maps)

    def ask(format: bytes) -> Any:
        elements = {"label_map": files[0], "instance_map": files[1]}
        elements |= {"format": format, "unknown": b"error"}
        inputs = []
        for name, data in elements.items():
            inputs.append(tritonclient.grpc.InferInput(name, [1, 1], "BYTES"))
            inputs[-1].set_data_from_numpy(np.array([[data]], np.object_))
        with tritonclient.grpc.InferenceServerClient(url) as client:
            return client.infer("synthesis_encoded", inputs).as_numpy("image")

    answer = ask(b"png")
    assert answer.shape == (1, 1)
    np.testing.assert_array_equal(decode_picture(answer.item()), raw.synthesize(*maps))
    with pytest.raises(tritonclient.grpc.InferenceServerException, match="no format 'bmp'") as no:
        ask(b"bmp")
    assert no.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_the_probe_proves_both_paths(url: str, exported: Exported) -> None:
    done = run_command("probe", exported.repository, "--url", url)
    assert done.returncode == 0, done.stderr
    assert "grey levels from the exported picture by " in done.stdout
    assert ", raw and encoded," in done.stdout


def test_a_server_without_it(server: EmbeddedServer) -> None:
    transport = GrpcTransport(server.grpc)
    with pytest.raises(ModelNotFoundError, match=r"sceneloom serve --encoded"):
        EncodedClient(transport)
    transport.close()


def test_a_bundle_without_it(tmp_path: Path, exported: Exported) -> None:
    for path in exported.repository.iterdir():
        if path.name != "synthesis_decode":
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(
        ServerStartError, match=r"synthesis_decode/config\.pbtxt: missing; an older"
    ):
        EmbeddedServer(tmp_path, free_ports(), encoded=True).start()


@pytest.fixture(scope="module")
def styled_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NoopServer]:
    """A styled model of one fixed size, as a native backend has it, with a queue of two."""
    folder = tmp_path_factory.mktemp("styled") / "repository"
    config = model_config_pb2.ModelConfig(name="synthesis", backend="python", max_batch_size=1)
    size = list(STYLED.sizes[0]) if STYLED.sizes else []
    config.input.add(name="label_map", data_type=model_config_pb2.TYPE_UINT8, dims=size)
    config.input.add(name="instance_map", data_type=model_config_pb2.TYPE_INT32, dims=size)
    config.input.add(name="style", data_type=model_config_pb2.TYPE_FP32, dims=[256, 3])
    config.output.add(name="image", data_type=model_config_pb2.TYPE_UINT8, dims=[*size, 3])
    config.parameters[PARAMETER].string_value = STYLED.dumps()
    config.instance_group.add(count=1, kind=model_config_pb2.ModelInstanceGroup.KIND_CPU)
    config.dynamic_batching.default_queue_policy.max_queue_size = 2
    write_model(folder, config, STYLE_PAINTER)
    write_encoded_models(folder, TritonSettings())
    with NoopServer(folder) as server:
        yield server


@pytest.fixture(scope="module")
def styled_url(styled_server: NoopServer) -> str:
    return styled_server.grpc


def test_every_transport_carries_it(styled_server: NoopServer) -> None:
    maps = blocky_maps(64, 96, seed=8)
    files = files_of(STYLED, maps)
    rows = np.full((len(np.unique(maps[1])), 3), 50)
    transports = (
        GrpcTransport(styled_server.grpc),
        SharedMemoryTransport(styled_server.grpc),
        HttpTransport(f"http://{styled_server.http}"),
    )
    for style in (None, rows):
        pictures = {EncodedClient(each).synthesize(*files, style) for each in transports}
        assert len(pictures) == 1
    with pytest.raises(RequestRejectedError, match="label_map: the file is empty"):
        EncodedClient(transports[-1]).synthesize(b"", files[1])
    for each in transports:
        each.close()


def test_style_is_that_of_the_raw_path(styled_url: str) -> None:
    maps = blocky_maps(61, 90, seed=6)
    files = files_of(STYLED, maps)
    rows = np.random.default_rng(0).uniform(0, 200, (len(np.unique(maps[1])), 3))
    transport = GrpcTransport(styled_url)
    encoded = EncodedClient(transport)
    with TritonSynthesizer(styled_url) as raw:
        for style in (None, rows):
            picture = decode_picture(encoded.synthesize(*files, style))
            assert picture.shape == (61, 90, 3)
            np.testing.assert_array_equal(picture, raw.synthesize(*maps, style))
    with pytest.raises(RequestRejectedError, match="style is float"):
        encoded.synthesize(*files, rows[:1])
    with pytest.raises(RequestRejectedError, match="nearest is 96x64"):
        encoded.synthesize(*files_of(STYLED, blocky_maps(64, 64, seed=6)))
    transport.close()


def test_a_full_queue_inside_stays_one_that_can_be_tried_again(styled_url: str) -> None:
    files = files_of(STYLED, blocky_maps(64, 96, seed=7))
    transport = GrpcTransport(styled_url)
    encoded = EncodedClient(transport)
    results: list[object] = []

    def send() -> None:
        try:
            results.append(type(encoded.synthesize(*files)))
        except Exception as error:
            results.append(type(error))

    threads = [threading.Thread(target=send) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(results) == {bytes, QueueFullError}
    transport.close()
