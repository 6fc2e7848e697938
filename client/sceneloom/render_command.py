"""`sceneloom render`: flags, progress, signals, summary and exit code around `sceneloom.rendering`.

Exit codes: 0 every map has its picture; 1 some gave none, or the run could not begin; 2 the command
line is wrong; 3 no server answers; 4 the place of the pictures is full or gone, or this machine has
no memory or no thread left; 130 and 143 stopped by SIGINT and SIGTERM after what was under way.
After 3, 4, 130 and 143, and after a kill, the same command goes on where it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from sceneloom.connect import TransportChoice
from sceneloom.contract import MODEL_NAME
from sceneloom.errors import (
    InputError,
    OutOfResourcesError,
    SceneLoomError,
    ServerUnavailableError,
    ServingError,
)
from sceneloom.machine_limits import out_of_resources
from sceneloom.rendering.check import rendered_pictures
from sceneloom.rendering.cluster.ray_cluster import RaySettings
from sceneloom.rendering.cluster.ray_engine import RayRun
from sceneloom.rendering.dataset import (
    Maps,
    Pictures,
    TritonServers,
    make_plan,
    shards_of_manifests,
)
from sceneloom.rendering.dry_run import dry_run
from sceneloom.rendering.results import Failed
from sceneloom.rendering.run import Plan, RenderRun, Run
from sceneloom.rendering.settings import RenderSettings
from sceneloom.rendering.store import place_is_gone
from sceneloom.rendering.triton import PathChoice, Way
from sceneloom.rendering.watching.listener import Levels, Listener
from sceneloom.rendering.watching.log_lines import LogLines
from sceneloom.rendering.watching.metrics import Metrics, serve_metrics
from sceneloom.rendering.watching.progress import ProgressBar
from sceneloom.rendering.watching.summary import Tally, report_check, report_dry_run
from sceneloom.rendering.writing.sinks import Container, ShardSettings
from sceneloom.rendering.writing.video import check_video, write_video
from sceneloom.text import printable
from sceneloom.transport import Timeouts

SERVER_GONE, PLACE_GONE = 3, 4
_GOES_ON = "the same command goes on where it was"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderFlags:
    """Where to, by whom, and what to show."""

    url: tuple[str, ...] = ("127.0.0.1:8001",)
    """HOST:PORT of the server's gRPC port, or http://HOST:PORT of its HTTP port; several share the
    work, and stand in for each other.
    """
    model: str = MODEL_NAME
    """Name of the served model."""
    labels: Annotated[str | None, arg(metavar="DIR")] = None
    """Folder of label maps inside INPUT, or absolute; test_label unless named. In tar and Parquet
    files what the label maps are called: label.
    """
    instances: Annotated[str | None, arg(metavar="DIR")] = None
    """Folder of instance maps, likewise; test_inst unless --labels is named."""
    timeout: float = 120.0
    """Seconds to wait for one picture."""
    transport: TransportChoice = "auto"
    """How tensors travel; auto takes shared memory where a round trip proves it."""
    path: PathChoice = "auto"
    """Arrays (raw) or the maps' and pictures' files (encoded) on the wire; auto measures both with
    the first map, where the server has both.
    """
    container: Container = "folder"
    """A file for each picture, or tar or Parquet shards."""
    manifest: Annotated[Path | None, arg(metavar="FILE")] = None
    """The manifest's file; OUTPUT/manifest.sqlite unless named."""
    shard: Annotated[str, arg(metavar="I/N")] = ""
    """Render one of N parts of the data set, chosen by the keys' hashes: 0/16 is the first."""
    dry_run: bool = False
    """Check every map and estimate the time; write nothing."""
    verify: bool = False
    """Hash the pictures that the manifest has, or those of all shards, and compare; render
    nothing.
    """
    engine: Literal["threads", "ray"] = "threads"
    """What decodes and encodes: threads of this process, or Ray's actors, here or on a cluster
    (--ray.address).
    """
    video: Annotated[Path | None, arg(metavar="FILE")] = None
    """When every map has its picture, make a video of them in the order of their names: an .mp4."""
    fps: float = 25.0
    """Pictures per second of the video."""
    metrics_port: Annotated[int | None, arg(metavar="PORT")] = None
    """Serve Prometheus metrics at this port while rendering."""
    metrics_host: str = "127.0.0.1"
    """Address to serve metrics at."""
    log: Literal["progress", "json", "none"] = "progress"
    """What goes to stderr: a line of progress, a JSON line for every event, or failures alone."""


