"""Which files are label maps, and what a source leaves out: counted and named, never in silence."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from map_sets import add_to_tar, small_maps, write_folder, write_parquet

from sceneloom.cli import main
from sceneloom.contract import Contract
from sceneloom.errors import InputError
from sceneloom.files import LeftOut, describe
from sceneloom.pairing import pair_maps
from sceneloom.rendering.datasets import ShardedSource, open_source
from sceneloom.rendering.items import Source
from sceneloom.schema import load_schema

if TYPE_CHECKING:
    from conftest import Start

CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)
FRAMES = ("val/ulm/ulm_1_gtFine", "val/ulm/ulm_2_gtFine")


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def found(source: Source) -> dict[str, str]:
    """Key -> file of its instance map; empty where it has none."""
    return {i.key: "" if i.instance is None else i.instance.name for i in source}


def reasons(left_out: Any) -> dict[str, list[str]]:
    by_reason: dict[str, list[str]] = {}
    for one in sorted(left_out):
        by_reason.setdefault(one.reason, []).append(one.name)
    return by_reason


def zipped(folder: Path) -> str:
    """The folder's files in a zip file."""
    place = folder.with_suffix(".zip")
    with zipfile.ZipFile(place, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())
    return str(place)


def published(root: Path, *kinds: str) -> Path:
    """Cityscapes' gtFine, with these kinds of each frame."""
    return touch(root, *(f"gtFine/{frame}_{kind}" for frame in FRAMES for kind in kinds))


GT_FINE = ("labelIds.png", "instanceIds.png", "color.png", "polygons.json")
TRAINED = ("labelTrainIds.png", "instanceTrainIds.png")


# Which files are label maps -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "zip", "remote"])
@pytest.mark.parametrize("training_ids", [False, True])
def test_of_published_kinds_one_is_taken(
    tmp_path: Path, memory: Any, kind: str, training_ids: bool
) -> None:
    root = published(tmp_path / "data", *GT_FINE, *TRAINED)
    place = {"folder": str(root), "zip": zipped(root), "remote": "memory://bucket/data"}[kind]
    for path in root.rglob("*.*"):
        memory.pipe_file(f"/bucket/data/{path.relative_to(root).as_posix()}", path.read_bytes())
    source = open_source(
        place, labels="gtFine", instances="gtFine", wants_instances=True, training_ids=training_ids
    )
    label, instance = TRAINED if training_ids else GT_FINE[:2]
    pairs = found(source)
    assert list(pairs) == [f"{frame}_{label.removesuffix('.png')}" for frame in FRAMES]
    for frame, name in zip(FRAMES, pairs.values(), strict=True):
        assert name.endswith(f"gtFine/{frame}_{instance}")
    other_label, other_instance = GT_FINE[:2] if training_ids else TRAINED
    assert reasons(source.left_out) == {
        f"of another kind than _{label.removesuffix('.png')}": sorted(
            f"gtFine/{frame}_{other}" for frame in FRAMES for other in ("color.png", other_label)
        ),
        f"of another kind than _{instance.removesuffix('.png')}": [
            f"gtFine/{frame}_{other_instance}" for frame in FRAMES
        ],
        "of a kind that is not read": [f"gtFine/{frame}_polygons.json" for frame in FRAMES],
    }


@pytest.mark.parametrize(
    ("kinds", "training_ids", "label"),
    [
        (GT_FINE, True, "labelIds"),  # only these are there
        ((*TRAINED, "color.png"), False, "labelTrainIds"),
        (("labelIds.png", "leftImg8bit.png", "disparity.png"), False, "labelIds"),
    ],
)
def test_the_kind_that_is_there_is_taken(
    tmp_path: Path, kinds: tuple[str, ...], training_ids: bool, label: str
) -> None:
    root = published(tmp_path, *kinds)
    pairs, _ = pair_maps(root, root, training_ids=training_ids)
    assert [pair.key for pair in pairs] == [f"gtFine/{frame}_{label}" for frame in FRAMES]


