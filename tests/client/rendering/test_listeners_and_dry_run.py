"""Metrics, log lines and the check of pictures, of runs against a server in memory."""

from __future__ import annotations

import io
import json
import urllib.request
from pathlib import Path

import pytest
from rendering_fakes import DictSink, ListSource, item, map_pair, street_maps

from sceneloom.contract import Contract
from sceneloom.errors import InputError, QueueFullError, ServerUnavailableError
from sceneloom.files import OTHER_KIND, LeftOut
from sceneloom.rendering.connections import Connection
from sceneloom.rendering.dry_run import Damage, check_pictures, dry_run, merged_rows
from sceneloom.rendering.listeners import Levels, Listener, LogLines
from sceneloom.rendering.manifest import Manifest
from sceneloom.rendering.metrics import Metrics, serve_metrics
from sceneloom.rendering.retries import RetryPolicy
from sceneloom.rendering.run import Plan, RenderRun
from sceneloom.rendering.servers import Address
from sceneloom.rendering.settings import RenderSettings
from sceneloom.schema import load_schema
from sceneloom.testing import FakeTransport
from sceneloom.triton.client import TritonSynthesizer

CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)
SETTINGS = RenderSettings(retry=RetryPolicy(first_wait=0.001, longest_wait=0.01))


def plan(
    source: ListSource, transport: FakeTransport, manifest: Path, *listeners: Listener
) -> Plan:
    address = Address(
        name="fake:1",
        connect=lambda: Connection(TritonSynthesizer("fake", transport=transport)),
    )
    return Plan(
        source=lambda contract: source,
        addresses=[address],
        settings=SETTINGS,
        sink=DictSink(),
        manifest=manifest,
        listeners=listeners,
    )


def mixed_maps() -> ListSource:
    """Eight good maps of two sizes, one with an unknown id, one of two sizes."""
    source = street_maps(6)
    source.items += [item(f"wide{n}", *map_pair(n, width=72)) for n in range(2)]
    labels, instances = map_pair(9)
    unknown = labels.copy()
    unknown[:2] = 99
    source.items += [item("x", unknown, instances), item("y", labels, instances[:8])]
    return source


def test_metrics_say_what_happened(tmp_path: Path) -> None:
    failures = [None, None, QueueFullError("full"), ServerUnavailableError("gone")]
    metrics = Metrics(lambda: Levels(in_flight=3, window=5, waiting=7))
    run = plan(mixed_maps(), FakeTransport(CONTRACT, failures=failures), tmp_path / "m", metrics)
    list(RenderRun(run))
    with (
        serve_metrics(metrics, 0) as port,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer,
    ):
        text = answer.read().decode()
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    name = "sceneloom_render"
    assert lines[f'{name}_pictures_total{{status="rendered"}}'] == "8.0"
    assert lines[f'{name}_pictures_total{{status="failed"}}'] == "2.0"
    assert lines[f'{name}_failures_total{{kind="UnknownLabelError"}}'] == "1.0"
    assert lines[f'{name}_failures_total{{kind="SizeError"}}'] == "1.0"
    assert lines[f'{name}_retries_total{{kind="QueueFullError"}}'] == "1.0"
    assert lines[f"{name}_request_seconds_count"] == "8.0"
    assert float(lines[f'{name}_bytes_total{{what="received"}}']) == 6 * 32 * 64 * 3 + 2 * 6912
    assert lines[f'{name}_server_leaves_total{{server="fake:1"}}'] == "1.0"
    assert lines[f'{name}_server_up{{server="fake:1"}}'] == "1.0"
    assert lines[f"{name}_in_flight"] == "3.0"
    assert lines[f"{name}_window"] == "5.0"
    assert lines[f'{name}_queue_depth{{queue="waiting"}}'] == "7.0"


def test_metrics_at_a_port_that_is_taken() -> None:
    with (
        serve_metrics(Metrics(), 0) as port,
        pytest.raises(InputError, match=f"cannot be served at 127.0.0.1:{port}"),
        serve_metrics(Metrics(), port),
    ):
        pass
    with pytest.raises(InputError, match="port 70000"), serve_metrics(Metrics(), 70_000):
        pass


