"""The routes of jobs, and the check of an uploaded archive.

    curl -X POST -T maps.zip -H 'Content-Type: application/zip' "$URL/v1/jobs?looks=2"

The archive is the body: it is written to the job's folder as it arrives. Nothing is unpacked, ever;
the readers of `sceneloom.rendering` read its members in place.
"""

from __future__ import annotations

import asyncio
import io
import json
import stat
import time
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, Any, Literal, cast, get_args

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest

from sceneloom.errors import ImageReadError, InputError
from sceneloom.pictures import EncodedFormat
from sceneloom.rendering.items import key_error
from sceneloom.rendering.manifest import LISTING
from sceneloom.rendering.settings import RenderSettings
from sceneloom.rendering.tar import tar_members
from sceneloom.text import printable, reason
from sceneloom_gateway.exchange import Metrics
from sceneloom_gateway.inputs import unknown_field, whole_number
from sceneloom_gateway.jobs import Job, Jobs, JobSettings, Ticket, disk_problem
from sceneloom_gateway.problems import MEDIA_TYPE, Problem

_WORDS = ("boundaries", "format", "style_of", "style_per", "unknown")
_NUMBERS = ("looks", "quality", "style_seed")
_PLACES = ("instances", "labels")
OPTIONS = tuple(sorted((*_WORDS, *_NUMBERS, *_PLACES)))
_MEDIA = ("application/zip", "application/x-zip-compressed", "application/x-tar")
_ANY_MEDIA = ("", "application/octet-stream")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_PIECE = 1 << 20
_LOOK_SECONDS, _ALIVE_SECONDS = 0.25, 15.0

Archive = Literal["maps.zip", "maps.tar"]


def read_options(options: dict[str, str]) -> RenderSettings:
    """The settings of a run from a job's options; raises Problem that names the field at fault."""
    values: dict[str, Any] = {name: options[name] for name in _WORDS if name in options}
    values |= {name: whole_number(options, name, 0) for name in _NUMBERS if name in options}
    if (format := values.get("format", "png")) not in get_args(EncodedFormat):
        known = ", ".join(get_args(EncodedFormat))
        raise Problem(422, f"format is {format[:40]!r}; it is {known}", field="format")
    try:
        return RenderSettings(**values)
    except InputError as error:
        field = next((name for name in OPTIONS if str(error).startswith(f"{name} ")), "")
        raise Problem(422, str(error), kind="InputError", field=field) from None


def add_job_routes(
    app: FastAPI, jobs: Jobs, metrics: Metrics, by_key: list[Any]
) -> dict[str, tuple[int, float]]:
    """Add the routes below /v1/jobs; returns bytes and seconds of an upload, by path."""
    problem = {"content": {MEDIA_TYPE: {"schema": {"type": "object"}}}}
    unknown: dict[int | str, dict[str, Any]] = {404: {"description": "No such job.", **problem}}
    router = APIRouter(prefix="/v1/jobs", dependencies=by_key, tags=["jobs"])
    metrics.level("jobs_waiting", "Jobs that wait for their turn.", lambda: jobs.count("waiting"))
    metrics.level("jobs_running", "Jobs that are rendered.", lambda: jobs.count("running"))
    metrics.level("jobs_bytes", "Bytes of the archives and pictures of all jobs.", jobs.bytes)

    def find(request: HttpRequest, id: str) -> Job:
        return jobs.find(id, _owner(request))

    def shown(job: Job) -> dict[str, Any]:
        return job.shown(jobs.settings.keep_seconds)

    @router.post("", status_code=201, openapi_extra=_openapi())
    async def submit(request: HttpRequest) -> JSONResponse:
        """Render an archive of maps, zip or tar, in the background."""
        options = _read_query(request)
        _check_media(request)
        job = jobs.begin(_owner(request))
        try:
            part = job.folder / "maps.part"
            await _receive(request, jobs, job, part)
            loop = asyncio.get_running_loop()
            archive = await loop.run_in_executor(
                None, check_archive, part, jobs.settings, jobs.max_pixels
            )
            ticket = Ticket(
                owner=job.owner, created=time.time(), archive=archive, options=options, wanted=0
            )
            try:
                ticket = await loop.run_in_executor(None, jobs.accept, job, part, ticket)
            except OSError as error:
                raise disk_problem(error) from None
        except BaseException:
            await asyncio.shield(jobs.drop(job))
            raise
        jobs.enqueue(job, ticket)
        return JSONResponse(shown(job), 201, {"Location": f"/v1/jobs/{job.id}"})

    @router.get("")
    async def list_jobs(request: HttpRequest) -> list[dict[str, Any]]:
        """The jobs of this key, the oldest first."""
        return [shown(job) for job in jobs.of(_owner(request))]

    @router.get("/{id}", responses=unknown)
    async def show(request: HttpRequest, id: str) -> dict[str, Any]:
        """State and progress: wanted, made and failed pictures."""
        return shown(find(request, id))

    @router.get("/{id}/events", responses=unknown, response_class=StreamingResponse)
    async def events(request: HttpRequest, id: str) -> StreamingResponse:
        """Server-sent events: `progress` at each change, and `end`."""
        stream = _events(jobs, find(request, id))
        return StreamingResponse(stream, media_type="text/event-stream")

    @router.get("/{id}/result", responses=unknown, response_class=StreamingResponse)
    async def result(request: HttpRequest, id: str) -> StreamingResponse:
        """The pictures of an ended job and their manifest, as a zip file."""
        job = find(request, id)
        listing = job.folder / LISTING  # written when a run ends
        if job.ending is None:
            made = f"{job.made} of {shown(job)['wanted']} pictures are made"
            raise Problem(409, f"the job is {job.state}: {made}", kind="JobNotEnded", retry_after=5)
        if not listing.exists():
            raise Problem(409, "the job has no pictures", kind="JobHasNoResult")
        name = f'attachment; filename="{job.id}.zip"'
        return StreamingResponse(
            zipped(job.folder / "pictures", job.in_words(listing.read_text("utf-8"))),
            media_type="application/zip",
            headers={"Content-Disposition": name},
        )

    @router.delete("/{id}", status_code=204, responses=unknown)
    async def delete(request: HttpRequest, id: str) -> Response:
        """Stop a job, and remove its pictures."""
        await asyncio.shield(jobs.drop(find(request, id)))
        return Response(status_code=204)

    app.include_router(router)
    return {router.prefix: (jobs.settings.bytes, jobs.settings.upload_seconds)}


