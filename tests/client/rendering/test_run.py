"""Runs against a server in memory: every map is done with exactly once, whatever goes wrong."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rendering_fakes import BytesFile, DictSink, ListSource, item, map_pair, street_maps

from sceneloom.contract import Contract
from sceneloom.errors import (
    ConnectionClosedError,
    InputError,
    ModelFailedError,
    QueueFullError,
    RequestRejectedError,
    ServerUnavailableError,
)
from sceneloom.pictures import decode_picture
from sceneloom.rendering import render
from sceneloom.rendering.connections import Connection
from sceneloom.rendering.items import Failed, MapItem, Picture, Rendered, Result, Skipped
from sceneloom.rendering.listeners import Listener
from sceneloom.rendering.manifest import Manifest
from sceneloom.rendering.retries import RetryPolicy
from sceneloom.rendering.run import Plan, RenderRun
from sceneloom.rendering.servers import Address
from sceneloom.rendering.settings import RenderSettings
from sceneloom.schema import load_schema
from sceneloom.testing import FakeTransport
from sceneloom.triton.client import TritonSynthesizer

CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)
QUICK = RetryPolicy(first_wait=0.001, longest_wait=0.01)
SETTINGS = RenderSettings(retry=QUICK, patience=5)


class SlowTransport(FakeTransport):
    """Takes its time, and knows how many were in flight."""

    def __init__(self, contract: Contract, seconds: float = 0.0, **more: Any) -> None:
        super().__init__(contract, **more)
        self.seconds = seconds
        self.running = self.most = 0
        self.count = threading.Lock()
        self.on_infer: Callable[[], None] = lambda: None

    def infer(self, model: str, inputs: Mapping[str, Any], output: str, *, timeout: float) -> Any:
        with self.count:
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            self.on_infer()
            time.sleep(self.seconds)
            return super().infer(model, inputs, output, timeout=timeout)
        finally:
            with self.count:
                self.running -= 1


def address(transport: FakeTransport, name: str = "fake") -> Address:
    def connect() -> Connection:
        return Connection(TritonSynthesizer("fake", transport=transport))

    return Address(name=name, connect=connect)


def run(
    source: Any,
    *transports: FakeTransport,
    settings: RenderSettings = SETTINGS,
    sink: DictSink | None = None,
    manifest: Path | None = None,
    listeners: tuple[Listener, ...] = (),
) -> RenderRun:
    return RenderRun(
        Plan(
            source=lambda contract: source,
            addresses=[address(t, f"fake {n}") for n, t in enumerate(transports)],
            settings=settings,
            sink=sink,
            manifest=manifest,
            listeners=listeners,
        )
    )


def by_kind(results: list[Result]) -> Counter[str]:
    return Counter(type(result).__name__ for result in results)


def test_every_map_gives_its_picture(tmp_path: Path) -> None:
    sink, source = DictSink(), street_maps(40)
    results = list(run(source, FakeTransport(CONTRACT), sink=sink, manifest=tmp_path / "m"))
    assert by_kind(results) == {"Rendered": 40}
    assert sorted(sink.pictures) == [one.key for one in source.items]
    with TritonSynthesizer("fake", transport=FakeTransport(CONTRACT)) as synthesizer:
        for number in (0, 17, 39):
            labels, instances = map_pair(number)
            expected = synthesizer.synthesize(labels, instances)
            assert np.array_equal(decode_picture(sink.pictures[f"{number:04d}"]), expected)
    with Manifest(tmp_path / "m") as manifest:
        assert Counter(row.status for row in manifest.rows()) == {"done": 40}
        assert sum(row.attempts for row in manifest.rows()) == 40


def test_without_a_sink_the_pictures_are_in_the_results() -> None:
    source = street_maps(9, height=30, width=61)
    results = list(run(source, FakeTransport(CONTRACT)))
    assert by_kind(results) == {"Picture": 9}
    first = next(r for r in results if isinstance(r, Picture) and r.key == "0003")
    assert first.image.shape == (24, 56, 3)  # map_pair makes whole blocks


def test_a_run_in_an_event_loop() -> None:
    async def render() -> list[Result]:
        async with run(street_maps(12), SlowTransport(CONTRACT, 0.01)) as running:
            return [result async for result in running]

    assert by_kind(asyncio.run(render())) == {"Picture": 12}


def test_a_second_run_makes_only_what_is_missing(tmp_path: Path) -> None:
    sink, source = DictSink(), street_maps(20)
    manifest = tmp_path / "m"
    first = list(run(source, FakeTransport(CONTRACT), sink=sink, manifest=manifest))
    assert by_kind(first) == {"Rendered": 20}
    transport = FakeTransport(CONTRACT)
    again = list(run(source, transport, sink=sink, manifest=manifest))
    assert (by_kind(again), transport.requests) == ({"Skipped": 20}, [])
    del sink.pictures["0004"]
    sink.pictures["0009"] += b"changed"
    source.items[11] = item("0011", *map_pair(1000))
    source.items.append(item("0020", *map_pair(20)))
    third = list(run(source, FakeTransport(CONTRACT), sink=sink, manifest=manifest))
    made = {r.key for r in third if isinstance(r, Rendered)}
    assert made == {"0004", "0009", "0011", "0020"}
    assert sum(isinstance(r, Skipped) for r in third) == 17


@pytest.mark.parametrize(
    "change",
    [
        {"format": "jpg"},
        {"unknown": "unlabelled"},
        {"contract": "another hash"},
    ],
)
def test_pictures_of_another_origin_are_made_again(tmp_path: Path, change: dict[str, str]) -> None:
    sink, source = DictSink(), street_maps(3)
    list(run(source, FakeTransport(CONTRACT), sink=sink, manifest=tmp_path / "m"))
    contract, settings = CONTRACT, SETTINGS
    if "contract" in change:
        contract = Contract(
            schema=CONTRACT.schema, boundaries=True, size_multiple=8, bundle_hash="ab"
        )
    else:
        settings = RenderSettings(retry=QUICK, **change)  # type: ignore[arg-type]
    results = list(
        run(source, FakeTransport(contract), sink=sink, manifest=tmp_path / "m", settings=settings)
    )
    assert by_kind(results) == {"Rendered": 3}


def test_broken_maps_are_named_and_the_rest_is_rendered(tmp_path: Path) -> None:
    labels, instances = map_pair(0)
    colour = np.zeros((32, 64, 3), np.uint8)
    unknown = labels.copy()
    unknown[0, :5] = 77
    source = ListSource(
        [
            item("a-good", labels, instances),
            item("b-colour", colour, instances),
            item("c-unknown", unknown, instances),
            item("d-size", labels, instances[:16]),
            MapItem(key="e-unread", label=BytesFile("e.png", None), instance=None),
            item("f-no-instances", labels, None),
            MapItem(key="g-empty", label=BytesFile("g.png", b""), instance=BytesFile("g", b"")),
            item("h-good", labels, instances),
        ]
    )
    results = list(run(source, FakeTransport(CONTRACT), sink=DictSink(), manifest=tmp_path / "m"))
    failed = {r.key: r.reason for r in results if isinstance(r, Failed)}
    assert {r.key for r in results if isinstance(r, Rendered)} == {"a-good", "h-good"}
    assert sorted(failed) == [one.key for one in source.items[1:7]]
    assert "colour picture" in failed["b-colour"]
    assert "77 (5 pixels)" in failed["c-unknown"]
    assert all(key in reason or reason[0] in "eg" for key, reason in failed.items())
    with Manifest(tmp_path / "m") as manifest:
        rows = {row.key: row for row in manifest.rows()}
        assert Counter(row.status for row in manifest.rows()) == {"done": 2, "failed": 6}
    assert rows["c-unknown"].error_kind == "UnknownLabelError"
    assert rows["c-unknown"].error == failed["c-unknown"]


def test_a_source_that_breaks_off_is_an_error_after_what_it_gave(tmp_path: Path) -> None:
    source = street_maps(30)
    source.broken_after = 21
    got: list[Result] = []
    with pytest.raises(InputError, match="ends before its end"):  # noqa: PT012
        for result in run(
            source, FakeTransport(CONTRACT), sink=DictSink(), manifest=tmp_path / "m"
        ):
            got.append(result)
    assert by_kind(got) == {"Rendered": 21}


def test_a_full_queue_is_asked_again_and_shrinks_the_window(tmp_path: Path) -> None:
    failures = [None] * 30 + [QueueFullError("full") for _ in range(12)]
    retried: list[Exception] = []

    class Counting(Listener):
        def on_retry(self, error: Any) -> None:
            retried.append(error)

    transport = SlowTransport(CONTRACT, 0.002, failures=failures)
    results = list(
        run(
            street_maps(60),
            transport,
            sink=DictSink(),
            manifest=tmp_path / "m",
            listeners=(Counting(),),
        )
    )
    assert by_kind(results) == {"Rendered": 60}
    assert len(retried) == 12
    with Manifest(tmp_path / "m") as manifest:
        assert sum(row.attempts for row in manifest.rows()) == 72


def test_a_rejected_map_fails_at_once(tmp_path: Path) -> None:
    transport = FakeTransport(CONTRACT, failures=[None, RequestRejectedError("wrong")])
    results = list(run(street_maps(5), transport, sink=DictSink(), manifest=tmp_path / "m"))
    assert by_kind(results) == {"Rendered": 4, "Failed": 1}
    assert len(transport.requests) == 5


def test_a_server_that_goes_away_comes_back_and_nothing_is_lost(tmp_path: Path) -> None:
    away = [ServerUnavailableError("gone")] * 3
    broke = [ModelFailedError("its process died")]
    changes: list[bool] = []

    class Watching(Listener):
        def on_server(self, name: str, away: bool) -> None:
            changes.append(not away)

    transport = FakeTransport(CONTRACT, failures=[None] * 5 + away + [None] * 5 + broke)
    results = list(
        run(
            street_maps(25),
            transport,
            sink=DictSink(),
            manifest=tmp_path / "m",
            listeners=(Watching(),),
        )
    )
    assert by_kind(results) == {"Rendered": 25}
    assert changes.count(False) >= 2
    assert changes.count(True) == changes.count(False) + 1  # it was there at first


def test_the_other_server_takes_over(tmp_path: Path) -> None:
    dead = FakeTransport(CONTRACT, failures=[None] * 3 + [ServerUnavailableError("x")] * 10_000)
    other = SlowTransport(CONTRACT, 0.005)
    results = list(run(street_maps(40), dead, other, sink=DictSink(), manifest=tmp_path / "m"))
    assert by_kind(results) == {"Rendered": 40}
    assert len(other.requests) >= 30


def test_servers_share_the_work() -> None:
    two = [SlowTransport(CONTRACT, 0.01) for _ in range(2)]
    results = list(run(street_maps(60), *two))
    assert by_kind(results) == {"Picture": 60}
    assert min(len(transport.requests) for transport in two) >= 20


def test_no_server_for_too_long_ends_the_run_and_it_can_be_gone_on_with(tmp_path: Path) -> None:
    failures = [None] * 4 + [ServerUnavailableError("gone")] * 10_000
    settings = RenderSettings(retry=QUICK, patience=0.5)
    sink, source, manifest = DictSink(), street_maps(10), tmp_path / "m"
    got: list[Result] = []
    with pytest.raises(ServerUnavailableError, match=r"no server has answered for 0\.5 s"):  # noqa: PT012
        for result in run(
            source,
            FakeTransport(CONTRACT, failures=failures),
            settings=settings,
            sink=sink,
            manifest=manifest,
        ):
            got.append(result)
    assert by_kind(got) == {"Rendered": 4}
    rest = list(run(source, FakeTransport(CONTRACT), sink=sink, manifest=manifest))
    assert by_kind(rest) == {"Skipped": 4, "Rendered": 6}


def test_servers_of_different_models_are_refused() -> None:
    other = Contract(schema=CONTRACT.schema, boundaries=True, size_multiple=8, bundle_hash="ff")
    with pytest.raises(InputError, match="fake 1: serves another model"):
        list(run(street_maps(2), FakeTransport(CONTRACT), FakeTransport(other)))


def test_a_full_disk_stops_the_run_names_what_it_hit_and_loses_nothing(tmp_path: Path) -> None:
    sink, source, manifest = DictSink(full_after=7), street_maps(200), tmp_path / "m"
    got: list[Result] = []
    with pytest.raises(OSError, match="No space left on device"):  # noqa: PT012
        for result in run(source, FakeTransport(CONTRACT), sink=sink, manifest=manifest):
            got.append(result)
    kinds = by_kind(got)
    assert kinds["Rendered"] == 7
    assert 1 <= kinds["Failed"] < 60
    assert all("No space left" in r.reason for r in got if isinstance(r, Failed))
    sink.full_after = None
    rest = list(run(source, FakeTransport(CONTRACT), sink=sink, manifest=manifest))
    assert by_kind(rest) == {"Skipped": 7, "Rendered": 193}


def test_shards_are_done_with_when_they_are_whole(tmp_path: Path) -> None:
    sink, manifest = DictSink(shard=8), tmp_path / "m"
    results = list(run(street_maps(20), FakeTransport(CONTRACT), sink=sink, manifest=manifest))
    assert by_kind(results) == {"Rendered": 20}
    assert len({r.key for r in results}) == 20
    with Manifest(manifest) as rows:
        assert Counter(row.status for row in rows.rows()) == {"done": 20}


def test_stopping_finishes_what_is_under_way(tmp_path: Path) -> None:
    sink, source, manifest = DictSink(), street_maps(100), tmp_path / "m"
    transport = SlowTransport(CONTRACT, 0.005)
    with run(source, transport, sink=sink, manifest=manifest) as running:
        got = []
        for result in running:
            got.append(result)
            if len(got) == 10:
                running.stop()
    assert by_kind(got).keys() == {"Rendered"}
    assert 10 <= len(got) < 60
    assert len(got) == len(sink.pictures) == len(transport.requests)
    rest = list(run(source, FakeTransport(CONTRACT), sink=sink, manifest=manifest))
    assert by_kind(rest) == {"Skipped": len(got), "Rendered": 100 - len(got)}


def test_leaving_a_run_ends_it(tmp_path: Path) -> None:
    manifest = tmp_path / "m"
    with run(
        street_maps(100), SlowTransport(CONTRACT, 0.01), sink=DictSink(), manifest=manifest
    ) as running:
        next(running)
    assert list(running) == []
    Manifest(manifest).close()  # nobody holds it any more
    names = [t.name for t in threading.enumerate()]
    assert not [name for name in names if name.startswith("sceneloom-")]


def test_a_synthesizer_that_is_closed_ends_the_run_at_once(tmp_path: Path) -> None:
    with TritonSynthesizer("fake", transport=FakeTransport(CONTRACT)) as synthesizer:
        running = render(synthesizer, street_maps(50))
        got = [next(running)]
        synthesizer.close()
        started = time.monotonic()
        with pytest.raises(ConnectionClosedError):
            got.extend(running)
    assert time.monotonic() - started < 5  # the patience is 300 s


def test_several_consumers_share_the_results() -> None:
    running = run(street_maps(40), SlowTransport(CONTRACT, 0.005))
    got: list[Result] = []
    threads = [threading.Thread(target=lambda: got.extend(running)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert by_kind(got) == {"Picture": 40}
    assert len({result.key for result in got}) == 40


def test_what_is_held_is_bounded() -> None:
    source = street_maps(600)
    settings = RenderSettings(look_ahead=8, workers=2, in_flight=2)
    with run(source, SlowTransport(CONTRACT, 0.001), settings=settings) as running:
        seen = 0
        for _ in running:
            seen += 1
            # 8 read ahead, a chunk of the list, and those with pixels: 2 in flight, twice 2
            # threads and one, the waiting results and the one that is here.
            assert source.given - seen <= 8 + 16 + 7 + 4 + 4 + 1
            levels = running.levels()
            assert levels.active <= 7
            assert levels.in_flight <= 2
    assert seen == 600


def test_the_window_finds_a_server_that_works_on_one_at_a_time() -> None:
    turn = threading.Lock()

    def work() -> None:
        with turn:
            time.sleep(0.01)

    transport = SlowTransport(CONTRACT)
    transport.on_infer = work
    results = list(run(street_maps(150), transport))
    assert by_kind(results) == {"Picture": 150}
    assert 2 <= transport.most <= 16


def test_errors_at_the_start_are_raised_by_the_first_step(tmp_path: Path) -> None:
    failing = run(street_maps(1), FakeTransport(CONTRACT), settings=RenderSettings(style_seed=1))
    with pytest.raises(InputError, match="takes no style"):
        next(failing)
    with pytest.raises(StopIteration):
        next(failing)
    with Manifest(tmp_path / "m"), pytest.raises(InputError, match="another run is writing it"):
        next(run(street_maps(1), FakeTransport(CONTRACT), sink=DictSink(), manifest=tmp_path / "m"))
