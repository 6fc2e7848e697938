"""The buckets give maps of one size together, and lose none."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sceneloom.rendering.items import MapItem
from sceneloom.rendering.loading import Loaded
from sceneloom.rendering.pipeline import SizeBuckets


class NoFile:
    name = "none"

    def read(self, max_bytes: int) -> bytes:
        raise AssertionError("nobody reads it")


def loaded(key: str, size: tuple[int, int]) -> Loaded:
    return Loaded(
        item=MapItem(key=key, label=NoFile(), instance=None),
        label=key.encode(),
        instance=None,
        input_hash="",
        size=size,
        started=0.0,
    )


def test_gives_one_size_after_the_other() -> None:
    buckets = SizeBuckets()
    for number in range(12):
        buckets.add(loaded(f"{number:02d}", (8 * (number % 3), 8)))
    taken = [buckets.take()[0] for _ in range(12)]
    assert [one.size[0] for one in taken] == [0] * 4 + [8] * 4 + [16] * 4
    assert [one.item.key for one in taken[:4]] == ["00", "03", "06", "09"]


def test_stays_with_a_size_that_comes_in_again() -> None:
    buckets = SizeBuckets()
    buckets.add(loaded("a", (1, 1)))
    buckets.add(loaded("b", (2, 2)))
    assert buckets.take()[0].item.key == "a"
    buckets.add(loaded("c", (2, 2)))
    assert buckets.take()[0].item.key == "b"
    buckets.add(loaded("d", (1, 1)))
    buckets.add(loaded("e", (2, 2)))
    assert [buckets.take()[0].item.key for _ in range(3)] == ["c", "e", "d"]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), max_size=30))
def test_batches_are_of_one_size_and_nothing_is_lost(steps: list[tuple[int, int]]) -> None:
    buckets, put, got = SizeBuckets(), [], []
    for number, (side, most) in enumerate(steps):
        put.append(str(number))
        buckets.add(loaded(str(number), (side, side)))
        if number % 2:
            batch = buckets.take(most)
            assert 1 <= len(batch) <= most
            assert len({one.size for one in batch}) == 1
            got += [one.item.key for one in batch]
    held = buckets.count
    assert buckets.bytes == sum(map(len, put)) - sum(map(len, got))
    assert len(put) == len(got) + held
    assert buckets.clear() == held
    assert (buckets.count, buckets.bytes) == (0, 0)
