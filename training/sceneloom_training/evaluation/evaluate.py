"""The protocol: segment pictures and the real photographs alike, and compare both with the label
maps that the pictures were made from (pix2pixHD, section 4.1, Table 1).

    data = open_data_set(DataSettings(layout="pix2pixhd", root=Path("streets"), split="test"))
    found = evaluate(data, load_segmenter(Path("segmenter")), FolderPictures(Path("pictures")))
    print(found.scores.mean_iou.value, "of", found.oracle_scores.mean_iou.value)

The scores of the photographs, called the oracle, are what a perfect picture could reach. Samples
are read, segmented and dropped batch by batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from sceneloom.errors import DataSetError, InputError, SceneLoomError, SizeError
from sceneloom.maps import DEFAULT_MAX_PIXELS, parse_size
from sceneloom.schema import LabelSchema
from sceneloom_training.data import DataSet, Geometry, Sample
from sceneloom_training.data.geometry import resize_nearest
from sceneloom_training.data.sample import LabelMap, Photo
from sceneloom_training.evaluation.features import Distances, FeatureNetwork, feature_distances
from sceneloom_training.evaluation.scores import (
    ClassCounts,
    Scores,
    count_classes,
    join_counts,
    score,
    score_gap,
    truth_table,
)
from sceneloom_training.evaluation.sources import PictureSource

if TYPE_CHECKING:
    from sceneloom_training.evaluation.segmenter import Segmenter


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Sizes, how many samples, and the bootstrap."""

    size: str = ""
    """WIDTHxHEIGHT to bring photographs and maps to first; models render at it, and pictures of a
    folder must have it. Empty keeps the files' own size.
    """
    segment_size: str = ""
    """WIDTHxHEIGHT at which pictures and photographs are segmented and compared; empty takes the
    segmenter's own.
    """
    limit: int | None = None
    """Take the first samples only."""
    batch: int = 4
    """Samples that are read, synthesized and segmented at once."""
    bootstrap: int = 1000
    """Draws for the intervals."""
    bootstrap_seed: int = 0
    """Of the draws, and of the subsets of KID: equal seeds give equal intervals."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("size", "segment_size"):
            if text := getattr(self, name):
                height, width = parse_size(text, of=name)
                if height * width > DEFAULT_MAX_PIXELS:
                    raise InputError(
                        f"{name} is {text}; it is at most {DEFAULT_MAX_PIXELS:,} pixels"
                    )
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit is {self.limit}; it is at least 1")
        if not 1 <= self.batch <= 1024:
            raise InputError(f"batch is {self.batch}; it is from 1 to 1024")
        if not 1 <= self.bootstrap <= 10_000:
            raise InputError(f"bootstrap is {self.bootstrap}; it is from 1 to 10000")
        if not 0 <= self.bootstrap_seed < 2**32:
            raise InputError(f"bootstrap_seed is {self.bootstrap_seed}; it is from 0 to 2**32 - 1")

    @property
    def segmented_size(self) -> tuple[int, int] | None:
        """(height, width) to segment at, or None for the segmenter's own."""
        return parse_size(self.segment_size, of="segment_size") if self.segment_size else None


Track = Callable[[Sequence[range]], Iterable[range]]
"""Goes through the batches, and may show how far it is."""
_Features = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SheetRow:
    """One sample as it is shown; all at the size that was segmented."""

    key: str
    label_map: LabelMap
    """The truth in the segmenter's channels, uint8 [H, W]."""
    photo: Photo
    """uint8 [H, W, 3]."""
    photo_segmented: LabelMap
    picture: Photo | None
    """uint8 [H, W, 3], or None where only the oracle was evaluated."""
    picture_segmented: LabelMap | None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What was found, for N samples."""

    keys: tuple[str, ...]
    schema: LabelSchema
    """The segmenter's, which everything is scored in."""
    ignored: tuple[str, ...]
    """Classes of the label maps that the segmenter does not have; their pixels are ignored."""
    rendered_sizes: tuple[tuple[int, int], ...]
    """(height, width) of the samples and their pictures: all that occur."""
    segmented_size: tuple[int, int]
    """(height, width) at which they were segmented and compared."""
    settings: EvaluationSettings
    counts: ClassCounts | None
    """Of the pictures, or None where only the oracle was evaluated."""
    oracle: ClassCounts
    photo_features: _Features | None
    """Features of the photographs, float64 [N, F], to be given to the next evaluation."""
    distances: Distances | None
    """FID and KID between pictures and photographs, where a feature network was given."""
    rows: tuple[SheetRow, ...]

    @cached_property
    def scores(self) -> Scores | None:
        """Of the pictures."""
        return None if self.counts is None else score(self.counts, **self._draws)

    @cached_property
    def oracle_scores(self) -> Scores:
        """Of the photographs."""
        return score(self.oracle, **self._draws)

    @cached_property
    def gap(self) -> Scores | None:
        """Pictures minus photographs, with paired intervals."""
        if self.counts is None:
            return None
        return score_gap(self.counts, self.oracle, **self._draws)

    @property
    def _draws(self) -> dict[str, int]:
        return {"draws": self.settings.bootstrap, "seed": self.settings.bootstrap_seed}


