"""The contract: what a model takes and gives, in the form that travels with every artefact.

A checkpoint bundle carries it in `model.json`, a Triton model in `parameters["sceneloom"]` of its
configuration, and every `Synthesizer` has one. docs/contract.md is the specification of the JSON
form.
"""

from __future__ import annotations

import dataclasses
import json
import reprlib
from typing import Any

from sceneloom.errors import SchemaError, SizeError
from sceneloom.schema import LabelSchema, json_key, parse_json
from sceneloom.text import counted

FORMAT = 1
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
INPUT_INSTANCES = "instance_map"
INPUT_STYLE = "style"
OUTPUT_IMAGE = "image"
_FLOAT32_MAX = 3.4028234663852886e38


def precision_of(engine: str) -> str:
    """The precision in an engine's name, such as ``fp32`` of ``openvino-fp32``; empty where the
    name is empty.
    """
    return engine.rpartition("-")[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contract:
    """What a model was trained for and which sizes an engine of it takes."""

    schema: LabelSchema
    """The label schema."""
    boundaries: bool
    """Whether the model was trained with instance boundaries, and so wants an instance map."""
    style_channels: int = 0
    """Features per instance (F of the style table), 0 without an encoder."""
    style_defaults: dict[int, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    """Label id -> the style vector used when the caller gives none; a label without one gets zeros.
    """
    style_clusters: dict[int, tuple[tuple[float, ...], ...]] = dataclasses.field(
        default_factory=dict
    )
    """Label id -> the style vectors to choose from: centres of clusters of what the encoder saw in
    photographs (`sceneloom styles`).
    """
    size_multiple: int
    """Height and width the network sees are multiples of this."""
    smallest_side: int | None = None
    """Least height and width the network takes, a multiple of `size_multiple`; None for twice
    `size_multiple`.
    """
    sizes: tuple[tuple[int, int], ...] | None = None
    """The (height, width) pairs an engine was built for, or None for any multiple."""
    bundle_hash: str = ""
    """SHA-256 over the exported engines; empty for a checkpoint."""

    def __post_init__(self) -> None:
        if self.size_multiple < 1:
            raise SchemaError(f"size_multiple is {self.size_multiple}; it is at least 1")
        if self.style_channels < 0:
            raise SchemaError(f"style_channels is {self.style_channels}; it is at least 0")
        side = self.smallest_side
        if side is not None and (side < self.size_multiple or side % self.size_multiple):
            raise SchemaError(
                f"smallest_side is {side}; it is a multiple of size_multiple, {self.size_multiple}"
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
            self._check_network_size(height, width)

    def check_style(self, label_id: int, vector: tuple[float, ...], what: str) -> None:
        """Check a style vector of a label.

        Args:
            label_id: id of the label it belongs to.
            vector: the style.
            what: what to call it in an error, such as ``default style``.

        Raises:
            SchemaError: the schema has no such label, or the vector is not `style_channels` finite
                float32 numbers.
        """
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
    def wants_instances(self) -> bool:
        """Whether an instance map goes with each label map: for boundaries, for styles or both."""
        return self.boundaries or self.style_channels > 0

    @property
    def min_side(self) -> int:
        """Smallest height and width that the network takes: `smallest_side`, or two multiples,
        below which reflection padding at the bottleneck has nothing to reflect.
        """
        return 2 * self.size_multiple if self.smallest_side is None else self.smallest_side

    def network_size(self, height: int, width: int) -> tuple[int, int]:
        """Size that the network sees for a map of this size: each side rounded up to the next
        multiple.

        Raises:
            SizeError: the model does not take this size; the text names the nearest that it takes.
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
        if min(padded) < self.min_side:
            raise SizeError(
                f"{_size(height, width)} is too small for this model; "
                f"each side must be more than {counted(self.min_side - multiple, 'pixel')}"
            )
        return padded

    def check_exact_size(self, height: int, width: int) -> None:
        """Check that the network takes this size as it is, without padding; servers call it.

        Raises:
            SizeError: it does not.
        """
        if self.network_size(height, width) != (height, width):
            raise SizeError(
                f"{_size(height, width)} is not a multiple of {self.size_multiple} on both sides; "
                "pad by edge replication"
            )

    def _check_network_size(self, height: int, width: int) -> None:
        if (
            height % self.size_multiple
            or width % self.size_multiple
            or min(height, width) < self.min_side
        ):
            raise SchemaError(
                f"{_size(height, width)} cannot be an engine's size: each side is a multiple of "
                f"{self.size_multiple}, at least {self.min_side}"
            )

    def to_json(self) -> dict[str, Any]:
        """The contract as a JSON object; what contracts had from the start is always there,
        `style_clusters` and `smallest_side` only where they say something.
        """
        clusters = {str(k): [list(v) for v in vs] for k, vs in sorted(self.style_clusters.items())}
        side = self.smallest_side
        return {
            "format": FORMAT,
            "schema": self.schema.to_json(),
            "boundaries": self.boundaries,
            "style_channels": self.style_channels,
            "style_defaults": {str(k): list(v) for k, v in sorted(self.style_defaults.items())},
            **({"style_clusters": clusters} if clusters else {}),
            "size_multiple": self.size_multiple,
            **({} if side is None else {"smallest_side": side}),
            "sizes": "any" if self.sizes is None else [list(size) for size in self.sizes],
            "bundle_hash": self.bundle_hash,
        }

    def dumps(self) -> str:
        """The contract as one line of JSON, for a Triton model configuration."""
        return json.dumps(self.to_json(), separators=(",", ":"), ensure_ascii=True)

    @classmethod
    def from_json(cls, data: Any, *, source: str = "contract") -> Contract:
        """Read the JSON form.

        Args:
            data: the parsed JSON object.
            source: what to call it in an error.

        Raises:
            SchemaError: a key is missing, unknown or out of range, or the format is newer than this
                client.
        """
        if not isinstance(data, dict):
            raise SchemaError(f"{source}: a contract is a JSON object")
        if type(data.get("format")) is not int or data["format"] != FORMAT:
            raise SchemaError(
                f"{source}: contract format {reprlib.repr(data.get('format'))}; this version of "
                f"sceneloom reads format {FORMAT}"
            )
        known = {"format", *(field.name for field in dataclasses.fields(cls))}
        if extra := sorted(set(data) - known, key=str):
            raise SchemaError(f"{source}: unknown keys {extra}")
        try:
            return cls(
                schema=LabelSchema.from_json(data["schema"], source=source),
                boundaries=_typed(data["boundaries"], bool),
                style_channels=_typed(data["style_channels"], int),
                style_defaults={
                    json_key(label_id): json_vector(vector)
                    for label_id, vector in data["style_defaults"].items()
                },
                style_clusters={
                    json_key(label_id): tuple(map(json_vector, _typed(centres, list)))
                    for label_id, centres in data.get("style_clusters", {}).items()
                },
                size_multiple=_typed(data["size_multiple"], int),
                smallest_side=_typed(data["smallest_side"], int)
                if "smallest_side" in data
                else None,
                sizes=None
                if data["sizes"] == "any"
                else tuple(
                    (_typed(height, int), _typed(width, int))
                    for height, width in _typed(data["sizes"], list)
                ),
                bundle_hash=_typed(data["bundle_hash"], str),
            )
        except SchemaError as error:
            raise SchemaError(
                str(error) if str(error).startswith(source) else f"{source}: {error}"
            ) from None
        except (
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            OverflowError,
            RecursionError,
        ) as error:
            raise SchemaError(
                f"{source}: not a contract ({type(error).__name__}: {error})"
            ) from None

    @classmethod
    def loads(cls, text: str, *, source: str = "contract") -> Contract:
        """Read the one-line form; raises SchemaError like `from_json`."""
        return cls.from_json(parse_json(text, source), source=source)


def json_vector(value: Any) -> tuple[float, ...]:
    """The numbers of a JSON list; raises TypeError for anything else, OverflowError for numbers
    beyond floats.
    """
    return tuple(float(_typed(x, int, float)) for x in _typed(value, list))


def is_style(vector: tuple[float, ...], channels: int) -> bool:
    """Whether a style vector is `channels` finite float32 numbers."""
    return len(vector) == channels and all(abs(x) <= _FLOAT32_MAX for x in vector)


def _typed(value: Any, *kinds: type) -> Any:
    # By exact type: isinstance would take true for the number 1.
    if type(value) not in kinds:
        raise TypeError(f"{value!r} where {' or '.join(kind.__name__ for kind in kinds)} belongs")
    return value


def _size(height: int, width: int) -> str:
    return f"{width}x{height} (width x height)"
