"""The served model inside Triton's Python backend; `triton_models/synthesis/1/model.py` is a shim
over it. Runs in the backend's stub process only, which has `triton_python_backend_utils`, and never
imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from sceneloom import contract
from sceneloom.contract import Contract
from sceneloom.errors import EngineError, SceneLoomError, SizeError
from sceneloom.text import printable
from sceneloom_serving.engines import open_engine


class TritonPythonModel:
    """`synthesis`: label map (or picture), instance map and style in, picture out, by the
    configured engine.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine from the version's folder; called once by Triton."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._contract = Contract.loads(parameters[contract.PARAMETER], source="config.pbtxt")
        self._max_pixels = int(parameters[contract.MAX_PIXELS_PARAMETER])
        folder = Path(args["model_repository"]) / args["model_version"]
        if (folder / "model.py").is_symlink():
            # Engines read a graph's weights from beside the graph alone: in the bundle.
            folder = (folder / "model.py").readlink().parent
        self._name = parameters[contract.ENGINE_PARAMETER]
        batch = max(config["max_batch_size"], 1)
        try:
            self._engine = open_engine(self._name, folder, max_batch_size=batch)
        except SceneLoomError as error:
            # A text with bytes that are not UTF-8, as of a path, would end the process without it.
            raise EngineError(printable(error)) from None

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer a batch of requests; Triton's batcher joins requests of equal size only."""
        responses: list[Any] = [self._refuse(request) for request in requests]
        valid = [i for i, response in enumerate(responses) if response is None]
        if valid:
            joined: list[Any] = []
            main = self._contract.main_input
            for name in (main, contract.INPUT_INSTANCES, contract.INPUT_STYLE):
                parts = [_array(requests[i], name) for i in valid]
                joined.append(
                    parts[0] if len(parts) == 1 or parts[0] is None else np.concatenate(parts)
                )
            images = self._engine.run_batch(*joined)
            counts = [len(_array(requests[i], main)) for i in valid]
            for i, image in zip(valid, np.split(images, np.cumsum(counts)[:-1]), strict=True):
                responses[i] = pb_utils.InferenceResponse(
                    [pb_utils.Tensor(contract.OUTPUT_IMAGE, image)]
                )
        return responses

    def _refuse(self, request: Any) -> Any:
        """The error response to a request that must not run, or None."""
        codes = pb_utils.TritonError
        if request.is_cancelled():
            return _error("the client gave up", codes.CANCELLED)
        wanted = json.loads(request.parameters() or "{}").get(contract.ENGINE_PARAMETER, self._name)
        if wanted != self._name:
            # Its client read the configuration of the server that ran here before.
            text = f"this server runs {self._name}, and the request is for {wanted}"
            return _error(text, codes.UNAVAILABLE)
        label_maps, instance_maps = (
            _array(request, n) for n in (self._contract.main_input, contract.INPUT_INSTANCES)
        )
        _, height, width = label_maps.shape[:3]
        if height * width > self._max_pixels:
            text = f"{height * width:,} pixels; this server takes at most {self._max_pixels:,}"
            return _error(text, codes.INVALID_ARG)
        try:
            self._contract.check_exact_size(height, width)
        except SizeError as error:
            return _error(str(error), codes.INVALID_ARG)
        if instance_maps is not None and instance_maps.shape != label_maps.shape[:3]:
            sizes = f"{list(label_maps.shape)} and instance_map {list(instance_maps.shape)}"
            text = f"{self._contract.main_input} is {sizes}; they must be of one size"
            return _error(text, codes.INVALID_ARG)
        style = _array(request, contract.INPUT_STYLE)
        if style is not None and not np.isfinite(style).all():
            return _error("style has values that are not finite numbers", codes.INVALID_ARG)
        return None


def _array(request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def _error(text: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))
