"""How a data set is rendered: settings of a run, and of shards."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from typing import Annotated, Any, Literal

from pydantic import Field
from tyro.conf import arg
from tyro.constructors import PrimitiveConstructorSpec

from sceneloom import errors
from sceneloom.map_reading import MapReading
from sceneloom.maps import DEFAULT_MAX_PIXELS, OnUnknown
from sceneloom.pictures import QUALITY_FORMATS, Format
from sceneloom.rendering.retries import RetryPolicy
from sceneloom.style import StyleChoice
from sceneloom.validation import checked


def _parse_clusters(words: list[str]) -> dict[int, int]:
    """Instance id -> cluster, of the words of a command line; raises ValueError."""
    numbers = [int(word) for word in words if word.isascii() and word.isdigit()]
    if len(numbers) != len(words) or len(numbers) % 2:
        raise ValueError(
            f"{' '.join(words)} is no list of pairs; write an instance id and its cluster, such as "
            "26001 3, for each instance"
        )
    clusters = dict(zip(numbers[::2], numbers[1::2], strict=True))
    if 2 * len(clusters) < len(numbers):
        raise ValueError("an instance has two clusters; give it one")
    return clusters


_CLUSTERS = PrimitiveConstructorSpec[dict[int, int]](
    nargs="*",
    metavar="[ID CLUSTER [ID CLUSTER ...]]",
    instance_from_str=_parse_clusters,
    is_instance=lambda value: isinstance(value, dict),
    str_from_instance=lambda value: [str(one) for pair in value.items() for one in pair],
)


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderSettings(StyleChoice, MapReading):
    """How to render."""

    style_clusters: Annotated[dict[int, int], _CLUSTERS] = dataclasses.field(default_factory=dict)
    # of StyleChoice; tyro's own parser names no reason

    format: Format = "png"
    """png is lossless; jpg is smaller and faster to write; webp is smaller still and slow; jxl is
    lossless, fast, and smaller than png (needs the extra datasets).
    """
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    """Quality of jpg and webp, 1 to 100; webp of 100 is lossless."""
    copy_labels: bool = False
    """Copy the label and instance maps beside the pictures: OUTPUT/train_img, train_label and
    train_inst are a data set that sceneloom train reads (--data.layout pix2pixhd).
    """
    grey: bool = False
    """Write grey PNG files, of one channel, of a model with grey pictures."""
    unknown: OnUnknown = "error"
    """For label ids outside the model's schema: refuse the map, or read them as unlabelled."""
    max_pixels: Annotated[int, Field(ge=1)] = DEFAULT_MAX_PIXELS
    """Largest map to read, in pixels."""
    mix_precisions: bool = False
    """Let servers of different precision work together, and keep pictures of another precision;
    otherwise those are made again.
    """
    in_flight: Annotated[int | None, Field(ge=1, le=256)] = None
    """Requests in flight to each server; by default their number follows the server
    (docs/rendering.md).
    """
    most_in_flight: Annotated[int, Field(ge=1, le=256)] = 32
    """Most requests in flight to one server, if their number follows it."""
    look_ahead: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Maps to read ahead and send in an order of sizes: servers join equal sizes only."""
    workers: Annotated[int | None, Field(ge=1, le=1024)] = None
    """Threads that decode maps and encode pictures; by default one per core."""
    patience: Annotated[float, Field(gt=0, le=7 * 86400)] = 300.0
    """Seconds without any server before the run stops; the same command resumes it."""
    retry: Annotated[RetryPolicy, arg(name="retries", prefix_name=False)] = RetryPolicy()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        StyleChoice.__post_init__(self)
        MapReading.__post_init__(self)
        if self.grey and self.format != "png":
            raise errors.InputError(f"grey pictures are written as png, not as {self.format}")

    @property
    def threads(self) -> int:
        """Threads that decode and encode."""
        if self.workers is not None:
            return self.workers
        if hasattr(os, "sched_getaffinity"):  # not on every system
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1

    def style_words(self) -> str:
        """The choice of the style as JSON; raises InputError if its file is unreadable."""
        words: dict[str, Any] = {}
        if self.style_seed is not None:
            words = {"seed": self.style_seed, "of": self.style_of, "per": self.style_per}
        if self.style_clusters:
            words["clusters"] = {str(k): v for k, v in sorted(self.style_clusters.items())}
        if words:
            return json.dumps(words)
        if self.style_file is None:
            return json.dumps("default")
        if self.style_file.is_dir():
            return json.dumps("a file for each map")  # its bytes count as the map's
        try:
            data = self.style_file.read_bytes()
        except OSError as error:
            raise errors.InputError(
                f"{self.style_file}: cannot be read ({error.strerror})"
            ) from None
        return json.dumps({"file": hashlib.sha256(data).hexdigest()})

    def parameters(self, *, styled: bool) -> str:
        """The settings that change a picture's bytes, as JSON."""
        words = {"format": self.format, "unknown": self.unknown, **self.reading_words()}
        if self.format in QUALITY_FORMATS:
            words["quality"] = str(self.quality)
        if self.copy_labels:
            words["copy_labels"] = "yes"
        if self.grey:
            words["grey"] = "true"
        if styled:
            words["style"] = self.style_words()
        return json.dumps(words, sort_keys=True)


Container = Literal["folder", "tar", "parquet"]


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """The size of shards; pictures count as done when their shard is complete, and are made again
    if the run is killed before.
    """

    pictures: Annotated[int, Field(ge=1)] = 1000
    """Most pictures in a shard."""
    bytes: Annotated[int, Field(ge=1)] = 512 << 20
    """Bytes that complete a shard."""
