"""Pixel accuracy and intersection over union of label maps, from counts per picture and class, with
bootstrap intervals over the pictures.

Long et al., CVPR 2015, section 5, with sums over all pictures of a class's true pixels T, predicted
pixels P, and both I: pixel accuracy sum I / sum T; IoU of a class I / (T + P - I); mean IoU over
the classes in the truth; frequency-weighted IoU sum T * IoU / sum T. True pixels of 255 are
ignored. A prediction that is no class is wrong everywhere.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sceneloom.errors import InputError
from sceneloom.schema import NO_CHANNEL, LabelSchema

LEVEL = 0.95

SCORES = {
    "pixel_accuracy": "pixel accuracy",
    "mean_iou": "mean IoU",
    "frequency_weighted_iou": "frequency-weighted IoU",
}
"""Fields of `Scores` with one number, and their titles."""

_Counts = npt.NDArray[np.int64]
_Values = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClassCounts:
    """Pixels per picture and class, without ignored ones, int64 [N, C] each."""

    intersection: _Counts
    predicted: _Counts
    true: _Counts

    def __len__(self) -> int:
        return len(self.true)

    def __getitem__(self, pictures: slice) -> ClassCounts:
        return ClassCounts(**{name: values[pictures] for name, values in vars(self).items()})


def count_classes(
    predicted: npt.NDArray[np.uint8], true: npt.NDArray[np.uint8], classes: int
) -> ClassCounts:
    """Count the pixels of each of C classes in label maps, uint8 [N, H, W]. A predicted channel
    from C on is wrong. True pixels of 255 are ignored.
    """
    assert predicted.shape == true.shape, (predicted.shape, true.shape)
    assert predicted.dtype == true.dtype == np.uint8
    counted = true != NO_CHANNEL

    def count(maps: npt.NDArray[np.uint8], where: npt.NDArray[np.bool_]) -> _Counts:
        parts = [np.bincount(m[w], minlength=256) for m, w in zip(maps, where, strict=True)]
        return np.array(parts, np.int64).reshape(len(maps), 256)[:, :classes]

    return ClassCounts(
        intersection=count(true, counted & (predicted == true)),
        predicted=count(predicted, counted),
        true=count(true, counted),
    )


def join_counts(parts: Sequence[ClassCounts]) -> ClassCounts:
    """Join the counts of several batches, in order."""
    names = [field.name for field in dataclasses.fields(ClassCounts)]
    return ClassCounts(**{k: np.concatenate([getattr(part, k) for part in parts]) for k in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreInterval:
    """A score with its 95 % bootstrap interval. All are None where the score is undefined."""

    value: float | None
    low: float | None
    """2.5th percentile over the draws."""
    high: float | None
    """97.5th percentile over the draws."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of one set of label maps, or the difference between two."""

    pixel_accuracy: ScoreInterval
    """Share of right pixels, 0 to 1."""
    mean_iou: ScoreInterval
    """Mean over the classes in the truth, 0 to 1."""
    frequency_weighted_iou: ScoreInterval
    """Mean weighted by the true pixels of each class, 0 to 1."""
    class_iou: tuple[ScoreInterval, ...]
    """By channel, undefined for classes not in the truth."""


def score(counts: ClassCounts, *, draws: int, seed: int) -> Scores:
    """Score with bootstrap intervals over the pictures. Raises as `score_columns`."""
    weights = _draw_weights(len(counts), draws, seed)
    return _scores(score_columns(counts, None), score_columns(counts, weights))


def score_gap(first: ClassCounts, second: ClassCounts, *, draws: int, seed: int) -> Scores:
    """First minus second, with paired intervals: each draw takes the same pictures of both."""
    assert len(first) == len(second)

    def gap(weights: _Values | None) -> dict[str, _Values]:
        theirs = score_columns(second, weights)
        return {name: x - theirs[name] for name, x in score_columns(first, weights).items()}

    return _scores(gap(None), gap(_draw_weights(len(first), draws, seed)))


