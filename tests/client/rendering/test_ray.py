"""Rendering with Ray, started on this machine, against the real tritonserver with a model that
draws nothing.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
from gateways import start
from map_sets import as_png, small_maps, write_folder

from noop_server import NoopServer, write_noop_repository
from sceneloom.contract import Contract
from sceneloom.errors import InputError, MissingDependencyError, ServerUnavailableError
from sceneloom.files import SHARED_MEMORY, LeftOut, describe
from sceneloom.rendering.datasets import open_source
from sceneloom.rendering.items import Failed, MapItem, Rendered, Result, Skipped, Source
from sceneloom.rendering.listeners import Listener
from sceneloom.rendering.manifest import Manifest, Row
from sceneloom.rendering.plan import Maps, Pictures, TritonServers, make_plan
from sceneloom.rendering.ray_engine import RayRun, RaySettings, ray_started
from sceneloom.rendering.run import Plan, RenderRun
from sceneloom.rendering.settings import Container, RenderSettings, ShardSettings
from sceneloom.schema import load_schema

if TYPE_CHECKING:
    from conftest import Start

pytestmark = pytest.mark.triton

RAY = RaySettings(actors=2, maps_per_block=4, object_store=128)


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    with ray_started(RAY):
        yield
        ours = {process.pid for process in psutil.Process().children(recursive=True)}
    left = [path for pid in ours for path in SHARED_MEMORY.glob(f"sceneloom-{pid}-*-client-*")]
    assert left == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NoopServer]:
    repository = write_noop_repository(
        tmp_path_factory.mktemp("noop") / "repository", delay_seconds=0.01
    )
    with NoopServer(repository) as running:
        yield running


class Setup:
    """A data set, a server, and a place for pictures."""

    def __init__(self, folder: Path, url: str, count: int) -> None:
        self.maps, self.place = folder / "maps", folder / "pictures"
        self.servers = TritonServers(urls=[url])
        write_folder(self.maps, small_maps(count))

    def plan(
        self,
        place: Path | None = None,
        container: Container = "folder",
        listeners: tuple[Listener, ...] = (),
        source: Source | None = None,
        **settings: float,
    ) -> Plan:
        how = RenderSettings(**settings)  # type: ignore[arg-type]
        pictures = Pictures(
            location=str(place or self.place), container=container, shards=ShardSettings(pictures=6)
        )
        addresses = self.servers.addresses(how)
        return make_plan(
            Maps(location=source or str(self.maps)), pictures, addresses, how, listeners
        )

    def run(self, plan: Plan) -> RayRun:
        return RayRun(plan, self.servers, RAY)

    def pictures(self, place: Path | None = None) -> dict[str, bytes]:
        found = (place or self.place).rglob("*.png")
        return {str(path.relative_to(place or self.place)): path.read_bytes() for path in found}

    def rows(self, place: Path | None = None) -> dict[str, Row]:
        with Manifest((place or self.place) / "manifest.sqlite") as manifest:
            return {row.key: row for row in manifest.rows()}


def by_kind(results: list[Result]) -> Counter[str]:
    return Counter(type(result).__name__ for result in results)


def actors() -> list[psutil.Process]:
    """The processes of the actors that render."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if "BlockWorker" in " ".join(process.cmdline())]


