"""`sceneloom render`: flags, progress, signals, summary and exit code around `sceneloom.rendering`.

Exit codes: 0 every map has its picture; 1 some have none, or the run could not begin; 2 the command
line is wrong; 3 no server answers; 4 the output location is full or gone, or this machine has no
memory or no thread left; 130 and 143 stopped by SIGINT and SIGTERM, with the maps in work finished.
After 3, 4, 130 and 143, and after a kill, the same command resumes the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from sceneloom import errors, tracing
from sceneloom.contract import MODEL_NAME
from sceneloom.rendering.dry_run import dry_run, rendered_pictures, report_check, report_dry_run
from sceneloom.rendering.items import Failed, look_ending
from sceneloom.rendering.listeners import Listener, LogLines, ProgressBar, Tally, list_failures
from sceneloom.rendering.manifest import location_is_gone
from sceneloom.rendering.metrics import Metrics, serve_metrics
from sceneloom.rendering.plan import Maps, Pictures, TritonServers, make_plan, shards_of_manifests
from sceneloom.rendering.ray_engine import RayRun, RaySettings
from sceneloom.rendering.run import Plan, RenderRun, Run
from sceneloom.rendering.settings import Container, RenderSettings, ShardSettings
from sceneloom.rendering.video import check_video, write_video
from sceneloom.text import printable
from sceneloom.triton.access import AccessArguments, AccessFlags
from sceneloom.triton.client import TransportChoice
from sceneloom.triton.transport import Timeouts

SERVER_GONE, LOCATION_GONE = 3, 4
_RESUMES = "the same command resumes the run"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderFlags:
    """Output, servers, and the view of the run."""

    url: tuple[str, ...] = ("127.0.0.1:8001",)
    """HOST:PORT of the server's gRPC port (grpcs://HOST:PORT with TLS), http://HOST:PORT of its
    HTTP port, or https://HOST:PORT of a gateway; several share the work, and stand in for each
    other.
    """
    model: str = MODEL_NAME
    """Name of the served model."""
    model_version: Annotated[str, arg(metavar="N")] = ""
    """Triton's number of its version; the latest without it."""
    labels: Annotated[str | None, arg(metavar="DIR")] = None
    """Folder of label maps inside INPUT, or absolute; default test_label. For tar and Parquet: the
    label maps' name, default label. Of a model of pictures: of these (docs/rendering-formats.md).
    """
    instances: Annotated[str | None, arg(metavar="DIR")] = None
    """Folder of instance maps, likewise; default test_inst, without --labels. The instance map's
    file, if INPUT is a label map's.
    """
    timeout: float = 120.0
    """Seconds to wait for one picture."""
    transport: TransportChoice = "auto"
    """How tensors travel; auto takes shared memory if a round trip proves it."""
    container: Container = "folder"
    """A file for each picture, or tar or Parquet shards."""
    manifest: Annotated[Path | None, arg(metavar="FILE")] = None
    """The manifest's file; default OUTPUT/manifest.sqlite."""
    shard: Annotated[str, arg(metavar="I/N")] = ""
    """Render one of N parts of the data set, chosen by the keys' hashes: 0/16 is the first."""
    dry_run: bool = False
    """Check every map and estimate the time; write nothing."""
    verify: bool = False
    """Compare the pictures of the manifest, or of all shards, with their hashes; render nothing."""
    engine: Literal["threads", "ray"] = "threads"
    """Decode and encode in threads of this process, or in Ray's actors, here or on a cluster
    (--ray.address).
    """
    video: Annotated[Path | None, arg(metavar="FILE")] = None
    """When every map has its picture, make a video of them in the order of their names: an .mp4.
    With --looks one for each look, FILE_look0.mp4 ...
    """
    fps: float = 25.0
    """Pictures per second of the video."""
    metrics_port: Annotated[int | None, arg(metavar="PORT")] = None
    """Serve Prometheus metrics at this port while rendering."""
    metrics_host: str = "127.0.0.1"
    """Address to serve metrics at."""
    log: Literal["progress", "json", "none"] = "progress"
    """On stderr: a line of progress, a JSON line for every event, or failures alone."""


