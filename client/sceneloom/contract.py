"""The contract: what a model takes and gives, in the form that travels with every artefact.

A checkpoint bundle carries it in `model.json`, a Triton model in `parameters["sceneloom"]` of its
configuration, and every `Synthesizer` has one. docs/contract.md is the specification of the JSON
form.
"""

from __future__ import annotations

import dataclasses
import json
import reprlib
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Interval

from sceneloom.errors import SchemaError, SizeError
from sceneloom.schema import FileKey, LabelSchema
from sceneloom.text import counted, parse_json
from sceneloom.validation import checked, read_json

MODEL_NAME = "synthesis"
PARAMETER = "sceneloom"
"""Key of the Triton model configuration's `parameters` that holds the contract."""
MAX_PIXELS_PARAMETER = "max_pixels"
"""Key of the `parameters` that holds the largest picture the server takes, in pixels."""
ENGINE_PARAMETER = "engine"
"""Key of the `parameters` that names the engine, as RUNTIME-PRECISION."""
DIFFERENCE_PARAMETER = "difference"
"""Key of the `parameters` that says how far the engine's pictures are from PyTorch's."""
FAST_PARAMETER = "fast"
"""Key of the `parameters` that says what `--precision fast` would bring."""
STYLE_ROWS = 256
"""Rows of the style table: the most instances that one map of a styled model can have."""
INPUT_LABELS = "label_map"
INPUT_PICTURE = "picture"
INPUT_INSTANCES = "instance_map"
INPUT_STYLE = "style"
OUTPUT_IMAGE = "image"
_FLOAT32_MAX = 3.4028234663852886e38
InputKind = Literal["labels", "picture"]
"""Main input of a model: label maps, or pictures in their place."""
StyleVector: TypeAlias = tuple[Annotated[float, Interval(ge=-_FLOAT32_MAX, le=_FLOAT32_MAX)], ...]


def precision_of(engine: str) -> str:
    """The precision in an engine's name, such as ``fp32`` of ``openvino-fp32``; empty where the
    name is empty.
    """
    return engine.rpartition("-")[2]