def main(
    input: Annotated[str, Positional, arg(metavar="INPUT")],
    output: Annotated[str, Positional, arg(metavar="OUTPUT")],
    *,
    flags: Annotated[RenderFlags, OmitArgPrefixes] = RenderFlags(),
    shards: ShardSettings = ShardSettings(),  # noqa: B008 - frozen
    ray: RaySettings = RaySettings(),  # noqa: B008 - frozen
    settings: Annotated[RenderSettings, OmitArgPrefixes] = RenderSettings(),  # noqa: B008 - frozen
) -> int:
    """Render a data set of label maps through Triton servers; what is there already, from the same
    maps and the same model, is not made again.

    Args:
        input: path or URL of the data set: a folder, in pix2pixHD's layout (test_label/ and
            test_inst/) unless --labels and --instances say otherwise, a zip file, tar shards or
            Parquet.
        output: path or URL of the folder for the pictures, each named after its label map; pictures
            of equal name are replaced.
        flags: where to, by whom, and what to show.
        shards: how large shards become.
        ray: how a run is spread with --engine ray.
        settings: how to render.
    """
    try:
        servers, way, plan = _plan(input, output, flags, shards, settings)
    except InputError as error:
        print(f"sceneloom render: {printable(error)}", file=sys.stderr)
        return 2

    def begin(plan: Plan) -> Run:
        return RayRun(plan, servers, ray, way) if flags.engine == "ray" else RenderRun(plan)

    try:
        if flags.verify:
            plans = _plans_to_check(plan, input, output, flags, shards, settings)
            return report_check(plans, flags.container)
        if flags.dry_run:
            return report_dry_run(dry_run(plan))
        code = _render(plan, begin, flags, output, way)
    except (SceneLoomError, OSError, MemoryError, RuntimeError) as error:
        met = out_of_resources(error) or error
        if (passing := _passing(met)) is None:
            raise
        print(f"sceneloom render: {printable(met)}", file=sys.stderr)
        return passing
    if flags.video is not None and code == 0:
        write_video(flags.video, rendered_pictures(plan), flags.fps)
        print(f"video: {printable(flags.video)}")
    return code


def _passing(error: BaseException) -> int | None:
    """The exit code of an error that the same command may not meet again; None for all others."""
    if isinstance(error, ServerUnavailableError):
        return SERVER_GONE
    if isinstance(error, ServingError) and error.retryable:
        return SERVER_GONE
    if isinstance(error, OutOfResourcesError):
        return PLACE_GONE
    if isinstance(error, SceneLoomError) or not isinstance(error, OSError):
        return None
    return PLACE_GONE if place_is_gone(error) else None


def _plan(
    maps_place: str,
    output: str,
    flags: RenderFlags,
    shards: ShardSettings,
    settings: RenderSettings,
) -> tuple[TritonServers, Way, Plan]:
    """What the command line asks for; raises InputError where it makes no sense."""
    if flags.verify and (flags.dry_run or flags.video is not None):
        raise InputError("--verify only looks at pictures; leave --dry-run and --video out")
    maps = Maps(place=maps_place, labels=flags.labels, instances=flags.instances, shard=flags.shard)
    pictures = Pictures(
        place=output, container=flags.container, shards=shards, manifest=flags.manifest
    )
    servers = TritonServers(
        urls=flags.url,
        model=flags.model,
        timeouts=Timeouts(infer=flags.timeout),
        transport=flags.transport,
        path=flags.path,
    )
    if flags.video is not None:
        check_video(flags.video, flags.fps)
    way = Way()
    plan = make_plan(maps, pictures, servers.addresses(settings, way), settings)
    return servers, way, plan