def main(
    input: Annotated[str, Positional, arg(metavar="INPUT")],
    output: Annotated[str, Positional, arg(metavar="OUTPUT")],
    *,
    flags: Annotated[RenderFlags, OmitArgPrefixes, arg(name="run")] = RenderFlags(),
    access: AccessArguments = AccessFlags(),  # noqa: B008 - frozen
    shards: ShardSettings = ShardSettings(),  # noqa: B008 - frozen
    ray: RaySettings = RaySettings(),  # noqa: B008 - frozen
    settings: Annotated[RenderSettings, OmitArgPrefixes, arg(name="rendering")] = RenderSettings(),  # noqa: B008 - frozen
) -> int:
    """Render a data set of label maps, or of photographs for a model of pictures, through Triton
    servers; pictures that exist already, from the same maps and the same model, are not made again.

    Args:
        input: path or URL of the data set: a folder, in pix2pixHD's layout (test_label/ and
            test_inst/) or with --labels and --instances, a zip file, tar shards or Parquet; or one
            label map, with its instance map as --instances.
        output: path or URL of the folder for the pictures, each named after its label map; pictures
            of equal name are replaced.
        flags: output, servers, and the view of the run.
        access: API key, trusted certificates and headers.
        shards: the size of shards.
        ray: how --engine ray spreads a run.
        settings: how to render.
    """
    try:
        servers, plan = _plan(input, output, flags, access, shards, settings)
    except errors.InputError as error:
        print(f"sceneloom render: {printable(error)}", file=sys.stderr)
        return 2
    try:
        if flags.verify:
            plans = [plan]
            if not flags.shard and flags.manifest is None:
                parts = [
                    dataclasses.replace(flags, shard=part) for part in shards_of_manifests(output)
                ]
                plans = [
                    _plan(input, output, one, access, shards, settings)[1] for one in parts
                ] or plans
            return report_check(plans, flags.container)
        if flags.dry_run:
            return report_dry_run(dry_run(plan))
        tracing.start("sceneloom-render")
        code = _render(plan, servers, ray, flags, output)
    except (errors.SceneLoomError, OSError, MemoryError, RuntimeError) as error:
        met = errors.out_of_resources(error) or error
        if (passing := _passing(met)) is None:
            raise
        print(f"sceneloom render: {printable(met)}", file=sys.stderr)
        return passing
    if flags.video is not None and code == 0:
        looks: Iterable[int | None] = [None] if settings.looks == 1 else range(settings.looks)
        for look in looks:
            ending = "" if look is None else look_ending(look)
            video = flags.video.with_stem(flags.video.stem + ending)
            write_video(video, rendered_pictures(plan, look), flags.fps)
            print(f"video: {printable(video)}")
    return code


def _passing(error: BaseException) -> int | None:
    """The exit code of an error that may pass until the next try, or None."""
    if isinstance(error, errors.ServerUnavailableError):
        return SERVER_GONE
    if isinstance(error, errors.ServingError) and error.retryable:
        return SERVER_GONE
    if isinstance(error, errors.OutOfResourcesError):
        return LOCATION_GONE
    if isinstance(error, errors.SceneLoomError) or not isinstance(error, OSError):
        return None
    return LOCATION_GONE if location_is_gone(error) else None