def _openapi() -> dict[str, Any]:
    """The body and the options of a submission."""
    file = {"schema": {"type": "string", "format": "binary"}}
    texts = [
        {"name": name, "in": "query", "schema": {"type": kind}}
        for names, kind in ((_WORDS, "string"), (_NUMBERS, "integer"), (_PLACES, "string"))
        for name in names
    ]
    content = {media: file for media in ("application/zip", "application/x-tar")}
    return {"requestBody": {"required": True, "content": content}, "parameters": texts}


def _owner(request: HttpRequest) -> str:
    return str(getattr(request.state, "key", ""))


def _read_query(request: HttpRequest) -> dict[str, str]:
    """The options of a submission; raises Problem."""
    options: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in OPTIONS or name in options:
            raise unknown_field(name, OPTIONS, twice=name in options)
        if name in _PLACES and (fault := key_error(value)) and value != ".":
            raise Problem(422, f"{name} is {value[:40]!r}: {fault}", field=name)
        options[name] = value
    read_options(options)
    return options


def _check_media(request: HttpRequest) -> None:
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media not in (*_MEDIA, *_ANY_MEDIA):
        raise Problem(
            415,
            f"the content type is {media}; send the archive itself as the body (curl -X POST -T "
            "maps.zip -H 'Content-Type: application/zip')",
            headers={"Accept-Post": "application/zip, application/x-tar"},
        )


async def _receive(request: HttpRequest, jobs: Jobs, job: Job, part: Path) -> None:
    """Write the body to the disk as it arrives; raises Problem."""
    loop, held = asyncio.get_running_loop(), bytearray()

    async def write(stream: IO[bytes]) -> None:
        piece = bytes(held)
        held.clear()
        job.bytes += len(piece)
        jobs.check_room()
        await loop.run_in_executor(None, stream.write, piece)

    try:
        with part.open("wb") as stream:
            async for chunk in request.stream():
                held += chunk
                if len(held) >= _PIECE:
                    await write(stream)
            await write(stream)
    except ClientDisconnect:
        raise Problem(400, "the connection was closed before the archive was whole") from None
    except OSError as error:
        raise disk_problem(error) from None


async def _events(jobs: Jobs, job: Job) -> AsyncIterator[str]:
    """The job's changes as server-sent events, until it ends or the gateway does."""
    last, said = "", time.monotonic()
    while not jobs.closing:
        text = json.dumps(job.shown(jobs.settings.keep_seconds))
        ended = job.ending is not None or job.deleted
        if text != last or ended:
            yield f"event: {'end' if ended else 'progress'}\ndata: {text}\n\n"
            last, said = text, time.monotonic()
        elif time.monotonic() - said > _ALIVE_SECONDS:
            yield ": still here\n\n"
            said = time.monotonic()
        if ended:
            return
        await asyncio.sleep(_LOOK_SECONDS)