@checked(SchemaError)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Contract:
    """Inputs and outputs of a model, and the sizes that an engine of it takes."""

    format: Literal[1] = 1
    """Version of the JSON form."""
    kind: InputKind = "labels"
    """Wherever a model of label maps takes a label map, a model of pictures takes a picture."""
    schema: LabelSchema | None = None
    """Label schema of the label maps; None for a model of pictures."""
    boundaries: bool
    """The model was trained with instance boundaries and takes an instance map."""
    style_channels: Annotated[int, Interval(ge=0)] = 0
    """Features per instance (F of the style table); 0 without an encoder."""
    style_defaults: dict[FileKey, StyleVector] = dataclasses.field(default_factory=dict)
    """Label id -> style vector for an instance without a style; zeros for labels without one."""
    style_clusters: dict[FileKey, tuple[StyleVector, ...]] = dataclasses.field(default_factory=dict)
    """Label id -> style vectors to choose from: cluster centres of the training photographs'
    features (`sceneloom styles`).
    """
    size_multiple: Annotated[int, Interval(ge=1)]
    """Height and width of the network's input are multiples of this."""
    smallest_side: Annotated[int, Interval(ge=1)] = 0
    """Least height and width of the network's input, a multiple of `size_multiple`. By default
    twice that: below, reflection padding at the bottleneck has nothing to reflect.
    """
    sizes: tuple[tuple[int, int], ...] | None = None
    """The (height, width) pairs of an engine, or None for any multiple."""
    bundle_hash: str = ""
    """SHA-256 over the exported engines; empty for a checkpoint."""
    grey: bool = False
    """The three channels of its pictures are equal: its network gives one."""

    def __post_init__(self) -> None:
        if (self.kind == "labels") != (self.schema is not None):
            raise SchemaError(
                "schema is missing" if self.schema is None else "a model of pictures has no schema"
            )
        if self.kind == "picture" and (self.style_channels or self.style_defaults):
            raise SchemaError("a model of pictures takes no style")
        if not self.smallest_side:
            object.__setattr__(self, "smallest_side", 2 * self.size_multiple)
        if self.smallest_side % self.size_multiple:
            raise SchemaError(
                f"smallest_side is {self.smallest_side}; it is a multiple of size_multiple, "
                f"{self.size_multiple}"
            )
        for label_id, vector in self.style_defaults.items():
            self.check_style(label_id, vector, "default style")
        for label_id, centres in self.style_clusters.items():
            if not centres:
                raise SchemaError(f"label {label_id} has an empty list of style clusters")
            for centre in centres:
                self.check_style(label_id, centre, "style cluster")
        if self.sizes is not None and not self.sizes:
            raise SchemaError("sizes is empty; it names at least one size")
        for height, width in self.sizes or ():
            if (
                height % self.size_multiple
                or width % self.size_multiple
                or (min(height, width) < self.smallest_side)
            ):
                raise SchemaError(
                    f"{_size(height, width)} cannot be an engine's size: each side is a multiple "
                    f"of {self.size_multiple}, at least {self.smallest_side}"
                )

    def check_style(self, label_id: int, vector: tuple[float, ...], what: str) -> None:
        """Check that a style vector is `style_channels` finite float32 numbers of a known label.

        Args:
            what: the vector's name in an error, such as ``default style``.

        Raises:
            SchemaError: it does not fit.
        """
        assert self.schema is not None  # a model of pictures takes no style
        if all(label.id != label_id for label in self.schema.labels):
            raise SchemaError(
                f"there is a {what} of label {label_id}, which the schema does not have"
            )
        if not is_style(vector, self.style_channels):
            raise SchemaError(
                f"the {what} of label {label_id} is {reprlib.repr(list(vector))}; it is "
                f"{self.style_channels} finite numbers"
            )

    @property
    def main_input(self) -> str:
        """Name of the tensor of the label map, or of the picture in its place."""
        return INPUT_LABELS if self.kind == "labels" else INPUT_PICTURE

    @property
    def input_channels(self) -> int:
        """Channels of the network's input: labels or RGB, then boundaries, then style."""
        first = 3 if self.schema is None else self.schema.channels
        return first + self.boundaries + self.style_channels

    @property
    def wants_instances(self) -> bool:
        """The model takes an instance map: for boundaries, for styles or for both."""
        return self.boundaries or self.style_channels > 0

    def network_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the network's input: each side rounded up to the next multiple.

        Raises:
            SizeError: the model does not take this size; the text names the nearest valid one.
        """
        multiple = self.size_multiple
        padded = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
        if self.sizes is not None:
            if padded not in self.sizes:
                near = min(self.sizes, key=lambda s: abs(s[0] - height) + abs(s[1] - width))
                raise SizeError(
                    f"{_size(height, width)} is not a size this engine was built for; nearest is "
                    f"{_size(*near)}"
                )
            return padded
        if min(padded) < self.smallest_side:
            raise SizeError(
                f"{_size(height, width)} is too small for this model; "
                f"each side must be more than {counted(self.smallest_side - multiple, 'pixel')}"
            )
        return padded

    def check_exact_size(self, height: int, width: int) -> None:
        """Check that the network takes this size without padding, or raise SizeError."""
        if self.network_size(height, width) != (height, width):
            raise SizeError(
                f"{_size(height, width)} is not a multiple of {self.size_multiple} on both sides; "
                "pad by edge replication"
            )

    def to_json(self) -> dict[str, Any]:
        """The contract as a JSON object. Old clients refuse unknown keys, so newer keys are left
        out where they are the default.
        """
        clusters = {str(k): [list(v) for v in vs] for k, vs in sorted(self.style_clusters.items())}
        side = self.smallest_side
        return {
            "format": self.format,
            **({"kind": self.kind} if self.schema is None else {"schema": self.schema.to_json()}),
            "boundaries": self.boundaries,
            "style_channels": self.style_channels,
            "style_defaults": {str(k): list(v) for k, v in sorted(self.style_defaults.items())},
            **({"style_clusters": clusters} if clusters else {}),
            "size_multiple": self.size_multiple,
            **({} if side == 2 * self.size_multiple else {"smallest_side": side}),
            "sizes": "any" if self.sizes is None else [list(size) for size in self.sizes],
            "bundle_hash": self.bundle_hash,
            **({"grey": True} if self.grey else {}),
        }

    def dumps(self) -> str:
        """The contract as one line of JSON, for a Triton model configuration."""
        return json.dumps(self.to_json(), separators=(",", ":"), ensure_ascii=True)

    @classmethod
    def from_json(cls, data: Any, *, source: str = "contract") -> Contract:
        """Read the JSON form, or raise SchemaError that begins with `source`."""
        if not isinstance(data, dict):
            raise SchemaError(f"{source}: a contract is a JSON object")
        if data.get("format") != 1 or isinstance(data["format"], bool):
            raise SchemaError(
                f"{source}: contract format {reprlib.repr(data.get('format'))}; this version of "
                "sceneloom reads format 1"
            )
        of_labels = data.get("kind", "labels") == "labels"
        required = {*_REQUIRED, "schema"} if of_labels else _REQUIRED
        if missing := sorted(required - data.keys()):
            raise SchemaError(f"{source}: {', '.join(missing)} is missing")
        if nulls := [key for key, value in data.items() if value is None]:
            raise SchemaError(f"{source}: {', '.join(nulls)} is null")
        if data["sizes"] == "any":
            data = {**data, "sizes": None}
        return read_json(cls, data, source=source, error=SchemaError)

    @classmethod
    def loads(cls, text: str, *, source: str = "contract") -> Contract:
        """Read the one-line form, or raise SchemaError that begins with `source`."""
        return cls.from_json(parse_json(text, source=source, error=SchemaError), source=source)


_REQUIRED = {
    *("format", "boundaries", "style_channels", "style_defaults"),
    *("size_multiple", "sizes", "bundle_hash"),
}


def is_style(vector: tuple[float, ...], channels: int) -> bool:
    """Whether a style vector is `channels` finite float32 numbers."""
    return len(vector) == channels and all(abs(x) <= _FLOAT32_MAX for x in vector)


def _size(height: int, width: int) -> str:
    return f"{width}x{height} (width x height)"
