"""Scores against scikit-learn's, and what the bootstrap's intervals do."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sceneloom.errors import InputError
from sceneloom_training.evaluation.scores import (
    ClassCounts,
    Scores,
    count_classes,
    join_counts,
    score,
    score_gap,
)

Maps = npt.NDArray[np.uint8]
CLASSES = 5


def scored(predicted: Maps, true: Maps, **draws: int) -> Scores:
    counts = count_classes(predicted, true, CLASSES)
    return score(counts, **{"draws": 10, "seed": 0} | draws)


def noisy(pictures: int, seed: int = 0) -> ClassCounts:
    """Counts of pictures in which nine pixels of ten are right."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, CLASSES, (pictures, 16, 16), np.uint8)
    wrong = rng.random(true.shape) < 0.1
    return count_classes(np.where(wrong, (true + 1) % CLASSES, true), true, CLASSES)


def assert_equal_to_sklearn(predicted: Maps, true: Maps) -> None:
    from sklearn.metrics import accuracy_score, jaccard_score  # takes seconds

    found = scored(predicted, true)
    kept = true != 255
    t, p = true[kept], predicted[kept]
    present = np.unique(t)
    assert found.pixel_accuracy.value == pytest.approx(accuracy_score(t, p), abs=1e-12)
    for field, average in (("mean_iou", "macro"), ("frequency_weighted_iou", "weighted")):
        expected = jaccard_score(t, p, labels=present, average=average)
        assert getattr(found, field).value == pytest.approx(expected, abs=1e-12)
    each = jaccard_score(t, p, labels=present, average=None)
    for channel in range(CLASSES):
        value = found.class_iou[channel].value
        if channel in present:
            assert value == pytest.approx(each[list(present).index(channel)], abs=1e-12)
        else:
            assert value is None


def test_scores_of_a_map_that_is_counted_by_hand() -> None:
    true = np.array([[[0, 0, 0, 1], [1, 1, 255, 255]]], np.uint8)
    predicted = np.array([[[0, 0, 1, 1], [1, 255, 0, 1]]], np.uint8)
    found = scored(predicted, true)
    assert found.pixel_accuracy.value == pytest.approx(4 / 6)
    assert [c.value for c in found.class_iou[:2]] == pytest.approx([2 / 3, 2 / 4])
    assert found.mean_iou.value == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found.frequency_weighted_iou.value == pytest.approx((3 * 2 / 3 + 3 / 2) / 6)


def test_counts_are_those_of_the_confusion_matrix() -> None:
    from sklearn.metrics import confusion_matrix

    rng = np.random.default_rng(1)
    true = rng.integers(0, CLASSES, (3, 8, 8), np.uint8)
    predicted = rng.integers(0, CLASSES, (3, 8, 8), np.uint8)
    true[:, 0] = 255
    counts = count_classes(predicted, true, CLASSES)
    for i in range(3):
        kept = true[i] != 255
        matrix = confusion_matrix(true[i][kept], predicted[i][kept], labels=range(CLASSES))
        assert np.array_equal(counts.intersection[i], matrix.diagonal())
        assert np.array_equal(counts.predicted[i], matrix.sum(0))
        assert np.array_equal(counts.true[i], matrix.sum(1))
    assert counts.true.dtype == counts.predicted.dtype == counts.intersection.dtype == np.int64


CHANNELS = st.sampled_from([0, 1, 2, 4, 255])  # 3 never occurs


@given(
    true=arrays(np.uint8, (2, 3, 4), elements=CHANNELS),
    predicted=arrays(np.uint8, (2, 3, 4), elements=st.sampled_from([0, 1, 2, 3, 4, 255])),
)
def test_scores_are_scikit_learns(true: Maps, predicted: Maps) -> None:
    true[0, 0, 0] = 0  # something is to be scored
    assert_equal_to_sklearn(predicted, true)


def test_a_class_that_is_predicted_and_never_true_has_no_score() -> None:
    true = np.zeros((1, 2, 2), np.uint8)
    predicted = np.array([[[0, 0], [0, 3]]], np.uint8)
    found = scored(predicted, true)
    assert found.class_iou[3].value is None
    assert found.mean_iou.value == pytest.approx(3 / 4)


def test_nothing_to_score_is_an_error() -> None:
    ignored = np.full((2, 3, 3), 255, np.uint8)
    with pytest.raises(InputError, match="no pixel can be scored"):
        scored(np.zeros_like(ignored), ignored)


def test_counts_in_parts_are_counts_in_one_go() -> None:
    whole = noisy(7)
    joined = join_counts([whole[:3], whole[3:4], whole[4:]])
    assert len(joined) == 7
    for field in dataclasses.fields(ClassCounts):
        assert np.array_equal(getattr(joined, field.name), getattr(whole, field.name))


# Intervals ---------------------------------------------------------------------------------------


def intervals(scores: Scores) -> list[tuple[float | None, float | None, float | None]]:
    of = (scores.pixel_accuracy, scores.mean_iou, scores.frequency_weighted_iou, *scores.class_iou)
    return [dataclasses.astuple(interval) for interval in of]


@pytest.mark.parametrize("seed", range(3))
def test_intervals_contain_the_score(seed: int) -> None:
    for value, low, high in intervals(score(noisy(40, seed), draws=500, seed=seed)):
        assert value is not None
        assert low is not None
        assert high is not None
        assert low < value < high


def test_equal_seeds_give_equal_intervals() -> None:
    counts = noisy(20)
    assert score(counts, draws=200, seed=3) == score(counts, draws=200, seed=3)
    assert score(counts, draws=200, seed=3) != score(counts, draws=200, seed=4)


def test_intervals_shrink_as_pictures_are_added() -> None:
    def width(pictures: int) -> float:
        found = score(noisy(pictures), draws=500, seed=0).mean_iou
        assert found.high is not None
        assert found.low is not None
        return found.high - found.low

    assert width(400) < width(100) / 1.5 < width(25) / 2.25


def test_vectorised_draws_are_draws_one_by_one() -> None:
    counts = noisy(12)
    rng = np.random.default_rng(5)
    weights = rng.multinomial(12, np.full(12, 1 / 12), 50)
    drawn = []
    for row in weights:
        picked = np.repeat(np.arange(12), row)
        again = ClassCounts(
            intersection=counts.intersection[picked],
            predicted=counts.predicted[picked],
            true=counts.true[picked],
        )
        drawn.append(score(again, draws=1, seed=0).mean_iou.value)
    found = score(counts, draws=50, seed=5).mean_iou
    assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]).tolist())


def test_the_gap_is_paired() -> None:
    oracle = noisy(30)
    worse = dataclasses.replace(oracle, intersection=oracle.intersection * 9 // 10)
    gap = score_gap(worse, oracle, draws=500, seed=0)
    alone = score(oracle, draws=500, seed=0)
    for found, of in zip(intervals(gap)[:3], intervals(alone)[:3], strict=True):
        assert None not in (*found, *of)
        value, low, high = found
        assert low <= value <= high < 0
        assert high - low < of[2] - of[1]  # what pictures have in common cancels out
    same = score_gap(oracle, oracle, draws=50, seed=0)
    assert set(intervals(same)) == {(0.0, 0.0, 0.0)}


def test_a_class_of_one_picture_keeps_its_interval() -> None:
    true = np.zeros((20, 4, 4), np.uint8)
    true[0] = 2
    found = scored(true.copy(), true, draws=100)
    assert dataclasses.astuple(found.class_iou[2]) == (1.0, 1.0, 1.0)
    assert dataclasses.astuple(found.class_iou[1]) == (None, None, None)
