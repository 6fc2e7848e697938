"""Jobs: archives of maps that are rendered in the background, and survive a killed gateway.

    FOLDER/ID/job.json         written last at submission: a folder without it is removed at start
    FOLDER/ID/maps.zip         or maps.tar, until the job ends
    FOLDER/ID/manifest.sqlite  the manifest of `sceneloom.rendering`, from which a restart resumes
    FOLDER/ID/pictures/
    FOLDER/ID/end.json         written at the end: a job without it is resumed at start

A job's pictures take turns with those of single requests at the servers of the gateway.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from sceneloom import errors
from sceneloom.files import describe, publish, write_whole
from sceneloom.maps import Image, InstanceMap, LabelMap, Style
from sceneloom.rendering.connections import Connection
from sceneloom.rendering.items import Failed, Rendered
from sceneloom.rendering.loading import Loader
from sceneloom.rendering.manifest import LISTING, Manifest
from sceneloom.rendering.plan import Maps, Pictures, make_plan
from sceneloom.rendering.run import Plan, RenderRun
from sceneloom.rendering.servers import Address
from sceneloom.rendering.settings import RenderSettings
from sceneloom.request import Padding, Request
from sceneloom.style import style_chooser
from sceneloom.synthesizer import Synthesizer
from sceneloom.text import printable, reason
from sceneloom.validation import checked, read_json
from sceneloom_gateway.problems import Problem
from sceneloom_gateway.tritons import Tritons

State = Literal["uploading", "waiting", "running", "done", "failed"]
_SINGLE_SECONDS = 1.0  # after a single request, jobs draw one picture at a time for so long
_PATIENCE = 3600.0
_STOP_SECONDS = 10.0
_LISTED = 20
_TICKET, _END, _MANIFEST, _PICTURES = "job.json", "end.json", "manifest.sqlite", "pictures"


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class JobSettings:
    """Jobs of many maps."""

    folder: Path | None = None
    """Folder of jobs; without it the gateway takes none."""
    most: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Most jobs, ended ones included."""
    most_of_key: Annotated[int, Field(ge=1, le=100_000)] = 10
    """Most jobs of one API key."""
    running: Annotated[int, Field(ge=1, le=64)] = 2
    """Most jobs that are rendered at the same time."""
    in_flight: Annotated[int, Field(ge=1, le=256)] = 4
    """Most pictures of all jobs in flight; one while single requests come."""
    bytes: Annotated[int, Field(ge=1 << 10)] = 4 << 30
    """Largest archive, packed and unpacked."""
    members: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    """Most members of an archive, and most pictures of a job."""
    disk: Annotated[int, Field(ge=1 << 10)] = 64 << 30
    """Most bytes of all jobs' archives and pictures."""
    upload_seconds: Annotated[float, Field(gt=0, le=86400)] = 600.0
    """Seconds for an archive to arrive."""
    keep_seconds: Annotated[float, Field(gt=0, le=366 * 86400)] = 86400.0
    """Seconds that an ended job and its result are kept."""


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Ticket:
    """An accepted job: the document ``job.json``."""

    format: Literal[1] = 1
    owner: str
    """Name of the API key; empty without one."""
    created: float
    archive: Literal["maps.zip", "maps.tar"]
    options: dict[str, str]
    wanted: int
    """Number of pictures."""
    left_out: tuple[str, ...] = ()
    """Members that are no maps, in sentences."""


@checked()
@dataclasses.dataclass(frozen=True, kw_only=True)
class Ending:
    """The end of a job: the document ``end.json``."""

    format: Literal[1] = 1
    state: Literal["done", "failed"]
    ended: float
    reason: str = ""
    """Cause of a failure."""
    made: int
    failed: int
    failures: tuple[str, ...] = ()
    """Reasons of the first maps without picture."""


