"""The Triton client against a server that is not there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sceneloom.contract import Contract
from sceneloom.errors import (
    DeadlineExceededError,
    ModelFailedError,
    ModelNotFoundError,
    QueueFullError,
    SceneLoomError,
    SchemaError,
    ServerUnavailableError,
    UnknownLabelError,
)
from sceneloom.schema import load_schema
from sceneloom.testing import FakeTransport
from sceneloom.triton.client import TritonSynthesizer
from sceneloom.triton.transport import ModelConfig, TensorSpec, Timeouts

CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=16)
STYLED = dataclasses.replace(CONTRACT, style_channels=3)
LABEL_MAP = np.full((32, 48), 7, np.uint8)
INSTANCE_MAP = np.zeros((32, 48), np.int32)


class OddTransport(FakeTransport):
    """A server whose configuration or answer is changed, and which counts what it is asked."""

    def __init__(
        self,
        contract: Contract = CONTRACT,
        *,
        config: dict[str, Any] | None = None,
        answer: npt.NDArray[Any] | None = None,
    ) -> None:
        super().__init__(contract)
        self.config = config or {}
        self.answer = answer
        self.timeouts: list[float] = []

    def model_config(self, model: str, *, timeout: float) -> ModelConfig:
        self.timeouts.append(timeout)
        return dataclasses.replace(super().model_config(model, timeout=timeout), **self.config)

    def infer(
        self, model: str, inputs: Mapping[str, npt.NDArray[Any]], output: str, *, timeout: float
    ) -> npt.NDArray[Any]:
        self.timeouts.append(timeout)
        answer = super().infer(model, inputs, output, timeout=timeout)
        return answer if self.answer is None else self.answer


def test_the_contract_is_read_once() -> None:
    transport = OddTransport()
    timeouts = Timeouts(connect=3, infer=7)
    with TritonSynthesizer("fake", transport=transport, timeouts=timeouts) as synthesizer:
        assert synthesizer.contract == CONTRACT
        assert synthesizer.version == "1"
        assert (synthesizer.transport, synthesizer.transport.kind) == (transport, "fake")
        for _ in range(3):
            image = synthesizer.synthesize(LABEL_MAP, INSTANCE_MAP)
            assert (image == load_schema("cityscapes").labels[7].colour).all()
    assert transport.timeouts == [3, 7, 7, 7]
    assert transport.closed


def test_the_transport_is_closed_when_the_body_fails() -> None:
    transport = FakeTransport(CONTRACT)
    synthesizer = TritonSynthesizer("fake", transport=transport)
    with pytest.raises(UnknownLabelError), synthesizer:
        synthesizer.synthesize(np.full((32, 48), 99, np.uint8), INSTANCE_MAP)
    assert transport.closed
    synthesizer.close()
    with pytest.raises(ServerUnavailableError, match="closed"):
        synthesizer.synthesize(LABEL_MAP, INSTANCE_MAP)


LABELS = TensorSpec(dtype="UINT8", dims=(-1, -1))
INSTANCES = TensorSpec(dtype="INT32", dims=(-1, -1))
IMAGE = TensorSpec(dtype="UINT8", dims=(-1, -1, 3))


@pytest.mark.parametrize(
    ("config", "error", "reason"),
    [
        ({"parameters": {}}, ModelNotFoundError, "has no contract"),
        ({"parameters": {"sceneloom": ""}}, SchemaError, "not readable as JSON"),
        ({"parameters": {"sceneloom": CONTRACT.dumps()[:-9]}}, SchemaError, "not readable as JSON"),
        ({"parameters": {"sceneloom": "[]"}}, SchemaError, "a contract is a JSON object"),
        ({"parameters": {"sceneloom": '{"format": 2}'}}, SchemaError, "contract format 2"),
        ({"parameters": {"sceneloom": '{"format": 1}'}}, SchemaError, "schema, .*is missing"),
        ({"max_batch_size": 0}, ModelNotFoundError, "max_batch_size is 0"),
        ({"inputs": {}}, ModelNotFoundError, "its tensors are"),
        ({"inputs": {"label_map": LABELS}}, ModelNotFoundError, "its tensors are"),
        (
            {"inputs": {"label_map": LABELS, "instance_map": INSTANCES, "style": IMAGE}},
            ModelNotFoundError,
            "its tensors are",
        ),
        (
            {"inputs": {"label_map": INSTANCES, "instance_map": INSTANCES}},
            ModelNotFoundError,
            "its tensors are",
        ),
        (
            {"inputs": {"label_map": IMAGE, "instance_map": INSTANCES}},
            ModelNotFoundError,
            "its tensors are",
        ),
        ({"outputs": {"picture": IMAGE}}, ModelNotFoundError, "its tensors are"),
        (
            {"outputs": {"image": TensorSpec(dtype="FP32", dims=(-1, -1, 3))}},
            ModelNotFoundError,
            "its tensors are",
        ),
        (
            {"outputs": {"image": TensorSpec(dtype="UINT8", dims=(-1, -1, 4))}},
            ModelNotFoundError,
            "its tensors are",
        ),
    ],
)
def test_models_that_do_not_fit_are_refused(
    config: dict[str, Any], error: type[SceneLoomError], reason: str
) -> None:
    transport = OddTransport(config=config)
    with pytest.raises(error, match=f"^fake, model 'synthesis': .*{reason}"):
        TritonSynthesizer("fake", transport=transport)
    assert transport.closed


def test_a_style_table_of_another_width_is_refused() -> None:
    inputs = {
        "label_map": LABELS,
        "instance_map": INSTANCES,
        "style": TensorSpec(dtype="FP32", dims=(256, 4)),
    }
    with pytest.raises(ModelNotFoundError, match="its tensors are"):
        TritonSynthesizer("fake", transport=OddTransport(STYLED, config={"inputs": inputs}))
    fits = {**inputs, "style": TensorSpec(dtype="FP32", dims=(256, 3))}
    transport = OddTransport(STYLED, config={"inputs": fits})
    with TritonSynthesizer("fake", transport=transport) as synthesizer:
        synthesizer.synthesize(LABEL_MAP, INSTANCE_MAP)
    assert transport.requests[0]["style"].shape == (1, 256, 3)


def test_another_model_is_not_found() -> None:
    transport = FakeTransport(CONTRACT)
    with pytest.raises(ModelNotFoundError, match="no model 'other'"):
        TritonSynthesizer("fake", model="other", transport=transport)
    assert transport.closed


def test_failures_come_out_as_they_are() -> None:
    failures = [QueueFullError("full"), DeadlineExceededError("late"), None, ModelFailedError("x")]
    transport = FakeTransport(CONTRACT, failures=failures)
    with TritonSynthesizer("fake", transport=transport) as synthesizer:
        for failure in failures:
            if failure is None:
                assert synthesizer.synthesize(LABEL_MAP, INSTANCE_MAP).shape == (32, 48, 3)
                continue
            with pytest.raises(type(failure)) as caught:
                synthesizer.synthesize(LABEL_MAP, INSTANCE_MAP)
            assert caught.value is failure
        assert synthesizer.synthesize(LABEL_MAP, INSTANCE_MAP).shape == (32, 48, 3)
    assert len(transport.requests) == 5


@pytest.mark.parametrize(
    "answer",
    [
        np.zeros((1, 32, 48, 3), np.float32),
        np.zeros((1, 48, 32, 3), np.uint8),
        np.zeros((1, 32, 48), np.uint8),
        np.zeros((2, 32, 48, 3), np.uint8),
        np.zeros((0,), np.uint8),
    ],
)
def test_answers_that_are_no_picture_of_the_map(answer: npt.NDArray[Any]) -> None:
    transport = OddTransport(answer=answer)
    with (
        TritonSynthesizer("fake", transport=transport) as synthesizer,
        pytest.raises(ModelFailedError, match=r"answered .* to maps \[1, 32, 48\]"),
    ):
        synthesizer.synthesize(LABEL_MAP, INSTANCE_MAP)


def test_the_largest_batch_is_the_servers() -> None:
    transport = FakeTransport(CONTRACT, max_batch_size=3)
    with TritonSynthesizer("fake", transport=transport) as synthesizer:
        assert synthesizer.max_batch_size == 3
        synthesizer.synthesize_batch([LABEL_MAP] * 7, [INSTANCE_MAP] * 7)
    assert [len(request["label_map"]) for request in transport.requests] == [3, 3, 1]


def test_the_version_of_the_model_goes_with_each_request() -> None:
    transport = FakeTransport(CONTRACT, versions=("1", "3"))
    for version, answered in {"": "3", "1": "1"}.items():
        client = TritonSynthesizer("fake", version=version, transport=transport)
        assert client.version == answered
        client.synthesize(LABEL_MAP, INSTANCE_MAP)
    assert transport.asked == ["", "1"]
    with pytest.raises(ModelNotFoundError, match="has no version '2'; the server serves 1, 3"):
        TritonSynthesizer("fake", version="2", transport=transport)