def _plan(
    maps: str,
    output: str,
    flags: RenderFlags,
    access: AccessFlags,
    shards: ShardSettings,
    settings: RenderSettings,
) -> tuple[TritonServers, Plan]:
    """The servers and the plan of the command line; raises InputError if it makes no sense."""
    if flags.verify and (flags.dry_run or flags.video is not None):
        raise errors.InputError("--verify only looks at pictures; leave --dry-run and --video out")
    servers = TritonServers(
        urls=flags.url,
        model=flags.model,
        version=flags.model_version,
        timeouts=Timeouts(infer=flags.timeout),
        transport=flags.transport,
        access=access.read(flags.url),
    )
    if flags.video is not None:
        check_video(flags.video, flags.fps)
    plan = make_plan(
        Maps(location=maps, labels=flags.labels, instances=flags.instances, shard=flags.shard),
        Pictures(
            location=output, container=flags.container, shards=shards, manifest=flags.manifest
        ),
        servers.addresses(settings),
        settings,
    )
    return servers, plan


def _render(
    plan: Plan, servers: TritonServers, ray: RaySettings, flags: RenderFlags, output: str
) -> int:
    """Render, show progress and summary, and return the exit code."""
    assert plan.manifest is not None
    manifest = plan.manifest
    noun = "map" if plan.settings.looks == 1 else "picture"
    tally, log = Tally(noun), LogLines() if flags.log == "json" else None
    signals: list[int] = []
    ended: Exception | None = None
    code = None
    with contextlib.ExitStack() as stack:
        listeners: list[Listener] = [] if log is None else [log]
        metrics = bar = None
        if flags.metrics_port is not None:
            metrics = Metrics(lambda: run.levels())
            listeners.append(metrics)
        if flags.log == "progress":
            bar = ProgressBar(lambda: run.count, lambda: run.levels(), noun)
            listeners.append(bar)
        plan = dataclasses.replace(plan, listeners=tuple(listeners))
        run: Run = RayRun(plan, servers, ray) if flags.engine == "ray" else RenderRun(plan)
        if flags.metrics_port is not None and metrics is not None:
            host = flags.metrics_host
            port = stack.enter_context(serve_metrics(metrics, flags.metrics_port, host=host))
            _say(log, "metrics", f"metrics at http://{host}:{port}/metrics")
        if bar is not None:
            stack.enter_context(bar)
        stack.callback(run.close)

        def handle(number: int, frame: object) -> None:
            """The first signal lets maps in work finish, the second does not."""
            signals.append(number)
            if len(signals) > 1:
                raise KeyboardInterrupt
            run.stop()

        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.signal(number, handle))
        try:
            for result in run:
                tally.add(result)
                if isinstance(result, Failed) and isinstance(
                    result.error, errors.OutOfResourcesError
                ):
                    ended = result.error
        except (errors.SceneLoomError, OSError) as error:
            ended = error
            if not run.rendering:
                code = _passing(error)
                if code is None and log is None:
                    raise
                code = code or 1
                _say(log, "stopped", f"sceneloom render: {error}")
    left_out = run.source.left_out if run.source is not None and code is None else ()
    if code is None:
        if log is None and tally.failed:
            list_failures(tally.failures, tally.kinds)
        cut_short = run.count if signals or ended is not None else None
        tally.print(output, manifest, run.route, left_out, run.reading, cut_short)
        code, stopped = 1 if tally.failed else 0, ""
        if isinstance(ended, errors.ServerUnavailableError | errors.OutOfResourcesError | OSError):
            code = (
                SERVER_GONE if isinstance(ended, errors.ServerUnavailableError) else LOCATION_GONE
            )
            stopped = f"stopped: {ended}; {_RESUMES}"
        elif ended is not None:
            code, stopped = 1, f"stopped: {ended}"
        elif signals:
            code, stopped = 128 + signals[0], f"stopped as asked; {_RESUMES}"
        if stopped:
            _say(log, "stopped", stopped)
    if log is not None:
        log.write("summary", code=code, **tally.to_json(output, manifest, left_out, plan.settings))
    return code


def _say(log: LogLines | None, event: str, text: str) -> None:
    """Print to stderr, as a JSON line in a log of these."""
    if log is None:
        print(printable(text), file=sys.stderr)
    else:
        log.write(event, reason=text)