@dataclasses.dataclass(eq=False)
class Job:
    """One job of a running gateway."""

    id: str
    folder: Path
    owner: str
    state: State = "uploading"
    ticket: Ticket | None = None
    """None until the archive is accepted."""
    ending: Ending | None = None
    made: int = 0
    failed: int = 0
    failures: list[str] = dataclasses.field(default_factory=list)
    bytes: int = 0
    """Size of its archive and pictures."""
    run: RenderRun | None = None
    task: asyncio.Task[None] | None = None
    outdated: bool = False
    """The servers' model has changed since the run began."""
    deleted: bool = False

    def shown(self, keep_seconds: float) -> dict[str, Any]:
        """The job's document."""
        ticket, ending = self.ticket, self.ending
        assert ticket is not None
        end: dict[str, Any] = {}
        if ending is not None:
            end = {"ended": ending.ended, "expires": ending.ended + keep_seconds}
            end |= {"reason": ending.reason} if ending.reason else {}
        return {
            "id": self.id,
            "state": self.state,
            "wanted": ticket.wanted,
            "made": self.made,
            "failed": self.failed,
            "failures": self.failures,
            "left_out": ticket.left_out,
            "options": ticket.options,
            "created": ticket.created,
            **end,
        }

    def in_words(self, text: str) -> str:
        """A sentence without the gateway's own folders."""
        return text.replace(f"{self.folder}{os.sep}", "")


SettingsOf = Callable[[dict[str, str]], RenderSettings]
"""From a job's options to its settings; raises Problem."""


