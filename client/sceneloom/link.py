"""Which way a picture should go, raw or encoded: measured on the link that there is.

Beside each other, raw is the quicker one: encoding would only move work to the server. Across a
network it is 16 MB at 2048x1024 against less than one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy.typing as npt

from sceneloom.encoded import EncodedClient, EncodedFormat
from sceneloom.maps import OnUnknown, read_instance_map, read_label_map
from sceneloom.pictures import encode_picture

if TYPE_CHECKING:
    from sceneloom.synthesizer import Synthesizer

_WORTH_IT = 0.9
_ROUNDS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinkTimes:
    """What one picture took each way, from the files of its maps to its own."""

    raw: float
    """Seconds with arrays on the wire, decoding and encoding here."""
    encoded: float
    """Seconds with files on the wire, decoding and encoding on the server."""

    @property
    def path(self) -> Literal["raw", "encoded"]:
        """The way to go: encoded if that saves a tenth, or else raw, which has no Python in front
        of the engine.
        """
        return "encoded" if self.encoded < _WORTH_IT * self.raw else "raw"


def measure_link(
    synthesizer: Synthesizer,
    encoded: EncodedClient,
    label_file: bytes,
    instance_file: bytes | None = None,
    style: npt.NDArray[Any] | None = None,
    *,
    format: EncodedFormat = "png",
    quality: int = 95,
    unknown: OnUnknown = "error",
) -> LinkTimes:
    """Have one picture rendered each way, in turn, twice, and keep the better time of each: the
    first request of a connection, and of a size, takes longer.

    Args:
        synthesizer: the raw path.
        encoded: the encoded path of the same server.
        label_file: PNG file of a map like those that are to be rendered.
        instance_file: PNG file of its instances, where the model takes them.
        style: float [K, F], row k for the k-th smallest instance id; None for the defaults.
        format: of the pictures.
        quality: of jpg and webp.
        unknown: what becomes of label ids that the schema does not have.

    Raises:
        InputError: the map does not fit the model.
        ServingError: the server did not answer with a picture.
    """

    def by_arrays() -> None:
        contract = synthesizer.contract
        labels = read_label_map(label_file, contract.schema, unknown=unknown)
        wanted = contract.wants_instances
        there = None if instance_file is None or not wanted else read_instance_map(instance_file)
        encode_picture(synthesizer.synthesize(labels, there, style), format, quality=quality)

    def by_files() -> None:
        encoded.synthesize(
            label_file, instance_file, style, format=format, quality=quality, unknown=unknown
        )

    raw, files = zip(
        *((_seconds(by_arrays), _seconds(by_files)) for _ in range(_ROUNDS)), strict=True
    )
    return LinkTimes(raw=min(raw), encoded=min(files))


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
