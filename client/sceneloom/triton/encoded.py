"""The encoded path: PNG files of maps to a Triton server, an encoded picture back; and the
measurement that chooses between it and the raw path.

The model `synthesis_encoded` wraps `synthesis` on the server (docs/encoded-path.md). At 2048x1024
some tens of kilobytes and the finished file travel, instead of 10 MB and 6 MB. On one machine raw
is faster: encoding only moves work to the server.

    transport = GrpcTransport("server:8001")
    encoded = EncodedClient(transport)
    picture = encoded.synthesize(Path("a.png").read_bytes(), Path("a_inst.png").read_bytes())
"""

from __future__ import annotations

import dataclasses
import re
import time
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np

from sceneloom.contract import (
    INPUT_INSTANCES,
    INPUT_LABELS,
    INPUT_STYLE,
    MODEL_NAME,
    OUTPUT_IMAGE,
    PARAMETER,
    Contract,
)
from sceneloom.errors import InputError, MissingInputError, ModelFailedError, ModelNotFoundError
from sceneloom.maps import Array, OnUnknown, read_instance_map, read_label_map
from sceneloom.pictures import QUALITY_FORMATS, EncodedFormat, encode_picture
from sceneloom.triton.transport import TensorSpec, Timeouts, Transport

if TYPE_CHECKING:
    from sceneloom.synthesizer import Synthesizer

ENCODED_MODEL = "synthesis_encoded"
"""The ensemble that clients call."""
DECODE_MODEL = "synthesis_decode"
"""Its first step."""
ENCODE_MODEL = "synthesis_encode"
"""Its last step."""
ENCODED_MODELS = (ENCODED_MODEL, DECODE_MODEL, ENCODE_MODEL)
"""Models that the encoded path adds to a repository."""


def encoded_name(model: str) -> str:
    """Name of the ensemble around a model."""
    return f"{model}{ENCODED_MODEL.removeprefix(MODEL_NAME)}"


INPUT_FORMAT = "format"
INPUT_UNKNOWN = "unknown"
_HOW = (
    "the encoded path; `sceneloom export` writes it into every bundle, `sceneloom serve --encoded` "
    "serves it, and SCENELOOM_ENCODED=on does in the containers"
)


def format_words(format: str, quality: int) -> str:
    """Format and quality in words, ``png`` or ``jpg:95``; see `read_format` for errors."""
    words = f"{format}:{quality}" if format in QUALITY_FORMATS else format
    read_format(words)
    return words


def read_format(words: str) -> tuple[EncodedFormat, int]:
    """Format and quality (100 for png) of `format_words`; raises InputError for any other words."""
    format, _, quality = words.partition(":")
    wanted = f"{format}:([1-9][0-9]?|100)" if format in QUALITY_FORMATS else format
    if format not in get_args(EncodedFormat) or not re.fullmatch(wanted, words):
        known = (f"{f}:QUALITY" if f in QUALITY_FORMATS else f for f in get_args(EncodedFormat))
        raise InputError(
            f"no format {words[:40]!r} on the encoded path; it is one of {', '.join(known)}, with "
            "a quality from 1 to 100"
        )
    return cast(EncodedFormat, format), int(quality or 100)


