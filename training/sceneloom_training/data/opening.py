"""Open a data set by its layout, and examine the sizes and orientations of its files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from sceneloom import progress
from sceneloom.errors import DataSetError, ImageReadError, InputError
from sceneloom.files import LeftOut, describe
from sceneloom.map_reading import MapReader
from sceneloom.maps import parse_size
from sceneloom.schema import LabelSchema, builtin_schemas, load_schema
from sceneloom.text import printable
from sceneloom_training.data.folders import TripleDataSet
from sceneloom_training.data.layouts import LAYOUTS
from sceneloom_training.data.pictures import read_header
from sceneloom_training.data.sample import DataSet, Sample, size_difference
from sceneloom_training.data.settings import DataSettings


def open_data_set(settings: DataSettings) -> DataSet:
    """Find a data set's files, and their partners, without reading a picture. Raises DataSetError
    for missing folders, splits and partners, InputError for a schema with other ids than the
    layout, SchemaError for an invalid one.
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
    if settings.boundaries == "labels" and data.schema is not None and not data.has_instances:
        return LabelEdges(
            keys=data.keys,
            schema=data.schema,
            has_instances=True,
            unknown=data.unknown,
            left_out=data.left_out,
            data=data,
        )
    return data


@dataclasses.dataclass(kw_only=True, eq=False)
class LabelEdges(DataSet):
    """A data set without instance maps, whose label ids stand in for them: the boundaries of a
    model are the edges of the label maps.
    """

    schema: LabelSchema
    data: DataSet

    def files_of_one_size(self, index: int) -> tuple[Path, ...]:
        """See `DataSet.files_of_one_size`."""
        return self.data.files_of_one_size(index)

    def read(self, index: int) -> Sample:
        """Read one sample. See `DataSet.read`."""
        sample = self.data.read(index)
        assert sample.label_map is not None
        ids = self.schema.to_ids(sample.label_map).astype(np.int32)
        return dataclasses.replace(sample, instance_map=ids)


_THREADS = 8
"""Each waits for the disk or the network."""
_LISTED = 10


def examine(data: DataSet, root: Path | None) -> list[str]:
    """Read the headers of all files and return notes for the user. Raises DataSetError listing the
    first ten samples with files that differ in size or cannot be read.
    """
    files = [each for each in map(data.files_of_one_size, range(len(data))) if each]
    with progress.stage("read the headers of its files"), ThreadPoolExecutor(_THREADS) as pool:
        seen = list(pool.map(_read_headers, files))
    problems = [problem for problem, _ in seen if problem]
    if len(problems) == 1:
        raise DataSetError(problems[0])
    if problems:
        more = f"; and {len(problems) - _LISTED} more" * (len(problems) > _LISTED)
        raise DataSetError(
            f"{len(problems)} samples cannot be used: {'; '.join(problems[:_LISTED])}{more}"
        )
    lines = describe_left_out(data.left_out, root)
    if turned := [
        photo.name for (photo, *_), (_, is_turned) in zip(files, seen, strict=True) if is_turned
    ]:
        names = ", ".join(map(printable, turned[:3])) + ", ..." * (len(turned) > 3)
        have = "photograph has" if len(turned) == 1 else "photographs have"
        lines.append(
            f"{len(turned):,} {have} an EXIF orientation other than 1 ({names}), which is not "
            "applied: label maps are taken to lie on the pixels as they are stored. If yours were "
            "drawn on the turned pictures, turn the photographs first: mogrify -auto-orient FILES, "
            "or exiftran -ai"
        )
    return lines


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
