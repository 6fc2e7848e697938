"""For tests of code that uses SceneLoom: a fake server.

contract = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=16)
with TritonSynthesizer("fake", transport=FakeTransport(contract)) as synthesizer:
    ...
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sceneloom import errors
from sceneloom.contract import (
    ENGINE_PARAMETER,
    INPUT_INSTANCES,
    MODEL_NAME,
    OUTPUT_IMAGE,
    PARAMETER,
    Contract,
)
from sceneloom.maps import Array, boundary_map
from sceneloom.triton.transport import (
    OUTPUT_SPECS,
    TRITON_DTYPES,
    ModelConfig,
    input_specs,
    no_version,
)


class FakeTransport:
    """Answers with the label map in its schema's colours (a model of pictures: with the negative of
    its picture), boundaries in white. It checks sizes, dtypes and batch sizes as a server does,
    records every request, and fails on demand.
    """

    def __init__(
        self,
        contract: Contract,
        *,
        max_batch_size: int = 1,
        dynamic_batching: bool = False,
        engine: str = "",
        versions: Sequence[str] = ("1",),
        failures: Iterable[errors.ServingError | None] = (),
    ) -> None:
        """Prepare the answers.

        The contract, the batches and the engine are in the model's configuration. `versions` are
        served, the last one by default. `failures` has
        one entry per request, in order: the error to raise, or None to answer; later requests are
        answered.
        """
        self.contract = contract
        self.max_batch_size = max_batch_size
        self.dynamic_batching = dynamic_batching
        self.engine = engine
        self.versions = tuple(versions)
        self.asked: list[str] = []
        """Version of every request so far, empty for the latest."""
        self.requests: list[dict[str, Array]] = []
        """Inputs of every request so far, failed ones included."""
        self.closed = False
        """Whether `close` was called."""
        self._failures = list(failures)
        self._lock = threading.Lock()
        self.address = self.kind = "fake"
        self.why = "it is a fake for tests"

    def model_config(self, model: str, *, timeout: float, version: str = "") -> ModelConfig:
        """Configuration of the model `synthesis`; any other name or version raises
        ModelNotFoundError.
        """
        self._check(model, version)
        return ModelConfig(
            parameters={
                PARAMETER: self.contract.dumps(),
                **({ENGINE_PARAMETER: self.engine} if self.engine else {}),
            },
            max_batch_size=self.max_batch_size,
            inputs=input_specs(self.contract),
            outputs=OUTPUT_SPECS,
            version=version or self.versions[-1],
            dynamic_batching=self.dynamic_batching,
        )

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        output: str,
        *,
        timeout: float,
        version: str = "",
    ) -> Array:
        """Answer one request, or raise the failure that is next in line."""
        self._check(model, version)
        with self._lock:
            self.requests.append(dict(inputs))
            self.asked.append(version)
            failure = self._failures.pop(0) if self._failures else None
        if failure is not None:
            raise failure
        specs = input_specs(self.contract)
        if inputs.keys() != specs.keys() or output != OUTPUT_IMAGE:
            raise errors.RequestRejectedError(
                f"expected inputs {sorted(specs)} and output {OUTPUT_IMAGE!r}, got "
                f"{sorted(inputs)} and {output!r}"
            )
        for name, spec in specs.items():
            array = inputs[name]
            if TRITON_DTYPES.get(array.dtype) != spec.dtype or array.ndim != len(spec.dims) + 1:
                raise errors.RequestRejectedError(
                    f"input {name!r} is {array.dtype} {list(array.shape)}; expected {spec.dtype} "
                    f"{[-1, *spec.dims]}"
                )
        label_maps = inputs[self.contract.main_input]
        if len(label_maps) > self.max_batch_size:
            raise errors.RequestRejectedError(
                f"batch of {len(label_maps)}, the largest is {self.max_batch_size}"
            )
        try:
            self.contract.check_exact_size(label_maps.shape[1], label_maps.shape[2])
        except errors.InputError as error:
            raise errors.RequestRejectedError(str(error)) from None
        schema = self.contract.schema
        images = 255 - label_maps if schema is None else schema.colourise(label_maps)
        if self.contract.grey:
            images[...] = images[..., :1]
        if self.contract.boundaries:
            for image, instance_map in zip(images, inputs[INPUT_INSTANCES], strict=True):
                image[boundary_map(instance_map)] = 255
        return np.ascontiguousarray(images)

    def close(self) -> None:
        """Refuse every later call."""
        self.closed = True

    def _check(self, model: str, version: str) -> None:
        if self.closed:
            raise errors.ConnectionClosedError("fake: closed")
        if model != MODEL_NAME:
            raise errors.ModelNotFoundError(f"fake: has no model {model!r}")
        if version and version not in self.versions:
            raise no_version(f"fake, model {model!r}", version, self.versions)
