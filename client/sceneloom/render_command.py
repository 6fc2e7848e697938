"""`sceneloom render`: flags, progress, signals, summary and exit code around `sceneloom.rendering`.

Exit codes: 0 every map has its picture; 1 some gave none, or the run could not begin; 2 the command
line is wrong; 3 no server answered any more; 4 the place of the pictures is full or gone; 130 and
143 stopped by SIGINT and SIGTERM after what was under way. After 3, 4, 130 and 143, and after a
kill, the same command goes on where it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from sceneloom.connect import TransportChoice
from sceneloom.contract import MODEL_NAME
from sceneloom.errors import InputError, ServerUnavailableError
from sceneloom.rendering.check import Damage, check_pictures
from sceneloom.rendering.dataset import Maps, Pictures, TritonServers, make_plan
from sceneloom.rendering.dry_run import DryRun, dry_run
from sceneloom.rendering.listener import Levels, Listener
from sceneloom.rendering.log_lines import LogLines
from sceneloom.rendering.manifest import Manifest
from sceneloom.rendering.metrics import Metrics, serve_metrics
from sceneloom.rendering.progress import ProgressBar
from sceneloom.rendering.results import Failed, Rendered, Result, Skipped
from sceneloom.rendering.run import Plan, RenderRun
from sceneloom.rendering.settings import RenderSettings
from sceneloom.rendering.sinks import Container, ShardSettings
from sceneloom.rendering.triton import PathChoice, Way
from sceneloom.transport import Timeouts

_LISTED = 20
SERVER_GONE, PLACE_GONE = 3, 4


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
    """Hash the pictures that the manifest has, and compare; render nothing."""
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
        settings: how to render.
    """
    maps = Maps(place=input, labels=flags.labels, instances=flags.instances, shard=flags.shard)
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
    way = Way()
    plan = make_plan(maps, pictures, servers.addresses(settings, way), settings)
    if flags.verify:
        return _verify(plan)
    if flags.dry_run:
        return _report_dry_run(dry_run(plan))
    return _render(plan, flags, output, way)


def _render(plan: Plan, flags: RenderFlags, output: str, way: Way) -> int:
    """Render, show how it goes, and say how it ended."""
    tally = _Tally()
    run: RenderRun | None = None

    def levels() -> Levels:
        return run.levels() if run is not None else Levels()

    def count() -> int | None:
        return run.count if run is not None else None

    with contextlib.ExitStack() as stack:
        listeners: list[Listener] = [tally]
        if flags.metrics_port is not None:
            metrics = Metrics(levels)
            port = stack.enter_context(
                serve_metrics(metrics, flags.metrics_port, host=flags.metrics_host)
            )
            print(f"metrics at http://{flags.metrics_host}:{port}/metrics", file=sys.stderr)
            listeners.append(metrics)
        if flags.log == "json":
            listeners.append(LogLines())
        elif flags.log == "progress":
            listeners.append(stack.enter_context(ProgressBar(count, levels)))
        run = stack.enter_context(RenderRun(dataclasses.replace(plan, listeners=tuple(listeners))))
        stopped = stack.enter_context(_draining(run))
        ended: Exception | None = None
        try:
            for _ in run:
                pass
        except (ServerUnavailableError, OSError) as error:
            if not tally.results:
                raise
            ended = error
    tally.print(output, plan, way, show_failures=flags.log != "json")
    return _exit_code(tally, ended, stopped)


def _exit_code(tally: _Tally, ended: Exception | None, stopped: list[int]) -> int:
    if ended is not None:
        print(f"stopped: {ended}; the same command goes on where it was", file=sys.stderr)
        return SERVER_GONE if isinstance(ended, ServerUnavailableError) else PLACE_GONE
    if stopped:
        print("stopped as asked; the same command goes on where it was", file=sys.stderr)
        return 128 + stopped[0]
    return 1 if tally.failed else 0


@contextlib.contextmanager
def _draining(run: RenderRun) -> Iterator[list[int]]:
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


class _Tally(Listener):
    """What the summary says."""

    def __init__(self) -> None:
        self.failed = 0
        self.results = 0
        self._first: list[Failed] = []
        self._kinds: Counter[str] = Counter()
        self._rendered = self._skipped = self._padded = self._attempts = 0
        self._start = time.perf_counter()

    def on_result(self, result: Result) -> None:
        self.results += 1
        if isinstance(result, Failed):
            self.failed += 1
            self._kinds[type(result.error).__name__] += 1
            if len(self._first) < _LISTED:
                self._first.append(result)
        elif isinstance(result, Skipped):
            self._skipped += 1
        elif isinstance(result, Rendered):
            self._rendered += 1
            self._padded += bool(result.padding)
            self._attempts += result.attempts

    def print(self, output: str, plan: Plan, way: Way, *, show_failures: bool) -> None:
        if show_failures:
            _list_failures(self._first, self._kinds)
        seconds = time.perf_counter() - self._start
        print(
            f"rendered {self._rendered} of {self.results} maps in {seconds:.1f} s "
            f"({self._rendered / seconds:.2f} maps/s) to {output}"
            + (f"; {self._skipped} were there already" if self._skipped else "")
            + (
                f"; {self._padded} were padded to the model's next size and cropped back"
                if self._padded
                else ""
            )
        )
        print(f"way: {way.why}; manifest: {plan.manifest}")


def _list_failures(failures: list[Failed], kinds: Counter[str]) -> None:
    for failure in failures:
        print(f"failed: {failure.reason}", file=sys.stderr)
    if kinds.total() > len(failures):
        listed = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        print(f"... {kinds.total()} in all: {listed}", file=sys.stderr)


def _report_dry_run(found: DryRun) -> int:
    print(f"{found.maps} maps, of which {sum(found.sizes.values())} can be rendered")
    for (height, width), count in sorted(found.sizes.items(), key=lambda item: -item[1])[:_LISTED]:
        print(f"  {count} of {width}x{height} (width x height)")
    if found.padded:
        print(f"{found.padded} would be padded to the model's next size and cropped back")
    for kind, count in sorted(found.problems.items()):
        print(f"  {count} {kind}")
    _list_failures(found.failed[:_LISTED], Counter(found.problems))
    if found.seconds is not None:
        print(
            f"one picture takes {found.seconds_per_picture:.3f} s; one after the other, all would "
            f"take {found.seconds:.0f} s, with several in flight less"
        )
    return 1 if found.problems else 0


def _verify(plan: Plan) -> int:
    assert plan.manifest is not None
    assert plan.sink is not None
    if not plan.manifest.is_file():
        raise InputError(f"{plan.manifest}: no such manifest; nothing was rendered there")
    good, damaged = 0, 0
    with Manifest(plan.manifest) as manifest:
        for found in check_pictures(manifest, plan.sink, threads=plan.settings.threads):
            if isinstance(found, Damage):
                damaged += 1
                if damaged <= _LISTED:
                    print(f"damaged: {found.reason}", file=sys.stderr)
            else:
                good += 1
        failed = manifest.counts().get("failed", 0)
    print(
        f"{good} pictures are as they were written, {damaged} are not"
        + (f"; {failed} maps have no picture" if failed else "")
    )
    return 1 if damaged or failed else 0