class Jobs:
    """All jobs of a gateway; one event loop calls its methods."""

    def __init__(
        self, tritons: Tritons, settings: JobSettings, read_options: SettingsOf, max_pixels: int
    ) -> None:
        """Prepare; `open` reads the folder.

        Args:
            tritons: the servers.
            settings: limits; they name a folder.
            read_options: from the options of a job to the settings of its run.
            max_pixels: largest map, in pixels.
        """
        assert settings.folder is not None
        self.settings, self.folder, self.max_pixels = settings, settings.folder, max_pixels
        self.closing = False
        """The gateway is about to end: streams of events end now."""
        self._tritons, self._read_options = tritons, read_options
        self._jobs: dict[str, Job] = {}
        self._turns = asyncio.Condition()
        self._drawing = 0
        self._single_until = 0.0
        self._loop: asyncio.AbstractEventLoop
        self._lock: int | None = None
        self._expiring: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Hold the folder, and resume its jobs; raises InputError."""
        self._loop = asyncio.get_running_loop()
        await self._loop.run_in_executor(None, self._read_folder)
        self._expiring = asyncio.create_task(self._expire())
        self._start_waiting()

    async def close(self) -> None:
        """Stop the running jobs; the next `open` resumes them."""
        self.closing = True
        if self._expiring is not None:
            self._expiring.cancel()
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        for job in self._jobs.values():
            if job.run is not None:
                job.run.stop()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_SECONDS)
            await asyncio.gather(*map(self._abandon, list(self._jobs.values())))
        if self._lock is not None:
            os.close(self._lock)

    def end_streams(self) -> None:
        """End the streams of events, for which the server would wait."""
        self.closing = True

    def give_way(self) -> None:
        """A single request came: for a second, jobs draw one picture at a time."""
        self._single_until = time.monotonic() + _SINGLE_SECONDS

    def find(self, id: str, owner: str) -> Job:
        """A job of a key; raises Problem."""
        job = self._jobs.get(id)
        if job is None or job not in self.of(owner):
            raise Problem(404, "no job of this id; GET /v1/jobs lists yours", kind="NoSuchJob")
        return job

    def of(self, owner: str) -> list[Job]:
        """The jobs of a key, the oldest first."""
        mine = (job for job in self._jobs.values() if job.owner == owner and not job.deleted)
        return sorted((job for job in mine if job.ticket is not None), key=_created)

    def count(self, state: State) -> int:
        """Number of jobs in a state."""
        return sum(job.state == state for job in self._jobs.values())

    def bytes(self) -> int:
        """Bytes of all archives and pictures."""
        return sum(job.bytes for job in self._jobs.values())

    def begin(self, owner: str) -> Job:
        """Take a place for a new job, and make its folder; raises Problem."""
        held = sum(job.owner == owner for job in self._jobs.values())
        most, most_of_key = self.settings.most, self.settings.most_of_key
        if held >= most_of_key or len(self._jobs) >= most:
            whose, count = ("you have", held) if held >= most_of_key else ("there are", most)
            raise Problem(
                429,
                f"{whose} {count} jobs, the most at the same time; delete one, or wait for one to "
                "expire",
                kind="JobLimit",
                retry_after=60,
            )
        self.check_room()
        id = secrets.token_hex(16)
        job = Job(id, self.folder / id, owner)
        try:
            job.folder.mkdir(mode=0o700)
        except OSError as error:
            raise disk_problem(error) from None
        self._jobs[id] = job
        return job

    def check_room(self) -> None:
        """Raise Problem if the jobs fill their share of the disk."""
        if self.bytes() > self.settings.disk:
            raise Problem(507, self._full(), kind="JobDiskFull")

    async def drop(self, job: Job) -> None:
        """Stop a job, and remove all that it left."""
        job.deleted = True
        # Without its ticket a folder is removed at the next start.
        await self._loop.run_in_executor(None, _unlink, job.folder / _TICKET)
        await self._abandon(job)
        await self._loop.run_in_executor(None, shutil.rmtree, job.folder, True)
        self._jobs.pop(job.id, None)
        self._start_waiting()

    def accept(self, job: Job, archive: Path, ticket: Ticket) -> Ticket:
        """Check a whole archive against the model, and keep it; called from a thread. Raises
        Problem, SceneLoomError or OSError.
        """
        contract, place = self._tritons.contract, job.folder / ticket.archive
        publish(archive, place)  # on the disk before its ticket
        settings = self._settings_of(ticket)
        plan = self._plan(job, ticket, settings)
        try:
            Loader(contract, settings, style_chooser(contract, settings))
            source = plan.source(contract)
            wanted = source.count()
        except errors.SceneLoomError as error:
            raise Problem(422, job.in_words(str(error)), kind=type(error).__name__) from None
        if wanted > self.settings.members:
            raise Problem(
                413,
                f"{wanted:,} pictures, and a job has at most {self.settings.members:,}",
                kind="TooManyPictures",
            )
        left_out = tuple(describe(source.left_out))
        ticket = dataclasses.replace(ticket, wanted=wanted, left_out=left_out)
        _write(job.folder / _TICKET, ticket)
        return ticket

    def enqueue(self, job: Job, ticket: Ticket) -> None:
        """Let an accepted job wait for its turn."""
        job.ticket, job.state = ticket, "waiting"
        self._start_waiting()

    def _start_waiting(self) -> None:
        """Start waiting jobs while there is room: of the key with fewest running, the oldest."""
        while not self.closing:
            active = [job for job in self._jobs.values() if job.task is not None]
            waiting = [job for job in self._jobs.values() if job.state == "waiting"]
            waiting = [job for job in waiting if not job.deleted]
            if not waiting or len(active) >= self.settings.running:
                return
            running = [job.owner for job in active]
            job = min(waiting, key=lambda j: (running.count(j.owner), _created(j)))
            job.state = "running"
            job.task = asyncio.create_task(self._work(job))

    async def _work(self, job: Job) -> None:
        """Render a job to its end."""
        why, begun = "", time.monotonic()
        try:
            job.outdated = True
            while job.outdated and not self.closing and not job.deleted:
                why = await self._render(job)
        except (errors.SceneLoomError, Problem) as error:
            why = job.in_words(str(error))
        except OSError as error:
            why = job.in_words(f"the pictures cannot be written: {reason(error)}")
        except Exception:
            traceback.print_exc()
            why = "a fault of the gateway's; its log has the reason"
        try:
            if not (self.closing or job.deleted):
                await self._loop.run_in_executor(
                    None, self._end, job, why, time.monotonic() - begun
                )
        finally:
            job.run = job.task = None
            self._start_waiting()

    async def _render(self, job: Job) -> str:
        """Run a job's plan; returns the reason of a stop, or nothing."""
        assert job.ticket is not None
        job.outdated, job.failed, job.failures = False, 0, []
        why, made = "", 0
        _unlink(job.folder / LISTING)
        plan = self._plan(job, job.ticket, self._settings_of(job.ticket))
        try:
            async with RenderRun(plan) as job.run:
                async for result in job.run:
                    if isinstance(result, Failed):
                        job.failed += 1
                        if len(job.failures) < _LISTED:
                            job.failures.append(job.in_words(result.reason))
                        continue
                    made += 1
                    job.made = max(job.made, made)  # found ones count again after a restart
                    if isinstance(result, Rendered):
                        job.bytes += result.bytes
                        if self.bytes() > self.settings.disk:
                            why = self._full()
                            job.run.stop()
        except errors.ServingError:
            if not job.outdated:
                raise
        job.made = made
        return why

    def _end(self, job: Job, why: str, seconds: float) -> None:
        """Write how a job ended, and remove its archive; called from a thread."""
        assert job.ticket is not None
        ending = Ending(
            state="failed" if why else "done",
            ended=time.time(),
            reason=why,
            made=job.made,
            failed=job.failed,
            failures=tuple(job.failures),
        )
        archive = job.folder / job.ticket.archive
        try:
            _write(job.folder / _END, ending)
        except OSError:  # the archive's room is enough
            job.bytes -= _unlink(archive)
            with contextlib.suppress(OSError):  # full all the same: a restart tries again
                _write(job.folder / _END, ending)
        job.bytes -= _unlink(archive)
        if not (job.folder / LISTING).exists():  # of a full disk
            with contextlib.suppress(OSError, errors.SceneLoomError):
                Manifest(job.folder / _MANIFEST, to_read=True).close(listing=True)
        job.ending, job.state = ending, ending.state
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "job": job.id,
            "key": job.owner,
            "state": job.state,
            "seconds": round(seconds, 1),
            **{name: getattr(job, name) for name in ("made", "failed", "bytes")},
            **({"reason": why} if why else {}),
        }
        print(json.dumps(line), file=sys.stderr, flush=True)

    async def _abandon(self, job: Job) -> None:
        """End a job's run now, without an ending."""
        if job.run is not None:
            await self._loop.run_in_executor(None, job.run.close)
        if job.task is not None:
            await asyncio.wait([job.task])

    def _settings_of(self, ticket: Ticket) -> RenderSettings:
        return dataclasses.replace(
            self._read_options(ticket.options),
            max_pixels=self.max_pixels,
            in_flight=self.settings.in_flight,
            workers=max(1, (os.cpu_count() or 1) // 2),
            patience=_PATIENCE,
        )

    def _plan(self, job: Job, ticket: Ticket, settings: RenderSettings) -> Plan:
        """The plan of a job's run."""

        def ask(request: Request, shared: _Shared) -> concurrent.futures.Future[Image]:
            return asyncio.run_coroutine_threadsafe(self._draw(job, request, shared), self._loop)

        def connect() -> Connection:
            if job.outdated:
                raise errors.ConnectionClosedError("the servers' model has changed")
            shared = _Shared(self._tritons, ask)
            return Connection(shared, shared.close)

        return make_plan(
            Maps(
                location=job.folder / ticket.archive,
                labels=ticket.options.get("labels"),
                instances=ticket.options.get("instances"),
            ),
            Pictures(location=str(job.folder / _PICTURES), manifest=job.folder / _MANIFEST),
            [Address(name="the gateway's servers", connect=connect)],
            settings,
        )

    async def _draw(self, job: Job, request: Request, shared: _Shared) -> Image:
        """Draw one picture of a job, in its turn."""
        async with self._turns:
            await self._turns.wait_for(lambda: self._drawing < self._most_drawing())
            self._drawing += 1
        try:
            if job.deleted or self.closing:
                raise errors.ConnectionClosedError("the job was stopped")
            with self._tritons.using() as served:
                now = served.contract, served.first.engine
                if now == (shared.contract, shared.engine):
                    image, _ = await served.picture(request)
                    return image
            job.outdated = True  # its run begins again with the new model
            if job.run is not None:
                job.run.stop()
            raise errors.ConnectionClosedError("the servers' model has changed")
        finally:
            async with self._turns:
                self._drawing -= 1
                self._turns.notify_all()

    def _most_drawing(self) -> int:
        return 1 if time.monotonic() < self._single_until else self.settings.in_flight

    def _full(self) -> str:
        return (
            f"the jobs have {self.bytes():,} bytes, and --jobs.disk is {self.settings.disk:,}; "
            "delete some"
        )

    def _read_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise errors.InputError(
                f"{self.folder}: another gateway has these jobs; name another folder"
            ) from None
        except OSError as error:
            raise errors.InputError(
                f"{self.folder}: cannot be the folder of jobs ({reason(error)})"
            ) from None
        for folder in self.folder.iterdir():
            if not _is_id(folder.name):
                continue
            if not (folder / _TICKET).exists():  # a broken upload, or a half-removed job
                shutil.rmtree(folder, ignore_errors=True)
                continue
            try:
                self._jobs[folder.name] = _found(folder)
            except (errors.SceneLoomError, OSError) as error:
                words = f"sceneloom gateway: {printable(error)}; this job is left alone"
                print(words, file=sys.stderr, flush=True)

    async def _expire(self) -> None:
        """Remove ended jobs after their time."""
        keep = self.settings.keep_seconds
        while True:
            await asyncio.sleep(min(60.0, keep / 4))
            for job in list(self._jobs.values()):
                if job.ending is not None and job.ending.ended + keep < time.time():
                    await self.drop(job)


class _Shared(Synthesizer):
    """The servers of the gateway, to the run of a job."""

    def __init__(
        self,
        tritons: Tritons,
        ask: Callable[[Request, _Shared], concurrent.futures.Future[Image]],
    ) -> None:
        super().__init__(tritons.contract)
        first = tritons.first
        self.engine, self.model, self.version = first.engine, first.model, first.version
        self._ask = ask
        self._closed: concurrent.futures.Future[Image] = concurrent.futures.Future()

    def run_batch(
        self, label_maps: LabelMap, instance_maps: InstanceMap | None, styles: Style | None
    ) -> Image:
        """Draw one picture; the gateway's loop lives longer than the job's."""
        request = Request(
            label_map=label_maps[0],
            instance_map=None if instance_maps is None else instance_maps[0],
            style=None if styles is None else styles[0],
            padding=Padding(),
        )
        asked = self._ask(request, self)
        concurrent.futures.wait([asked, self._closed], return_when="FIRST_COMPLETED")
        if not asked.done():
            raise errors.ConnectionClosedError("the job was stopped")
        return asked.result()[None]

    def close(self) -> None:
        """Let waiting requests go."""
        if not self._closed.done():
            self._closed.set_result(None)  # type: ignore[arg-type]


def disk_problem(error: OSError) -> Problem:
    """The problem of an archive that cannot be stored."""
    return Problem(507, f"the archive cannot be stored ({reason(error)})", kind="JobDiskFull")


def _created(job: Job) -> float:
    return job.ticket.created if job.ticket is not None else 0.0


def _is_id(name: str) -> bool:
    return len(name) == 32 and set(name) <= set("0123456789abcdef")


def _found(folder: Path) -> Job:
    """A job of an earlier gateway; raises InputError or OSError."""
    path, end = folder / _TICKET, folder / _END
    ticket = read_json(Ticket, path.read_bytes(), source=str(path))
    files = (file for file in folder.rglob("*") if file.is_file())
    job = Job(folder.name, folder, ticket.owner, "waiting", ticket)
    job.bytes = sum(file.stat().st_size for file in files)
    if end.exists():
        ending = job.ending = read_json(Ending, end.read_bytes(), source=str(end))
        job.state, job.made, job.failed = ending.state, ending.made, ending.failed
        job.failures = list(ending.failures)
    elif (manifest := folder / _MANIFEST).exists():
        with contextlib.suppress(errors.SceneLoomError, OSError), Manifest(manifest) as opened:
            job.made = sum(row.status == "done" for row in opened.rows())
    return job


def _write(path: Path, document: Any) -> None:
    data = json.dumps(dataclasses.asdict(document), indent=1) + "\n"
    write_whole(path, data.encode(), flush=True)


def _unlink(path: Path) -> int:
    """Remove a file; returns its size, 0 without one."""
    try:
        size = path.stat().st_size
        path.unlink()
    except OSError:
        return 0
    return size