@dataclasses.dataclass(kw_only=True)
class _Found:
    """What the batches add up to."""

    oracle: list[ClassCounts] = dataclasses.field(default_factory=list)
    counts: list[ClassCounts] = dataclasses.field(default_factory=list)
    photo_features: list[_Features] = dataclasses.field(default_factory=list)
    picture_features: list[_Features] = dataclasses.field(default_factory=list)
    rows: list[SheetRow] = dataclasses.field(default_factory=list)
    sizes: set[tuple[int, int]] = dataclasses.field(default_factory=set)


def evaluate(
    data: DataSet,
    segmenter: Segmenter,
    source: PictureSource | None = None,
    settings: EvaluationSettings | None = None,
    *,
    features: FeatureNetwork | None = None,
    oracle: ClassCounts | None = None,
    photo_features: _Features | None = None,
    rows: int = 0,
    track: Track = lambda batches: batches,
) -> Evaluation:
    """Evaluate pictures beside the photographs, or (`source` None) the photographs alone.

    Args:
        data: photographs and label maps; classes are matched to the segmenter's by name.
        segmenter: segments both.
        source: the pictures.
        settings: sizes, how many samples, and the bootstrap.
        features: network for FID and KID; None computes neither.
        oracle: of an earlier evaluation of the same samples, sizes and segmenter: the photographs
            are not segmented again.
        photo_features: likewise.
        rows: how many samples to keep for the sheet.
        track: shows progress.

    Raises:
        DataSetError: a paired data set, or pictures that do not belong to the samples.
        SizeError: a picture has not its label map's size.
        InputError: no common class, an unreadable file, an oracle of other samples, no pixel to
            score, a segmenter that breaks or refuses the size, or FID of fewer than two pictures.
        ServingError: a server did not answer.
    """
    settings = settings or EvaluationSettings()
    table, ignored = truth_table(schema_of(data), segmenter.schema)
    keys = tuple(data.keys[: settings.limit])
    if features is not None and source is not None and len(keys) < 2:
        raise InputError("FID and KID need at least two pictures, and one sample is evaluated")
    if photo_features is not None and len(photo_features) != len(keys):
        raise InputError(
            f"features of {len(photo_features)} photographs were given for {len(keys)} samples"
        )
    if source is not None:
        source.check(keys, _sizes(data, len(keys), settings), known=data.keys)
    size = settings.segmented_size or (segmenter.height, segmenter.width)
    run = _Run(
        data=data,
        segmenter=segmenter,
        source=source,
        settings=settings,
        table=table,
        size=size,
        features=features,
        oracle=oracle,
        photo_features=photo_features,
    )
    found = _Found()
    starts = range(0, len(keys), settings.batch)
    for batch in track([range(i, min(i + settings.batch, len(keys))) for i in starts]):
        run.add_batch(found, batch, rows)
    return run.evaluation(found, keys, ignored)


