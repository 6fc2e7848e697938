"""The actor of `--engine ray`: renders blocks of maps for the driver (ray_engine.py).

It has its own connections, and runs the pipeline of a run once for each block. Ray is not imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import copyreg
import dataclasses
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sceneloom import errors
from sceneloom.contract import Contract
from sceneloom.errors import SceneLoomError, ServingError
from sceneloom.rendering.connections import Reply, Route
from sceneloom.rendering.items import Failed, MapItem, Rendered, Skipped
from sceneloom.rendering.listeners import Levels, Listener
from sceneloom.rendering.loading import Loader, Prepared
from sceneloom.rendering.manifest import Origin, Row, picture_row
from sceneloom.rendering.pipeline import Pipeline
from sceneloom.rendering.plan import TritonServers
from sceneloom.rendering.servers import Servers
from sceneloom.rendering.settings import RenderSettings
from sceneloom.style import style_chooser

_PAUSE = 1.0

# Pickle rebuilds an exception from its `args`, which lack the counts.
copyreg.pickle(
    errors.UnknownLabelError, lambda error: (errors.UnknownLabelError, (str(error), error.counts))
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """Settings and servers shared by all blocks of a run."""

    servers: TritonServers
    """The servers, by addresses that every machine reaches."""
    settings: RenderSettings
    contract: Contract
    origin: Origin
    engine: str
    """The engine that the run began with; empty if unknown."""
    style: str
    """How the style is chosen, as in the manifest."""
    style_file: bytes | None
    """The style file for all maps, which other machines may lack."""
    folder: str
    """The working folder that relative paths refer to."""
    map_schema: bytes | None = None
    """The file of the maps' label schema, which other machines may lack."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assigned:
    """A map to render."""

    item: MapItem
    row: Row | None = None
    """The row of the picture that exists already."""


@dataclasses.dataclass(kw_only=True)
class BlockResult:
    """The outcome of each map of a block, and the events for the driver's listeners."""

    made: list[tuple[Row, bytes, Mapping[str, bytes]]] = dataclasses.field(default_factory=list)
    """Rows without the output, encoded pictures, and copies of their maps."""
    failed: list[tuple[Failed, str]] = dataclasses.field(default_factory=list)
    """Failures with the input hashes."""
    skipped: list[Skipped] = dataclasses.field(default_factory=list)
    requests: list[tuple[float, int, int]] = dataclasses.field(default_factory=list)
    """Seconds, bytes sent and bytes received of each answered request."""
    retries: list[ServingError] = dataclasses.field(default_factory=list)
    """The errors of requests that were sent again."""
    levels: Levels = dataclasses.field(default_factory=Levels)
    """The actor's requests in flight, at their highest, and its window then."""
    route: Route = dataclasses.field(default_factory=Route)
    error: SceneLoomError | None = None
    """Why the run has to end; some maps have no outcome then."""


class BlockWorker:
    """Renders blocks in one event loop."""

    def __init__(self, work: Work) -> None:
        """Prepare; the first block connects."""
        with contextlib.suppress(OSError):  # a machine without the folder has no relative paths
            os.chdir(work.folder)
        self._work, settings = work, work.settings
        self._files = tempfile.TemporaryDirectory(prefix="sceneloom-settings-")
        if work.style_file is not None:
            path = Path(self._files.name) / "style.json"
            path.write_bytes(work.style_file)
            settings = dataclasses.replace(settings, style_file=path)
        if work.map_schema is not None:
            path = Path(self._files.name) / "schema.json"
            path.write_bytes(work.map_schema)
            settings = dataclasses.replace(settings, map_schema=str(path))
        addresses = work.servers.addresses(settings)
        self._settings = settings
        self._servers = Servers(addresses, settings, engine=work.engine)
        self._opening: asyncio.Task[tuple[Loader, int]] | None = None

    async def render(self, block: Sequence[Assigned]) -> BlockResult:
        """Render a block; several may run side by side."""
        taker = _Taker(self._work, self._settings, self._servers, block)
        result = taker.result
        try:
            if self._opening is None:
                self._opening = asyncio.create_task(self._open())
            loader, batch = await self._opening
            pipeline = Pipeline(
                [assigned.item for assigned in block],
                self._servers,
                loader,
                self._settings,
                results=asyncio.Queue(),  # the taker has them too
                store=taker,
                batch=batch,
                listeners=(taker,),
            )
            await pipeline.run()
        except SceneLoomError as error:
            result.error = error
        except (MemoryError, RuntimeError) as error:
            result.error = errors.out_of_resources(error)
            if result.error is None:
                raise
        if self._servers.last is not None:
            result.route = self._servers.last.route
        return result

    async def close(self) -> None:
        """Close the connections."""
        if self._opening is not None:
            self._opening.cancel()
            with contextlib.suppress(asyncio.CancelledError, SceneLoomError):
                await self._opening
        await self._servers.close()
        self._files.cleanup()

    async def _open(self) -> tuple[Loader, int]:
        """Connect, and wait for absent servers as long as the run's patience."""
        contract, settings = self._work.contract, self._settings
        deadline = time.monotonic() + settings.patience
        while True:
            try:
                connection = await self._servers.open()
                break
            except errors.ServerUnavailableError as error:
                if time.monotonic() > deadline:
                    raise errors.ServerUnavailableError(
                        f"no server has answered for {settings.patience:g} s (the last to be "
                        f"tried: {error})"
                    ) from None
                await asyncio.sleep(_PAUSE)
        if connection.contract != contract:
            raise errors.InputError(
                f"{', '.join(self._work.servers.urls)}: serves another model than the run began "
                "with; its pictures would not match"
            )
        return Loader(contract, settings, style_chooser(contract, settings)), connection.batch


class _Taker(Listener):
    """The store and the listener of a block: collects its result."""

    def __init__(
        self, work: Work, settings: RenderSettings, servers: Servers, block: Sequence[Assigned]
    ) -> None:
        self._work, self._settings, self._servers = work, settings, servers
        self._rows = {assigned.item.key: assigned.row for assigned in block}
        self.result = BlockResult()

    def found(self, key: str, input_hash: str) -> Row | None:
        row = self._rows[key]
        if row is None or row.input_hash != input_hash:
            return None
        self.result.skipped.append(Skipped(key=key, output=row.output, engine=row.engine))
        return row

    def put(self, prepared: Prepared, reply: Reply, attempts: int) -> list[Rendered]:
        origin, style = self._work.origin, self._work.style
        row, data = picture_row(
            prepared, reply, attempts, self._settings, origin=origin, style=style
        )
        self.result.made.append((row, data, prepared.copies))
        return []

    def fail(
        self, item: MapItem, error: Exception, *, input_hash: str, failures: Sequence[ServingError]
    ) -> Failed:
        failed = Failed(key=item.key, error=error, attempts=len(failures))
        self.result.failed.append((failed, input_hash))
        return failed

    def finish(self) -> list[Rendered]:
        return []

    def on_answer(self, seconds: float, sent: int, received: int) -> None:
        self.result.requests.append((seconds, sent, received))
        in_flight = self._servers.in_flight()
        if in_flight >= self.result.levels.in_flight:
            self.result.levels = Levels(in_flight=in_flight, window=self._servers.limit())

    def on_retry(self, error: ServingError) -> None:
        self.result.retries.append(error)
