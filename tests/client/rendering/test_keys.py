"""Keys that name pictures, and the shards they fall into."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sceneloom.rendering.items import key_error, shard_of


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("", "a part that is ''"),
        ("/etc/passwd", "an absolute path"),
        ("../a", r"a part that is '\.\.'"),
        ("a/../../b", r"a part that is '\.\.'"),
        ("a/./b", r"a part that is '\.'"),
        ("a//b", "a part that is ''"),
        ("a/", "a part that is ''"),
        ("a\0b", "control character"),
        ("a\nb", "control character"),
        ("..\\a", "backslash"),
        ("\udcff", "not UTF-8"),
        ("ä" * 513, "1026 bytes; 1024 at most"),
    ],
)
def test_keys_that_are_refused(key: str, reason: str) -> None:
    assert re.search(reason, key_error(key) or "")


@pytest.mark.parametrize("key", ["a", "a.b/c d", "..a", "ulm/ü_0", "#1", "C:x"])
def test_keys_that_are_taken(key: str) -> None:
    assert key_error(key) is None


@given(st.text())
def test_no_key_that_is_taken_leaves_its_folder(key: str) -> None:
    if key_error(key) is None:
        path = Path("/place") / f"{key}.png"
        assert Path("/place") in path.resolve().parents
        assert path.as_posix() == f"/place/{key}.png"


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 50))
def test_every_key_is_in_one_shard(key: str, shards: int) -> None:
    assert 0 <= shard_of(key, shards) < shards
    assert shard_of(key, shards) == shard_of(key, shards)


def test_shards_are_the_same_everywhere_and_even() -> None:
    assert [shard_of(f"{i:06}", 4) for i in range(8)] == [0, 0, 2, 3, 0, 2, 3, 0]
    sizes = [0] * 8
    for i in range(8000):
        sizes[shard_of(f"{i:06}", 8)] += 1
    assert min(sizes) > 850
