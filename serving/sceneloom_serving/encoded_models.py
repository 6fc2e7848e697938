"""The two Python steps of the encoded path inside Triton's Python backend: `synthesis_decode` and
`synthesis_encode`; the model.py files in `triton_models/` are shims over these classes.

Each is one process. Triton's batcher hands it a few requests at a time, and they are worked on in
as many threads as there are cores: what takes the time, packing and unpacking, runs beside other
threads. Runs inside the backend's stub process only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from sceneloom.contract import (
    INPUT_INSTANCES,
    INPUT_LABELS,
    INPUT_STYLE,
    MAX_PIXELS_PARAMETER,
    OUTPUT_IMAGE,
    PARAMETER,
    Contract,
)
from sceneloom.errors import InputError
from sceneloom.triton.encoded import INPUT_FORMAT, INPUT_UNKNOWN, read_format
from sceneloom_serving.encoded_path import decode_request, encode_image

# The steps' own tensors: a name is either a file's or what was in it, never both.
_LABEL_FILE, _INSTANCE_FILE, _STYLE_ROWS = "label_file", "instance_file", "style_rows"
_HEIGHT_WIDTH, _PICTURE = "height_width", "picture"


class DecodeModel:
    """`synthesis_decode`: PNG files in, the tensors of `synthesis` out."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the contract; called once by Triton."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._contract = Contract.loads(parameters[PARAMETER], source="config.pbtxt")
        self._max_pixels = int(parameters[MAX_PIXELS_PARAMETER])
        self._pool = _pool(config)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer a few requests."""
        return list(self._pool.map(lambda request: _answer(self._tensors, request), requests))

    def _tensors(self, request: Any) -> list[Any]:
        read_format(_text(request, INPUT_FORMAT))  # before the work, not after it
        label_file = _element(request, _LABEL_FILE)
        assert label_file is not None, "Triton asks for every input"
        rows = pb_utils.get_input_tensor_by_name(request, _STYLE_ROWS)
        decoded = decode_request(
            self._contract,
            self._max_pixels,
            label_file=label_file,
            instance_file=_element(request, _INSTANCE_FILE),
            style_rows=None if rows is None else rows.as_numpy()[0],
            unknown=_text(request, INPUT_UNKNOWN),
        )
        tensors = {
            INPUT_LABELS: decoded.label_map,
            INPUT_INSTANCES: decoded.instance_map,
            INPUT_STYLE: decoded.style,
            _HEIGHT_WIDTH: np.array(decoded.padding.crop(decoded.label_map).shape, np.int32),
        }
        return [pb_utils.Tensor(k, v[None]) for k, v in tensors.items() if v is not None]


class EncodeModel:
    """`synthesis_encode`: the picture of `synthesis` in, a file out."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start the threads; called once by Triton."""
        self._pool = _pool(json.loads(args["model_config"]))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer a few requests."""
        return list(self._pool.map(lambda request: _answer(self._tensors, request), requests))

    def _tensors(self, request: Any) -> list[Any]:
        image = pb_utils.get_input_tensor_by_name(request, OUTPUT_IMAGE).as_numpy()[0]
        size = pb_utils.get_input_tensor_by_name(request, _HEIGHT_WIDTH).as_numpy()[0]
        height, width = size.tolist()
        data = encode_image(image, (height, width), _text(request, INPUT_FORMAT))
        return [pb_utils.Tensor(_PICTURE, np.array([[data]], np.object_))]


def _pool(config: dict[str, Any]) -> ThreadPoolExecutor:
    most = int(config["max_batch_size"])
    return ThreadPoolExecutor(min(most, len(os.sched_getaffinity(0))))


def _answer(tensors: Callable[[Any], list[Any]], request: Any) -> Any:
    """The response to one request; what is wrong with it must not touch its neighbours."""
    if request.is_cancelled():
        return _error("the client gave up", pb_utils.TritonError.CANCELLED)
    try:
        return pb_utils.InferenceResponse(tensors(request))
    except InputError as error:
        return _error(str(error), pb_utils.TritonError.INVALID_ARG)
    except Exception as error:  # a fault of ours; the backend would give it to all of them
        return _error(f"{type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)


def _element(request: Any, name: str) -> bytes | None:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else bytes(tensor.as_numpy().item())


def _text(request: Any, name: str) -> str:
    return (_element(request, name) or b"").decode("utf-8", "replace")


def _error(text: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))
