"""Blocks of maps, as another process is given them, against a fake server."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rendering_fakes import BytesFile, DictSink, item, map_pair, street_maps

from sceneloom.contract import Contract
from sceneloom.errors import (
    InputError,
    QueueFullError,
    ServerUnavailableError,
    UnknownLabelError,
)
from sceneloom.pictures import decode_picture
from sceneloom.rendering.items import MapItem
from sceneloom.rendering.manifest import Manifest, Origin, Row, Store
from sceneloom.rendering.plan import TritonServers
from sceneloom.rendering.ray_engine import Block, RaySettings, list_blocks
from sceneloom.rendering.ray_worker import Assigned, BlockResult, BlockWorker, Work
from sceneloom.rendering.retries import RetryPolicy
from sceneloom.rendering.settings import RenderSettings
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


def made(answered: BlockResult) -> dict[str, tuple[Row, bytes]]:
    return {row.key: (row, data) for row, data, _ in answered.made}


def given(items: Sequence[MapItem], *rows: Row) -> list[Assigned]:
    existing = {row.key: row for row in rows}
    return [Assigned(item=one, row=existing.get(one.key)) for one in items]


def test_blocks_side_by_side_give_the_pictures(start_server: Callable[..., Any]) -> None:
    server = start_server(CONTRACT)
    items = street_maps(12).items
    first, second = render(work(server.url), given(items[:8]), given(items[8:]))
    assert sorted(made(first)) == [one.key for one in items[:8]]
    assert first.error is second.error is None
    assert len(first.requests) >= 1
    assert first.levels.window >= 1
    with TritonSynthesizer("fake", transport=FakeTransport(CONTRACT)) as synthesizer:
        for number, answered in ((3, first), (9, second)):
            row, data = made(answered)[f"{number:04d}"]
            expected = synthesizer.synthesize(*map_pair(number))
            assert np.array_equal(decode_picture(data), expected)
            assert (row.status, row.origin, row.attempts) == ("done", ORIGIN, 1)


def test_rows_name_the_engine_and_another_precision_is_refused(
    start_server: Callable[..., Any],
) -> None:
    server = start_server(CONTRACT, engine="openvino-bf16")
    items = street_maps(1).items
    [answered] = render(work(server.url), given(items))
    row, _ = made(answered)["0000"]
    assert (row.engine, row.precision) == ("openvino-bf16", "bf16")
    assert answered.route.engine.startswith("engine: openvino-bf16 (bf16)")
    [refused] = render(work(server.url, engine="openvino-fp32"), given(items))
    assert (refused.made, refused.failed) == ([], [])
    assert f"the run has openvino-fp32, {server.url} has openvino-bf16" in str(refused.error)
    mixing = dataclasses.replace(SETTINGS, mix_precisions=True)
    [mixed] = render(work(server.url, engine="openvino-fp32", settings=mixing), given(items))
    assert made(mixed).keys() == {"0000"}


def test_what_is_there_is_not_rendered_again(start_server: Callable[..., Any]) -> None:
    server = start_server(CONTRACT)
    items = street_maps(3).items
    [first] = render(work(server.url), given(items))
    rows = {row.key: dataclasses.replace(row, output=f"{row.key}.png") for row, *_ in first.made}
    sent = len(server.transport.requests)
    rows["0001"] = dataclasses.replace(rows["0001"], input_hash="of another map")
    [again] = render(work(server.url), given(items, *rows.values()))
    assert {one.key: one.output for one in again.skipped} == {
        "0000": "0000.png",
        "0002": "0002.png",
    }
    assert made(again).keys() == {"0001"}
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
    failed = {failed.key: (failed.error, hash_) for failed, hash_ in answered.failed}
    unknown, hash_of_unknown = failed["unknown"]
    assert isinstance(unknown, UnknownLabelError)
    assert unknown.counts == {77: 5}
    assert str(unknown).startswith("unknown.png: ")
    assert len(hash_of_unknown) == 64
    assert failed["unread"][1] == ""
    row, _ = made(answered)["good"]
    assert row.attempts == 2
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
    assert made(answered).keys() == {"car"}
    [sent] = [inputs["style"] for inputs in server.transport.requests]
    assert sent.reshape(256, 2)[0].tolist() == [0.25, -0.5]


def test_the_schema_of_the_maps_travels(start_server: Callable[..., Any]) -> None:
    server = start_server(CONTRACT)
    labels, instances = np.full((32, 64), 3, np.uint8), np.full((32, 64), 1, np.uint16)
    label = {"id": 3, "name": "Car", "colour": [1, 2, 3]}
    file = json.dumps({"name": "sim", "labels": [label]}).encode()
    settings = RenderSettings(map_schema="/nowhere/sim.json")
    [answered] = render(
        work(server.url, settings=settings, map_schema=file),
        given([item("car", labels, instances)]),
    )
    assert (answered.error, answered.failed) == (None, [])
    [sent] = [inputs["label_map"] for inputs in server.transport.requests]
    assert (sent == 26).all()


def test_a_server_that_is_not_there_is_waited_for_and_then_ends_the_run() -> None:
    settings = RenderSettings(patience=0.5)
    begun = time.monotonic()
    first, second = render(
        work("127.0.0.1:1", settings=settings), *([given(street_maps(2).items)] * 2)
    )
    assert isinstance(first.error, ServerUnavailableError)
    assert isinstance(second.error, ServerUnavailableError)
    assert "no server has answered for 0.5 s" in str(first.error)
    assert (first.made, first.failed) == ([], [])
    assert time.monotonic() - begun >= 0.5


def test_another_model_than_the_run_began_with_is_refused(
    start_server: Callable[..., Any],
) -> None:
    other = Contract(schema=CONTRACT.schema, boundaries=True, size_multiple=8, bundle_hash="ff")
    server = start_server(other)
    [answered] = render(work(server.url), given(street_maps(1).items))
    assert isinstance(answered.error, InputError)
    assert "another model" in str(answered.error)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Manifest(tmp_path / "manifest.sqlite") as manifest:
        yield Store(DictSink(), manifest, ORIGIN, SETTINGS, "")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def test_a_source_that_breaks_off_gives_what_it_had(store: Store, pool: ThreadPoolExecutor) -> None:
    source = street_maps(20)
    source.broken_after = 6
    blocks: list[Block] = []
    with pytest.raises(InputError, match="ends before its end"):
        blocks.extend(list_blocks(source, store, 4, pool))
    assert [len(block.maps) for block in blocks] == [4, 2]


def test_a_picture_that_is_not_as_it_was_is_not_known(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    sink = DictSink()
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
        [block] = list_blocks(street_maps(4), store, 4, pool)
    assert [one.row.key if one.row else None for one in block.maps] == [None, None, "0002", None]


@pytest.mark.parametrize(
    ("name", "value"), [("actors", 0), ("cpus", 0), ("maps_per_block", 0), ("object_store", 1)]
)
def test_settings_out_of_range_are_refused(name: str, value: int) -> None:
    with pytest.raises(InputError, match=f"{name} is {value}; it is at least "):
        RaySettings(**{name: value})
