"""What is found in a folder, and what is left out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sceneloom.files import LeftOut, describe, list_files


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "data/b.png", "maps/a.png")
    (tmp_path / "maps/bonn").symlink_to(tmp_path / "data")
    (tmp_path / "all").symlink_to(tmp_path / "maps")
    assert list_files(tmp_path / "all") == (["a.png", "bonn/b.png"], [])


def test_a_link_in_a_circle_is_left_out_and_named(tmp_path: Path) -> None:
    touch(tmp_path, "maps/deep/a.png")
    (tmp_path / "maps/deep/up").symlink_to(tmp_path / "maps")
    (tmp_path / "maps/deep/here").symlink_to(".")
    names, left_out = list_files(tmp_path / "maps")
    assert names == ["deep/a.png"]
    assert [one.name for one in left_out] == ["deep/here/", "deep/up/"]


def test_a_broken_link_is_a_file_whose_reading_fails(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    assert list_files(tmp_path) == (["a.png"], [])


def test_hidden_files_and_folders_are_left_out_and_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", ".b.png", ".ipynb_checkpoints/a.png", "c/.hidden/d/e.png", "c/f.png")
    names, left_out = list_files(tmp_path)
    assert names == ["a.png", "c/f.png"]
    assert {(one.reason, one.name) for one in left_out} == {
        ("hidden", ".b.png"),
        ("hidden", ".ipynb_checkpoints/"),
        ("hidden", "c/.hidden/"),
    }


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list_files(tmp_path / "gone")


def test_what_is_left_out_is_described_by_reason() -> None:
    entries = [LeftOut(reason="hidden", name=f".{n}") for n in range(7)]
    entries += [LeftOut(reason="of a kind that is not read", name="b.bmp")]
    assert describe(entries) == [
        "left out: 7 hidden (.0, .1, .2, .3, .4, ...)",
        "left out: 1 of a kind that is not read (b.bmp)",
    ]
    assert describe([]) == []


def test_a_link_to_itself_spoils_itself_alone(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to("b.png")
    (tmp_path / "c").symlink_to("d")
    (tmp_path / "d").symlink_to("c")
    assert list_files(tmp_path) == (["a.png", "b.png", "c", "d"], [])
