"""Folders that appear whole, and never at the cost of something else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sceneloom.errors import ExportError
from sceneloom.files import file_hash, replace_folder

FILES = frozenset({"report.json", "data"})


def write(folder: Path, text: str = "new", *, then: Callable[[], None] = lambda: None) -> None:
    with replace_folder(
        folder, marker="report.json", files=FILES, kind="an export bundle", error=ExportError
    ) as fresh:
        (fresh / "report.json").write_text(json.dumps({"sceneloom": "0"}))
        (fresh / "data").write_text(text)
        then()


def test_nothing_an_empty_folder_and_an_older_one_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in ("deep/er/new", "empty", "empty"):
        write(tmp_path / place, place)
        assert (tmp_path / place / "data").read_text() == place
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "empty"]


@pytest.mark.parametrize(
    "files",
    [
        {"thesis.txt": "important"},
        {"report.json": "{}"},
        {"report.json": "not json"},
        {"report.json": '{"sceneloom": "0"}', "thesis.txt": "important"},
    ],
)
def test_anything_else_is_refused_and_kept(tmp_path: Path, files: dict[str, str]) -> None:
    place = tmp_path / "place"
    place.mkdir()
    for name, text in files.items():
        (place / name).write_text(text)
    with pytest.raises(ExportError, match="not an export bundle"):
        write(place)
    assert {p.name: p.read_text() for p in place.iterdir()} == files
    assert [p.name for p in tmp_path.iterdir()] == ["place"]


def test_failure_keeps_the_older_one(tmp_path: Path) -> None:
    write(tmp_path / "place", "old")

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "place", "new", then=fail)
    assert (tmp_path / "place" / "data").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["place"]


def test_what_was_removed_while_it_was_written_is_not_announced(tmp_path: Path) -> None:
    def lose() -> None:
        (fresh,) = tmp_path.glob(".place.*.new")
        shutil.rmtree(fresh)
        fresh.mkdir()  # as a writer does that makes missing folders

    with pytest.raises(ExportError, match=r"place.*was removed or moved while the run was on"):
        write(tmp_path / "place", "new", then=lose)
    assert list(tmp_path.iterdir()) == []


def test_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target" / "data").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "target"]


def test_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(ExportError, match="cannot be written"):
            write(place)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match="current folder"):
        write(Path())
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_killed_writers_left_is_swept(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    (tmp_path / f".place.{process.pid}.new").mkdir()
    (tmp_path / f".place.{process.pid}.old").mkdir()
    (tmp_path / f".place.{process.pid}.old" / "data").write_text("saved")
    alive = tmp_path / f".place.{os.getppid()}.new"
    alive.mkdir()
    (tmp_path / ".place.notes.new").mkdir()
    # Killed between its two renames: the older one comes back; it is no bundle here, so it stays.
    with pytest.raises(ExportError, match="not an export bundle"):
        write(tmp_path / "place")
    assert (tmp_path / "place" / "data").read_text() == "saved"
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == sorted([alive.name, ".place.notes.new", "place"])


def test_file_hash(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    expected = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert file_hash(tmp_path / "empty") == expected