def _draw_weights(pictures: int, draws: int, seed: int) -> _Values:
    """Draw how often each draw takes each picture, [draws, N]."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(pictures, np.full(pictures, 1 / pictures), draws).astype(np.float64)


def score_columns(counts: ClassCounts, weights: _Values | None) -> dict[str, _Values]:
    """Compute each score of each draw, by its field of `Scores`: float64 [draws], ``class_iou``
    [draws, C], NaN for classes not in the drawn truth. `weights`, float64 [draws, N], says how
    often each draw takes each picture; None is one draw of all. Raises InputError if no pixel is
    counted.
    """
    if not counts.true.any():
        raise InputError("no pixel can be scored: the label maps hold ignored pixels only")
    if weights is None:
        weights = np.ones((1, len(counts)))
    # Sums of pixels are below 2**53, and so exact as floats.
    both, predicted, true = (
        weights @ part.astype(np.float64)
        for part in (counts.intersection, counts.predicted, counts.true)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(true > 0, both / (true + predicted - both), np.nan)
        return {
            "pixel_accuracy": both.sum(1) / true.sum(1),
            "mean_iou": np.nansum(iou, 1) / (true > 0).sum(1),
            "frequency_weighted_iou": np.nansum(true * iou, 1) / true.sum(1),
            "class_iou": iou,
        }


def _scores(point: dict[str, _Values], drawn: dict[str, _Values]) -> Scores:
    classes = zip(point["class_iou"][0], drawn["class_iou"].T, strict=True)
    return Scores(
        **{name: _interval(point[name][0], drawn[name]) for name in SCORES},
        class_iou=tuple(_interval(value, column) for value, column in classes),
    )


def _interval(value: np.float64, column: _Values) -> ScoreInterval:
    known, tail = column[~np.isnan(column)], (1 - LEVEL) / 2
    low = high = None
    if len(known) and not np.isnan(value):
        low, high = np.quantile(known, [tail, 1 - tail]).tolist()
    return ScoreInterval(value=None if np.isnan(value) else float(value), low=low, high=high)


Table = npt.NDArray[np.uint8]
"""Channel of one schema -> channel of the other, uint8 [256]."""


def truth_table(data: LabelSchema, segmenter: LabelSchema) -> tuple[Table, list[str]]:
    """Make the table from the data set's channels to the segmenter's, with 255 (ignored) for
    classes that it lacks, and list their names. Raises InputError without a common class, or if a
    name stands for several.
    """
    return _by_name(data, segmenter, "the segmenter's")


def input_table(data: LabelSchema, model: LabelSchema) -> Table:
    """Make the table from the data set's channels to a model's, where others become unlabelled."""
    table, missing = _by_name(data, model, "the model's")
    unlabelled = model.unlabelled_channel
    if missing and unlabelled is None:
        raise InputError(
            f"the model's schema {model.name} has no class {', '.join(missing)} of the label maps' "
            f'{data.name}, and no unlabelled id to read it as ("unlabelled": 255 in the schema\'s '
            "file, before the training)"
        )
    if unlabelled is not None:
        table[table == NO_CHANNEL] = unlabelled
    return table


def _by_name(source: LabelSchema, target: LabelSchema, whose: str) -> tuple[Table, list[str]]:
    table = np.full(256, NO_CHANNEL, np.uint8)
    if source.labels == target.labels:
        table[: source.channels] = np.arange(source.channels)
        return table, []
    channels = {label.name: channel for channel, label in enumerate(target.labels)}
    for schema in (source, target):
        counts = Counter(label.name for label in schema.labels)
        if twice := sorted(name for name, count in counts.items() if count > 1):
            raise InputError(
                f"the schemas {source.name} and {target.name} differ, and classes are matched by "
                f"name, but {schema.name} has {', '.join(twice)} more than once"
            )
    missing = []
    for channel, label in enumerate(source.labels):
        if label.name in channels:
            table[channel] = channels[label.name]
        else:
            missing.append(label.name)
    if len(missing) == source.channels:
        raise InputError(
            f"the label maps' schema {source.name} and {whose} {target.name} have no class name in "
            "common; name the right one with --data.labels or --segmenter-labels"
        )
    return table, missing