def test_log_lines_are_json(tmp_path: Path) -> None:
    out = io.StringIO()
    failures = [None, ServerUnavailableError("gone")]
    transport = FakeTransport(CONTRACT, failures=failures)
    list(RenderRun(plan(mixed_maps(), transport, tmp_path / "m", LogLines(out))))
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    kinds = [event["event"] for event in events]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "rendered": 8,
        "failed": 2,
        "retry": 1,
        "server away": 1,
        "server there": 2,
    }
    failed = next(e for e in events if e["event"] == "failed" and e["key"] == "x")
    assert failed["kind"] == "UnknownLabelError"
    assert "99 (128 pixels)" in failed["reason"]
    assert all(event["time"] > 1.7e9 for event in events)


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path) -> None:
    transport = FakeTransport(CONTRACT)
    asked = plan(mixed_maps(), transport, tmp_path / "m")
    found = dry_run(asked)
    assert (found.maps, found.padded) == (10, 0)
    assert found.sizes == {(32, 64): 6, (32, 72): 2}
    assert found.problems == {"UnknownLabelError": 1, "SizeError": 1}
    assert sorted(failed.key for failed in found.failed) == ["x", "y"]
    assert found.seconds is not None
    assert found.seconds == pytest.approx(8 * (found.seconds_per_picture or 0))
    assert len(transport.requests) == 2
    assert asked.sink.pictures == {}  # type: ignore[union-attr]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_nothing_good(tmp_path: Path) -> None:
    labels, instances = map_pair(1)
    source = ListSource([item("a", labels, instances[:16])])
    found = dry_run(plan(source, FakeTransport(CONTRACT), tmp_path / "m"))
    assert (found.maps, found.sizes, found.seconds) == (1, {}, None)


def test_pictures_that_changed_are_named(tmp_path: Path) -> None:
    asked = plan(street_maps(70), FakeTransport(CONTRACT), tmp_path / "m")
    list(RenderRun(asked))
    sink = asked.sink
    assert isinstance(sink, DictSink)
    del sink.pictures["0003"]
    sink.pictures["0066"] += b"x"
    with Manifest(tmp_path / "m") as manifest:
        found = list(check_pictures(merged_rows([(manifest, sink)]), threads=2))
    damaged = {one.key: one.reason for one in found if isinstance(one, Damage)}
    assert sorted(damaged) == ["0003", "0066"]
    assert damaged["0003"] == "0003: is not there"
    assert "was changed" in damaged["0066"]
    assert len(found) == 70


def test_several_manifests_are_seen_as_one(tmp_path: Path) -> None:
    """In the order of the keys, also of names that are not UTF-8; of two rows the last one."""
    keys = ["a", "b\udcff", "b", "\U0001f600", "\uffff"]
    manifests = []
    for number in range(3):
        source = ListSource([item(key, *map_pair(7 * number)) for key in keys[number:] or keys])
        asked = plan(source, FakeTransport(CONTRACT), tmp_path / f"{number}.sqlite")
        list(RenderRun(asked))
        assert isinstance(asked.sink, DictSink)
        manifests.append((Manifest(tmp_path / f"{number}.sqlite"), asked.sink))
    found = list(merged_rows(manifests))
    assert sorted(row.key for row, _ in found) == sorted(keys)
    last = {key: min(number, 2) for number, key in enumerate(keys)}
    assert {row.key: [s for _, s in manifests].index(sink) for row, sink in found} == last
    assert not any(isinstance(one, Damage) for one in check_pictures(found, threads=2))
    for manifest, _ in manifests:
        manifest.close()


def test_a_run_and_a_dry_run_know_what_is_left_out(tmp_path: Path) -> None:
    left_out = [LeftOut(reason=OTHER_KIND, name="notes.txt")]
    asked = plan(street_maps(2), FakeTransport(CONTRACT), tmp_path / "m")
    assert dry_run(asked).left_out == left_out
    with RenderRun(asked) as run:
        assert run.source is None  # not begun
        list(run)
        assert run.source is not None
        assert run.source.left_out == left_out