def test_names_that_are_a_kind_and_nothing_else(tmp_path: Path) -> None:
    touch(tmp_path, "inst.png", "sub_inst/label.png", "color.png", "LABELIDS.PNG", "a_label.b.png")
    pairs, left_out = pair_maps(tmp_path, tmp_path)
    keys = ["LABELIDS", "a_label.b", "color", "inst", "sub_inst/label"]
    assert ([pair.key for pair in pairs], left_out) == (keys, [])


def test_which_schemas_have_training_ids() -> None:
    names = (
        "cityscapes",
        "cityscapes-details",
        "cityscapes-eval",
        "cityscapes-markings",
        "cityscapes19",
        "nyu40",
    )
    assert [n for n in names if load_schema(n).has_training_ids] == ["cityscapes19"]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_folder_of_its_own_holds_label_maps_however_they_are_named(
    tmp_path: Path, kind: str
) -> None:
    names = ("a", "b", "b_inst", "crossing_no_instance", "x_instanceIds")
    folders = ("test_label", "test_inst")
    root = touch(tmp_path / "data", *(f"{f}/{name}.png" for f in folders for name in names))
    source = open_source(zipped(root) if kind == "zip" else str(root), wants_instances=True)
    assert {k: n.rpartition("/")[2] for k, n in found(source).items()} == {
        name: f"{name}.png" for name in names
    }
    assert source.left_out == []


def test_instance_maps_below_the_folder_of_label_maps(tmp_path: Path) -> None:
    root = touch(tmp_path / "data", "a.png", "sub/b.png", "ids/a.png", "ids/sub/b.png")
    for place in (str(root), zipped(root)):
        source = open_source(place, labels=".", instances="ids", wants_instances=True)
        assert list(found(source)) == ["a", "sub/b"]
        assert all(found(source).values())
        assert source.left_out == []


def test_maps_named_like_instance_maps_beside_label_maps(tmp_path: Path) -> None:
    """For a model without instance maps, where the name has a partner and not where it has none."""
    root = touch(tmp_path / "maps", "a.png", "a_inst.png", "no_instance.png")
    pairs, left_out = pair_maps(root, None)
    assert [pair.key for pair in pairs] == ["a", "no_instance"]
    assert reasons(left_out) == {"named like an instance map": ["maps/a_inst.png"]}


# What is left out -----------------------------------------------------------------------------


def messy(root: Path) -> Path:
    """Two maps, and what people have beside them."""
    return touch(
        root,
        *(f"test_{kind}/{name}.png" for kind in ("label", "inst") for name in ("a", "sub/b")),
        *(f"test_label/{name}" for name in ("c.bmp", "d.jpg", "Thumbs.db", ".DS_Store")),
        "test_label/.ipynb_checkpoints/a-checkpoint.png",
        "test_label/.ipynb_checkpoints/sub/b.png",
        "test_inst/alone.png",
        "test_inst/c.gif",
        "test_inst/.hidden.png",
    )


MESS = {
    "hidden": [
        "test_inst/.hidden.png",
        "test_label/.DS_Store",
        "test_label/.ipynb_checkpoints/",
    ],
    "of a kind that is not read": [
        "test_inst/c.gif",
        "test_label/Thumbs.db",
        "test_label/c.bmp",
        "test_label/d.jpg",
    ],
    "without a label map": ["test_inst/alone.png"],
}


@pytest.mark.parametrize("kind", ["folder", "zip", "remote"])
def test_whatever_is_left_out_is_named(tmp_path: Path, memory: Any, kind: str) -> None:
    root = messy(tmp_path / "data")
    for path in root.rglob("*"):
        if path.is_file():
            memory.pipe_file(f"/bucket/{path.relative_to(root).as_posix()}", path.read_bytes())
    place = {"folder": str(root), "zip": zipped(root), "remote": "memory://bucket"}[kind]
    source = open_source(place, wants_instances=True)
    assert list(found(source)) == ["a", "sub/b"]
    assert reasons(source.left_out) == MESS
    assert reasons(ShardedSource(source, 0, 3).left_out) == MESS  # type: ignore[arg-type]


