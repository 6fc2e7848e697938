"""Runs against the real server: batches, failover, and one data set in every form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from map_sets import WRITERS, small_maps

from noop_server import NoopServer, write_noop_repository
from sceneloom.pictures import FORMATS
from sceneloom.rendering.connections import Route
from sceneloom.rendering.datasets import open_sink
from sceneloom.rendering.items import Rendered, Result
from sceneloom.rendering.listeners import Listener
from sceneloom.rendering.plan import Maps, Pictures, TritonServers, make_plan
from sceneloom.rendering.retries import RetryPolicy
from sceneloom.rendering.run import RenderRun
from sceneloom.rendering.settings import Container, RenderSettings

pytestmark = pytest.mark.triton

QUICK = RetryPolicy(first_wait=0.01, longest_wait=0.1)
SETTINGS = RenderSettings(retry=QUICK)


class Requests(Listener):
    """Counts answers."""

    def __init__(self) -> None:
        self.answers = 0

    def on_answer(self, seconds: float, sent: int, received: int) -> None:
        self.answers += 1


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NoopServer]:
    """Joins requests."""
    repository = write_noop_repository(
        tmp_path_factory.mktemp("joining") / "repository", dynamic_batching=True
    )
    with NoopServer(repository) as running:
        yield running


def render(
    maps: Any,
    output: Path,
    servers: TritonServers,
    *listeners: Listener,
    settings: RenderSettings = SETTINGS,
    container: Container = "folder",
) -> list[Result]:
    return render_and_route(
        maps, output, servers, *listeners, settings=settings, container=container
    )[0]


def render_and_route(
    maps: Any,
    output: Path,
    servers: TritonServers,
    *listeners: Listener,
    settings: RenderSettings = SETTINGS,
    container: Container = "folder",
) -> tuple[list[Result], Route]:
    plan = make_plan(
        Maps(location=maps),
        Pictures(location=str(output), container=container),
        servers.addresses(settings),
        settings,
        listeners,
    )
    with RenderRun(plan) as run:
        results = sorted(run, key=lambda result: result.key)
    assert {type(result) for result in results} == {Rendered}
    return results, run.route


def pictures(results: list[Result], output: Path, container: Container = "folder") -> list[Any]:
    sink = open_sink(str(output), "png", container=container)
    return [(r.key, sink.read(r.output)) for r in results if isinstance(r, Rendered)]


def test_one_data_set_in_every_form_gives_the_same_bytes(
    tmp_path: Path, server: NoopServer
) -> None:
    maps, servers = small_maps(9), TritonServers(urls=[server.grpc])
    found = {}
    for name, write in WRITERS.items():
        place = write(tmp_path / "maps" / name, maps)
        output = tmp_path / name
        found[name] = pictures(render(place, output, servers), output)
    containers: list[Container] = ["tar", "parquet"]
    folder = WRITERS["folder"](tmp_path / "maps" / "again", maps)
    for container in containers:
        output = tmp_path / f"to-{container}"
        results = render(folder, output, servers, container=container)
        found[f"to {container}"] = pictures(results, output, container)
    first = found["folder"]
    assert len(first) == 9
    assert all(data for _, data in first)
    for name, one in found.items():
        assert one == first, name


@pytest.mark.parametrize("transport", ["grpc", "grpc-shm", "http"])
def test_every_way_gives_the_same_bytes(tmp_path: Path, server: NoopServer, transport: Any) -> None:
    maps = WRITERS["folder"](tmp_path / "maps", small_maps(5, height=30, width=44))
    url = f"http://{server.http}" if transport == "http" else server.grpc
    requests = Requests()
    servers = TritonServers(urls=[url], transport=transport)
    results, route = render_and_route(maps, tmp_path / "a", servers, requests)
    found = pictures(results, tmp_path / "a")
    plain = TritonServers(urls=[server.grpc], transport="grpc")
    assert found == pictures(render(maps, tmp_path / "b", plain), tmp_path / "b")
    assert route.transport.startswith(f"{transport}: ")
    assert requests.answers == 5


@pytest.mark.parametrize("format", FORMATS)
def test_every_format(tmp_path: Path, server: NoopServer, format: Any) -> None:
    maps = WRITERS["folder"](tmp_path / "maps", small_maps(2))
    settings = RenderSettings(format=format, retry=QUICK)
    results = render(maps, tmp_path / "out", TritonServers(urls=[server.grpc]), settings=settings)
    assert [Path(r.output).suffix for r in results if isinstance(r, Rendered)] == [f".{format}"] * 2


@pytest.fixture(scope="module")
def plain_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NoopServer]:
    """Does not join requests, takes batches of 4."""
    repository = write_noop_repository(
        tmp_path_factory.mktemp("plain") / "repository", max_batch_size=4
    )
    with NoopServer(repository) as running:
        yield running


def test_batches_where_the_server_does_not_join_requests(
    tmp_path: Path, server: NoopServer, plain_server: NoopServer
) -> None:
    maps = WRITERS["folder"](tmp_path / "maps", small_maps(40))
    batches, singles = Requests(), Requests()
    plain, joining = (TritonServers(urls=[s.grpc]) for s in (plain_server, server))
    found = pictures(render(maps, tmp_path / "a", plain, batches), tmp_path / "a")
    assert found == pictures(render(maps, tmp_path / "b", joining, singles), tmp_path / "b")
    assert singles.answers == 40
    assert 10 <= batches.answers < 35


def test_one_of_two_servers_dies(tmp_path: Path, server: NoopServer) -> None:
    maps = WRITERS["folder"](tmp_path / "maps", small_maps(60))
    repository = write_noop_repository(
        tmp_path / "repository", dynamic_batching=True, delay_per_picture=0.01
    )
    other = NoopServer(repository)
    away: list[str] = []

    class Killing(Listener):
        answers = 0

        def on_answer(self, seconds: float, sent: int, received: int) -> None:
            self.answers += 1
            if self.answers == 10:
                other.kill()

        def on_server(self, name: str, is_away: bool) -> None:
            if is_away:
                away.append(name)

    with other:
        servers = TritonServers(urls=[server.grpc, other.grpc])
        results = render(maps, tmp_path / "out", servers, Killing())
    assert len(results) == 60
    assert set(away) <= {other.grpc}