def schema_of(data: DataSet) -> LabelSchema:
    """The schema of a data set's label maps; raises DataSetError for a paired one, without any."""
    if data.schema is None:
        raise DataSetError(
            "a paired data set has no label maps to compare a segmentation with; evaluate takes "
            "data sets with label maps"
        )
    return data.schema


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """One evaluation's fixed parts, what is done to each batch, and what all of them make."""

    data: DataSet
    segmenter: Segmenter
    source: PictureSource | None
    settings: EvaluationSettings
    table: npt.NDArray[np.uint8]
    size: tuple[int, int]
    features: FeatureNetwork | None
    oracle: ClassCounts | None
    photo_features: _Features | None

    def add_batch(self, found: _Found, indices: range, rows: int) -> None:
        """Read, synthesize, segment and count the samples of a batch; [B, h, w] throughout."""
        keys = [self.data.keys[i] for i in indices]
        samples = [_read(self.data, i, self.settings) for i in indices]
        found.sizes |= {_size(sample.photo) for sample in samples}
        label_maps = [sample.label_map for sample in samples if sample.label_map is not None]
        truth = np.stack([resize_nearest(self.table[x], *self.size) for x in label_maps])
        photos = np.stack([resize_picture(sample.photo, *self.size) for sample in samples])
        shown = max(0, rows - len(found.rows))
        known = None if self.oracle is None else self.oracle[indices.start : indices.stop]
        # What is true depends on no picture: counts of other samples or sizes differ here.
        channels = self.segmenter.schema.channels
        true = count_classes(truth, truth, channels).true
        if known is not None and not np.array_equal(true, known.true):
            raise InputError(
                "the oracle that was given is of other samples, another size or another segmenter"
            )
        segmented_photos = self._segment(photos if known is None else photos[:shown])
        found.oracle.append(
            count_classes(segmented_photos, truth, channels) if known is None else known
        )
        if self.features is not None and self.photo_features is None:
            found.photo_features.append(self.features.extract([s.photo for s in samples]))
        pictures = segmented = None
        if self.source is not None:
            given = self.source.pictures(keys, samples)
            for key, picture, sample in zip(keys, given, samples, strict=True):
                if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
                    raise InputError(
                        f"{key}: a picture is uint8 [H, W, 3], not {picture.dtype} "
                        f"{list(picture.shape)}"
                    )
                (height, width), (h, w) = _size(sample.photo), _size(picture)
                if (height, width) != (h, w):
                    raise SizeError(
                        f"{key}: its picture is {w}x{h} and its label map {width}x{height}"
                    )
            pictures = np.stack([resize_picture(picture, *self.size) for picture in given])
            segmented = self._segment(pictures)
            found.counts.append(count_classes(segmented, truth, channels))
            if self.features is not None:
                found.picture_features.append(self.features.extract(given))
        found.rows += [
            SheetRow(
                key=keys[i],
                label_map=truth[i],
                photo=photos[i],
                photo_segmented=segmented_photos[i],
                picture=None if pictures is None else pictures[i],
                picture_segmented=None if segmented is None else segmented[i],
            )
            for i in range(min(shown, len(keys)))
        ]

    def evaluation(self, found: _Found, keys: Sequence[str], ignored: Sequence[str]) -> Evaluation:
        """Join what the batches added, and compare the features."""
        photo_features = self.photo_features
        if photo_features is None:
            photo_features = _joined(found.photo_features)
        picture_features, distances = _joined(found.picture_features), None
        if self.features and photo_features is not None and picture_features is not None:
            distances = feature_distances(
                self.features,
                photo_features,
                picture_features,
                seed=self.settings.bootstrap_seed,
            )
        return Evaluation(
            keys=tuple(keys),
            schema=self.segmenter.schema,
            ignored=tuple(ignored),
            rendered_sizes=tuple(sorted(found.sizes)),
            segmented_size=self.size,
            settings=self.settings,
            counts=join_counts(found.counts) if found.counts else None,
            oracle=join_counts(found.oracle),
            photo_features=photo_features,
            distances=distances,
            rows=tuple(found.rows),
        )

    def _segment(self, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if not len(pictures):
            return np.zeros((0, *self.size), np.uint8)
        judge, (height, width) = self.segmenter.name, self.size
        try:
            segmented = self.segmenter.segment(pictures)
        except SceneLoomError:
            raise
        except Exception as error:  # the user's own code, and sizes that a network does not take
            reason = (str(error).strip().splitlines() or [""])[0]
            raise InputError(
                f"{judge}: cannot segment pictures of {width}x{height}, which --segment-size "
                f"changes ({type(error).__name__}: {reason})"
            ) from error
        found = (getattr(segmented, "dtype", type(segmented)), np.shape(segmented))
        if found != (np.uint8, pictures.shape[:3]):
            raise InputError(
                f"{judge}: gave {found[0]} {list(found[1])} for {len(pictures)} pictures; expected "
                f"uint8 {list(pictures.shape[:3])}"
            )
        return segmented


def resize_picture(picture: Photo, height: int, width: int) -> Photo:
    """Resize uint8 [H, W, 3] by Pillow's bicubic filter, which averages if smaller."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(
        Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC), np.uint8
    )


def _read(data: DataSet, index: int, settings: EvaluationSettings) -> Sample:
    sample = data.read(index)
    if not settings.size:
        return sample
    geometry = Geometry(mode="resize", size=settings.size, flip=False)
    return geometry.apply(sample, np.random.default_rng(0), multiple=1)


def _sizes(data: DataSet, count: int, settings: EvaluationSettings) -> Iterator[tuple[int, int]]:
    """(height, width) of the first samples; reads them where it has to."""
    for index in range(count):
        if settings.size:
            yield parse_size(settings.size, of="size")
        else:
            yield _size(data.read(index).photo)


def _size(picture: Photo) -> tuple[int, int]:
    return picture.shape[0], picture.shape[1]


def _joined(parts: list[_Features]) -> _Features | None:
    return np.concatenate(parts) if parts else None
