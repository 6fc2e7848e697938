"""Open a data set by its layout, and examine the sizes and orientations of its files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from sceneloom import progress
from sceneloom.errors import DataSetError, ImageReadError, InputError
from sceneloom.files import LeftOut, describe
from sceneloom.map_reading import MapReader, instances_of_labels
from sceneloom.maps import parse_size
from sceneloom.schema import LabelSchema, builtin_schemas, load_schema
from sceneloom.text import printable
from sceneloom_training.data.folders import TripleDataSet
from sceneloom_training.data.layouts import LAYOUTS
from sceneloom_training.data.pictures import read_header
from sceneloom_training.data.sample import DataSet, Sample, Whole, size_difference
from sceneloom_training.data.settings import SKIP_BROKEN, DataSettings


def open_data_set(settings: DataSettings) -> DataSet:
    """Find a data set's files as `find_samples`. Raises DataSetError for a missing partner too."""
    data = find_samples(settings)
    if data.incomplete:
        more = f" ({len(data.incomplete) - 1} more like it)" * (len(data.incomplete) > 1)
        raise DataSetError(f"{next(iter(data.incomplete.values()))}{more}; {SKIP_BROKEN}")
    return data


def open_examined(settings: DataSettings) -> tuple[DataSet, list[str]]:
    """Open a data set, and return it with notes for the user, as `examine` does. With
    `skip_broken` every sample is read once, and those that cannot be used are left out, each with
    a note.
    """
    if not settings.skip_broken:
        data = open_data_set(settings)
        return data, examine(data, settings.root)
    data = find_samples(settings)
    broken, notes = examine_headers(data, settings.root)
    indices = [index for index, key in enumerate(data.keys) if key not in broken]
    with progress.stage("read every sample"), ThreadPoolExecutor(THREADS) as pool:
        seen = dict(zip(indices, pool.map(lambda i: data.inspect(i)[1], indices), strict=True))
    broken |= {data.keys[index]: str(errors[0]) for index, errors in seen.items() if errors}
    broken |= data.incomplete
    notes += [f"left out: {key}, a broken sample ({why})" for key, why in broken.items()]
    whole = [index for index, errors in seen.items() if not errors]
    if not whole:
        raise DataSetError(f"no sample can be used: {next(iter(broken.values()))}")
    return Whole(data, whole, broken), notes


def find_samples(settings: DataSettings) -> DataSet:
    """Find a data set's files, and their partners, without reading a picture. Raises DataSetError
    for missing folders and splits, InputError for a schema with other ids than the layout,
    SchemaError for an invalid one.
    """
    layout, name, split = LAYOUTS[settings.layout], settings.labels, settings.split
    options: dict[str, Any] = {}
    if layout.schemas:
        name = name or layout.schemas[0]
        # Another data set's ids would mostly pass, and train wrong names.
        if name in builtin_schemas() and name not in layout.schemas:
            raise InputError(
                f"labels is {name!r}, whose ids are not those of {settings.layout}; it takes "
                f"{' or '.join(layout.schemas)}, or the path of a JSON file of your own "
                "(a new built-in schema joins its layout in sceneloom_training/data/layouts.py)"
            )
        options = {"schema": load_schema(name), "unknown": settings.unknown}
        options["instances"] = settings.instances
    if not isinstance(layout.splits, str) and split not in layout.splits:
        raise DataSetError(
            f"{settings.layout} has no split {split!r}; it has {', '.join(layout.splits)}"
        )
    place: tuple[Any, Any] = settings.root, split
    if settings.root is None:  # streets alone have no folder
        seeds = range(settings.streets_seed, settings.streets_seed + settings.streets_count)
        place = seeds, parse_size(settings.streets_size, of="streets_size")
    with progress.stage("find the data set's files"):
        data: DataSet = layout.open(*place, **options)
    if not settings.reads_ids:
        if not isinstance(data, TripleDataSet):
            raise InputError(
                f"{settings.layout} has no files of label maps; colours, label_channel and "
                "map_schema are left out"
            )
        reader = MapReader(data.schema, settings, unknown=settings.unknown)
        data = dataclasses.replace(data, reader=reader)
    boundaries = settings.boundaries
    if (
        boundaries in ("labels", "components")
        and data.schema is not None
        and not data.has_instances
    ):
        return InstancesOfLabels(
            keys=data.keys,
            schema=data.schema,
            has_instances=True,
            unknown=data.unknown,
            left_out=data.left_out,
            incomplete=data.incomplete,
            data=data,
            boundaries=boundaries,
        )
    return data


