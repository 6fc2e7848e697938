"""The encoded path's client, against a server that is not there."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sceneloom.contract import PARAMETER, Contract
from sceneloom.errors import (
    InputError,
    MissingInputError,
    ModelFailedError,
    ModelNotFoundError,
    SchemaError,
    ServerUnavailableError,
)
from sceneloom.maps import Image, instance_map_png, label_map_png
from sceneloom.schema import load_schema
from sceneloom.synthesizer import Synthesizer
from sceneloom.triton.encoded import (
    ENCODED_MODEL,
    EncodedClient,
    LinkTimes,
    format_words,
    measure_link,
    read_format,
)
from sceneloom.triton.transport import ModelConfig, TensorSpec

PLAIN = Contract(schema=load_schema("helen"), boundaries=False, size_multiple=8)
STREETS = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)
STYLED = dataclasses.replace(STREETS, style_channels=3)
FILE = TensorSpec(dtype="BYTES", dims=(1,))


def config_of(contract: Contract, **changes: Any) -> ModelConfig:
    inputs = {"label_map": FILE, "format": FILE, "unknown": FILE}
    if contract.boundaries:
        inputs["instance_map"] = FILE
    if contract.style_channels:
        inputs["style"] = TensorSpec(dtype="FP32", dims=(-1, contract.style_channels))
    values: dict[str, Any] = {
        "parameters": {PARAMETER: contract.dumps()},
        "max_batch_size": 1,
        "inputs": inputs,
        "outputs": {"image": FILE},
        "version": "1",
        "dynamic_batching": False,
    }
    return ModelConfig(**{**values, **changes})


class Server:
    """A transport that knows one configuration and gives one answer."""

    address = "fake"
    kind = "fake"
    why = "a test"

    def __init__(self, config: ModelConfig | Exception, answer: Any = b"a picture") -> None:
        self.config = config
        self.answer = np.array([[answer]], np.object_) if isinstance(answer, bytes) else answer
        self.requests: list[Mapping[str, npt.NDArray[Any]]] = []
        self.seconds = 0.0

    def model_config(self, model: str, *, timeout: float) -> ModelConfig:
        assert model == ENCODED_MODEL
        if isinstance(self.config, Exception):
            raise self.config
        return self.config

    def infer(
        self, model: str, inputs: Mapping[str, npt.NDArray[Any]], output: str, *, timeout: float
    ) -> npt.NDArray[Any]:
        assert (model, output) == (ENCODED_MODEL, "image")
        self.requests.append(inputs)
        time.sleep(self.seconds)
        return np.asarray(self.answer)

    def close(self) -> None:
        raise AssertionError("the transport is its owner's")


def test_what_is_sent() -> None:
    server = Server(config_of(STYLED))
    client = EncodedClient(server)
    style = np.arange(6).reshape(2, 3)
    assert client.synthesize(b"labels", b"instances", style, format="jpg") == b"a picture"
    [sent] = server.requests
    assert {name: (x.dtype.name, x.shape) for name, x in sent.items()} == {
        "label_map": ("object", (1, 1)),
        "instance_map": ("object", (1, 1)),
        "style": ("float32", (1, 2, 3)),
        "format": ("object", (1, 1)),
        "unknown": ("object", (1, 1)),
    }
    assert [sent[name].item() for name in ("label_map", "format", "unknown")] == [
        b"labels",
        b"jpg:95",
        b"error",
    ]
    np.testing.assert_array_equal(sent["style"][0], style)


def test_no_rows_of_style_ask_for_the_defaults() -> None:
    server = Server(config_of(STYLED))
    EncodedClient(server).synthesize(b"labels", b"instances", unknown="unlabelled")
    assert server.requests[0]["style"].shape == (1, 0, 3)
    assert server.requests[0]["unknown"].item() == b"unlabelled"


def test_a_model_without_instances_gets_none() -> None:
    server = Server(config_of(PLAIN))
    client = EncodedClient(server)
    assert client.contract == PLAIN
    client.synthesize(b"labels", b"instances", format="webp", quality=80)
    assert server.requests[0].keys() == {"label_map", "format", "unknown"}
    assert server.requests[0]["format"].item() == b"webp:80"


@pytest.mark.parametrize(
    ("contract", "arguments", "error", "message"),
    [
        (STREETS, {}, MissingInputError, "needs one beside the label map"),
        (STREETS, {"style": np.zeros((1, 3))}, InputError, "takes no style"),
        (
            STYLED,
            {"style": np.zeros((2, 4))},
            InputError,
            r"\[instances, 3\], not float64 \[2, 4\]",
        ),
        (STYLED, {"style": np.zeros(3)}, InputError, r"not float64 \[3\]"),
        (PLAIN, {"format": "jxl"}, InputError, "no format 'jxl' on the encoded path"),
        (PLAIN, {"format": "jpg", "quality": 0}, InputError, "no format 'jpg:0'"),
        (PLAIN, {"format": "jpg", "quality": 101}, InputError, "no format 'jpg:101'"),
    ],
)
def test_what_does_not_fit_is_not_sent(
    contract: Contract, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    server = Server(config_of(contract))
    files = {} if "style" not in arguments else {"instance_file": b"instances"}
    with pytest.raises(error, match=message):
        EncodedClient(server).synthesize(b"labels", **files, **arguments)
    assert server.requests == []


def test_formats_as_words() -> None:
    assert [format_words("png", 5), format_words("jpg", 95), format_words("webp", 100)] == [
        "png",
        "jpg:95",
        "webp:100",
    ]
    assert [read_format("png"), read_format("jpg:1")] == [("png", 100), ("jpg", 1)]
    for words in ("", "PNG", "png:5", "jpg", "jpg:", "jpg:095", "jpg:9²", "webp:1000", "jpg:95\n"):
        with pytest.raises(InputError, match="one of png, jpg:QUALITY, webp:QUALITY"):
            read_format(words)


def test_a_server_without_it_is_told_how_to_get_it() -> None:
    with pytest.raises(
        ModelNotFoundError,
        match=r"not found: it does not serve the encoded path.*"
        r"sceneloom serve --encoded",
    ):
        EncodedClient(Server(ModelNotFoundError("fake: not found")))
    with pytest.raises(ServerUnavailableError):
        EncodedClient(Server(ServerUnavailableError("fake: starting")))


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": {}},
        {"max_batch_size": 4},
        {"inputs": config_of(STYLED).inputs},
        {"outputs": {"image": TensorSpec(dtype="UINT8", dims=(-1, -1, 3))}},
    ],
)
def test_another_model_of_that_name(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelNotFoundError):
        EncodedClient(Server(config_of(STREETS, **changes)))


def test_damaged_contract() -> None:
    with pytest.raises(SchemaError):
        EncodedClient(Server(config_of(STREETS, parameters={PARAMETER: "{}"})))


@pytest.mark.parametrize(
    "answer", [b"", np.zeros((1, 1), np.uint8), np.array([[b"a", b"b"]], np.object_)]
)
def test_an_answer_that_is_no_file(answer: Any) -> None:
    with pytest.raises(ModelFailedError, match="not one file"):
        EncodedClient(Server(config_of(PLAIN), answer)).synthesize(b"labels")


class Raw(Synthesizer):
    """Takes a while for a black picture."""

    seconds = 0.0

    def run_batch(self, label_maps: npt.NDArray[Any], instance_maps: Any, styles: Any) -> Image:
        time.sleep(self.seconds)
        return np.zeros((*label_maps.shape, 3), np.uint8)


@pytest.mark.parametrize(("raw", "encoded"), [(0.0, 0.03), (0.06, 0.0)])
def test_the_faster_way_is_measured(raw: float, encoded: float) -> None:
    server, synthesizer = Server(config_of(STREETS)), Raw(STREETS)
    server.seconds, synthesizer.seconds = encoded, raw
    maps = np.zeros((16, 16), np.uint8), np.zeros((16, 16), np.int32)
    files = label_map_png(STREETS, maps[0]), instance_map_png(STREETS, *maps)
    times = measure_link(synthesizer, EncodedClient(server), *files, format="jpg")
    assert times.raw >= raw
    assert times.encoded >= encoded
    assert times.path == ("raw" if raw < encoded else "encoded")
    assert len(server.requests) == 2


def test_a_tie_goes_to_raw() -> None:
    assert LinkTimes(raw=1.0, encoded=0.95).path == "raw"
    assert LinkTimes(raw=1.0, encoded=0.85).path == "encoded"


def test_a_version_is_taken_if_the_ensemble_names_it() -> None:
    steps = {"synthesis_decode": "-1", "synthesis": "2", "synthesis_encode": "-1"}
    named = Server(config_of(PLAIN, steps=steps))
    assert EncodedClient(named, version="2").version == EncodedClient(named).version == "2"
    with pytest.raises(ModelNotFoundError, match="draws with version 2, not with version 1"):
        EncodedClient(named, version="1")
    latest = Server(config_of(PLAIN, steps=steps | {"synthesis": "-1"}))
    with pytest.raises(ModelNotFoundError, match="draws with the latest version, not with"):
        EncodedClient(latest, version="2")
