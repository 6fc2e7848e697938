"""The contract: what a model takes and gives, in the form that travels with every artefact.

A checkpoint bundle carries it in `model.json`, a Triton model in `parameters["sceneloom"]` of its
configuration, and every `Synthesizer` has one. docs/contract.md is the specification of the JSON
form.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from sceneloom.errors import SchemaError, SizeError
from sceneloom.schema import LabelSchema

FORMAT = 1
MODEL_NAME = "synthesis"
PARAMETER = "sceneloom"
"""Key of the Triton model configuration's `parameters` that holds the contract."""
STYLE_ROWS = 256
"""Rows of the style table: the most instances that one map of a styled model can have."""
INPUT_LABELS = "label_map"
INPUT_INSTANCES = "instance_map"
INPUT_STYLE = "style"
OUTPUT_IMAGE = "image"


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
    size_multiple: int
    """Height and width the network sees are multiples of this."""
    sizes: tuple[tuple[int, int], ...] | None = None
    """The (height, width) pairs an engine was built for, or None for any multiple."""
    bundle_hash: str = ""
    """SHA-256 over the exported engines; empty for a checkpoint."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.size_multiple < 1:
            raise SchemaError(f"size_multiple is {self.size_multiple}; it is at least 1")
        if self.style_channels < 0:
            raise SchemaError(f"style_channels is {self.style_channels}; it is at least 0")
        for label_id, vector in self.style_defaults.items():
            if len(vector) != self.style_channels:
                raise SchemaError(
                    f"the default style of label {label_id} has {len(vector)} values, not "
                    f"{self.style_channels}"
                )
        for height, width in self.sizes or ():
            self._check_network_size(height, width)

    @property
    def min_side(self) -> int:
        """Smallest height and width: below it the reflection padding at the bottleneck has nothing
        to reflect.
        """
        return 2 * self.size_multiple

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
                raise SizeError(
                    f"{_size(height, width)} is not a size this engine was built for; "
                    f"{self._nearest(height, width)}"
                )
            return padded
        if min(padded) < self.min_side:
            raise SizeError(
                f"{_size(height, width)} is too small for this model; "
                f"each side must be more than {self.min_side - multiple} pixels"
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

    def _nearest(self, height: int, width: int) -> str:
        sizes = sorted(self.sizes or (), key=lambda s: abs(s[0] - height) + abs(s[1] - width))
        return f"nearest is {_size(*sizes[0])}" if sizes else "it was built for none"

    def to_json(self) -> dict[str, Any]:
        """The contract as a JSON object."""
        return {
            "format": FORMAT,
            "schema": self.schema.to_json(),
            "boundaries": self.boundaries,
            "style_channels": self.style_channels,
            "style_defaults": {str(k): list(v) for k, v in sorted(self.style_defaults.items())},
            "size_multiple": self.size_multiple,
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
        if data.get("format") != FORMAT:
            raise SchemaError(
                f"{source}: contract format {data.get('format')!r}; this version of sceneloom "
                f"reads format {FORMAT}"
            )
        known = {"format", *(field.name for field in dataclasses.fields(cls))}
        if extra := sorted(set(data) - known):
            raise SchemaError(f"{source}: unknown keys {extra}")
        try:
            sizes = data["sizes"]
            return cls(
                schema=LabelSchema.from_json(data["schema"], source=source),
                boundaries=bool(data["boundaries"]),
                style_channels=int(data["style_channels"]),
                style_defaults={
                    int(k): tuple(map(float, v)) for k, v in data["style_defaults"].items()
                },
                size_multiple=int(data["size_multiple"]),
                sizes=None if sizes == "any" else tuple((int(h), int(w)) for h, w in sizes),
                bundle_hash=str(data["bundle_hash"]),
            )
        except SchemaError as error:
            raise SchemaError(
                str(error) if str(error).startswith(source) else f"{source}: {error}"
            ) from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SchemaError(
                f"{source}: not a contract ({type(error).__name__}: {error})"
            ) from None

    @classmethod
    def loads(cls, text: str, *, source: str = "contract") -> Contract:
        """Read the one-line form; raises SchemaError like `from_json`."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise SchemaError(f"{source}: not readable as JSON ({error})") from None
        return cls.from_json(data, source=source)


def _size(height: int, width: int) -> str:
    return f"{width}x{height} (width x height)"
