"""Sources: the same maps from folder, zip, tar and Parquet; limits; damage reported by name."""

from __future__ import annotations

import io
import pickle
import re
import shutil
import struct
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from map_sets import (
    WRITERS,
    add_to_tar,
    as_png,
    small_maps,
    write_folder,
    write_parquet,
    write_tar,
    write_zip,
)

from sceneloom.errors import (
    ImageReadError,
    ImageTooLargeError,
    InputError,
    MissingDependencyError,
)
from sceneloom.rendering.datasets import ShardedSource, open_source
from sceneloom.rendering.items import MapItem, Source

MOST = 1 << 20
KINDS = sorted(WRITERS)


def contents(source: Source) -> dict[str, tuple[bytes, bytes | None]]:
    return {
        item.key: (item.label.read(MOST), item.instance and item.instance.read(MOST))
        for item in source
    }


def results(source: Source) -> dict[str, bytes | str]:
    """Label maps by key; the reason for those that cannot be read."""
    out: dict[str, bytes | str] = {}
    for item in source:
        try:
            out[item.key] = item.label.read(MOST)
        except InputError as error:
            out[item.key] = str(error)
    return out


def upload(fs: Any, folder: Path, name: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"/{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())


# The same maps from everywhere ------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("remote", [False, True])
def test_the_same_bytes_from_every_kind(
    tmp_path: Path, memory: Any, kind: str, remote: bool
) -> None:
    maps = small_maps()
    place = WRITERS[kind](tmp_path / "data", maps)
    if remote:
        upload(memory, tmp_path / "data", "bucket")
        place = place.replace(str(tmp_path / "data"), "memory://bucket")
        shutil.rmtree(tmp_path / "data")
    source = open_source(place, wants_instances=True)
    assert contents(source) == maps
    assert source.count() == len(maps)
    assert contents(source) == maps  # again
    keys = [item.key for item in source]
    if kind in ("folder", "zip"):
        assert keys == sorted(maps)
    else:
        assert keys == [*list(maps)[0::2], *list(maps)[1::2]]


@pytest.mark.parametrize("kind", KINDS)
def test_items_and_sources_travel_to_other_processes_and_threads(tmp_path: Path, kind: str) -> None:
    maps = small_maps(20)
    source = pickle.loads(
        pickle.dumps(open_source(WRITERS[kind](tmp_path / "data", maps), wants_instances=True))
    )
    items: list[MapItem] = pickle.loads(pickle.dumps(list(source)))
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda item: item.label.read(MOST), items[::-1]))
    assert read == [maps[item.key][0] for item in items[::-1]]
    assert all(len(pickle.dumps(item)) < 1000 for item in items)


@pytest.mark.parametrize("kind", KINDS)
def test_instance_maps_are_not_looked_for_unless_wanted(tmp_path: Path, kind: str) -> None:
    source = open_source(WRITERS[kind](tmp_path / "data", small_maps()))
    assert [item.instance for item in source] == [None] * 6


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_a_map_without_instance_map(tmp_path: Path, kind: str) -> None:
    maps: dict[str, Any] = {**small_maps(3), "alone": (b"label", None)}
    source = open_source(WRITERS[kind](tmp_path / "data", maps), wants_instances=True)
    assert {i.key: i.instance is None for i in source} == {key: key == "alone" for key in maps}


@pytest.mark.parametrize("kind", KINDS)
def test_files_pass_through_as_they_are(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 35, (16, 16)).astype(np.uint8)
    maps = {
        "palette": as_png(grey, palette=True),
        "sixteen": as_png(grey.astype(np.uint16) * 1000),
        "rgb": as_png(np.stack([grey] * 3, -1)),
        "zero-bytes": b"",
        "no-picture": b"\0not a PNG\n",
    }
    place = WRITERS[kind](tmp_path / "data", {key: (data, None) for key, data in maps.items()})
    assert results(open_source(place)) == maps


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_than_the_limit_is_read(tmp_path: Path, kind: str) -> None:
    maps = {"small": (bytes(100), None), "large": (bytes(101), None)}
    place = WRITERS[kind](tmp_path / "data", maps)
    items = {item.key: item for item in open_source(place)}
    assert items["small"].label.read(100) == bytes(100)
    with pytest.raises(ImageTooLargeError, match=r"large.*: 101 bytes; .* at most 100"):
        items["large"].label.read(100)


