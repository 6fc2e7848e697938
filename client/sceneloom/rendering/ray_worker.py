"""Renders blocks of maps for another process, which writes the pictures: what runs on every machine
under `--engine ray`.

A worker has its own connections and runs the same pipeline as a run in one process, a block at a
time, or a few side by side.
"""

from __future__ import annotations

import asyncio
import contextlib
import copyreg
import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sceneloom.contract import Contract
from sceneloom.errors import (
    InputError,
    SceneLoomError,
    ServerUnavailableError,
    ServingError,
    UnknownLabelError,
    out_of_resources,
)
from sceneloom.file_tree import LeftOut
from sceneloom.rendering.connections import Reply, Route
from sceneloom.rendering.items import Failed, MapItem, Rendered, Skipped
from sceneloom.rendering.listeners import Levels, Listener
from sceneloom.rendering.loading import Loaded, Loader, Prepared
from sceneloom.rendering.manifest import Origin, Row
from sceneloom.rendering.pipeline import Pipeline
from sceneloom.rendering.plan import TritonServers
from sceneloom.rendering.servers import Servers
from sceneloom.rendering.settings import RenderSettings
from sceneloom.rendering.store import failure_row, picture_row
from sceneloom.style import style_chooser
from sceneloom.text import counted

# An exception is pickled as its class and its `args`, and this one wants more.
copyreg.pickle(UnknownLabelError, lambda error: (UnknownLabelError, (str(error), error.counts)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What all blocks of a run have in common."""

    servers: TritonServers
    """By whom, as every machine reaches them."""
    settings: RenderSettings
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
class Assigned:
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unchanged:
    """A map that is what it was when its picture was made."""

    key: str


Outcome = Made | Unmade | Unchanged


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockResult:
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
    route: Route
    """How its pictures travel."""
    error: SceneLoomError | None
    """Why the run has to end, or None."""


_PAUSE = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Opened:
    """What a worker has once it is connected."""

    servers: Servers
    loader: Loader
    batch: int


class BlockWorker:
    """Renders blocks, all of them in one event loop."""

    def __init__(self, work: Work) -> None:
        """Prepare; the first block connects.

        Args:
            work: what all blocks have in common.
        """
        self._work = work
        self._style_folder = tempfile.TemporaryDirectory(prefix="sceneloom-style-")
        self._settings = self._localised(work)
        self._servers: Servers | None = None
        self._opening: asyncio.Task[_Opened] | None = None

    async def render(self, block: Sequence[Assigned]) -> BlockResult:
        """Render a block; several may be under way at once."""
        store, heard = BlockStore(self._work, self._settings, block), _Relay()
        error: SceneLoomError | None = None
        try:
            if self._opening is None:
                self._opening = asyncio.get_running_loop().create_task(self._open())
            await self._run(block, await self._opening, store, heard)
        except SceneLoomError as met:
            error = met
        except (MemoryError, RuntimeError) as met:
            error = out_of_resources(met)
            if error is None:
                raise
        return self._answer(store, heard, error)

    def give_up(self, block: Sequence[Assigned], deaths: int) -> BlockResult:
        """Reply a block that ends the process that renders it.

        Args:
            block: the maps.
            deaths: how many processes there were.
        """
        store = BlockStore(self._work, self._settings, block)
        for item in (given.item for given in block):
            error = SceneLoomError(
                f"{item.label.name}: {deaths} processes died at it, or at one of the "
                f"{counted(len(block), 'map')} that they were given together"
            )
            store.fail(item, error, input_hash="", failures=())
        return self._answer(store, _Relay(), None)

    async def close(self) -> None:
        """Close the connections."""
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
            with contextlib.suppress(asyncio.CancelledError, SceneLoomError):
                await opening
        if self._servers is not None:
            await self._servers.close()
        self._style_folder.cleanup()

    def _localised(self, work: Work) -> RenderSettings:
        """The settings, with the style file as this machine has it."""
        if work.style_file is None:
            return work.settings
        path = Path(self._style_folder.name) / "style.json"
        path.write_bytes(work.style_file)
        return dataclasses.replace(work.settings, style_file=path)

    async def _open(self) -> _Opened:
        """Connect, which a server that is away may delay by as long as a run waits for one."""
        addresses = self._work.servers.addresses(self._settings)
        servers = Servers(addresses, self._settings, engine=self._work.engine)
        self._servers = servers
        deadline = time.monotonic() + self._settings.patience
        while True:
            try:
                connection = await servers.open()
                break
            except ServerUnavailableError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_PAUSE)
        contract, settings = connection.contract, self._settings
        if contract != self._work.contract:
            await servers.close()
            raise InputError(
                f"{', '.join(self._work.servers.urls)}: serves another model than the run began "
                "with; its pictures would not match"
            )
        return _Opened(
            servers=servers,
            loader=Loader(contract, settings, style_chooser(contract, settings)),
            batch=connection.batch,
        )

    def _answer(
        self, store: BlockStore, heard: _Relay, error: SceneLoomError | None
    ) -> BlockResult:
        last = None if self._servers is None else self._servers.last
        return BlockResult(
            outcomes=store.outcomes,
            requests=heard.requests,
            retries=heard.retries,
            worker=os.getpid(),
            levels=heard.most,
            route=last.route if last is not None else Route(),
            error=error,
        )

    async def _run(
        self, block: Sequence[Assigned], opened: _Opened, store: BlockStore, heard: _Relay
    ) -> None:
        heard.pipeline = Pipeline(
            _Block(block),
            opened.servers,
            opened.loader,
            self._settings,
            results=asyncio.Queue(),  # the store has them too
            store=store,
            batch=opened.batch,
            listeners=(heard,),
        )
        await heard.pipeline.run()


class BlockStore:
    """Takes the pictures of a block instead of a place and a manifest, which another process
    has.
    """

    def __init__(self, work: Work, settings: RenderSettings, block: Sequence[Assigned]) -> None:
        """Begin with nothing.

        Args:
            work: what the rows say of a picture's origin.
            settings: format and quality.
            block: says what is there already.
        """
        self._work, self._encoding = work, settings
        self._known = {given.item.key: given.known for given in block}
        self.outcomes: dict[str, Outcome] = {}
        """Key -> what became of its map."""

    def skip(self, loaded: Loaded) -> Skipped | None:
        """Whether the map is what it was when its picture was made; see `Store`."""
        key = loaded.item.key
        if self._known.get(key) != loaded.input_hash:
            return None
        self.outcomes[key] = Unchanged(key=key)
        return Skipped(key=key, output="")

    def put(self, prepared: Prepared, reply: Reply, attempts: int) -> list[Rendered]:
        """Encode a picture and hold it; see `Store`."""
        row, data = picture_row(
            prepared,
            reply,
            attempts,
            self._encoding,
            origin=self._work.origin,
            style=self._work.style,
        )
        self.outcomes[row.key] = Made(row=row, data=data)
        return []

    def fail(
        self, item: MapItem, error: Exception, *, input_hash: str, failures: Sequence[ServingError]
    ) -> Failed:
        """Hold the reason; see `Store`."""
        failed = Failed(key=item.key, error=error, attempts=len(failures))
        row = failure_row(failed, origin=self._work.origin, input_hash=input_hash)
        self.outcomes[item.key] = Unmade(row=row, error=error)
        return failed

    def finish(self) -> list[Rendered]:
        """Nothing is held back."""
        return []


class _Block:
    """A block as the source of a pipeline."""

    name = "a block"

    def __init__(self, block: Sequence[Assigned]) -> None:
        self._block = block

    def count(self) -> int:
        return len(self._block)

    def left_out(self) -> Sequence[LeftOut]:
        return ()

    def __iter__(self) -> Iterator[MapItem]:
        return (given.item for given in self._block)


class _Relay(Listener):
    """Holds what listeners in the other process shall hear."""

    def __init__(self) -> None:
        self.requests: list[tuple[float, int, int]] = []
        self.retries: list[ServingError] = []
        self.most = Levels()
        self.pipeline: Pipeline | None = None

    def on_answer(self, seconds: float, sent: int, received: int) -> None:
        self.requests.append((seconds, sent, received))
        assert self.pipeline is not None
        levels = self.pipeline.levels()
        if levels.in_flight >= self.most.in_flight:
            self.most = levels

    def on_retry(self, error: ServingError) -> None:
        self.retries.append(error)