class EncodedClient:
    """Client of `synthesis_encoded`; safe to use from several threads if its transport is. The
    owner of the transport closes it.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        model: str = ENCODED_MODEL,
        version: str = "",
        timeouts: Timeouts | None = None,
    ) -> None:
        """Read the contract of the ensemble `model` and check that it fits this client.

        `version` is the one of the model that draws, which the ensemble's configuration names;
        empty for any. Raises ModelNotFoundError if the server does not have the encoded path or has
        another one,
        ServerUnavailableError if no server answers, SchemaError if the contract is damaged or newer
        than this client.
        """
        self._timeouts = timeouts or Timeouts()
        self._model = model
        self._transport = transport
        self._where = f"{transport.address}, model {model!r}"
        try:
            config = transport.model_config(model, timeout=self._timeouts.connect)
        except ModelNotFoundError as error:
            raise ModelNotFoundError(f"{error}: it does not serve {_HOW}") from None
        if PARAMETER not in config.parameters:
            raise ModelNotFoundError(f"{self._where}: has no contract; it is not {_HOW}")
        self.contract = Contract.loads(config.parameters[PARAMETER], source=self._where)
        """Contract of the model, equal to that of `synthesis` behind it."""
        self.version = drawn = config.steps.get(model.removesuffix(encoded_name("")), "")
        """Version of the model that draws; -1 for the latest, empty if unknown."""
        if version and drawn != version:
            told = {"": "another model", "-1": "the latest version"}.get(drawn, f"version {drawn}")
            raise ModelNotFoundError(
                f"{self._where}: draws with {told}, not with version {version}; model_version of "
                "its step in config.pbtxt names the version"
            )
        file = TensorSpec(dtype="BYTES", dims=(1,))
        channels = self.contract.style_channels
        inputs = {
            INPUT_LABELS: file,
            INPUT_FORMAT: file,
            INPUT_UNKNOWN: file,
            **({INPUT_INSTANCES: file} if self.contract.wants_instances else {}),
            **({INPUT_STYLE: TensorSpec(dtype="FP32", dims=(-1, channels))} if channels else {}),
        }
        found = (config.inputs, config.outputs, config.max_batch_size)
        if found != (inputs, {OUTPUT_IMAGE: file}, 1):
            raise ModelNotFoundError(
                f"{self._where}: its tensors are {config.inputs}; its contract needs {inputs}"
            )

    def synthesize(
        self,
        label_file: bytes,
        instance_file: bytes | None = None,
        style: Array | None = None,
        *,
        format: EncodedFormat = "png",
        quality: int = 95,
        unknown: OnUnknown = "error",
    ) -> bytes:
        """Turn PNG files of label ids and instance ids into an encoded picture, cropped to the
        map's size.

        `instance_file` is needed if the model takes an instance map. `style` is float [K, F], row k
        for the k-th smallest instance id; None takes the contract's defaults. jpg and webp have
        a `quality`, 1 to 100.

        Raises InputError if an input is missing or the model does not take it (nothing was sent),
        RequestRejectedError if the server refuses the files or the format, another ServingError if
        it did not answer with a picture.
        """
        inputs = self.inputs(
            label_file, instance_file, style, format=format, quality=quality, unknown=unknown
        )
        answer = self._transport.infer(
            self._model, inputs, OUTPUT_IMAGE, timeout=self._timeouts.infer
        )
        return self.picture(answer)

    def inputs(
        self,
        label_file: bytes,
        instance_file: bytes | None = None,
        style: Array | None = None,
        *,
        format: EncodedFormat = "png",
        quality: int = 95,
        unknown: OnUnknown = "error",
    ) -> dict[str, Array]:
        """Make the tensors of one request, for callers with a transport of their own; see
        `synthesize` for arguments and errors.
        """
        contract = self.contract
        inputs = {INPUT_LABELS: _element(label_file)}
        if contract.wants_instances:
            if instance_file is None:
                raise MissingInputError(
                    "this model was trained with instance maps and needs one beside the label map"
                )
            inputs[INPUT_INSTANCES] = _element(instance_file)
        if contract.style_channels:
            style = np.zeros((0, contract.style_channels)) if style is None else style  # defaults
            if (
                style.ndim != 2
                or style.dtype.kind not in "fiu"
                or (style.shape[1] != contract.style_channels)
            ):
                raise InputError(
                    f"style is float [instances, {contract.style_channels}], not {style.dtype} "
                    f"{list(style.shape)}"
                )
            inputs[INPUT_STYLE] = style[None].astype(np.float32)
        elif style is not None:
            raise InputError("this model takes no style: it was trained without an encoder")
        inputs[INPUT_FORMAT] = _element(format_words(format, quality).encode())
        inputs[INPUT_UNKNOWN] = _element(unknown.encode())
        return inputs

    def picture(self, answer: Array) -> bytes:
        """The file in the answer to a request of `inputs`; raises ModelFailedError without one."""
        found = answer.item() if answer.shape == (1, 1) else None
        if not isinstance(found, bytes) or not found:
            raise ModelFailedError(
                f"{self._where}: answered {answer.dtype} {list(answer.shape)}, not one file"
            )
        return found


def _element(data: bytes) -> Array:
    """A BYTES tensor of one element, object [1, 1]."""
    return np.array([[data]], np.object_)


_WORTH_IT = 0.9
_ROUNDS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinkTimes:
    """Times of one picture each way, from the files of its maps to its own."""

    raw: float
    """Seconds with arrays on the wire, decoding and encoding here."""
    encoded: float
    """Seconds with files on the wire, decoding and encoding on the server."""

    @property
    def path(self) -> Literal["raw", "encoded"]:
        """Encoded if that saves a tenth; else raw, without Python in front of the engine."""
        return "encoded" if self.encoded < _WORTH_IT * self.raw else "raw"


def measure_link(
    synthesizer: Synthesizer,
    encoded: EncodedClient,
    label_file: bytes,
    instance_file: bytes | None = None,
    style: Array | None = None,
    *,
    format: EncodedFormat = "png",
    quality: int = 95,
    unknown: OnUnknown = "error",
) -> LinkTimes:
    """Render one picture each way, in turn, twice, and keep the better time of each: the first
    request over a connection, and the first of a size, takes longer. Both clients belong to one
    server. See `EncodedClient.synthesize` for files and errors.
    """
    contract = synthesizer.contract
    raw, files = [], []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        assert contract.schema is not None  # the encoded path takes label maps
        labels = read_label_map(label_file, contract.schema, unknown=unknown)
        instances = None
        if instance_file is not None and contract.wants_instances:
            instances = read_instance_map(instance_file)
        encode_picture(synthesizer.synthesize(labels, instances, style), format, quality=quality)
        between = time.perf_counter()
        encoded.synthesize(
            label_file, instance_file, style, format=format, quality=quality, unknown=unknown
        )
        raw.append(between - start)
        files.append(time.perf_counter() - between)
    return LinkTimes(raw=min(raw), encoded=min(files))
