"""Rendering a folder of label maps: read, synthesize with several requests in flight, encode,
write.

A broken map is a `Failed` with its reason, and the others still come out. A picture is written
beside its place and renamed into it, so that a file that is there is whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Literal

from sceneloom.errors import ImageReadError, InputError, MissingInputError, SceneLoomError
from sceneloom.maps import (
    DEFAULT_MAX_PIXELS,
    MAP_SUFFIXES,
    OnUnknown,
    read_instance_map,
    read_label_map,
)
from sceneloom.padding import Padding
from sceneloom.rendering.folder_source import pair_folders
from sceneloom.rendering.formats import encode_picture
from sceneloom.style_choice import ChooseStyle, StyleChoice, style_chooser
from sceneloom.synthesizer import Image, Synthesizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderSettings(StyleChoice):
    """How to render."""

    in_flight: int = 4
    """Requests that are under way at once, reading and writing included."""
    format: Literal["png", "jpg"] = "png"
    """png is lossless; jpg is smaller and faster to write."""
    quality: int = 95
    """Quality of jpg, 1 to 100."""
    unknown: OnUnknown = "error"
    """What to do with label ids that the model's schema does not have: refuse the map, or read them
    as unlabelled.
    """
    max_pixels: int = DEFAULT_MAX_PIXELS
    """Largest map to read, in pixels."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if not 1 <= self.in_flight <= 256:
            raise InputError(f"in_flight is {self.in_flight}; it is from 1 to 256")
        if self.format not in ("png", "jpg"):
            raise InputError(f"format is {self.format!r}; it is png or jpg")
        if not 1 <= self.quality <= 100:
            raise InputError(f"quality is {self.quality}; it is from 1 to 100")
        if self.unknown not in ("error", "unlabelled"):
            raise InputError(f"unknown is {self.unknown!r}; it is error or unlabelled")
        if self.max_pixels < 1:
            raise InputError(f"max_pixels is {self.max_pixels}; it is at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapPair:
    """The files of one picture."""

    key: str
    """Path of the label map below its folder, without its ending; names the picture."""
    label: Path
    """The label map."""
    instance: Path | None
    """The instance map, or None where none was found."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rendered:
    """A picture that was written."""

    key: str
    """Of its map."""
    output: Path
    """The picture's file."""
    padding: Padding
    """What was added to the map for the network, and cropped off the picture."""
    seconds: float
    """From reading the map to the finished file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failed:
    """A map that gave no picture."""

    key: str
    """Of the map."""
    error: Exception
    """A SceneLoomError, or an OSError of the place the picture was to go."""

    @property
    def reason(self) -> str:
        """One sentence that begins with the map's name."""
        text = str(self.error) or type(self.error).__name__
        file = Path(text.split(": ")[0])
        named = file.suffix.lower() in MAP_SUFFIXES and file.with_suffix("").as_posix().endswith(
            self.key
        )
        return text if named else f"{self.key}: {text}"


def find_pairs(labels: Path, instances: Path | None) -> list[MapPair]:
    """Find label maps and the instance map that belongs to each.

    Files pair up by their path below the two folders, without ending and without what publishers
    append (``_gtFine_labelIds`` goes with ``_gtFine_instanceIds``).

    Args:
        labels: folder of label maps, searched to the bottom. Instance maps that lie beside them are
            left out.
        instances: folder of instance maps, or None to pair none.

    Returns:
        the pairs, ordered by key.

    Raises:
        InputError: a folder does not exist, there are no maps, two maps would share one picture's
            name, or two instance maps fit one name.
    """
    pairs = pair_folders(str(labels), None if instances is None else str(instances))
    return [
        MapPair(
            key=key,
            label=labels / label,
            instance=None if instance is None or instances is None else instances / instance,
        )
        for key, label, instance in pairs
    ]


def render_maps(
    synthesizer: Synthesizer,
    pairs: Iterable[MapPair],
    output: Path,
    settings: RenderSettings | None = None,
    *,
    on_result: Callable[[Rendered | Failed], None] = lambda result: None,
) -> list[Rendered | Failed]:
    """Render maps into a folder, several at once.

    Args:
        synthesizer: must be safe to use from several threads, as `TritonSynthesizer` is.
        pairs: what to render, as `find_pairs` gives it.
        output: folder for the pictures; made if it is not there. Pictures of equal name are
            replaced.
        settings: how.
        on_result: called after each map, from the calling thread, in the order they finish.

    Returns:
        one result per map, in the order of `pairs`.

    Raises:
        InputError: pictures would lie among the maps, `output` cannot be a folder, or the model
            cannot take the style that was chosen; nothing was rendered.
        SchemaError: the style file for all maps is wrong; nothing was rendered.
    """
    settings = settings or RenderSettings()
    choose = style_chooser(synthesizer.contract, settings)
    pairs = list(pairs)
    targets = [output / f"{pair.key}.{settings.format}" for pair in pairs]
    folders = {path.parent for pair in pairs for path in (pair.label, pair.instance) if path}
    of_maps = {folder.resolve() for folder in folders}
    if clash := next((f for f in {t.parent for t in targets} if f.resolve() in of_maps), None):
        raise InputError(
            f"{clash}: holds maps, and the pictures would lie among them; choose another folder"
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{output}: cannot be the folder for pictures ({error.strerror})"
        ) from None
    results: dict[int, Rendered | Failed] = {}
    for index, result in _in_flight(synthesizer, pairs, targets, settings, choose):
        results[index] = result
        on_result(result)
    return [results[index] for index in range(len(pairs))]


def _in_flight(
    synthesizer: Synthesizer,
    pairs: Sequence[MapPair],
    targets: Sequence[Path],
    settings: RenderSettings,
    choose: ChooseStyle,
) -> Iterator[tuple[int, Rendered | Failed]]:
    running: dict[Future[Rendered | Failed], int] = {}
    waiting = iter(range(len(pairs)))
    with ThreadPoolExecutor(settings.in_flight, thread_name_prefix="sceneloom-render") as pool:
        while True:
            while len(running) < settings.in_flight and (index := next(waiting, None)) is not None:
                task = (synthesizer, pairs[index], targets[index], settings, choose)
                running[pool.submit(_render_one, *task)] = index
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()


def _render_one(
    synthesizer: Synthesizer,
    pair: MapPair,
    target: Path,
    settings: RenderSettings,
    choose: ChooseStyle,
) -> Rendered | Failed:
    start = time.perf_counter()
    contract = synthesizer.contract
    try:
        label_map = read_label_map(
            pair.label, contract.schema, unknown=settings.unknown, max_pixels=settings.max_pixels
        )
        instance_map = None
        if contract.boundaries or contract.style_channels:
            if pair.instance is None:
                raise MissingInputError(
                    f"{pair.label}: no instance map of this name, and the model wants one"
                )
            instance_map = read_instance_map(pair.instance, max_pixels=settings.max_pixels)
        style = choose(pair.key, label_map, instance_map)
        image = synthesizer.synthesize(label_map, instance_map, style)
        write_image(target, image, quality=settings.quality)
    except (SceneLoomError, OSError) as error:
        return Failed(key=pair.key, error=error)
    except MemoryError:
        return Failed(
            key=pair.key,
            error=ImageReadError(f"{pair.label}: not enough memory for a map of this size"),
        )
    height, width = label_map.shape
    network_height, network_width = contract.network_size(height, width)
    return Rendered(
        key=pair.key,
        output=target,
        padding=Padding(network_height - height, network_width - width),
        seconds=time.perf_counter() - start,
    )


def write_image(path: Path, image: Image, *, quality: int = 95) -> None:
    """Encode a picture and put it in its place in one step.

    Args:
        path: ends in .png or .jpg; missing folders are made.
        image: uint8 [H, W, 3], RGB.
        quality: of jpg, 1 to 100.

    Raises:
        InputError: the format cannot hold a picture of this size.
        OSError: the place cannot be written.
    """
    format: Any = path.suffix.removeprefix(".")
    try:
        encoded = encode_picture(image, format, quality=quality)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        part.write_bytes(encoded)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from None
