"""What goes between the process that writes a run's pictures and those that render them; all of it
can be pickled.
"""

from __future__ import annotations

import copyreg
import dataclasses
from collections.abc import Mapping, Sequence

from sceneloom.contract import Contract
from sceneloom.errors import SceneLoomError, ServingError, UnknownLabelError
from sceneloom.rendering.dataset import TritonServers
from sceneloom.rendering.interfaces import MapItem
from sceneloom.rendering.manifest import Origin, Row
from sceneloom.rendering.settings import RenderSettings
from sceneloom.rendering.triton import Way
from sceneloom.rendering.watching.listener import Levels

# An exception is pickled as its class and its `args`, and this one wants more.
copyreg.pickle(UnknownLabelError, lambda error: (UnknownLabelError, (str(error), error.counts)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What all blocks of a run have in common."""

    servers: TritonServers
    """By whom, as every machine reaches them."""
    settings: RenderSettings
    """How."""
    contract: Contract
    """Of the model that the run began with."""
    origin: Origin
    """What the manifest says of each picture."""
    engine: str
    """What ran the model where the run began; empty where unknown."""
    style: str
    """How the style is chosen, as the manifest says it."""
    style_file: bytes | None
    """The style file for all maps: other machines need not have it."""
    folder: str
    """The working folder that relative paths are meant from, where this machine has it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """A map to be rendered."""

    item: MapItem
    """Where it is."""
    known: str = ""
    """What the map was when the picture was made that is there already; empty where none is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
    """An encoded picture, to be put in its place."""

    row: Row
    """What the manifest shall say of it, but for its output."""
    data: bytes
    """The encoded picture."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unmade:
    """A map that gave no picture."""

    row: Row
    """What the manifest shall say of it."""
    error: Exception
    """Why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unchanged:
    """A map that is what it was when its picture was made."""

    key: str
    """Of the map."""


Outcome = Made | Unmade | Unchanged


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answered:
    """What became of a block."""

    outcomes: Mapping[str, Outcome]
    """Key -> what became of its map; those that are missing were not come to, for `error`."""
    requests: Sequence[tuple[float, int, int]]
    """Seconds, bytes sent and bytes received of each request that was answered."""
    retries: Sequence[ServingError]
    """What requests met that were sent again."""
    worker: int
    """Which process this was."""
    levels: Levels
    """How full its pipeline was when most was in flight."""
    way: Way
    """Which way its pictures go, and why."""
    error: SceneLoomError | None
    """Why the run has to end, or None."""