def _plans_to_check(
    plan: Plan,
    maps_place: str,
    output: str,
    flags: RenderFlags,
    shards: ShardSettings,
    settings: RenderSettings,
) -> list[Plan]:
    """The plan itself, or one for each part of a data set that left a manifest in OUTPUT."""
    if flags.shard or flags.manifest is not None:
        return [plan]
    return [
        _plan(maps_place, output, dataclasses.replace(flags, shard=shard), shards, settings)[2]
        for shard in shards_of_manifests(output)
    ] or [plan]


def _render(
    plan: Plan,
    begin: Callable[[Plan], Run],
    flags: RenderFlags,
    output: str,
    way: Way,
) -> int:
    """Render, show how it goes, and say how it ended."""
    tally, log = Tally(), LogLines() if flags.log == "json" else None
    run: Run | None = None

    def levels() -> Levels:
        return run.levels() if run is not None else Levels()

    def count() -> int | None:
        return run.count if run is not None else None

    with contextlib.ExitStack() as stack:
        listeners: list[Listener] = [tally]
        if log is not None:
            listeners.append(log)
        if flags.metrics_port is not None:
            listeners.append(_show_metrics(stack, flags, levels, log))
        if flags.log == "progress":
            listeners.append(stack.enter_context(ProgressBar(count, levels)))
        run = begin(dataclasses.replace(plan, listeners=tuple(listeners)))
        stack.enter_context(run)
        signals = stack.enter_context(_draining(run))
        ended: Exception | None = None
        try:
            for result in run:
                if isinstance(result, Failed) and isinstance(result.error, OutOfResourcesError):
                    ended = result.error
        except (SceneLoomError, OSError) as error:
            if not run.rendering:
                if (passing := _passing(error)) is None and log is None:
                    raise
                _say(log, "stopped", f"sceneloom render: {error}")
                return _logged(log, passing or 1, tally.to_json(output, plan, ()))
            ended = error
    left_out = run.left_out()
    tally.print(output, plan, way, left_out, show_failures=log is None)
    code = _exit_code(tally, ended, signals, log)
    return _logged(log, code, tally.to_json(output, plan, left_out))


def _logged(log: LogLines | None, code: int, summary: dict[str, Any]) -> int:
    """End a log with the run's summary; returns the exit code."""
    if log is not None:
        log.write("summary", code=code, **summary)
    return code


def _show_metrics(
    stack: contextlib.ExitStack,
    flags: RenderFlags,
    levels: Callable[[], Levels],
    log: LogLines | None,
) -> Metrics:
    assert flags.metrics_port is not None
    metrics = Metrics(levels)
    port = stack.enter_context(serve_metrics(metrics, flags.metrics_port, host=flags.metrics_host))
    _say(log, "metrics", f"metrics at http://{flags.metrics_host}:{port}/metrics")
    return metrics


def _exit_code(
    tally: Tally, ended: Exception | None, signals: list[int], log: LogLines | None
) -> int:
    if isinstance(ended, (ServerUnavailableError, OutOfResourcesError, OSError)):
        _say(log, "stopped", f"stopped: {ended}; {_GOES_ON}")
        return SERVER_GONE if isinstance(ended, ServerUnavailableError) else PLACE_GONE
    if ended is not None:
        _say(log, "stopped", f"stopped: {ended}")
        return 1
    if signals:
        _say(log, "stopped", f"stopped as asked; {_GOES_ON}")
        return 128 + signals[0]
    return 1 if tally.failed else 0


def _say(log: LogLines | None, event: str, text: str) -> None:
    """Say something on stderr, as a JSON line where all others are."""
    if log is None:
        print(printable(text), file=sys.stderr)
    else:
        log.write(event, reason=text)


@contextlib.contextmanager
def _draining(run: Run) -> Iterator[list[int]]:
    """The first SIGINT or SIGTERM lets what is under way finish, the second one does not; yields
    the signals that came.
    """
    came: list[int] = []

    def handle(number: int, frame: object) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt
        run.stop()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield came
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
