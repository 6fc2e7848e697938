"""How a data set is rendered."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os

from sceneloom.errors import InputError
from sceneloom.kinds import check_kind
from sceneloom.maps import DEFAULT_MAX_PIXELS, OnUnknown
from sceneloom.rendering.retry import RetryPolicy
from sceneloom.rendering.writing.formats import FORMATS, Format
from sceneloom.style_choice import StyleChoice

_MAX_IN_FLIGHT = 256
_MAX_SECONDS = 7 * 86400


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderSettings(StyleChoice):
    """How to render."""

    format: Format = "png"
    """png is lossless; jpg is smaller and faster to write; webp is smaller still and slow; jxl is
    lossless, fast, and smaller than png (needs the extra datasets).
    """
    quality: int = 95
    """Quality of jpg and webp, 1 to 100; webp of 100 is lossless."""
    unknown: OnUnknown = "error"
    """What to do with label ids that the model's schema does not have: refuse the map, or read them
    as unlabelled.
    """
    max_pixels: int = DEFAULT_MAX_PIXELS
    """Largest map to read, in pixels."""
    mix_precisions: bool = False
    """Let servers of different precision work together, and keep pictures that another precision
    made; otherwise those are made again.
    """
    in_flight: int | None = None
    """Requests in flight to each server; without it their number follows what the server can use
    (docs/rendering.md).
    """
    most_in_flight: int = 32
    """Where it follows the server: never more than this to one server."""
    look_ahead: int = 64
    """Maps that are read ahead, to be sent in an order of sizes: servers join equal sizes only."""
    workers: int | None = None
    """Threads that decode maps and encode pictures; without it, one per core."""
    patience: float = 300.0
    """Seconds for which no server may answer before the run stops; it can be gone on with later."""
    retry: RetryPolicy = dataclasses.field(default_factory=RetryPolicy)
    """How often and how fast a picture is asked for again."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if self.format not in FORMATS:
            raise InputError(f"format is {self.format!r}; it is one of {', '.join(FORMATS)}")
        if self.unknown not in ("error", "unlabelled"):
            raise InputError(f"unknown is {self.unknown!r}; it is error or unlabelled")
        for name, low, high in (
            ("quality", 1, 100),
            ("max_pixels", 1, None),
            ("in_flight", 1, _MAX_IN_FLIGHT),
            ("most_in_flight", 1, _MAX_IN_FLIGHT),
            ("look_ahead", 1, 100_000),
            ("workers", 1, 1024),
        ):
            value = getattr(self, name)
            if value is not None:
                check_kind(value, int, f"{name}, a whole number,")
            if value is not None and (value < low or (high is not None and value > high)):
                range_ = f"at least {low}" if high is None else f"from {low} to {high}"
                raise InputError(f"{name} is {value}; it is {range_}")
        check_kind(self.patience, (int, float), "patience, in seconds,")
        if not 0 < self.patience <= _MAX_SECONDS:
            raise InputError(f"patience is {self.patience}; it is above 0 and at most a week")

    @property
    def threads(self) -> int:
        """Threads that decode and encode."""
        if self.workers is not None:
            return self.workers
        if hasattr(os, "sched_getaffinity"):  # not on every system
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1

    def style_words(self) -> str:
        """How the style is chosen, as JSON; a style file by the hash of its bytes.

        Raises:
            InputError: the style file cannot be read.
        """
        if self.style_seed is not None:
            words = {"seed": self.style_seed, "of": self.style_of, "per": self.style_per}
            return json.dumps(words)
        if self.style_file is None:
            return json.dumps("default")
        if self.style_file.is_dir():
            return json.dumps("a file for each map")  # its bytes count as the map's
        try:
            data = self.style_file.read_bytes()
        except OSError as error:
            raise InputError(f"{self.style_file}: cannot be read ({error.strerror})") from None
        return json.dumps({"file": hashlib.sha256(data).hexdigest()})

    def parameters(self, *, styled: bool) -> str:
        """What decides a picture's bytes beside map and model, as JSON."""
        words: dict[str, str] = {"format": self.format, "unknown": self.unknown}
        if self.format in ("jpg", "webp"):
            words["quality"] = str(self.quality)
        if styled:
            words["style"] = self.style_words()
        return json.dumps(words, sort_keys=True)
