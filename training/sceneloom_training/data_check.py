"""The check of a training's data: every sample read once, all that is wrong listed, classes, sizes
and instances counted.

    sceneloom check-data CONFIG.toml        sceneloom train CONFIG.toml --out RUN --check
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt

from sceneloom.errors import InputError, UnknownLabelError
from sceneloom.schema import NO_CHANNEL, LabelSchema
from sceneloom.text import AlikeSentences, counted, printable
from sceneloom_training.assembly import check_instances, size_limits
from sceneloom_training.batches import check_large_enough
from sceneloom_training.data import DataSet, find_samples
from sceneloom_training.data.opening import THREADS, examine_headers
from sceneloom_training.progress_bar import track
from sceneloom_training.settings import TrainSettings

Size = tuple[int, int]
"""(height, width)."""


@dataclasses.dataclass(kw_only=True)
class Survey:
    """The samples of a data set that can be used, counted, and the faults of the others."""

    wrong: list[str]
    """A sentence for each fault, in the order of the samples."""
    sizes: Counter[Size]
    """Size of a file -> samples."""
    trained: Counter[Size]
    """Size in training -> samples."""
    pixels: npt.NDArray[np.int64]
    """Channel -> pixels, int64 [256]; 255 is `NO_CHANNEL` in a schema with fewer channels."""
    samples: npt.NDArray[np.int64]
    """Channel -> samples with it, int64 [256]."""
    unknown: Counter[int | tuple[int, ...]]
    """Label id, or colour, outside the schema -> pixels."""
    instances: list[int]
    """Instances of each sample; empty without instance maps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Seen:
    wrong: list[InputError]
    size: Size | None = None
    trained: Size | None = None
    pixels: npt.NDArray[np.int64] | None = None
    instances: int | None = None


def survey(data: DataSet, size_after: Callable[[str, Size], Size]) -> Survey:
    """Read every sample once, in several threads. `size_after` takes a sample's name and (height,
    width), returns those in training, and raises InputError for a sample that does not fit.
    """
    found = Survey(
        wrong=list(data.incomplete.values()),
        sizes=Counter(),
        trained=Counter(),
        pixels=np.zeros(NO_CHANNEL + 1, np.int64),
        samples=np.zeros(NO_CHANNEL + 1, np.int64),
        unknown=Counter(),
        instances=[],
    )
    indices = range(len(data))
    with ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(partial(_look_at, data, size_after), indices)
        for _, seen in zip(track(indices, "reading"), results, strict=True):
            found.wrong += map(str, seen.wrong)
            for error in seen.wrong:
                if isinstance(error, UnknownLabelError):
                    for value, pixels in error.counts.items():
                        found.unknown[value] += pixels
            if seen.size is not None:
                found.sizes[seen.size] += 1
            if seen.trained is not None:
                found.trained[seen.trained] += 1
            if seen.pixels is not None:
                found.pixels += seen.pixels
                found.samples += seen.pixels > 0
            if seen.instances is not None:
                found.instances.append(seen.instances)
    return found


def _look_at(data: DataSet, size_after: Callable[[str, Size], Size], index: int) -> _Seen:
    sample, wrong = data.inspect(index)
    if sample is None:
        return _Seen(wrong=wrong)
    height, width = sample.photo.shape[:2]
    trained = pixels = instances = None
    try:
        trained = size_after(data.keys[index], (height, width))
    except InputError as error:
        wrong = [error]
    if sample.label_map is not None:
        pixels = np.bincount(sample.label_map.ravel(), minlength=NO_CHANNEL + 1)
    if sample.instance_map is not None:
        instances = len(np.unique(sample.instance_map))
    return _Seen(
        wrong=wrong, size=(height, width), trained=trained, pixels=pixels, instances=instances
    )


