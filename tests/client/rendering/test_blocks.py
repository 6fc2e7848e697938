"""Blocks of maps, as another process is given them, against a fake server."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rendering_fakes import BytesFile, DictSink, ListSource, item, map_pair, street_maps

from sceneloom.contract import Contract
from sceneloom.errors import (
    InputError,
    QueueFullError,
    ServerUnavailableError,
    UnknownLabelError,
)
from sceneloom.pictures import decode_picture
from sceneloom.rendering.items import MapItem
from sceneloom.rendering.manifest import Manifest, Origin, Row
from sceneloom.rendering.plan import TritonServers
from sceneloom.rendering.ray_engine import BlockFeeder, RaySettings
from sceneloom.rendering.ray_stream import BlockQueue
from sceneloom.rendering.ray_worker import (
    Assigned,
    BlockResult,
    BlockWorker,
    Made,
    Unchanged,
    Unmade,
    Work,
)
from sceneloom.rendering.settings import RenderSettings, RetryPolicy
from sceneloom.rendering.store import Store
from sceneloom.schema import load_schema
from sceneloom.testing import FakeTransport
from sceneloom.triton.client import TritonSynthesizer

CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)
ORIGIN = Origin(model="synthesis", model_version="1", bundle_hash="", parameters="{}")
SETTINGS = RenderSettings(retry=RetryPolicy(first_wait=0.001, longest_wait=0.01), patience=5)


def work(*urls: str, **changes: Any) -> Work:
    values: dict[str, Any] = {
        "servers": TritonServers(urls=urls, transport="grpc"),
        "settings": SETTINGS,
        "contract": CONTRACT,
        "origin": ORIGIN,
        "engine": "",
        "style": "",
        "style_file": None,
        "folder": str(Path.cwd()),
    }
    return Work(**{**values, **changes})


def render(work: Work, *blocks: Sequence[Assigned]) -> list[BlockResult]:
    """What a worker answers, side by side, having been through pickle as all of it will be."""

    async def run() -> list[BlockResult]:
        worker = BlockWorker(pickle.loads(pickle.dumps(work)))
        answers = await asyncio.gather(*(worker.render(block) for block in blocks))
        await worker.close()
        return answers

    answers: list[BlockResult] = pickle.loads(pickle.dumps(asyncio.run(run())))
    return answers


def given(items: Sequence[MapItem], **known: str) -> list[Assigned]:
    return [Assigned(item=one, known=known.get(one.key, "")) for one in items]


def test_blocks_side_by_side_give_the_pictures(start_server: Callable[..., Any]) -> None:
    server = start_server(CONTRACT)
    items = street_maps(12).items
    first, second = render(work(server.url), given(items[:8]), given(items[8:]))
    assert list(sorted(first.outcomes)) == [one.key for one in items[:8]]
    assert first.error is second.error is None
    assert first.worker == os.getpid()
    assert len(first.requests) >= 1
    assert first.levels.window >= 1
    with TritonSynthesizer("fake", transport=FakeTransport(CONTRACT)) as synthesizer:
        for number, answered in ((3, first), (9, second)):
            made = answered.outcomes[f"{number:04d}"]
            assert isinstance(made, Made)
            expected = synthesizer.synthesize(*map_pair(number))
            assert np.array_equal(decode_picture(made.data), expected)
            assert (made.row.status, made.row.origin, made.row.attempts) == ("done", ORIGIN, 1)


def test_rows_name_the_engine_and_another_precision_is_refused(
    start_server: Callable[..., Any],
) -> None:
    server = start_server(CONTRACT, engine="openvino-bf16")
    items = street_maps(1).items
    [answered] = render(work(server.url), given(items))
    made = answered.outcomes["0000"]
    assert (made.row.engine, made.row.precision) == ("openvino-bf16", "bf16")  # type: ignore[union-attr]
    assert answered.route.engine.startswith("engine: openvino-bf16 (bf16)")
    [refused] = render(work(server.url, engine="openvino-fp32"), given(items))
    assert refused.outcomes == {}
    assert f"the run has openvino-fp32, {server.url} has openvino-bf16" in str(refused.error)
    mixing = dataclasses.replace(SETTINGS, mix_precisions=True)
    [mixed] = render(work(server.url, engine="openvino-fp32", settings=mixing), given(items))
    assert isinstance(mixed.outcomes["0000"], Made)


def test_what_is_there_is_not_rendered_again(start_server: Callable[..., Any]) -> None:
    server = start_server(CONTRACT)
    items = street_maps(3).items
    [first] = render(work(server.url), given(items))
    hashes = {key: made.row.input_hash for key, made in first.outcomes.items()}  # type: ignore[union-attr]
    sent = len(server.transport.requests)
    hashes["0001"] = "of another map"
    [again] = render(work(server.url), given(items, **hashes))
    kinds = {key: type(outcome) for key, outcome in again.outcomes.items()}
    assert kinds == {"0000": Unchanged, "0001": Made, "0002": Unchanged}
    assert len(server.transport.requests) == sent + 1


def test_failures_come_back_as_they_were_met(start_server: Callable[..., Any]) -> None:
    failures = [QueueFullError("full"), None, None]
    server = start_server(CONTRACT, failures=failures)
    labels, instances = map_pair(0)
    wrong = labels.copy()
    wrong[0, :5] = 77
    items = [
        item("good", labels, instances),
        item("unknown", wrong, instances),
        MapItem(key="unread", label=BytesFile("unread.png", None), instance=None),
    ]
    [answered] = render(work(server.url), given(items))
    unknown, unread = answered.outcomes["unknown"], answered.outcomes["unread"]
    assert isinstance(unknown, Unmade)
    assert isinstance(unknown.error, UnknownLabelError)
    assert unknown.error.counts == {77: 5}
    assert (unknown.row.status, unknown.row.error_kind) == ("failed", "UnknownLabelError")
    assert unknown.row.error.startswith("unknown.png: ")
    assert isinstance(unread, Unmade)
    assert unread.row.input_hash == ""
    good = answered.outcomes["good"]
    assert isinstance(good, Made)
    assert good.row.attempts == 2
    assert [type(error) for error in answered.retries] == [QueueFullError]


def test_the_style_file_travels(start_server: Callable[..., Any]) -> None:
    contract = Contract(
        schema=load_schema("cityscapes"),
        boundaries=True,
        size_multiple=8,
        style_channels=2,
        style_defaults={label: (0.0, 0.0) for label in range(35)},
    )
    server = start_server(contract)
    labels, instances = np.full((32, 64), 26, np.uint8), np.full((32, 64), 26001, np.uint16)
    block = given([item("car", labels, instances)])
    file = json.dumps({"format": 1, "labels": {"26": [0.25, -0.5]}}).encode()
    settings = RenderSettings(style_file=Path("/nowhere/style.json"))
    styled = work(server.url, contract=contract, settings=settings, style_file=file)
    [answered] = render(styled, block)
    assert answered.error is None
    assert isinstance(answered.outcomes["car"], Made)
    [sent] = [inputs["style"] for inputs in server.transport.requests]
    assert sent.reshape(256, 2)[0].tolist() == [0.25, -0.5]


def test_a_server_that_is_not_there_is_waited_for_and_then_ends_the_run() -> None:
    settings = RenderSettings(patience=0.5)
    begun = time.monotonic()
    first, second = render(
        work("127.0.0.1:1", settings=settings), *([given(street_maps(2).items)] * 2)
    )
    assert isinstance(first.error, ServerUnavailableError)
    assert isinstance(second.error, ServerUnavailableError)
    assert first.outcomes == {}
    assert time.monotonic() - begun >= 0.5


def test_another_model_than_the_run_began_with_is_refused(
    start_server: Callable[..., Any],
) -> None:
    other = Contract(schema=CONTRACT.schema, boundaries=True, size_multiple=8, bundle_hash="ff")
    server = start_server(other)
    [answered] = render(work(server.url), given(street_maps(1).items))
    assert isinstance(answered.error, InputError)
    assert "another model" in str(answered.error)


def test_maps_that_end_every_process_are_named() -> None:
    block = given(street_maps(2).items)
    worker = BlockWorker(work("127.0.0.1:1"))
    answered = worker.give_up(block, 5)
    asyncio.run(worker.close())
    outcome = answered.outcomes["0001"]
    assert isinstance(outcome, Unmade)
    assert outcome.row.error == (
        "0001.png: 5 processes died at it, or at one of the 2 maps that they were given together"
    )


class ListTaker:
    """Blocks in a list."""

    def __init__(self) -> None:
        self.blocks: list[Sequence[Assigned] | None] = []

    def put(self, number: int, block: Sequence[Assigned] | None) -> None:
        assert number == len(self.blocks)
        self.blocks.append(block)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Manifest(tmp_path / "manifest.sqlite") as manifest:
        yield Store(DictSink(), manifest, ORIGIN, SETTINGS, "")


def feeder(source: ListSource, store: Store, taker: ListTaker, most: int = 100) -> BlockFeeder:
    return BlockFeeder(source, store, taker, maps_per_block=4, most_blocks=most, threads=2)


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_source_that_breaks_off_gives_what_it_had(store: Store) -> None:
    source, taker = street_maps(20), ListTaker()
    source.broken_after = 6
    feeding = feeder(source, store, taker)
    feeding.start()
    wait_for(lambda: bool(taker.blocks) and taker.blocks[-1] is None)
    assert [len(block) for block in taker.blocks if block is not None] == [4, 2]
    assert "ends before its end" in str(feeding.error)
    feeding.close()


def test_a_picture_that_is_not_as_it_was_is_not_known(tmp_path: Path) -> None:
    sink, taker = DictSink(), ListTaker()
    with Manifest(tmp_path / "manifest.sqlite") as manifest:
        store = Store(sink, manifest, ORIGIN, SETTINGS, "")
        for key in ("0000", "0001", "0002"):
            row = Row(
                key=key,
                input_hash=f"hash of {key}",
                origin=ORIGIN,
                status="done",
                attempts=1,
                milliseconds=1.0,
                finished=0.0,
                output_hash=hashlib.sha256(key.encode()).hexdigest(),
            )
            store.record(sink.put(row.key, key.encode(), row))
        del sink.pictures["0000"]
        sink.pictures["0001"] += b"damaged"
        feeding = feeder(street_maps(4), store, taker)
        feeding.start()
        wait_for(lambda: bool(taker.blocks) and taker.blocks[-1] is None)
        feeding.close()
    [block] = [block for block in taker.blocks if block is not None]
    assert [one.known for one in block] == ["", "", "hash of 0002", ""]


def test_no_more_blocks_are_on_their_way_than_were_asked_for(store: Store) -> None:
    source, taker = street_maps(40), ListTaker()
    feeding = feeder(source, store, taker, most=3)
    feeding.start()
    wait_for(lambda: len(taker.blocks) == 3)
    time.sleep(0.05)
    assert (len(taker.blocks), feeding.maps_given()) == (3, 12)
    assert source.given <= 16
    block = feeding.take(1)
    assert block == dict.fromkeys(["0004", "0005", "0006", "0007"])
    assert feeding.take(1) is None
    wait_for(lambda: len(taker.blocks) == 4)
    feeding.close()
    assert taker.blocks[-1] is None
    assert len(taker.blocks) == 5


def test_the_queue_holds_a_block_until_it_is_answered() -> None:
    async def use() -> None:
        queue = BlockQueue()
        early = asyncio.create_task(queue.get(1))
        await queue.put(0, b"first")
        await asyncio.sleep(0)
        assert not early.done()
        await queue.put(1, b"second")
        assert await early == b"second"
        assert [await queue.begin(0), await queue.begin(0), await queue.begin(1)] == [1, 2, 1]
        await queue.drop(0)
        await queue.put(2, None)
        assert [await queue.get(number) for number in range(3)] == [b"", b"second", None]
        await queue.stop()
        assert await queue.begin(1) == 0

    asyncio.run(use())


@pytest.mark.parametrize(
    ("name", "value"), [("actors", 0), ("cpus", 0), ("maps_per_block", 0), ("object_store", 1)]
)
def test_settings_out_of_range_are_refused(name: str, value: int) -> None:
    with pytest.raises(InputError, match=f"{name} is {value}; it is from "):
        RaySettings(**{name: value})