@dataclasses.dataclass(kw_only=True, eq=False)
class InstancesOfLabels(DataSet):
    """A data set without instance maps, whose label maps stand in for them."""

    schema: LabelSchema
    data: DataSet
    boundaries: Literal["labels", "components"]

    def files_of_one_size(self, index: int) -> tuple[Path, ...]:
        """See `DataSet.files_of_one_size`."""
        return self.data.files_of_one_size(index)

    def inspect(self, index: int) -> tuple[Sample | None, list[InputError]]:
        """Read one sample, all files of it also where one is wrong. See `DataSet.inspect`."""
        sample, wrong = self.data.inspect(index)
        if sample is None:
            return None, wrong
        assert sample.label_map is not None
        instances = instances_of_labels(sample.label_map, self.schema, self.boundaries)
        return dataclasses.replace(sample, instance_map=instances), wrong

    def read(self, index: int) -> Sample:
        """Read one sample. See `DataSet.read`."""
        sample, wrong = self.inspect(index)
        if sample is None:
            raise wrong[0]
        return sample


THREADS = 8
"""Each waits for the disk or the network."""
_LISTED = 10


def examine(data: DataSet, root: Path | None) -> list[str]:
    """Read the headers of all files and return notes for the user. Raises DataSetError listing the
    first ten samples with files that differ in size or cannot be read.
    """
    broken, notes = examine_headers(data, root)
    problems = list(broken.values())
    if len(problems) == 1:
        raise DataSetError(f"{problems[0]}; {SKIP_BROKEN}")
    if problems:
        more = f"; and {len(problems) - _LISTED} more" * (len(problems) > _LISTED)
        raise DataSetError(
            f"{len(problems)} samples cannot be used: {'; '.join(problems[:_LISTED])}{more}; "
            f"{SKIP_BROKEN}"
        )
    return notes


def examine_headers(data: DataSet, root: Path | None) -> tuple[dict[str, str], list[str]]:
    """Read the headers of all files. Return the samples with files that differ in size or cannot be
    read, key -> sentence, and notes for the user.
    """
    files = {key: data.files_of_one_size(index) for index, key in enumerate(data.keys)}
    files = {key: each for key, each in files.items() if each}
    with progress.stage("read the headers of its files"), ThreadPoolExecutor(THREADS) as pool:
        seen = dict(zip(files, pool.map(_read_headers, files.values()), strict=True))
    broken = {key: problem for key, (problem, _) in seen.items() if problem}
    lines = describe_left_out(data.left_out, root)
    if turned := [files[key][0].name for key, (_, is_turned) in seen.items() if is_turned]:
        names = ", ".join(map(printable, turned[:3])) + ", ..." * (len(turned) > 3)
        have = "photograph has" if len(turned) == 1 else "photographs have"
        lines.append(
            f"{len(turned):,} {have} an EXIF orientation other than 1 ({names}), which is not "
            "applied: label maps are taken to lie on the pixels as they are stored. If yours were "
            "drawn on the turned pictures, turn the photographs first: mogrify -auto-orient FILES, "
            "or exiftran -ai"
        )
    return broken, lines


def describe_left_out(left_out: Sequence[LeftOut], root: Path | None) -> list[str]:
    """Lines on the files that were left out, with names below `root`."""
    below = "" if root is None else f"{root}/"
    return describe(
        dataclasses.replace(each, name=each.name.removeprefix(below)) for each in left_out
    )


def _read_headers(files: tuple[Path, ...]) -> tuple[str, bool]:
    """A sample's problem, if any, and whether its photograph has an orientation other than 1."""
    photo, *others = files
    try:
        first = read_header(photo)
        for other in others:
            found = read_header(other)
            if first and found and found.size != first.size:
                return size_difference(photo, first.size, other, found.size), False
    except ImageReadError as error:
        return str(error), False
    return "", first is not None and first.orientation != 1