@pytest.mark.parametrize("kind", KINDS)
def test_which_places_would_mix_pictures_with_maps(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "data"
    source = open_source(WRITERS[kind](root, small_maps()), wants_instances=True)
    held = {
        "folder": [root / "test_label", root / "test_label" / "x", root / "test_inst"],
        "zip": [root / "maps.zip"],
        "tar": [root, root / ".." / "data", root / "maps-000000.tar"],
        "parquet": [root],
    }[kind]
    assert [source.holds(str(place)) for place in held] == [True] * len(held)
    for free in (tmp_path / "out", tmp_path / "data2", root / "out", tmp_path):
        assert not source.holds(str(free))


# Choosing by the place --------------------------------------------------------------------------


def test_where_the_maps_are_can_be_named(tmp_path: Path) -> None:
    label, instance = small_maps(1)["ulm/ulm_000000"]
    (tmp_path / "gt").mkdir()
    (tmp_path / "gt" / "a_labelIds.png").write_bytes(label)
    (tmp_path / "gt" / "a_instanceIds.png").write_bytes(instance)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in (tmp_path / "gt").iterdir():
            archive.write(path, f"./top/{path.name}")
    with tarfile.open(tmp_path / "a.tar", "w") as archive_:
        add_to_tar(archive_, "./a_labelIds.seg.png", label)
        add_to_tar(archive_, "./a_labelIds.inst.png", instance)
    table = pyarrow.table(
        {
            "key": ["a_labelIds"],
            "seg": [{"bytes": label, "path": "x.png"}],
            "inst": pyarrow.array([instance], pyarrow.large_binary()),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    expected = {"a_labelIds": (label, instance)}
    for place, labels, instances in (
        (tmp_path, "gt", "gt"),
        (tmp_path / "gt", ".", "."),
        (tmp_path, str(tmp_path / "gt"), str(tmp_path / "gt")),
        (tmp_path / "a.zip", "top", "top"),
        (tmp_path / "a.zip", ".", "."),
        (tmp_path / "a.tar", "seg", "inst"),
        (tmp_path / "a.parquet", "seg", "inst"),
    ):
        source = open_source(str(place), labels=labels, instances=instances, wants_instances=True)
        found = contents(source)
        assert [(key.removeprefix("top/"), value) for key, value in found.items()] == list(
            expected.items()
        )


def test_folders_of_shards_and_file_urls(tmp_path: Path) -> None:
    maps = small_maps()
    write_tar(tmp_path / "tars", maps)
    write_parquet(tmp_path / "tables", maps, files=1)
    for place in (
        tmp_path / "tars",
        f"file://{tmp_path}/tars",
        tmp_path / "tables" / "maps-000000.parquet",
    ):
        assert contents(open_source(str(place), wants_instances=True)) == maps
    shutil.copy(tmp_path / "tars" / "maps-000000.tar", tmp_path / "tables")
    with pytest.raises(InputError, match="tables: holds tar files and Parquet files"):
        open_source(str(tmp_path / "tables"))
    write_folder(tmp_path / "tables", {"a": (b"x", None)})
    assert [item.key for item in open_source(str(tmp_path / "tables"))] == ["a"]


def test_several_ranges_multiply(tmp_path: Path) -> None:
    for folder in ("part8", "part9"):
        for number in ("08", "09", "10"):
            (tmp_path / folder).mkdir(exist_ok=True)
            with tarfile.open(tmp_path / folder / f"{number}.tar", "w") as archive:
                add_to_tar(archive, f"{folder}-{number}.label.png", b"x")
    source = open_source(f"{tmp_path}/part{{8..9}}/{{08..10}}.tar")
    assert [item.key for item in source] == [
        f"part{a}-{b}" for a in (8, 9) for b in ("08", "09", "10")
    ]


@pytest.mark.parametrize(
    ("place", "options", "reason"),
    [
        ("nowhere", {}, "nowhere: no such folder"),
        ("nowhere.zip", {}, "nowhere.zip: no such file"),
        ("nowhere.tar", {}, "nowhere.tar: no such file"),
        ("maps-{0..1}.tar", {}, "maps-0.tar: no such file"),
        ("maps-{2..1}.tar", {}, r"\{2\.\.1\} does not count up"),
        ("maps-{0..99999999}.tar", {}, "counts too far"),
        ("maps-{a,b}.tar", {}, r"a pattern is written \{000000\.\.000099\}"),
        ("nowhere.parquet", {}, "nowhere.parquet: no such file"),
        ("maps.tar.gz", {}, "maps.tar.gz: a compressed tar file"),
        ("maps.tgz", {}, "maps.tgz: a compressed tar file"),
        ("", {}, r"test_label: no such folder; .*--labels \(.* holds empty, other\)"),
        ("other", {}, r"test_label: no such folder; .*--labels \(\. for the folder itself\)"),
        ("", {"labels": "x"}, "x: no such folder; name the folder of label maps with --labels"),
        ("", {"labels": "other"}, "name their folder with --instances"),
        ("", {"labels": "other", "instances": "x"}, "x: no such folder"),
        ("", {"labels": "empty", "instances": "other"}, r"no label maps \(\.png, "),
        ("x.zip", {}, "x.zip: truncated, damaged or no zip file"),
    ],
)
def test_what_is_no_data_set(
    tmp_path: Path, place: str, options: dict[str, str], reason: str
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "other" / "a.png").write_bytes(b"x")
    (tmp_path / "x.zip").write_bytes(b"no zip file")
    with pytest.raises(InputError, match=reason):
        open_source(str(tmp_path / place), wants_instances=True, **options)


def test_packages_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"needs s3fs.*: pip install s3fs"):
        open_source("s3://bucket/maps.zip")
    with pytest.raises(MissingDependencyError, match=r"needs gcsfs.*: pip install gcsfs"):
        open_source("gs://bucket/maps/")
    with pytest.raises(InputError, match="no such kind of place"):
        open_source("nosuch://bucket/maps.tar")


@pytest.mark.parametrize("kind", ["zip", "tar", "parquet"])
def test_archives_without_maps(tmp_path: Path, kind: str) -> None:
    place = WRITERS[kind](tmp_path / "data", {})
    reason = {
        "zip": "maps.zip/test_label: no maps in a folder of this name",
        "tar": r"tar: no files KEY\.label\.png in it",
        "parquet": "data: no rows in it",
    }[kind]
    with pytest.raises(InputError, match=reason):
        open_source(place).count()


# Two maps with one key ----------------------------------------------------------------------------


def test_two_maps_with_one_key(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write_folder(folder, {"a": (b"1", None)})
    (folder / "test_label" / "a.tif").write_bytes(b"2")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("test_label/a.png", b"1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("test_label/a.png", b"2")
    write_zip(tmp_path / "zips", {"a": (b"1", None)})
    with zipfile.ZipFile(tmp_path / "zips" / "maps.zip", "a") as archive:
        archive.writestr("test_label/a.npy", b"2")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add_to_tar(tar, "a.label.png", b"1")
        add_to_tar(tar, "a.label.npy", b"2")
    with tarfile.open(tmp_path / "apart.tar", "w") as tar:
        for name in ("a.label.png", "b.label.png", "a.instance.png"):
            add_to_tar(tar, name, b"1")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        add_to_tar(tar, "a.label.png", b"1")
    shutil.copy(tmp_path / "0.tar", tmp_path / "1.tar")
    table = pyarrow.table({"key": ["a", "b", "a"], "label": [b"1", b"2", b"3"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    for place, reason in (
        ("folder", "a.tif and .*a.png would share one picture's name"),
        ("a.zip", "a.zip: two files in it are called test_label/a.png"),
        ("zips/maps.zip", "would share one picture's name"),
        ("a.tar", "a.tar: a.label.npy is a second map of the key a"),
        ("{0..1}.tar", "1.tar: maps with the key a come twice"),
        ("a.parquet", "a.parquet: two maps have the key a"),
    ):
        with pytest.raises(InputError, match=reason):
            open_source(str(tmp_path / place)).count()
    with pytest.raises(InputError, match=r"the key a come twice.*lie beside each other"):
        open_source(str(tmp_path / "apart.tar"), wants_instances=True).count()


# Hostile and damaged archives ---------------------------------------------------------------------


HOSTILE = ["../../escaped", "/absolute", "a/../../b", "a//b", "back\\slash", "new\nline"]


@pytest.mark.parametrize("kind", ["zip", "tar", "parquet"])
def test_names_that_would_leave_the_output_folder(tmp_path: Path, kind: str) -> None:
    maps = {key: (b"evil", None) for key in HOSTILE} | {"good": (b"good", None)}
    found = results(open_source(WRITERS[kind](tmp_path / "data", maps)))
    assert found.pop("good") == b"good"
    assert len(found) == len(HOSTILE)
    assert all("name" in str(reason) and "picture" in str(reason) for reason in found.values())
    assert all(re.fullmatch(r"[\w.-]+#\d+", key) for key in found)


def test_a_zip_file_that_lies_about_sizes(tmp_path: Path) -> None:
    place = write_zip(tmp_path, {"bomb": (bytes(10 << 20), None), "good": (b"good", None)})
    data = bytearray(Path(place).read_bytes())
    # The directory's entry claims that the map unpacks to 50 bytes.
    entry = data.index(b"PK\x01\x02")
    assert struct.unpack_from("<I", data, entry + 24) == (10 << 20,)
    struct.pack_into("<I", data, entry + 24, 50)
    Path(place).write_bytes(data)
    found = results(open_source(place))
    assert found == {
        "bomb": f"{place}/test_label/bomb.png: truncated or damaged (checksum)",
        "good": b"good",
    }


def test_zip_members_that_are_broken_fail_alone(tmp_path: Path) -> None:
    maps = {key: (as_png(np.full((16, 16), i, np.uint8)), None) for i, key in enumerate("abcd")}
    place = write_zip(tmp_path, maps)
    data = bytearray(Path(place).read_bytes())
    with zipfile.ZipFile(place) as archive:
        starts = {i.filename[-5]: i.header_offset for i in archive.infolist()}
    data[starts["a"] : starts["a"] + 4] = b"gone"
    data[starts["b"] + 60] ^= 255
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    encrypted = data.index(b"PK\x01\x02", entry + 4)
    data[encrypted + 8] |= 1
    Path(place).write_bytes(data)
    found = results(open_source(place))
    assert found.pop("d") == maps["d"][0]
    name = f"{place}/test_label"
    assert found["a"] == f"{name}/a.png: damaged (no header where it should be)"
    assert found["b"] == f"{name}/b.png: truncated or damaged (checksum)"
    assert found["c"] == f"{name}/c.png: encrypted"


def test_a_zip_method_that_is_not_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("test_label/a.png", b"x" * 100)
    [reason] = results(open_source(str(tmp_path / "a.zip"))).values()
    assert str(reason).endswith("compressed by method 14; deflated and stored files are read")


def test_a_truncated_tar_gives_what_is_whole(tmp_path: Path) -> None:
    maps = small_maps(6)
    write_tar(tmp_path, maps)
    first = tmp_path / "maps-000000.tar"
    whole = first.read_bytes()
    keys = list(maps)[0::2]
    with tarfile.open(first) as archive:
        cut_inside = archive.getmember(f"{keys[2]}.label.png").offset_data + 20
    source = open_source(f"{tmp_path}/maps-{{000000..000001}}.tar")
    for cut in (cut_inside, cut_inside - 100, 100, 0):
        first.write_bytes(whole[:cut])
        found = results(source)
        assert {k: found.pop(k) for k in list(maps)[1::2]} == {
            k: maps[k][0] for k in list(maps)[1::2]
        }
        broken = {key: str(value) for key, value in found.items() if isinstance(value, str)}
        assert all(value == maps[key][0] for key, value in found.items() if key not in broken)
        assert any(
            reason.startswith(f"{first}: truncated, damaged or no tar file after")
            for reason in broken.values()
        )
        if cut == cut_inside:
            assert set(found) == {*keys, "maps-000000.tar#4"}
            assert "truncated (the archive ends inside it)" in broken[keys[2]]


@given(cut=st.integers(1, 10240), flip=st.integers(0, 10239))
def test_a_damaged_tar_is_never_taken_for_a_whole_one(cut: int, flip: int) -> None:
    from sceneloom.rendering.tar import tar_members

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for i in range(3):
            add_to_tar(archive, f"{i}.label.png", bytes([i]) * 700)
    data = bytearray(out.getvalue())
    before = [m.name for m in tar_members(io.BytesIO(data), "x")]
    if flip % 1536 < 512:  # not in a map's own bytes, which have no checksum
        data[flip] ^= 1
    damaged = bytes(data[: len(data) - cut])
    try:
        names = [m.name for m in tar_members(io.BytesIO(damaged), "x")]
    except ImageReadError:
        return
    assert names == before


def test_tar_members_that_are_no_files(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in (("link", tarfile.SYMTYPE), ("pipe", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(f"{name}.label.png")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        add_to_tar(archive, "._hidden.label.png", b"x")
        add_to_tar(archive, "good.label.png", b"good")
    found = results(open_source(str(tmp_path / "a.tar")))
    assert found.pop("good") == b"good"
    assert found == {
        key: f"{tmp_path}/a.tar/{key}.label.png: a folder, link or device, not a file"
        for key in ("link", "pipe")
    }


def test_a_tar_header_that_asks_for_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 40 << 30
    with (tmp_path / "a.tar").open("wb") as stream:
        stream.write(
            info.tobuf(tarfile.USTAR_FORMAT if info.size < 8 << 30 else tarfile.GNU_FORMAT)
        )
        stream.truncate(41 << 30)  # a file with a hole: it takes no room
    [reason] = results(open_source(str(tmp_path / "a.tar"))).values()
    assert "a header of" in str(reason)


def test_damaged_parquet_files_are_named(tmp_path: Path) -> None:
    maps = small_maps(6)
    place = write_parquet(tmp_path / "data", maps, files=3)
    files = sorted((tmp_path / "data").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:-20])
    files[1].write_bytes(b"")
    found = results(open_source(place))
    assert {key: found.pop(key) for key in list(maps)[2::3]} == {
        key: maps[key][0] for key in list(maps)[2::3]
    }
    assert list(found) == ["maps-000000.parquet#1", "maps-000001.parquet#2"]
    for path, reason in zip(files, found.values(), strict=False):
        assert str(reason).startswith(f"{path}: truncated, damaged or no Parquet file (")


def test_parquet_pages_that_are_damaged(tmp_path: Path) -> None:
    rows = 40
    table = pyarrow.table(
        {"key": [f"{i:02}" for i in range(rows)], "label": [bytes([i]) * 500 for i in range(rows)]}
    )
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(
        table,
        path,
        compression="none",
        use_dictionary=False,
        data_page_size=1000,
        write_batch_size=2,
        write_statistics=False,
        write_page_checksum=True,
    )
    data = bytearray(path.read_bytes())
    data[data.index(bytes([20]) * 500) + 100] ^= 255
    path.write_bytes(data)
    found = results(open_source(str(path)))
    good = [key for key, value in found.items() if isinstance(value, bytes)]
    bad = {key: value for key, value in found.items() if isinstance(value, str)}
    assert all(found[key] == bytes([int(key)]) * 500 for key in good)
    assert set(good) >= {f"{row:02}" for row in range(20)}
    assert "20" in bad
    assert all(f"a.parquet/{key} (label): damaged (" in value for key, value in bad.items())
    assert len(good) + len(bad) == rows


def test_parquet_cells_that_are_empty_and_keys_that_are_none(tmp_path: Path) -> None:
    schema = pyarrow.schema(
        [
            ("key", pyarrow.string()),
            ("label", pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])),
        ]
    )
    rows: list[Any] = [
        {"key": "a", "label": None},
        {"key": "b", "label": {"bytes": None, "path": "/etc/passwd"}},
        {"key": None, "label": {"bytes": b"x"}},
        {"key": "d", "label": {"bytes": b"d"}},
    ]
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), path)
    assert results(open_source(str(path))) == {
        "a": f"{path}/a (label): the cell is empty",
        "b": f"{path}/b (label): the cell is empty",
        "a.parquet#3": f"{path}: row 2 of group 0: no name for a picture (the key is empty)",
        "d": b"d",
    }


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"label": [b"x"]}, "no column key, which names the pictures; it has label"),
        ({"key": ["a"]}, "no column label; name the columns with --labels and --instances"),
        ({"key": ["a"], "label": ["x"]}, "the column label is string; maps are binary cells"),
        ({"key": [1], "label": [b"x"]}, "the column key is int64; keys are strings"),
    ],
)
def test_parquet_columns_that_do_not_fit(
    tmp_path: Path, columns: dict[str, Any], reason: str
) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=reason):
        open_source(str(tmp_path / "a.parquet")).count()


