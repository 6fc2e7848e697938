"""A folder or manifest that is taken away while a run is on: no run ends well without its
pictures, and the same command completes them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rendering_fakes import ListSource, street_maps

from sceneloom.contract import Contract
from sceneloom.rendering.datasets import open_sink
from sceneloom.rendering.dry_run import Damage, check_pictures
from sceneloom.rendering.items import Failed, MapItem, Result
from sceneloom.rendering.listeners import Listener
from sceneloom.rendering.manifest import Manifest
from sceneloom.rendering.plan import engine_address
from sceneloom.rendering.run import Plan, RenderRun
from sceneloom.rendering.settings import Container, RenderSettings, ShardSettings
from sceneloom.schema import load_schema
from sceneloom.testing import FakeTransport
from sceneloom.triton.client import TritonSynthesizer

CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)
COUNT = 48
SETTINGS = RenderSettings(look_ahead=1, workers=1)
GONE = "was removed or moved while the run was on"

Change = Callable[[Path, Path], None]


class InterruptedMaps(ListSource):
    """Maps in a list; something happens before the last sixteen are given."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__(street_maps(COUNT).items)
        self._happens = happens

    def __iter__(self) -> Iterator[MapItem]:
        for number, one in enumerate(super().__iter__()):
            if number == COUNT - 16:
                self._happens()
            yield one


class AtTheEnd(Listener):
    """Something happens once every map has its result."""

    def __init__(self, happens: Callable[[], None]) -> None:
        self._happens, self._left = happens, COUNT

    def on_result(self, result: Result) -> None:
        self._left -= 1
        if not self._left:
            self._happens()


def render(
    output: str,
    manifest: Path,
    container: Container = "folder",
    source: ListSource | None = None,
    listeners: tuple[Listener, ...] = (),
) -> list[Result]:
    with TritonSynthesizer("fake", transport=FakeTransport(CONTRACT)) as synthesizer:
        shards = ShardSettings(pictures=5)
        plan = Plan(
            source=lambda contract: source or street_maps(COUNT),
            addresses=[engine_address(synthesizer)],
            settings=SETTINGS,
            sink=open_sink(output, "png", container=container, shards=shards),
            manifest=manifest,
            listeners=listeners,
        )
        with RenderRun(plan) as run:
            return list(run)


def is_complete(output: str, manifest: Path, container: Container) -> bool:
    with Manifest(manifest, to_read=True) as rows:
        sink = open_sink(output, "png", container=container)
        found = list(check_pictures(((row, sink) for row in rows.rows()), threads=1))
    return len(found) == COUNT and not any(isinstance(one, Damage) for one in found)


def removed(output: Path, manifest: Path) -> None:
    while output.exists():  # the run is at work in it
        shutil.rmtree(output, ignore_errors=True)


def moved(output: Path, manifest: Path) -> None:
    output.rename(output.with_name("elsewhere"))


def replaced(output: Path, manifest: Path) -> None:
    moved(output, manifest)
    output.mkdir()


def without_manifest(output: Path, manifest: Path) -> None:
    for path in manifest.parent.glob(f"{manifest.name}*"):
        path.unlink()


@pytest.mark.parametrize("change", [removed, moved, replaced, without_manifest])
@pytest.mark.parametrize(
    ("container", "apart"),
    [("folder", False), ("folder", True), ("tar", False), ("tar", True), ("parquet", False)],
)
def test_what_vanishes_ends_the_run_and_is_made_again(
    tmp_path: Path, container: Container, change: Change, apart: bool
) -> None:
    output = tmp_path / "out"
    manifest = (tmp_path if apart else output) / "m.sqlite"
    source = InterruptedMaps(lambda: change(output, manifest))
    with pytest.raises(OSError, match=GONE):
        render(str(output), manifest, container, source)
    again = render(str(output), manifest, container)
    assert len(again) == COUNT
    assert not [one for one in again if isinstance(one, Failed)]
    assert is_complete(str(output), manifest, container)


def test_a_manifest_that_vanishes_takes_the_shards_of_earlier_runs_along(tmp_path: Path) -> None:
    manifest = tmp_path / "out" / "m.sqlite"
    render(str(tmp_path / "out"), manifest, "tar")
    source = InterruptedMaps(lambda: without_manifest(tmp_path / "out", manifest))
    with pytest.raises(OSError, match=GONE):  # although nothing had to be made
        render(str(tmp_path / "out"), manifest, "tar", source)
    assert len(render(str(tmp_path / "out"), manifest, "tar")) == COUNT
    assert is_complete(str(tmp_path / "out"), manifest, "tar")


@pytest.mark.parametrize("change", [removed, moved, without_manifest])
def test_what_vanishes_after_the_last_picture_is_noticed(tmp_path: Path, change: Change) -> None:
    output, manifest = tmp_path / "out", tmp_path / "m.sqlite"
    end = AtTheEnd(lambda: change(output, manifest))
    with pytest.raises(OSError, match=GONE):
        render(str(output), manifest, listeners=(end,))


def test_a_folder_in_the_folder_and_a_shard_are_noticed(tmp_path: Path) -> None:
    items = [
        MapItem(key=f"sub{n % 2}/{one.key}", label=one.label, instance=one.instance)
        for n, one in enumerate(street_maps(COUNT).items)
    ]
    end = AtTheEnd(lambda: shutil.rmtree(tmp_path / "out" / "sub0"))
    with pytest.raises(OSError, match=f"sub0: {GONE}"):
        render(str(tmp_path / "out"), tmp_path / "m", source=ListSource(items), listeners=(end,))
    source = InterruptedMaps((tmp_path / "tar" / "shard-000001.tar").unlink)
    with pytest.raises(OSError, match=f"shard-000001.tar: {GONE}"):
        render(str(tmp_path / "tar"), tmp_path / "t", "tar", source)


@pytest.mark.parametrize("container", ["folder", "tar"])
def test_a_remote_place_that_is_emptied_is_noticed(
    tmp_path: Path, memory: Any, container: Container
) -> None:
    manifest, place = tmp_path / "m", "memory://pictures"
    source = InterruptedMaps(lambda: memory.rm("/pictures", recursive=True))
    with pytest.raises(OSError, match=GONE):
        render(place, manifest, container, source)
    assert len(render(place, manifest, container)) == COUNT
    assert is_complete(place, manifest, container)
