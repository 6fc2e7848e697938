"""A data set and a place for pictures in memory, for tests of the rendering pipeline."""

from __future__ import annotations

import dataclasses
import errno
import os
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sceneloom.errors import ImageReadError, ImageTooLargeError
from sceneloom.files import OTHER_KIND, LeftOut
from sceneloom.rendering import render
from sceneloom.rendering.items import MapItem, Written
from sceneloom.rendering.retries import RetryPolicy
from sceneloom.rendering.settings import RenderSettings
from sceneloom.synthesizer import Synthesizer

Array = npt.NDArray[Any]
QUICK = RetryPolicy(first_wait=0.001, longest_wait=0.01)


@dataclasses.dataclass(frozen=True)
class BytesFile:
    """A file in memory; without data it cannot be read."""

    name: str
    data: bytes | None

    def read(self, max_bytes: int) -> bytes:
        if self.data is None:
            raise ImageReadError(f"{self.name}: cannot be read")
        if len(self.data) > max_bytes:
            raise ImageTooLargeError(f"{self.name}: too large")
        return self.data


def png(values: Array) -> bytes:
    done, data = cv2.imencode(".png", values)
    assert done
    return data.tobytes()


def map_pair(seed: int, height: int = 32, width: int = 64) -> tuple[Array, Array]:
    """A label map uint8 [H, W] of Cityscapes' ids and an instance map uint16 [H, W]."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 34, (height // 8, width // 8))
    labels = np.kron(blocks, np.ones((8, 8), np.int64))
    numbers = np.kron(rng.integers(0, 40, blocks.shape), np.ones((8, 8), np.int64))
    return labels.astype(np.uint8), (labels * 1000 + numbers).astype(np.uint16)


def item(key: str, labels: Array, instances: Array | None) -> MapItem:
    return MapItem(
        key=key,
        label=BytesFile(f"{key}.png", png(labels)),
        instance=None if instances is None else BytesFile(f"{key}_inst.png", png(instances)),
    )


class ListSource:
    """Maps in a list."""

    name = "a list"

    def __init__(self, items: list[MapItem], broken_after: int | None = None) -> None:
        self.items = items
        self.broken_after = broken_after
        self.given = 0

    def count(self) -> int:
        return len(self.items)

    @property
    def left_out(self) -> Sequence[LeftOut]:
        return [LeftOut(reason=OTHER_KIND, name="notes.txt")]

    def __iter__(self) -> Iterator[MapItem]:
        for number, one in enumerate(self.items):
            if number == self.broken_after:
                raise ImageReadError("a list: ends before its end")
            self.given += 1
            yield one


def street_maps(count: int, **size: int) -> ListSource:
    return ListSource([item(f"{n:04d}", *map_pair(n, **size)) for n in range(count)])


class DictSink:
    """Pictures in a dictionary; `shard` pictures become known together; `full_after` puts the disk
    is full.
    """

    name = "a dictionary"

    def __init__(self, shard: int = 1, full_after: int | None = None) -> None:
        self.pictures: dict[str, bytes] = {}
        self.held: list[tuple[str, bytes, Any]] = []
        self.puts = 0
        self.shard, self.full_after = shard, full_after
        self._lock = threading.Lock()

    def open(self, is_known: Callable[[str], bool]) -> None:
        self.held = []

    def put(self, key: str, data: bytes, tag: Hashable) -> list[Written]:
        with self._lock:
            self.puts += 1
            if self.full_after is not None and self.puts > self.full_after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), key)
            self.held.append((key, data, tag))
            return self._settle() if len(self.held) >= self.shard else []

    def finish(self) -> list[Written]:
        with self._lock:
            return self._settle()

    def _settle(self) -> list[Written]:
        held, self.held = self.held, []
        self.pictures |= {key: data for key, data, _ in held}
        return [Written(tag=tag, output=key) for key, _, tag in held]

    def read(self, output: str) -> bytes | None:
        return self.pictures.get(output)

    def close(self) -> None:
        self.held = []


def render_folders(
    synthesizer: Synthesizer,
    labels: Path,
    instances: Path | None,
    output: Path,
    settings: RenderSettings | None = None,
) -> list[Any]:
    """Render folders of maps into a folder; the results in the order of their keys."""
    run = render(
        synthesizer,
        labels.parent,
        output,
        labels=str(labels),
        instances=None if instances is None else str(instances),
        settings=settings or RenderSettings(retry=QUICK),
    )
    with run:
        return sorted(run, key=lambda result: result.key)


def pictures_below(folder: Path) -> list[str]:
    """Files below a folder of pictures, the manifest's left out."""
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())
    return sorted(name for name in names if "manifest." not in name)