def test_links_are_followed_and_links_in_a_circle_are_named(tmp_path: Path) -> None:
    root = touch(tmp_path / "data", "test_label/a.png", "test_inst/a.png")
    touch(tmp_path / "elsewhere", "label/b.png", "inst/b.png")
    for kind in ("label", "inst"):
        (root / f"test_{kind}" / "bonn").symlink_to(tmp_path / "elsewhere" / kind)
    (root / "test_label" / "again").symlink_to(root / "test_label")
    source = open_source(str(root), wants_instances=True)
    assert list(found(source)) == ["a", "bonn/b"]
    assert reasons(source.left_out) == {"a link to a folder around it": ["test_label/again/"]}
    for place in (tmp_path / "elsewhere" / "label", tmp_path / "elsewhere" / "label" / "new"):
        assert source.holds(str(place))  # pictures there would be taken for maps the next time
    assert not source.holds(str(tmp_path / "elsewhere" / "other"))


def test_members_of_tar_files(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for number in range(7):
            add_to_tar(archive, f"k{number}.label.png", b"x")
            add_to_tar(archive, f"k{number}.json", b"x")
        add_to_tar(archive, "k7.label.jpg", b"x")
        add_to_tar(archive, "k8.instance.png", b"x")
        add_to_tar(archive, ".hidden/k9.label.png", b"x")
    touch(tmp_path, "README.md", ".cache", "more/b.tar")
    source = open_source(str(tmp_path), wants_instances=True)
    assert source.count() == 7
    other = "not called KEY.label.png or KEY.instance.png"
    for _ in range(2):
        list(source)
        assert describe(source.left_out) == [
            "left out: 2 hidden (.cache, a.tar/.hidden/k9.label.png)",
            "left out: 1 in a folder among the shards (more/)",
            f"left out: 8 {other} (a.tar/k0.json, a.tar/k1.json, a.tar/k2.json, a.tar/k3.json, "
            "a.tar/k4.json, ...)",
            "left out: 1 of a kind that is not read (README.md)",
            "left out: 1 without a label map (a.tar/k8.instance.png)",
        ]


def test_columns_of_parquet_files(tmp_path: Path) -> None:
    write_parquet(tmp_path / "tables", small_maps(2), files=1)
    path = tmp_path / "tables" / "maps-000000.parquet"
    table = pyarrow.parquet.read_table(path).append_column("caption", pyarrow.array(["a", "b"]))
    pyarrow.parquet.write_table(table, path)
    touch(tmp_path / "tables", "notes.txt")
    source = open_source(str(tmp_path / "tables"))
    list(source)
    assert reasons(source.left_out) == {
        "not a column that is read": ["caption", "instance"],
        "of a kind that is not read": ["notes.txt"],
    }


def test_where_no_map_is_left_the_error_names_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path / "data", "test_label/a.bmp", "test_label/.b.png")
    reason = (
        r"no label maps \(.*\); left out: 1 hidden \(test_label/\.b\.png\); left out: 1 of a kind "
        r"that is not read \(test_label/a\.bmp\)"
    )
    with pytest.raises(InputError, match=reason):
        open_source(str(tmp_path / "data"))


def test_an_entry_that_stands_for_several() -> None:
    entries = [LeftOut(reason="other", name="a"), LeftOut(reason="other", name="b", count=9999)]
    assert describe(entries) == ["left out: 10,000 other (a, b, ...)"]


