"""Sinks: pictures that are whole or not there, in one place each, whatever is killed or full."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from map_sets import add_to_tar

from sceneloom.errors import InputError, MissingDependencyError
from sceneloom.files import new_part, sweep
from sceneloom.rendering.datasets import open_sink
from sceneloom.rendering.items import Sink, Written
from sceneloom.rendering.settings import Container, ShardSettings

CONTAINERS: tuple[Container, ...] = get_args(Container)
SHARDS: tuple[Container, ...] = ("tar", "parquet")
KEYS = ["a", "ulm/ulm_0", "v1.2/x", "ü/ö", "n" * 150]
EVERYTHING: Callable[[str], bool] = lambda output: True  # noqa: E731
NOTHING: Callable[[str], bool] = lambda output: False  # noqa: E731


def data_of(key: str, version: int = 0) -> bytes:
    return f"{key} {version}\n".encode() * 50


def opened(place: Path | str, container: Container, known: Any = EVERYTHING, **size: int) -> Sink:
    sink = open_sink(str(place), "png", container=container, shards=ShardSettings(**size))
    sink.open(known)
    return sink


def put_all(sink: Sink, keys: list[str], version: int = 0) -> dict[str, str]:
    """Key -> output of all that was put, up to the end."""
    stored = [s for key in keys for s in sink.put(key, data_of(key, version), key)]
    stored += sink.finish()
    sink.close()
    return {s.tag: s.output for s in stored}


def names(folder: Path) -> list[str]:
    """Files, the marks of shards left out whose rows may not be written."""
    files = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in files if not name.endswith(".unsettled"))


def pictures_in(folder: Path) -> dict[str, list[bytes]]:
    """What other programs find in shards: key -> pictures, each shard's."""
    found: dict[str, list[bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive.getmembers():
                stream = archive.extractfile(member)
                assert stream is not None
                found.setdefault(member.name.rpartition(".")[0], []).append(stream.read())
    for path in sorted(folder.glob("*.parquet")):
        for row in pyarrow.parquet.read_table(path).to_pylist():
            found.setdefault(row["key"], []).append(row["image"])
    return found


# Round trips --------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("scheme", ["", "file://", "memory://", "local://"])
def test_pictures_come_back(tmp_path: Path, memory: Any, container: Container, scheme: str) -> None:
    folder = tmp_path / "new" / "pictures"
    place = f"{scheme}{folder}" if scheme != "memory://" else "memory://bucket/pictures"
    outputs = put_all(opened(place, container, pictures=2), KEYS)
    reader = open_sink(place, "png", container=container)  # not opened
    assert {key: reader.read(outputs[key]) for key in KEYS} == {key: data_of(key) for key in KEYS}
    expected = {
        "folder": [f"{key}.png" for key in KEYS],
        "tar": [f"shard-{i // 2:06}.tar#{key}.png" for i, key in enumerate(KEYS)],
        "parquet": [f"shard-{i // 2:06}.parquet#{key}" for i, key in enumerate(KEYS)],
    }[container]
    assert list(outputs.values()) == expected
    assert not list(Path(tempfile.gettempdir()).glob(f".sceneloom-{os.getpid()}-*"))
    if scheme != "memory://":
        files = {output.partition("#")[0] for output in expected}
        assert names(folder) == sorted(files)
    for missing in ("nothing.png", "shard-000009.tar#a.png", "shard-000000.tar#z.png", "../x", ""):
        assert reader.read(missing) is None


@pytest.mark.parametrize("container", SHARDS)
def test_other_programs_read_the_shards(tmp_path: Path, container: Container) -> None:
    put_all(opened(tmp_path, container, pictures=3), KEYS)
    assert pictures_in(tmp_path) == {key: [data_of(key)] for key in KEYS}


@pytest.mark.parametrize("container", SHARDS)
def test_equal_pictures_give_equal_shards(tmp_path: Path, container: Container) -> None:
    for folder in ("first", "second"):
        put_all(opened(tmp_path / folder, container, pictures=3), KEYS)
        time.sleep(0.01)
    assert names(tmp_path / "first") == names(tmp_path / "second")
    for name in names(tmp_path / "first"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@pytest.mark.parametrize("container", SHARDS)
def test_pictures_come_back_when_their_shard_is_complete(
    tmp_path: Path, container: Container
) -> None:
    sink = opened(tmp_path, container, pictures=3)
    assert sink.put("a", b"1", "A") == []
    assert sink.put("b", b"2", "B") == []
    assert [p for p in names(tmp_path) if not p.startswith(".")] == []
    ending = ".png" if container == "tar" else ""
    assert sink.put("c", b"3", "C") == [
        Written(tag=key.upper(), output=f"shard-000000.{container}#{key}{ending}") for key in "abc"
    ]
    assert names(tmp_path) == [f"shard-000000.{container}"]
    sink.put("d", b"4", "D")
    sink.close()
    sink.close()
    assert names(tmp_path) == [f"shard-000000.{container}"]


@pytest.mark.parametrize("container", SHARDS)
def test_shards_end_after_so_many_bytes(tmp_path: Path, container: Container) -> None:
    sink = opened(tmp_path, container, bytes=10_000)
    returned = [len(sink.put(f"{i}", bytes(4000), i)) for i in range(7)]
    assert returned == [0, 0, 3, 0, 0, 3, 0]
    assert len(sink.finish()) == 1


@pytest.mark.parametrize("container", CONTAINERS)
def test_many_threads(tmp_path: Path, container: Container) -> None:
    sink = opened(tmp_path, container, pictures=7)
    keys = [f"{i % 10}/{i}" for i in range(100)]
    with ThreadPoolExecutor(8) as pool:
        stored = [s for got in pool.map(lambda k: sink.put(k, data_of(k), k), keys) for s in got]
        stored += sink.finish()
        read = list(pool.map(lambda s: sink.read(s.output), stored))
    assert sorted(s.tag for s in stored) == sorted(keys)
    assert read == [data_of(s.tag) for s in stored]


def test_a_folder_leaves_other_files_alone(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"older")
    (tmp_path / "mine.part").write_bytes(b"mine")
    put_all(opened(tmp_path, "folder", NOTHING), ["a", "sub/b"])
    assert names(tmp_path) == ["a.png", "mine.part", "sub/b.png"]
    assert (tmp_path / "a.png").read_bytes() == data_of("a")


@pytest.mark.parametrize("container", CONTAINERS)
def test_keys_that_would_leave_the_place(tmp_path: Path, container: Container) -> None:
    sink = opened(tmp_path / "out", container)
    for key in ("../a", "/tmp/a", "a//b", "a\0"):
        with pytest.raises(InputError, match="cannot name a picture"):
            sink.put(key, b"evil", key)
    assert sink.finish() == []
    assert names(tmp_path) == []


# What is there already ----------------------------------------------------------------------------


@pytest.mark.parametrize("container", SHARDS)
def test_numbers_go_on(tmp_path: Path, container: Container) -> None:
    first = put_all(opened(tmp_path, container, pictures=2), ["a", "b", "c"])
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    second = put_all(opened(tmp_path, container, set(first.values()).__contains__), ["d"])
    assert second["d"].startswith(f"shard-000002.{container}#d")
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("container", SHARDS)
def test_another_manifests_shards_are_left_alone(tmp_path: Path, container: Container) -> None:
    put_all(opened(tmp_path, container, pictures=1), ["a", "b"])
    for left in ("ab", "b"):
        with pytest.raises(InputError, match="shard of pictures of which this manifest knows noth"):
            opened(tmp_path, container, NOTHING)
        assert "".join(sorted(pictures_in(tmp_path))) == left
        (tmp_path / f"shard-000000.{container}").unlink(missing_ok=True)


@pytest.mark.parametrize("container", SHARDS)
@pytest.mark.parametrize("place", ["", "memory://bucket/pictures"])
def test_a_shard_whose_rows_were_never_written_is_removed(
    tmp_path: Path, memory: Any, container: Container, place: str
) -> None:
    place = place or str(tmp_path)
    put_all(opened(place, container, NOTHING, pictures=5), ["a", "b"])
    opened(place, container, NOTHING)
    assert (sorted(memory.store) if "://" in place else list(tmp_path.iterdir())) == []
    put_all(opened(place, container, EVERYTHING, pictures=5), ["a", "b"])
    left = [Path(name).name for name in memory.store] if "://" in place else names(tmp_path)
    assert left == [f"shard-000000.{container}"]


@pytest.mark.parametrize("container", SHARDS)
@pytest.mark.parametrize("remote", [False, True])
def test_what_the_manifest_does_not_know_is_removed(
    tmp_path: Path, memory: Any, container: Container, remote: bool
) -> None:
    place = "memory://bucket/pictures" if remote else str(tmp_path)
    outputs = put_all(opened(place, container, pictures=3), list("abcdefgh"))
    known = {outputs[key] for key in "acg"}  # of three shards: two, none, one
    sink = opened(place, container, known.__contains__)
    found = {key: sink.read(output) for key, output in outputs.items()}
    assert found == {key: data_of(key) if key in "acg" else None for key in "abcdefgh"}
    assert put_all(sink, ["z"])["z"].startswith(f"shard-000003.{container}")
    if remote:
        files = sorted(Path(name).name for name in memory.store if "unsettled" not in name)
    else:
        files = names(tmp_path)
        assert sorted(pictures_in(tmp_path)) == ["a", "c", "g", "z"]
    assert files == [f"shard-00000{i}.{container}" for i in (0, 2, 3)]


@pytest.mark.parametrize("container", SHARDS)
def test_a_picture_is_never_in_two_shards(tmp_path: Path, container: Container) -> None:
    outputs = put_all(opened(tmp_path, container, pictures=2), list("abcd"))
    sink = opened(tmp_path, container, set(outputs.values()).__contains__, pictures=10)
    sink.put("b", data_of("b", 1), "b")
    sink.put("new", data_of("new", 1), "new")
    [old_b, _] = sink.put("b", data_of("b", 2), "b2")  # completes the shard that has the other one
    assert old_b.tag == "b"
    sink.put("c", data_of("c", 1), "c")
    stored = sink.finish()
    assert [s.tag for s in stored] == ["b2", "c"]
    assert pictures_in(tmp_path) == {
        "a": [data_of("a")],
        "b": [data_of("b", 2)],
        "c": [data_of("c", 1)],
        "d": [data_of("d")],
        "new": [data_of("new", 1)],
    }
    assert sink.read(old_b.output) is None
    assert sink.read(stored[0].output) == data_of("b", 2)


def test_a_picture_of_another_format_is_replaced_too(tmp_path: Path) -> None:
    put_all(opened(tmp_path, "tar"), ["a", "b"])
    sink = open_sink(str(tmp_path), "jpg", container="tar")
    sink.open(EVERYTHING)
    assert put_all(sink, ["a"]) == {"a": "shard-000001.tar#a.jpg"}
    assert {key: len(found) for key, found in pictures_in(tmp_path).items()} == {"a": 1, "b": 1}


@pytest.mark.parametrize("container", SHARDS)
def test_only_shards_of_their_own_beginning_are_touched(
    tmp_path: Path, container: Container
) -> None:
    first = open_sink(str(tmp_path), "png", container=container, stem="shard-00000-of-00002")
    first.open(EVERYTHING)
    put_all(first, ["a"])
    put_all(opened(tmp_path, container, NOTHING), ["b"])
    assert names(tmp_path) == [
        f"shard-00000-of-00002-000000.{container}",
        f"shard-000000.{container}",
    ]


@pytest.mark.parametrize("container", SHARDS)
def test_shards_of_others_and_damaged_ones_are_left_alone(
    tmp_path: Path, container: Container
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    put_all(opened(ours, container, pictures=1), ["a", "b"])
    theirs.mkdir()
    name = f"shard-000000.{container}"
    if container == "tar":
        with tarfile.open(theirs / name, "w") as archive:
            add_to_tar(archive, "a.label.png", b"a map")
    else:
        table = pyarrow.table({"key": ["a"], "label": [b"a map"]})
        pyarrow.parquet.write_table(table, theirs / name)
    whole = (ours / f"shard-000001.{container}").read_bytes()
    (ours / f"shard-000001.{container}").write_bytes(
        whole[:-100] if container == "parquet" else whole[:700]
    )
    for folder, reason in (
        (theirs, r"was not written by sceneloom, .* choose another folder"),
        (ours, r"shard-000001\..*truncated, damaged or no .* file.*; move the file away"),
    ):
        before = {path: (folder / path).read_bytes() for path in names(folder)}
        with pytest.raises(InputError, match=reason):
            opened(folder, container, NOTHING)
        assert {path: (folder / path).read_bytes() for path in names(folder)} == before


# Killed -------------------------------------------------------------------------------------------


KILLED = """
import os, sys
from sceneloom.rendering.datasets import ShardSettings, open_sink
place, container = sys.argv[1:]
sink = open_sink(place, "png", container=container, shards=ShardSettings(pictures=3))
sink.open(lambda output: True)
for key in "abcde":
    print(*(s.output for s in sink.put(key, key.encode() * 100, key)), sep="\\n", flush=True)
os._exit(9)
"""


@pytest.mark.parametrize("container", SHARDS)
@pytest.mark.parametrize("remote_parts", [False, True])
def test_a_killed_run_leaves_no_visible_half(
    tmp_path: Path, container: Container, remote_parts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a remote place the parts lie in the folder for temporary files, and are swept there."""
    temporary, place = tmp_path / "temporary", tmp_path / "out"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    url = "memory://out" if remote_parts else str(place)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, url, container],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 9, done.stderr
    known = set(done.stdout.split())
    assert len(known) == 3
    parts = temporary if remote_parts else place
    hidden = [name for name in names(parts) if name.startswith(".sceneloom-")]
    assert len(hidden) == 1
    if remote_parts:
        opened("memory://out", container, known.__contains__)
        assert names(temporary) == []
        return
    assert sorted(pictures_in(place)) == ["a", "b", "c"]
    sink = opened(place, container, known.__contains__)
    assert names(place) == [f"shard-000000.{container}"]
    put_all(sink, ["d", "e"])
    assert sorted(pictures_in(place)) == list("abcde")


def test_only_parts_of_the_dead_are_swept(tmp_path: Path) -> None:
    own = new_part(tmp_path)
    pid, host = os.getpid(), own.name.split(".")[2]
    token = own.name.split("-")[2]
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    kept = [
        own.name,
        own.name.replace(f"-{pid}-", f"-{os.getppid()}-"),  # alive
        own.name.replace(f".{host}.", ".elsewhere."),
        ".sceneloom-x.part",
        "a.png",
    ]
    swept = [
        own.name.replace(f"-{pid}-", f"-{dead.pid}-"),
        own.name.replace(f"-{token}-", "-00000000-"),  # an earlier process of this number
        own.name.replace(f".{host}.", ".long-ago."),
    ]
    (tmp_path / "sub").mkdir()
    for name in [*kept, *swept]:
        (tmp_path / "sub" / name).write_bytes(b"x")
    day = time.time() - 2 * 86400
    os.utime(tmp_path / "sub" / swept[2], (day, day))
    sweep(tmp_path, deep=False)
    assert len(names(tmp_path)) == len(kept) + len(swept)
    sweep(tmp_path, deep=True)
    assert names(tmp_path) == sorted(f"sub/{name}" for name in kept)


@pytest.mark.parametrize("container", SHARDS)
@given(
    steps=st.lists(
        st.one_of(st.sampled_from("abcdefgh"), st.sampled_from(["kill", "end"])), max_size=25
    )
)
@settings(max_examples=25)
def test_whatever_is_killed_each_picture_is_there_once(
    container: Container, steps: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        manifest: dict[str, tuple[str, bytes]] = {}  # key -> output, picture

        def begin() -> Sink:
            return opened(
                place, container, {o for o, _ in manifest.values()}.__contains__, pictures=3
            )

        def record(stored: list[Written]) -> None:
            manifest.update({s.tag[0]: (s.output, s.tag[1]) for s in stored})

        sink = begin()
        for number, step in enumerate(steps):
            if step == "end":
                record(sink.finish())
            if step in ("end", "kill"):
                sink.close()
                sink = begin()
            else:
                data = data_of(step, number)
                record(sink.put(step, data, (step, data)))
        record(sink.finish())
        assert pictures_in(place) == {key: [data] for key, (_, data) in manifest.items()}
        assert all(sink.read(output) == data for output, data in manifest.values())
        assert all(not name.startswith(".") for name in names(place))


# Full and wrong places ----------------------------------------------------------------------------


def test_a_full_disk_folder(tmp_path: Path, small_files: Any) -> None:
    sink = opened(tmp_path, "folder")
    sink.put("a/x", b"older", 0)
    with small_files(1000):
        with pytest.raises(OSError, match=r"too large: '.*a/x\.png'"):
            sink.put("a/x", bytes(2000), 0)
        assert sink.put("b", bytes(900), 1) == [Written(tag=1, output="b.png")]
    assert names(tmp_path) == ["a/x.png", "b.png"]
    assert sink.read("a/x.png") == b"older"


def test_a_full_disk_tar(tmp_path: Path, small_files: Any) -> None:
    """A picture that does not fit is not taken; those before it are not lost with it."""
    sink = opened(tmp_path, "tar", pictures=3)
    with small_files(10_000):
        sink.put("a", bytes(3000), "a")
        for key in "bc":
            with pytest.raises(OSError, match=r"too large: '.*shard-000000\.tar'"):
                sink.put(key, bytes(8000), key)
        sink.put("d", bytes(3000), "d")
        stored = sink.finish()
    assert [s.tag for s in stored] == ["a", "d"]
    assert pictures_in(tmp_path) == {"a": [bytes(3000)], "d": [bytes(3000)]}
    assert names(tmp_path) == ["shard-000000.tar"]


@pytest.mark.parametrize(
    # What is collected fits; not so a tar file's end mark, and what Parquet has around pictures.
    ("container", "before", "limit"),
    [("tar", ["a", "b"], 3 * 1024), ("parquet", [], 1100)],
)
def test_a_disk_too_full_to_complete_a_shard(
    tmp_path: Path, small_files: Any, container: Container, before: list[str], limit: int
) -> None:
    sink = opened(tmp_path, container, pictures=len(before) + 1)
    with small_files(limit):
        for key in before:
            sink.put(key, bytes(512), key)
        for _ in range(2):
            with pytest.raises(OSError, match=rf"too large: '.*shard-000000\.{container}'"):
                sink.put("last", bytes(512), "not taken")
            assert [name for name in names(tmp_path) if not name.startswith(".")] == []
    assert [s.tag for s in sink.put("last", bytes(512), "last")] == [*before, "last"]
    assert sorted(pictures_in(tmp_path)) == [*before, "last"]
    assert names(tmp_path) == [f"shard-000000.{container}"]


@pytest.mark.parametrize("container", SHARDS)
def test_a_disk_too_full_to_finish(tmp_path: Path, small_files: Any, container: Container) -> None:
    sink = opened(tmp_path, container)
    sink.put("a", bytes(512), "a")
    with small_files(1030), pytest.raises(OSError, match=r"too large: '.*shard-000000"):
        sink.finish()
    sink.close()
    assert names(tmp_path) == []


@pytest.mark.parametrize("container", CONTAINERS)
def test_places_that_cannot_be_folders(tmp_path: Path, memory: Any, container: Container) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    memory.pipe_file("/bucket/file", b"mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below", "memory://bucket/file"):
        with pytest.raises(InputError, match=r"file.*: cannot be the folder for pictures \("):
            opened(place, container)
    with pytest.raises(InputError, match=r"out\.tar: pictures go to a folder; .*--container tar"):
        open_sink(str(tmp_path / "out.tar"), "png", container=container)
    with pytest.raises(MissingDependencyError, match=r"needs s3fs.*: pip install s3fs"):
        open_sink("s3://bucket/out", "png", container=container)
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_folder_where_a_picture_should_go(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    (tmp_path / "file.png").write_bytes(b"a file where a folder should go")
    sink = opened(tmp_path, "folder")
    for key in ("a", "file.png/b"):
        with pytest.raises(OSError, match=f"{tmp_path}/{key}"):
            sink.put(key, b"x", key)
    assert names(tmp_path) == ["file.png"]
    assert sink.read("a.png") is None


def test_settings() -> None:
    for name in ("pictures", "bytes"):
        with pytest.raises(InputError, match=f"{name} is 0; it is at least 1"):
            ShardSettings(**{name: 0})
    with pytest.raises(InputError, match="container is 'zip'; it is folder, tar or parquet"):
        open_sink("out", "png", container="zip")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no beginning for the names of shards"):
        open_sink("out", "png", container="tar", stem="a/b")


def test_a_picture_is_never_seen_half_written(tmp_path: Path) -> None:
    sink = opened(tmp_path, "folder")
    versions = [bytes([value]) * 300_000 for value in (1, 2)]
    sink.put("a", versions[0], None)
    stop = threading.Event()

    def rewrite(data: bytes) -> None:
        while not stop.is_set():
            sink.put("a", data, None)

    with ThreadPoolExecutor(2) as pool:
        for data in versions:
            pool.submit(rewrite, data)
        try:
            assert all(sink.read("a.png") in versions for _ in range(100))
        finally:
            stop.set()
    assert names(tmp_path) == ["a.png"]