def check_data(settings: TrainSettings) -> int:
    """Read every sample once and print what is wrong, and the counts. Return the exit code."""
    data = find_samples(settings.data)
    _, notes = examine_headers(data, settings.data.root)
    multiple, smallest = size_limits(settings)
    settings.geometry.check_multiple(multiple)

    def size_after(name: str, size: Size) -> Size:
        try:
            after = settings.geometry.size_after(size, multiple=multiple)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        check_large_enough(after, smallest, name)
        return after

    found = survey(data, size_after)
    unfit: list[str] = []
    for check in (
        lambda: check_instances(settings, has_instances=data.has_instances),
        lambda: settings.trained_on(len(data)),
    ):
        try:
            check()
        except InputError as error:
            unfit.append(str(error))
    if settings.optimizer.batch > 1 and len(found.trained) > 1:
        unfit.append(
            f"one batch would hold pictures of {_sizes(found.trained)}: choose a geometry with a "
            "fixed size, or optimizer.batch 1"
        )
    count = len(data) + len(data.incomplete)
    if found.sizes:
        readable = found.sizes.total()
        of_them = "" if readable == count else f", {readable} of them whole"
        print(f"{counted(count, 'sample')}{of_them}: {_sizes(found.sizes)}")
    if found.trained:
        print(f"in training: {_sizes(found.trained)}")
    if data.schema is not None:
        _print_classes(found, data.schema)
    if found.instances:
        fewest, most = min(found.instances), max(found.instances)
        print(f"{sum(found.instances):,} instances, {fewest} to {most} in a sample")
    elif data.schema is not None:
        print("no instance maps")
    for note in notes:
        print(printable(note))
    for sentence in (*_in_short(found.wrong), *unfit):
        print(f"wrong: {printable(sentence)}")
    for noun in ("ids", "colours"):
        listed = [
            f"{value} ({counted(pixels, 'pixel')})"
            for value, pixels in sorted(found.unknown.items(), key=_by_value)
            if isinstance(value, tuple) == (noun == "colours")
        ]
        if listed:
            print(f"{noun} outside the schema, in all: {', '.join(listed)}")
    if not found.wrong and not unfit:
        print("nothing is wrong")
        return 0
    remain = found.trained.total()
    if found.wrong and settings.data.skip_broken:
        left_out = f"{count - remain} of {counted(count, 'sample')}"
        print(f"a training leaves out {left_out}; {remain or 'none'} can be used")
        if remain and not unfit:
            return 0
    else:
        leave = "; --data.skip-broken leaves broken samples out" if found.wrong else ""
        print(f"{counted(len(found.wrong) + len(unfit), 'fault')}{leave}")
    return 1


def _in_short(sentences: list[str]) -> list[str]:
    alike = AlikeSentences()
    for sentence in sentences:
        alike.add(sentence)
    return alike.lines()


def _by_value(item: tuple[int | tuple[int, ...], int]) -> tuple[int, ...]:
    value, _ = item
    return value if isinstance(value, tuple) else (value,)


_LISTED = 10


def _sizes(sizes: Counter[Size]) -> str:
    common = sizes.most_common(_LISTED)
    listed = [f"{width}x{height} ({count:,})" for (height, width), count in common]
    if len(sizes) > _LISTED:
        listed.append(f"{len(sizes) - _LISTED} more sizes")
    return f"{', '.join(listed)}, width x height (samples)"


def _print_classes(found: Survey, schema: LabelSchema) -> None:
    """Print pixels, share and samples of each class, the most frequent first."""
    total = max(int(found.pixels.sum()), 1)
    names = [label.name for label in schema.labels]
    if schema.channels <= NO_CHANNEL:
        names += [""] * (NO_CHANNEL - len(names)) + ["(no class)"]
    print(f"{'class':24}{'pixels':>16}{'per cent':>10}{'samples':>10}")
    for channel in sorted(range(len(names)), key=lambda c: -found.pixels[c]):
        if pixels := int(found.pixels[channel]):
            share, samples = 100 * pixels / total, found.samples[channel]
            print(f"{printable(names[channel]):24}{pixels:>16,}{share:>10.4f}{samples:>10,}")
    if never := [label.name for n, label in enumerate(schema.labels) if not found.pixels[n]]:
        print(printable(f"never: {', '.join(never)}"))
