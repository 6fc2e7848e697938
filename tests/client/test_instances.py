"""Instance boundaries and the dense numbering of styled models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sceneloom.errors import TooManyInstancesError
from sceneloom.maps import boundary_map, renumber_instances


def test_boundaries_by_hand() -> None:
    instance_map = np.array(
        [
            [5, 5, 5, 5],
            [5, 5, 9, 5],
            [5, 5, 5, 5],
            [5, 5, 5, 5],
        ],
        np.int32,
    )
    assert boundary_map(instance_map).astype(int).tolist() == [
        [0, 0, 1, 0],
        [0, 1, 1, 1],
        [0, 0, 1, 0],
        [0, 0, 0, 0],
    ]


@pytest.mark.parametrize("case", ["global_generator", "local_enhancer_1", "local_enhancer_2"])
def test_boundaries_equal_the_published_ones(shared: Path, case: str) -> None:
    with np.load(shared / "reference" / f"{case}.npz") as reference:
        boundaries = boundary_map(reference["instance_map"][0, 0])
        assert np.array_equal(boundaries, reference["edge"][0, 0].astype(bool))
    assert boundaries.any()
    assert not boundaries.all()


@pytest.mark.parametrize("first", [0, 2048, 2**24, 2**31 - 2])
def test_ids_that_differ_by_one_have_a_boundary(first: int) -> None:
    instance_map = np.array([[first, first, first + 1, first + 1]], np.int32)
    assert boundary_map(instance_map).tolist() == [[False, True, True, False]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_thin_maps(shape: tuple[int, int]) -> None:
    assert not boundary_map(np.full(shape, 3, np.int32)).any()


def test_renumbering_by_hand() -> None:
    instance_map = np.array([[26001, 7], [2**31 - 1, 7]], np.int32)
    dense, ids = renumber_instances(instance_map, 256)
    assert dense.tolist() == [[1, 0], [2, 0]]
    assert ids.tolist() == [7, 26001, 2**31 - 1]
    assert (dense.dtype, ids.dtype) == (np.int32, np.int32)


@given(hnp.arrays(np.int32, (7, 9), elements=st.integers(0, 2**31 - 1)))
def test_renumbering_keeps_boundaries_and_can_be_undone(instance_map: np.ndarray) -> None:
    dense, ids = renumber_instances(instance_map, 256)
    assert np.array_equal(boundary_map(dense), boundary_map(instance_map))
    assert np.array_equal(ids[dense], instance_map)
    assert set(dense.ravel()) == set(range(len(ids)))


def test_256_instances_are_the_most() -> None:
    instance_map = np.arange(256, dtype=np.int32).reshape(16, 16) * 5
    assert len(renumber_instances(instance_map, 256)[1]) == 256
    with pytest.raises(TooManyInstancesError, match=r"257 instances.*at most 256"):
        renumber_instances(np.append(instance_map, 1)[None].astype(np.int32), 256)