def test_parquet_groups_larger_than_memory_allows_are_read_in_any_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cells = [rng.bytes(1 << 20) for _ in range(100)]  # 100 MiB; 64 are kept
    table = pyarrow.table({"key": [f"{i:03}" for i in range(100)], "label": cells})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", compression="none")
    items = list(open_source(str(tmp_path / "a.parquet")))
    for i in (99, 98, 40, 41, 0):
        assert items[i].label.read(2 << 20) == cells[i]


def test_a_file_that_goes_away_fails_alone(tmp_path: Path) -> None:
    maps = small_maps(3)
    source = open_source(write_folder(tmp_path, maps))
    gone = tmp_path / "test_label" / "000002.png"
    gone.unlink()
    found = results(source)
    assert found.pop("000002") == f"{gone}: cannot be read (No such file or directory)"
    assert found == {key: maps[key][0] for key in maps if key != "000002"}
    gone.mkdir()
    assert results(source)["000002"] == f"{gone}: cannot be read (not a file)"


def test_zero_bytes_remote(memory: Any) -> None:
    memory.pipe_file("/bucket/test_label/a.png", b"")
    assert results(open_source("memory://bucket")) == {"a": b""}


# Shards -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_shards_share_a_source(tmp_path: Path, kind: str) -> None:
    maps = small_maps(30)
    source = open_source(WRITERS[kind](tmp_path / "data", maps), wants_instances=True)
    shards = [ShardedSource(source, i, 4) for i in range(4)]
    keys = [item.key for shard in shards for item in shard]
    assert sorted(keys) == sorted(maps)
    assert [shard.count() for shard in shards] == [len(list(shard)) for shard in shards]
    assert contents(pickle.loads(pickle.dumps(shards[1]))) == contents(shards[1])
    assert shards[0].holds(str(tmp_path / "data" / "test_label")) == (kind == "folder")
    with pytest.raises(InputError, match="shard 4/4: shards are numbered 0 to 3"):
        ShardedSource(source, 4, 4)
