"""The manifest: rows survive kills, two runs never share one, nothing else is taken for one."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import sqlite3
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sceneloom.errors import InputError
from sceneloom.rendering.manifest import Manifest, Origin, Row, write_listing

ORIGIN = Origin(model="synthesis", model_version="1", bundle_hash="ab", parameters="{}")


def row(key: str, **changes: object) -> Row:
    base = Row(
        key=key,
        input_hash="01",
        origin=ORIGIN,
        status="done",
        attempts=1,
        milliseconds=2.5,
        finished=1.5e9,
        output=f"{key}.png",
        output_hash="02",
        output_bytes=3,
        height=4,
        width=5,
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_rows_come_back_as_they_were_and_replace_each_other(tmp_path: Path) -> None:
    with Manifest(tmp_path / "m.sqlite") as manifest:
        manifest.record([row("b"), row("a", style='{"seed": 1}', padding_right=7)])
        manifest.record([row("b", status="failed", error="broken", output="", attempts=3)])
    with Manifest(tmp_path / "m.sqlite") as manifest:
        assert manifest.row("a") == row("a", style='{"seed": 1}', padding_right=7)
        assert [r.key for r in manifest.rows()] == ["a", "b"]
        assert Counter(row.status for row in manifest.rows()) == {"done": 1, "failed": 1}
        assert sum(row.attempts for row in manifest.rows()) == 4
        assert manifest.row("c") is None
        assert manifest.is_known("a.png")
        assert not manifest.is_known("b.png")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(min_size=1).filter(lambda t: "\0" not in t), unique=True, max_size=8))
def test_any_key_comes_back(tmp_path_factory: pytest.TempPathFactory, keys: list[str]) -> None:
    with Manifest(tmp_path_factory.mktemp("m") / "m.sqlite") as manifest:
        manifest.record(map(row, keys))
        assert sorted(r.key for r in manifest.rows()) == sorted(keys)
        assert all(manifest.row(key) == row(key) for key in keys)
        assert all(manifest.is_known(f"{key}.png") for key in keys)


def test_a_name_that_is_not_utf_8_comes_back(tmp_path: Path) -> None:
    name = os.fsdecode(b"stra\xdfe")
    with Manifest(tmp_path / "m.sqlite") as manifest:
        manifest.record([row(name), row("a")])
        assert {r.key for r in manifest.rows()} == {name, "a"}
        assert manifest.row(name) == row(name)
        write_listing(manifest.rows(), tmp_path / "m.jsonl")
    lines = (tmp_path / "m.jsonl").read_text("utf-8").splitlines()
    assert {json.loads(line)["key"] for line in lines} == {name, "a"}


def test_many_rows_are_read_in_pages(tmp_path: Path) -> None:
    keys = [f"{n:05d}" for n in range(1234)]
    with Manifest(tmp_path / "m.sqlite") as manifest:
        manifest.record(map(row, reversed(keys)))
        assert [r.key for r in manifest.rows()] == keys
        write_listing(manifest.rows(), tmp_path / "m.jsonl")
    lines = (tmp_path / "m.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 1234
    assert json.loads(lines[7]) == row("00007").to_json()
    assert sorted(p.name for p in tmp_path.glob("*.jsonl*")) == ["m.jsonl"]


def test_a_killed_process_loses_no_row(tmp_path: Path) -> None:
    code = """
        import os, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from test_manifest import row
        from sceneloom.rendering.manifest import Manifest
        manifest = Manifest(Path(sys.argv[1]))
        for number in range(100):
            manifest.record([row(f"{number:03d}")])
        os.kill(os.getpid(), 9)
    """
    path = tmp_path / "m.sqlite"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(path), str(Path(__file__).parent)],
        check=False,
    )
    assert done.returncode == -9
    with Manifest(path) as manifest:
        assert Counter(row.status for row in manifest.rows()) == {"done": 100}


def test_one_run_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "m.sqlite"
    with Manifest(path) as manifest:
        with pytest.raises(InputError, match=r"m\.sqlite: another run is writing it"):
            Manifest(path)
        manifest.record([row("a")])
        looked = sqlite3.connect(path)  # anybody may look
        assert looked.execute("select key from pictures").fetchall() == [("a",)]
        looked.close()
    Manifest(path).close()


def test_refuses_a_manifest_whose_pages_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "m.sqlite"
    with Manifest(path) as manifest:
        manifest.record(map(row, (f"{n:04d}" for n in range(500))))
    data = bytearray(path.read_bytes())
    data[4096:8192] = os.urandom(4096)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"m\.sqlite: (the manifest is damaged|cannot be the man)"):
        Manifest(path)


def test_refuses_what_is_no_manifest(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("not a database, but long enough to be looked at" * 100)
    with pytest.raises(InputError, match="text: cannot be the manifest"):
        Manifest(text)
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("create table things (a)")
    other.commit()
    other.close()
    with pytest.raises(InputError, match="not a manifest of format 1"):
        Manifest(tmp_path / "other.sqlite")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: cannot be the folder for pictures and their man"):
        Manifest(tmp_path / "file" / "m.sqlite")
    with pytest.raises(InputError, match="cannot be the manifest"):
        Manifest(tmp_path)


def test_where_files_cannot_be_mapped_one_process_has_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.sqlite"
    (tmp_path / "m.sqlite-shm").mkdir()  # SQLite cannot open its shared memory
    for key in ("a", "b"):
        with Manifest(path) as manifest:
            manifest.record([row(key)])
            assert manifest.is_known(f"{key}.png")
    (tmp_path / "m.sqlite-shm").rmdir()
    looked = sqlite3.connect(path)
    assert looked.execute("select key from pictures").fetchall() == [("a",), ("b",)]
    looked.close()
    with Manifest(path, to_read=True) as manifest:
        assert Counter(row.status for row in manifest.rows()) == {"done": 2}


def test_a_manifest_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    for ending in ("-shm", "-wal", "-journal"):
        (tmp_path / f"m.sqlite{ending}").mkdir()
    with pytest.raises(InputError, match=r"m\.sqlite: cannot be the manifest .*--manifest FILE"):
        Manifest(tmp_path / "m.sqlite")
    assert not (tmp_path / "m.sqlite").exists()


def test_what_is_only_read_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"m\.sqlite: no such manifest"):
        Manifest(tmp_path / "m.sqlite", to_read=True)
    (tmp_path / "m.sqlite").touch()
    with pytest.raises(InputError, match=r"m\.sqlite: is empty"):
        Manifest(tmp_path / "m.sqlite", to_read=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m.sqlite"]


def test_places_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"pipe: cannot be the manifest \(not a file\)"):
        Manifest(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"link is a link that leads nowhere"):
        Manifest(tmp_path / "link" / "m.sqlite")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file is not a folder"):
        Manifest(tmp_path / "file" / "m.sqlite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "pipe"]


def test_a_manifest_that_a_full_disk_cut_short_can_be_begun_again(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    failed = 0
    for size in range(4096, 15 * 4096, 4096):
        path = tmp_path / str(size) / "manifest.sqlite"
        path.parent.mkdir()
        path.touch()  # so that the first try does not remove it
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            Manifest(path).close()
        except (InputError, OSError):
            failed += 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        Manifest(path).close()
    assert failed