# What the command says ------------------------------------------------------------------------


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Good maps in a messy folder."""
    root = messy(tmp_path / "data")
    for path in root.rglob("*.png"):
        dtype = np.uint8 if "label" in path.parts[-2] + path.parts[-3] else np.uint16
        cv2.imwrite(str(path), np.full((32, 32), 7, dtype))
    return root


def test_the_command_counts_and_names_what_is_left_out(
    maps: Path, start_server: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        "left out: 3 hidden (test_inst/.hidden.png, test_label/.DS_Store, "
        "test_label/.ipynb_checkpoints/)",
        "left out: 4 of a kind that is not read (test_inst/c.gif, test_label/Thumbs.db, "
        "test_label/c.bmp, test_label/d.jpg)",
        "left out: 1 without a label map (test_inst/alone.png)",
    ]
    command = ["render", str(maps), str(maps / "out"), "--url", start_server(CONTRACT).url]
    for more in (["--dry-run"], ["--log", "json"], []):
        assert main([*command, *more]) == 0
        out, err = capsys.readouterr()
        assert [line for line in out.splitlines() if line.startswith("left out")] == lines
        if "json" in more:
            summary = json.loads(err.splitlines()[-1])
    assert out.startswith(f"nothing to do: 2 of 2 are there, in {maps / 'out'}\n")
    assert {name: summary[name] for name in ("event", "code", "maps", "rendered", "skipped")} == {
        "event": "summary",
        "code": 0,
        "maps": 2,
        "rendered": 2,
        "skipped": 0,
    }
    assert (summary["failed"], summary["padded"], summary["failures"]) == (0, 0, {})
    assert summary["seconds"] > 0
    assert sum(one["count"] for one in summary["left_out"]) == 8
    assert (summary["output"], summary["manifest"]) == (
        str(maps / "out"),
        str(maps / "out" / "manifest.sqlite"),
    )


@pytest.mark.parametrize("url", ["127.0.0.1:9", "fake"])
def test_a_log_ends_with_a_summary_whatever_happens(
    tmp_path: Path, url: str, start_server: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    at = start_server(CONTRACT).url if url == "fake" else url
    code = main(
        ["render", str(tmp_path / "none"), str(tmp_path / "out"), "--url", at, "--log", "json"]
    )
    assert code == (1 if url == "fake" else 3)
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [event["event"] for event in events[-2:]] == ["stopped", "summary"]
    assert (events[-1]["code"], events[-1]["maps"]) == (code, 0)


# Several manifests ----------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["folder", "tar"])
def test_shards_are_verified_as_one(
    tmp_path: Path, container: str, start_server: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path / "maps", small_maps(12))
    out = tmp_path / "out"
    url = start_server(CONTRACT).url
    command = ["render", str(tmp_path / "maps"), str(out), "--url", url, "--container", container]
    for shard in ("0/3", "2/3"):
        assert main([*command, "--shard", shard]) == 0
    assert main([*command, "--verify"]) == 1
    assert f"{out}: no manifest of the shards 1/3; render them" in capsys.readouterr().err
    assert main([*command, "--shard", "1/3"]) == 0
    capsys.readouterr()
    assert main([*command, "--verify"]) == 0
    listing = out / "manifest.jsonl"
    assert capsys.readouterr().out == (
        "12 pictures are as they were written, 0 are not\n" + f"3 manifests, as one: {listing}\n"
    )
    rows = [json.loads(line) for line in listing.read_text().splitlines()]
    assert [row["key"] for row in rows] == sorted(small_maps(12))
    assert {row["status"] for row in rows} == {"done"}
    # A later run of all maps counts, where it made the same pictures again.
    assert main([*command, "--format", "jpg"]) == 0
    assert main([*command, "--format", "jpg", "--verify"]) == 0
    assert "4 manifests, as one" in capsys.readouterr().out
    if container == "folder":
        (out / rows[0]["output"]).with_suffix(".jpg").unlink()
    else:
        shutil.rmtree(out / "shard-000000.tar", ignore_errors=True)
        (out / "shard-000000.tar").unlink()
    assert main([*command, "--format", "jpg", "--verify"]) == 1
    printed = capsys.readouterr()
    assert ("1 is not" if container == "folder" else "12 are not") in printed.out
    assert "is not there" in printed.err
    assert main([*command, "--verify", "--shard", "0/3"]) == 0


def test_verify_says_which_container_the_pictures_are_in(
    tmp_path: Path, start_server: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path / "maps", small_maps(2))
    command = ["render", str(tmp_path / "maps"), str(tmp_path / "out")]
    assert main([*command, "--url", start_server(CONTRACT).url, "--container", "tar"]) == 0
    assert main([*command, "--verify"]) == 1
    assert "rendered with --container tar; verify with the same" in capsys.readouterr().err
