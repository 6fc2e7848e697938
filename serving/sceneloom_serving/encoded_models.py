"""The encoded path's Python steps, `synthesis_decode` and `synthesis_encode`: functions, models of
Triton's Python backend, and the golden probe through them. The model.py files in `triton_models/`
are shims over the models.

Each model is one process that answers a few requests at a time, in as many threads as cores.
Requests come from a network: only PNG is read, sizes are checked before a pixel is decoded, and
every fault is an InputError of one sentence.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sceneloom.contract import (
    INPUT_INSTANCES,
    INPUT_LABELS,
    MAX_PIXELS_PARAMETER,
    MODEL_NAME,
    OUTPUT_IMAGE,
    PARAMETER,
    Contract,
)
from sceneloom.errors import ImageReadError, ImageTooLargeError, InputError, ModelFailedError
from sceneloom.maps import Image, instance_map_png, label_map_png, read_instance_map, read_label_map
from sceneloom.pictures import decode_picture, encode_picture
from sceneloom.png import SIGNATURE
from sceneloom.request import Request, prepare, stack, tensors
from sceneloom.triton.encoded import (
    INPUT_FORMAT,
    INPUT_UNKNOWN,
    EncodedClient,
    encoded_name,
    read_format,
)
from sceneloom.triton.transport import Timeouts
from sceneloom_serving.bundle import Golden
from sceneloom_serving.parity import check_picture

if TYPE_CHECKING:
    from sceneloom.triton.access import Access

try:
    import triton_python_backend_utils as pb_utils
except ImportError:  # outside the backend's stub process
    pb_utils = None

# The steps' own tensors: a name means a file or its content, never both.
_LABEL_FILE, _INSTANCE_FILE, _STYLE_ROWS = "label_file", "instance_file", "style_rows"
_HEIGHT_WIDTH, _PICTURE = "height_width", "picture"


class _Step:
    """A step of the path: threads, each with a request, and errors that stay with theirs."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start the threads; called once by Triton."""
        self._config = json.loads(args["model_config"])
        most = int(self._config["max_batch_size"])
        self._pool = ThreadPoolExecutor(min(most, len(os.sched_getaffinity(0))))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer a few requests."""
        return list(self._pool.map(self._answer, requests))

    def _answer(self, request: Any) -> Any:
        if request.is_cancelled():
            return _error("the client gave up", pb_utils.TritonError.CANCELLED)
        try:
            outputs = [pb_utils.Tensor(*named) for named in self._outputs(request).items()]
            return pb_utils.InferenceResponse(outputs)
        except InputError as error:
            return _error(str(error), pb_utils.TritonError.INVALID_ARG)
        except Exception as error:  # a fault of ours; the backend would give it to all of them
            return _error(f"{type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)

    def _outputs(self, request: Any) -> dict[str, npt.NDArray[Any]]:
        raise NotImplementedError


class DecodeModel(_Step):
    """`synthesis_decode`: PNG files in, the tensors of `synthesis` out."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the contract; called once by Triton."""
        super().initialize(args)
        parameters = {k: value["string_value"] for k, value in self._config["parameters"].items()}
        self._contract = Contract.loads(parameters[PARAMETER], source="config.pbtxt")
        self._max_pixels = int(parameters[MAX_PIXELS_PARAMETER])

    def _outputs(self, request: Any) -> dict[str, npt.NDArray[Any]]:
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
        size = decoded.padding.crop(decoded.label_map).shape
        return {**tensors(*stack([decoded])), _HEIGHT_WIDTH: np.array([size], np.int32)}


class EncodeModel(_Step):
    """`synthesis_encode`: the picture of `synthesis` in, a file out."""

    def _outputs(self, request: Any) -> dict[str, npt.NDArray[Any]]:
        image = pb_utils.get_input_tensor_by_name(request, OUTPUT_IMAGE).as_numpy()[0]
        size = pb_utils.get_input_tensor_by_name(request, _HEIGHT_WIDTH).as_numpy()[0]
        height, width = size.tolist()
        data = encode_image(image, (height, width), _text(request, INPUT_FORMAT))
        return {_PICTURE: np.array([[data]], np.object_)}


