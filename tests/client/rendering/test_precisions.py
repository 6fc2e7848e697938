"""Every picture names its engine, and a run is of one precision unless mixing is asked for."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from rendering_fakes import DictSink, map_pair, street_maps
from support import run_here

from sceneloom.contract import Contract
from sceneloom.errors import InputError, ServerUnavailableError
from sceneloom.rendering import render
from sceneloom.rendering.connections import Connection
from sceneloom.rendering.items import Picture, Rendered, Result, Skipped
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
SETTINGS = RenderSettings(most_in_flight=2, retry=QUICK, patience=1)
MIXING = dataclasses.replace(SETTINGS, mix_precisions=True)


def served(name: str, *engines: str | FakeTransport) -> Address:
    """A server that runs these engines, one after each connection."""
    given: Iterator[str | FakeTransport] = iter(engines)

    def connect() -> Connection:
        one = next(given)
        transport = FakeTransport(CONTRACT, engine=one) if isinstance(one, str) else one
        return Connection(TritonSynthesizer("fake", transport=transport))

    return Address(name=name, connect=connect)


class Place:
    """Where the pictures of runs go."""

    def __init__(self, folder: Path) -> None:
        self.sink, self.manifest = DictSink(), folder / "manifest.sqlite"

    def render(self, *addresses: Address, settings: RenderSettings = SETTINGS) -> list[Result]:
        source = street_maps(4)
        plan = Plan(
            source=lambda contract: source,
            addresses=addresses,
            settings=settings,
            sink=self.sink,
            manifest=self.manifest,
        )
        with RenderRun(plan) as run:
            return sorted(run, key=lambda result: result.key)

    def engines(self) -> list[tuple[str, str]]:
        with Manifest(self.manifest) as manifest:
            return [(row.engine, row.precision) for row in manifest.rows()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_rows_and_results_name_engine_and_precision(place: Place) -> None:
    results = place.render(served("one", "openvino-bf16"))
    assert [type(result) for result in results] == [Rendered] * 4
    assert {(r.engine, r.precision) for r in results if isinstance(r, Rendered)} == {
        ("openvino-bf16", "bf16")
    }
    assert place.engines() == [("openvino-bf16", "bf16")] * 4
    lines = place.manifest.with_suffix(".jsonl").read_text().splitlines()
    assert json.loads(lines[0])["engine"] == "openvino-bf16"
    assert json.loads(lines[0])["precision"] == "bf16"
    again = place.render(served("one", "openvino-bf16"))
    assert {r.engine for r in again if isinstance(r, Skipped)} == {"openvino-bf16"}


def test_pictures_without_a_place_name_it_too() -> None:
    transport = FakeTransport(CONTRACT, engine="tensorrt-fp16")
    with TritonSynthesizer("fake", transport=transport) as synthesizer:
        (found,) = render(synthesizer, street_maps(1))
    assert isinstance(found, Picture)
    assert (found.engine, found.precision) == ("tensorrt-fp16", "fp16")


@pytest.mark.parametrize(
    ("first", "second", "settings", "made_again"),
    [
        ("openvino-bf16", "openvino-fp32", SETTINGS, True),
        ("openvino-fp32", "openvino-int8", SETTINGS, True),
        ("openvino-fp32", "onnxruntime-fp32", SETTINGS, False),
        ("openvino-bf16", "openvino-fp32", MIXING, False),
        ("", "openvino-fp32", SETTINGS, False),
        ("openvino-fp32", "", SETTINGS, False),
    ],
)
def test_what_another_precision_made_is_made_again(
    place: Place, first: str, second: str, settings: RenderSettings, made_again: bool
) -> None:
    place.render(served("one", first))
    results = place.render(served("one", second), settings=settings)
    kind = Rendered if made_again else Skipped
    assert [type(result) for result in results] == [kind] * 4
    assert {engine for engine, _ in place.engines()} == {second if made_again else first}


def test_an_older_manifest_is_opened_and_its_pictures_are_kept(place: Place) -> None:
    place.render(served("one", "openvino-fp32"))
    before = place.engines()
    database = sqlite3.connect(place.manifest)
    with database:
        for column in ("engine", "precision"):
            database.execute(f"alter table pictures drop column {column}")
        database.execute("pragma user_version = 1")
    database.close()
    results = place.render(served("one", "openvino-fp32"))
    assert [type(result) for result in results] == [Skipped] * 4
    assert place.engines() == [("", "")] * 4
    with Manifest(place.manifest) as manifest:  # it is of this format now
        first = manifest.row("0000")
    assert first is not None
    assert first.output_hash
    place.sink.pictures.clear()
    place.render(served("one", "openvino-fp32"))
    assert place.engines() == before


def test_servers_of_different_precision_are_refused_by_name(place: Place) -> None:
    with pytest.raises(InputError) as caught:
        place.render(served("gpu1:8001", "tensorrt-fp16"), served("cpu:8001", "openvino-fp32"))
    assert "gpu1:8001 has tensorrt-fp16, cpu:8001 has openvino-fp32" in str(caught.value)
    assert "--mix-precisions" in str(caught.value)
    assert not place.manifest.exists()


def test_servers_of_one_precision_and_of_an_unknown_one_work_together(place: Place) -> None:
    results = place.render(
        served("a", "openvino-fp32"), served("b", "onnxruntime-fp32"), served("c", "")
    )
    assert len(results) == 4
    assert {engine for engine, _ in place.engines()} <= {"openvino-fp32", "onnxruntime-fp32", ""}


def test_mixed_servers_and_every_picture_names_its_own(place: Place) -> None:
    results = place.render(
        served("a", "tensorrt-fp16"), served("b", "openvino-fp32"), settings=MIXING
    )
    named = [r.engine for r in results if isinstance(r, Rendered)]
    assert set(named) == {"tensorrt-fp16", "openvino-fp32"}
    assert [engine for engine, _ in place.engines()] == named


def test_a_server_that_comes_back_in_another_precision_is_not_used(place: Place) -> None:
    gone = ServerUnavailableError("restarting")
    first = FakeTransport(CONTRACT, engine="openvino-fp32", failures=[None, *[gone] * 20])
    address = served("one", first, *["openvino-bf16"] * 20)
    with pytest.raises(ServerUnavailableError) as caught:
        place.render(address)
    assert "the run has openvino-fp32, one has openvino-bf16" in str(caught.value)
    assert {engine for engine, _ in place.engines()} == {"openvino-fp32"}


def test_the_command_says_which_engine_made_the_pictures(
    tmp_path: Path, start_server: Callable[..., Any]
) -> None:
    for kind, values in zip(("test_label", "test_inst"), map_pair(0), strict=True):
        (tmp_path / "maps" / kind).mkdir(parents=True)
        assert cv2.imwrite(str(tmp_path / "maps" / kind / "a.png"), values)
    brain = start_server(CONTRACT, engine="openvino-bf16").url
    full = start_server(CONTRACT, engine="openvino-fp32").url
    command = ("render", tmp_path / "maps", tmp_path / "out")
    flags = ("--transport", "grpc", "--log", "json", "--url")
    done = run_here(*command, *flags, brain)
    assert done.returncode == 0, done.stderr
    assert "engine: openvino-bf16 (bf16); difference from PyTorch: not said" in done.stdout
    events = [json.loads(line) for line in done.stderr.splitlines()]
    (event,) = [event for event in events if event["event"] == "rendered"]
    assert (event["engine"], event["precision"]) == ("openvino-bf16", "bf16")
    kept = run_here(*command, "--mix-precisions", *flags, full)
    assert "nothing to do: 1 of 1 are there" in kept.stdout
    both = run_here(*command, *flags, full, brain)
    assert both.returncode == 1
    assert f"{full} has openvino-fp32, {brain} has openvino-bf16" in both.stderr
    again = run_here(*command, *flags, full)
    assert "rendered 1 of 1 map in" in again.stdout
