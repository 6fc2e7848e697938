"""The same small maps as a folder, a zip file, tar shards and Parquet files."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from support import blocky_maps

Maps = Mapping[str, tuple[bytes, bytes | None]]
"""Key -> the bytes of the label map and of the instance map."""


def as_png(values: np.ndarray, palette: bool = False) -> bytes:
    """A PNG file of an array."""
    image, out = Image.fromarray(values), io.BytesIO()
    if palette:
        image.putpalette(list(range(256)) * 3)
    image.save(out, "PNG")
    return out.getvalue()


def small_maps(count: int = 6, height: int = 32, width: int = 48) -> dict[str, tuple[bytes, bytes]]:
    """Maps whose keys have folders and dots in them; every third one is a palette file."""
    maps = {}
    for i in range(count):
        labels, instances = blocky_maps(height, width, seed=i)
        key = (f"ulm/ulm_{i:06}", f"bonn/v1.{i}", f"{i:06}")[i % 3]
        maps[key] = (as_png(labels, palette=i % 3 == 0), as_png(instances.astype(np.uint16)))
    return maps


def write_folder(root: Path, maps: Maps) -> str:
    """test_label and test_inst."""
    for key, pair in maps.items():
        for folder, data in zip(("test_label", "test_inst"), pair, strict=True):
            if data is not None:
                path = root / folder / f"{key}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
    return str(root)


def write_zip(root: Path, maps: Maps) -> str:
    """A folder's layout in a zip file, deflated and stored in turn."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "maps.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i, (key, pair) in enumerate(maps.items()):
            method = (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED)[i % 2]
            for folder, data in zip(("test_label", "test_inst"), pair, strict=True):
                if data is not None:
                    archive.writestr(f"{folder}/{key}.png", data, method)
    return str(path)


def add_to_tar(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """A member of a tar file."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def write_tar(root: Path, maps: Maps, shards: int = 2) -> str:
    """WebDataset shards, as a brace pattern."""
    root.mkdir(parents=True, exist_ok=True)
    items = list(maps.items())
    for shard in range(shards):
        with tarfile.open(root / f"maps-{shard:06}.tar", "w") as archive:
            for key, (label, instance) in items[shard::shards]:
                add_to_tar(archive, f"{key}.json", b"{}")
                add_to_tar(archive, f"{key}.label.png", label)
                if instance is not None:
                    add_to_tar(archive, f"{key}.instance.png", instance)
    return f"{root}/maps-{{{0:06}..{shards - 1:06}}}.tar"


def write_parquet(root: Path, maps: Maps, files: int = 2) -> str:
    """A folder of Parquet files with small row groups."""
    import pyarrow
    import pyarrow.parquet

    root.mkdir(parents=True, exist_ok=True)
    items = list(maps.items())
    for number in range(files):
        rows = [
            {"key": key, "label": label, "instance": instance}
            for key, (label, instance) in items[number::files]
        ]
        schema = pyarrow.schema(
            [("key", "string"), ("label", pyarrow.binary()), ("instance", pyarrow.binary())]
        )
        table = pyarrow.Table.from_pylist(rows, schema)
        pyarrow.parquet.write_table(table, root / f"maps-{number:06}.parquet", row_group_size=2)
    return str(root)


WRITERS: dict[str, Callable[[Path, Maps], str]] = {
    "folder": write_folder,
    "zip": write_zip,
    "tar": write_tar,
    "parquet": write_parquet,
}
"""Kind -> what writes maps below a folder that is not there yet, and returns the place to open."""