def _element(request: Any, name: str) -> bytes | None:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else bytes(tensor.as_numpy().item())


def _text(request: Any, name: str) -> str:
    return (_element(request, name) or b"").decode("utf-8", "replace")


def _error(text: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))


_BYTES_PER_PIXEL = 8  # the most of a map of ids, packed or not
_BYTES_OF_HEADERS = 1 << 20


def decode_request(
    contract: Contract,
    max_pixels: int,
    *,
    label_file: bytes,
    instance_file: bytes | None,
    style_rows: npt.NDArray[np.float32] | None,
    unknown: str,
) -> Request:
    """Read one request's PNG files into the network's form; raises InputError.

    `max_pixels` includes padding. `style_rows` is float32 [K, F], row k for the k-th smallest
    instance id; no rows, or None, for the contract's defaults. `unknown` is error or unlabelled.
    """
    if unknown not in ("error", "unlabelled"):
        raise InputError(f"{INPUT_UNKNOWN} is {unknown[:40]!r}; it is error or unlabelled")
    assert contract.schema is not None  # a model of pictures has no encoded path
    _check_file(label_file, INPUT_LABELS, max_pixels)
    labels = read_label_map(
        label_file,
        contract.schema,
        unknown="error" if unknown == "error" else "unlabelled",
        max_pixels=max_pixels,
        name=INPUT_LABELS,
    )
    height, width = contract.network_size(*labels.shape)
    if height * width > max_pixels:
        raise ImageTooLargeError(
            f"{INPUT_LABELS}: padded to {width}x{height} it is {height * width:,} pixels; this "
            f"server takes at most {max_pixels:,}"
        )
    instances = None
    if instance_file is not None:
        _check_file(instance_file, INPUT_INSTANCES, max_pixels)
        instances = read_instance_map(instance_file, max_pixels=max_pixels, name=INPUT_INSTANCES)
    style = None if style_rows is None or not len(style_rows) else style_rows
    return prepare(contract, labels, instances, style)


def encode_image(image: Image, height_width: tuple[int, int], format: str) -> bytes:
    """Crop a picture, uint8 [H, W, 3] RGB, to (height, width) and encode it; raises InputError."""
    height, width = height_width
    name, quality = read_format(format)
    return encode_picture(image[:height, :width], name, quality=quality)


def _check_file(data: bytes, name: str, max_pixels: int) -> None:
    most = _BYTES_PER_PIXEL * max_pixels + _BYTES_OF_HEADERS
    if len(data) > most:
        raise ImageTooLargeError(f"{name}: {len(data):,} bytes; this server takes at most {most:,}")
    if not data:
        raise ImageReadError(f"{name}: the file is empty")
    if not data.startswith(SIGNATURE):
        raise ImageReadError(f"{name}: not a PNG file, which is all that the encoded path takes")


def check_encoded_path(
    url: str,
    golden: Golden,
    engine: str,
    timeouts: Timeouts,
    *,
    model: str = MODEL_NAME,
    version: str = "",
    access: Access | None = None,
) -> float:
    """Prove the encoded path to a model at ``HOST:PORT`` of gRPC, as `parity.check_picture` does;
    raises ModelNotFoundError without one, ModelFailedError for a wrong picture, ServingError for
    none.
    """
    from sceneloom.triton.grpc_transport import GrpcTransport

    with contextlib.closing(GrpcTransport(url, access=access)) as transport:
        client = EncodedClient(
            transport, model=encoded_name(model), version=version, timeouts=timeouts
        )
        labels, instances = golden.request.label_map, golden.request.instance_map
        file = client.synthesize(
            label_map_png(client.contract, labels),
            None if instances is None else instance_map_png(client.contract, labels, instances),
            golden.request.style,
        )
    try:
        image = decode_picture(file)
    except ImageReadError as error:
        raise ModelFailedError(f"{url}: the encoded path's answer: {error}") from None
    if image.shape != (*labels.shape, 3):
        raise ModelFailedError(
            f"{url}: the encoded path answered a picture {list(image.shape)} to maps "
            f"{list(labels.shape)}"
        )
    return check_picture(image, golden, engine)