class Counting(Listener):
    """Counts what it hears."""

    def __init__(self) -> None:
        self.results = self.requests = 0

    def on_result(self, result: Result) -> None:
        self.results += 1

    def on_answer(self, seconds: float, sent: int, received: int) -> None:
        self.requests += 1


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
def test_ray_through_a_gateway_gives_what_threads_give(tmp_path: Path, server: NoopServer) -> None:
    setup, threads = Setup(tmp_path, server.grpc, 10), tmp_path / "threads"
    assert by_kind(list(RenderRun(setup.plan(threads)))) == {"Rendered": 10}
    with ExitStack() as stack:
        gateway = start(stack, tmp_path, "--triton", server.grpc)
        setup.servers = TritonServers(urls=[gateway.url])
        run = setup.run(setup.plan())
        assert by_kind(list(run)) == {"Rendered": 10}
        assert run.route.transport.startswith("gateway: ")
    assert setup.pictures() == setup.pictures(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
def test_looks_and_copies_are_those_of_threads(tmp_path: Path, start_server: Start) -> None:
    contract = Contract(
        schema=load_schema("cityscapes"),
        boundaries=True,
        style_channels=2,
        style_clusters={label: ((0.1, 0.2), (0.3, 0.4), (0.5, 0.6)) for label in range(35)},
        size_multiple=8,
    )
    setup, threads = Setup(tmp_path, start_server(contract).url, 6), tmp_path / "threads"
    looks = {"looks": 3, "style_seed": 4, "copy_labels": True}
    assert by_kind(list(RenderRun(setup.plan(threads, **looks)))) == {"Rendered": 18}
    assert by_kind(list(setup.run(setup.plan(**looks)))) == {"Rendered": 18}
    assert setup.pictures() == setup.pictures(threads)
    assert len(setup.pictures()) == 3 * 18  # with the copies of the maps
    expected = {key: row.style for key, row in setup.rows(threads).items()}
    assert {key: row.style for key, row in setup.rows().items()} == expected
    assert len(set(expected.values())) == 3


@pytest.mark.usefixtures("_ray")
def test_ray_gives_what_threads_give_although_it_is_stopped_and_an_actor_is_killed(
    tmp_path: Path, server: NoopServer
) -> None:
    setup, threads = Setup(tmp_path, server.grpc, 90), tmp_path / "threads"
    wrong = np.full((32, 48), 77, np.uint8)
    for folder in ("test_label", "test_inst"):
        (setup.maps / folder / "unknown.png").write_bytes(as_png(wrong))
        (setup.maps / folder / "zut.png").write_bytes(as_png(wrong)[:60])
    (setup.maps / "test_label" / "notes.txt").write_text("x")
    expected = list(RenderRun(setup.plan(threads)))
    assert by_kind(expected) == {"Rendered": 90, "Failed": 2}

    stopped: list[Result] = []
    with setup.run(setup.plan(in_flight=1)) as run:
        for result in run:
            stopped.append(result)
            run.stop()
    done = {result.key for result in stopped if isinstance(result, Rendered)}
    assert 4 <= len(done) <= 20  # a block, and the two in flight of each of two actors
    deleted, damaged, *_ = done
    (setup.place / f"{deleted}.png").unlink()
    (setup.place / f"{damaged}.png").write_bytes(b"damaged")
    done -= {deleted, damaged}

    rest, heard, killed = [], Counting(), False
    with setup.run(setup.plan(in_flight=1, listeners=(heard,))) as run:
        for result in run:
            rest.append(result)
            if not killed and len(rest) > len(done) + 2:
                actors()[0].kill()
                killed = True
        assert run.count == 92
        assert run.source is not None
        assert describe(run.source.left_out) == [
            "left out: 1 of a kind that is not read (test_label/notes.txt)"
        ]
        assert run.levels().window >= 1
    assert killed
    assert by_kind(rest) == {"Skipped": len(done), "Rendered": 90 - len(done), "Failed": 2}
    assert {result.key for result in rest if isinstance(result, Skipped)} == done
    assert len({result.key for result in rest}) == heard.results == 92
    assert heard.requests == 90 - len(done)

    assert setup.pictures() == setup.pictures(threads)
    assert len(setup.pictures()) == 90
    assert reasons(rest) == reasons(expected)
    rows, rows_of_threads = setup.rows(), setup.rows(threads)
    assert rows.keys() == rows_of_threads.keys()
    for key, row in rows_of_threads.items():
        assert (rows[key].input_hash, rows[key].output_hash) == (row.input_hash, row.output_hash)
        assert (rows[key].origin, rows[key].error) == (row.origin, row.error)


def reasons(results: list[Result]) -> dict[str, tuple[type, str]]:
    return {r.key: (type(r.error), r.reason) for r in results if isinstance(r, Failed)}


@pytest.mark.usefixtures("_ray")
def test_a_server_that_goes_for_good_ends_the_run_with_what_was_made(
    tmp_path: Path, server: NoopServer
) -> None:
    setup = Setup(tmp_path, server.grpc, 100)
    got: list[Result] = []
    with setup.run(setup.plan(container="tar", in_flight=1, patience=1.0)) as run:
        got.append(next(run))
        server.kill()
        with pytest.raises(ServerUnavailableError, match=r"no server has answered for 1 s"):
            got.extend(run)
    server.start()
    assert by_kind(got).keys() == {"Rendered"}
    assert len(got) < 100
    rows = setup.rows()
    assert rows.keys() == {result.key for result in got}
    assert all(".tar#" in row.output for row in rows.values())


class Deadly:
    """A map that ends the process that reads it."""

    name = "deadly.png"

    def read(self, max_bytes: int) -> bytes:
        os._exit(1)


class BrokenSource:
    """The maps of a folder, a deadly one among them, until it breaks off."""

    name = "a broken source"

    def __init__(self, folder: Path) -> None:
        self._whole = open_source(str(folder), wants_instances=True)
        self.given = 0

    def count(self) -> int:
        return self._whole.count() + 1

    @property
    def left_out(self) -> list[LeftOut]:
        return []

    def __iter__(self) -> Iterator[MapItem]:
        for item in self._whole:
            if self.given == 5:
                yield MapItem(key="deadly", label=Deadly(), instance=None)
            self.given += 1
            yield item
        raise InputError("breaks off")


@pytest.mark.slow
@pytest.mark.usefixtures("_ray")
def test_maps_that_end_every_actor_are_named_and_a_source_that_breaks_off_gives_what_it_had(
    tmp_path: Path, server: NoopServer
) -> None:
    from ray import cloudpickle  # takes a second

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors cannot import it
    setup = Setup(tmp_path, server.grpc, 60)
    source, got = BrokenSource(setup.maps), list[Result]()
    with setup.run(setup.plan(source=source, container="tar")) as run:
        got.append(next(run))
        assert source.given <= 28  # the answered block, two for each actor, and two that wait
        with pytest.raises(InputError, match="breaks off"):
            got.extend(run)
    failed = {result.key: result.reason for result in got if isinstance(result, Failed)}
    keys = [item.key for item in open_source(str(setup.maps), wants_instances=True)]
    assert failed.keys() == {keys[4], "deadly", *keys[5:7]}
    assert failed["deadly"] == (
        "deadly.png: 5 processes died at it, or at one of the 4 maps that they were given together"
    )
    assert by_kind(got) == {"Rendered": 57, "Failed": 4}
    assert {key: row.status for key, row in setup.rows().items()} == {
        result.key: "failed" if result.key in failed else "done" for result in got
    }


def test_a_place_for_pictures_is_wanted(tmp_path: Path) -> None:
    setup = Setup(tmp_path, "127.0.0.1:1", 1)
    plan = make_plan(Maps(location=str(setup.maps)), None, [], RenderSettings())
    with pytest.raises(InputError, match="needs a place"):
        setup.run(plan)


def test_without_ray_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = Setup(tmp_path, "127.0.0.1:1", 1)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'sceneloom\[ray\]'"):
        setup.run(setup.plan())
