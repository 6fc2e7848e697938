"""Open a data set by its layout, and examine it: files without partners, sizes that differ,
photographs with an EXIF orientation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sceneloom.errors import DataSetError, ImageReadError, InputError
from sceneloom.files import LeftOut, describe
from sceneloom.maps import parse_size
from sceneloom.schema import LabelSchema, builtin_schemas, load_schema
from sceneloom.text import printable
from sceneloom_training.data.ade20k import open_ade20k
from sceneloom_training.data.celebamask import open_celebamask
from sceneloom_training.data.cityscapes import open_cityscapes
from sceneloom_training.data.helen import open_helen
from sceneloom_training.data.nyu import open_nyu
from sceneloom_training.data.paired import open_paired
from sceneloom_training.data.pictures import read_header
from sceneloom_training.data.pix2pixhd import open_pix2pixhd
from sceneloom_training.data.sample import DataSet, size_difference
from sceneloom_training.data.settings import DataSettings
from sceneloom_training.data.streets import open_streets

_OPEN = {
    "pix2pixhd": open_pix2pixhd,
    "cityscapes": open_cityscapes,
    "ade20k": open_ade20k,
    "nyu": open_nyu,
}


def open_data_set(settings: DataSettings) -> DataSet:
    """Find a data set's files, and which belong together; reads none of the pictures. Raises
    DataSetError for missing folders, splits and partners, InputError for a schema with other ids
    than the layout, SchemaError for an invalid one.
    """
    root, split, unknown = settings.root, settings.split, settings.unknown
    if settings.layout == "paired":
        assert root is not None
        return open_paired(root, split)
    schema, instances = _schema(settings), settings.instances
    if settings.layout == "streets":
        size = parse_size(settings.streets_size, of="streets_size")
        seeds = range(settings.streets_seed, settings.streets_seed + settings.streets_count)
        return open_streets(seeds, size, schema=schema, unknown=unknown, instances=instances)
    assert root is not None  # checked by the settings
    if settings.layout in ("celebamask", "helen"):
        open_faces = open_helen if settings.layout == "helen" else open_celebamask
        return open_faces(root, split, schema=schema, unknown=unknown)
    open_triples = _OPEN[settings.layout]
    return open_triples(root, split, schema=schema, unknown=unknown, instances=instances)


def _schema(settings: DataSettings) -> LabelSchema:
    """The label schema; another data set's ids would mostly pass, and train wrong names."""
    own = {
        "pix2pixhd": ("cityscapes", *builtin_schemas()),
        "cityscapes": ("cityscapes", "cityscapes19", "cityscapes-eval"),
        "ade20k": ("ade20k",),
        "nyu": ("nyu40",),
        "celebamask": ("celebamask",),
        "helen": ("helen",),
        "streets": ("cityscapes", "cityscapes-eval", "cityscapes-markings"),
    }[settings.layout]
    name = settings.labels or own[0]
    if name in builtin_schemas() and name not in own:
        raise InputError(
            f"labels is {name!r}, whose ids are not those of {settings.layout}; it takes "
            f"{' or '.join(own)}, or the path of a JSON file of your own"
        )
    return load_schema(name)


_THREADS = 8
"""Each waits for the disk or the network."""
_LISTED = 10


def examine(data: DataSet, root: Path | None) -> list[str]:
    """Read the headers of all files; notes for the user. Raises DataSetError listing the first ten
    samples with files that differ in size or cannot be read.
    """
    files = [each for each in map(data.files_of_one_size, range(len(data))) if each]
    with ThreadPoolExecutor(_THREADS) as pool:
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