def check_archive(path: Path, settings: JobSettings, max_pixels: int) -> Archive:
    """The kind of an archive whose members are all plain, few and small; raises Problem."""
    with path.open("rb") as stream:
        start = stream.read(512)
    if start.startswith(_COMPRESSED):
        raise Problem(415, "a compressed tar file; maps are compressed already: send the .tar")
    is_tar = start[257:262] == b"ustar"
    if not is_tar and not start.startswith(b"PK"):
        raise Problem(415, "the body is neither a zip nor a tar file")
    most_bytes = 8 * max_pixels + (1 << 20)  # no map takes more a pixel
    names, total = set[str](), 0
    for name, size, fault in (_tar_entries if is_tar else _zip_entries)(path, settings.members):
        if name in ("", ".") and size == 0:  # of the folder itself: tar -C maps -c .
            continue
        fault = fault or key_error(name)
        if fault is None and name in names:
            fault = "there are two of this name"
        if fault is not None:
            raise Problem(422, f"{printable(name[:200])}: {fault}", kind="ArchiveRefused")
        names.add(name)
        total += size
        if len(names) > settings.members:
            raise Problem(413, f"the archive has more than {settings.members:,} members")
        if size > most_bytes or total > settings.bytes:
            most = min(most_bytes, settings.bytes)
            raise Problem(
                413,
                f"{printable(name[:200])}: {size:,} bytes unpacked; a member has at most {most:,}, "
                f"and all together {settings.bytes:,}",
            )
    return "maps.tar" if is_tar else "maps.zip"


_Entries = Iterator[tuple[str, int, str | None]]


def _zip_entries(path: Path, most: int) -> _Entries:
    """Name, unpacked size and fault of each member."""
    try:
        with path.open("rb") as stream:
            bounded = cast("IO[bytes]", _Bounded(stream, (256 * most) + (1 << 18)))
            members = zipfile.ZipFile(bounded).infolist()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        raise _damaged("zip", error) from None
    for info in members:
        kind, fault = stat.S_IFMT(info.external_attr >> 16), None
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            fault = "a link or a device, and no plain file"
        elif info.flag_bits & 1:
            fault = "encrypted"
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            fault = f"compressed by method {info.compress_type}; deflated and stored ones are read"
        elif info.orig_filename != info.filename:
            fault = "a name with a null character"
        yield info.filename.removeprefix("./").removesuffix("/"), info.file_size, fault


def _tar_entries(path: Path, most: int) -> _Entries:
    """Name, size and fault of each member."""
    try:
        with path.open("rb") as stream:
            bounded = cast("IO[bytes]", _Bounded(stream, (2048 * most) + (1 << 20)))
            for member in tar_members(bounded, "the archive"):
                plain = member.is_file or member.is_folder
                fault = None if plain else "a link or a device, and no plain file"
                yield member.name.removesuffix("/"), member.size, fault
    except (ImageReadError, RecursionError) as error:
        raise _damaged("tar", error) from None


class _Bounded:
    """A file that refuses to read more than an archive's headers take."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream, self._left = stream, most
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        """Read some bytes; raises ValueError beyond the bound."""
        if size > self._left:
            raise ValueError("its headers are too large")
        data = self._stream.read(min(size, self._left) if size >= 0 else self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("its headers are too large")
        return data


def _damaged(kind: str, error: BaseException) -> Problem:
    return Problem(422, f"the {kind} file is damaged ({reason(error)})", kind="ArchiveRefused")


def zipped(folder: Path, listing: str) -> Iterator[bytes]:
    """A zip file of the pictures in a listing, and of the listing, one member at a time; raises
    OSError if a picture is gone.
    """
    window = _Window()
    with zipfile.ZipFile(cast("IO[bytes]", window), "w") as archive:
        for row in map(json.loads, listing.splitlines()):
            if row["status"] == "done":
                data = (folder / row["output"]).read_bytes()
                archive.writestr(_info(row["output"]), data)
                yield window.take()
        archive.writestr(_info(LISTING), listing)
        yield window.take()
    yield window.take()


def _info(name: str) -> zipfile.ZipInfo:
    """A member without a time, so that equal results have equal bytes."""
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o100644 << 16
    return info


class _Window(io.BytesIO):
    """The end of a file whose start was taken away. A member's header is written again after its
    bytes, so that readers of streams know its size beforehand.
    """

    _taken = 0

    def take(self) -> bytes:
        """Take the bytes written since the last call."""
        data = self.getvalue()
        super().seek(0)
        self.truncate()
        self._taken += len(data)
        return data

    def tell(self) -> int:
        return self._taken + super().tell()

    def seek(self, place: int, whence: int = 0) -> int:
        assert whence == 0
        return super().seek(place - self._taken)
