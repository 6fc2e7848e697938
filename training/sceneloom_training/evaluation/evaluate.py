"""The protocol: segment pictures and real photographs alike, and compare both with the label maps
(pix2pixHD, section 4.1, Table 1). The scores of the photographs, the oracle, are the highest that a
picture can reach. docs/evaluation.md has an example.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
from annotated_types import Interval
from PIL import Image

from sceneloom import progress
from sceneloom.errors import DataSetError, InputError, SceneLoomError, SizeError
from sceneloom.maps import LabelMap, parse_size
from sceneloom.schema import LabelSchema
from sceneloom.text import reason
from sceneloom.validation import checked
from sceneloom_training.data import DataSet, Geometry
from sceneloom_training.data.geometry import resize_nearest
from sceneloom_training.data.sample import Photo
from sceneloom_training.data.settings import check_size
from sceneloom_training.evaluation import scores
from sceneloom_training.evaluation.features import Distances, FeatureNetwork, feature_distances
from sceneloom_training.evaluation.scores import ClassCounts, Scores, count_classes, join_counts
from sceneloom_training.evaluation.sources import PictureSource

if TYPE_CHECKING:
    from sceneloom_training.evaluation.segmenter import Segmenter


@checked(InputError)
@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Sizes, number of samples, and the bootstrap."""

    size: str = ""
    """WIDTHxHEIGHT of photographs, maps and pictures; empty keeps the files' own size."""
    segment_size: str = ""
    """WIDTHxHEIGHT of segmentation and comparison; empty takes the segmenter's own."""
    limit: Annotated[int, Interval(ge=1)] | None = None
    """Evaluate the first samples only."""
    batch: Annotated[int, Interval(ge=1, le=1024)] = 4
    """Samples to read, synthesize and segment at once."""
    bootstrap: Annotated[int, Interval(ge=1, le=10_000)] = 1000
    """Draws for the intervals."""
    bootstrap_seed: Annotated[int, Interval(ge=0, lt=2**32)] = 0
    """Seed of the draws and of KID's subsets: equal seeds give equal intervals."""

    def __post_init__(self) -> None:
        for name in ("size", "segment_size"):
            if text := getattr(self, name):
                check_size(text, of=name)


Track = Callable[[Sequence[range]], Iterable[range]]
"""Iterates over the batches, and may show progress."""
_Features = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SheetRow:
    """One sample of the sheet, at the size of the segmentation."""

    key: str
    label_map: LabelMap
    """The truth in the segmenter's channels, uint8 [H, W]."""
    photo: Photo
    """uint8 [H, W, 3]."""
    photo_segmented: LabelMap
    picture: Photo | None
    """uint8 [H, W, 3], or None for the oracle alone."""
    picture_segmented: LabelMap | None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Result for N samples."""

    keys: tuple[str, ...]
    schema: LabelSchema
    """The segmenter's, for all scores."""
    ignored: tuple[str, ...]
    """Classes of the label maps that the segmenter lacks. Their pixels are ignored."""
    rendered_sizes: tuple[tuple[int, int], ...]
    """(height, width) of the samples and their pictures, each once."""
    segmented_size: tuple[int, int]
    """(height, width) of segmentation and comparison."""
    settings: EvaluationSettings
    counts: ClassCounts | None
    """Counts of the pictures, or None for the oracle alone."""
    oracle: ClassCounts
    distances: Distances | None
    """FID and KID between pictures and photographs, with a feature network."""
    rows: tuple[SheetRow, ...]

    @cached_property
    def scores(self) -> Scores | None:
        """Scores of the pictures."""
        return None if self.counts is None else scores.score(self.counts, **self._draws)

    @cached_property
    def oracle_scores(self) -> Scores:
        """Scores of the photographs."""
        return scores.score(self.oracle, **self._draws)

    @cached_property
    def gap(self) -> Scores | None:
        """Pictures minus photographs, with paired intervals."""
        if self.counts is None:
            return None
        return scores.score_gap(self.counts, self.oracle, **self._draws)

    @property
    def _draws(self) -> dict[str, int]:
        return {"draws": self.settings.bootstrap, "seed": self.settings.bootstrap_seed}


def evaluate(
    data: DataSet,
    segmenter: Segmenter,
    source: PictureSource | None = None,
    settings: EvaluationSettings | None = None,
    *,
    features: FeatureNetwork | None = None,
    oracle: ClassCounts | None = None,
    rows: int = 0,
    track: Track = lambda batches: batches,
) -> Evaluation:
    """Evaluate pictures beside the photographs, or (`source` None) the photographs alone.
    `features` adds FID and KID. An `oracle` of the same samples, sizes and segmenter saves
    segmenting the photographs. `rows` samples are kept for the sheet. Raises DataSetError for
    pictures of other samples, SizeError for a picture of another size than its label map,
    ServingError, and InputError without a common class, a pixel to score, two pictures for FID, or
    a working segmenter.
    """
    settings = settings or EvaluationSettings()
    table, ignored = scores.truth_table(schema_of(data), segmenter.schema)
    keys = tuple(data.keys[: settings.limit])
    if features is not None and source is not None and len(keys) < 2:
        raise InputError("FID and KID need at least two pictures, and one sample is evaluated")
    if source is not None:
        fixed = parse_size(settings.size) if settings.size else None
        sizes = (fixed or _size(data.read(index).photo) for index in range(len(keys)))
        with progress.stage("check the pictures' names and sizes"):
            source.check(keys, sizes, known=[*data.keys, *data.incomplete])
    size = segmenter.height, segmenter.width
    if settings.segment_size:
        size = parse_size(settings.segment_size, of="segment_size")
    run = _Run(data, segmenter, source, settings, table, size, features, oracle)
    starts = range(0, len(keys), settings.batch)
    for batch in track([range(i, min(i + settings.batch, len(keys))) for i in starts]):
        run.add_batch(batch, rows)
    distances = None
    if features and source:
        photos, pictures = map(np.concatenate, (run.photo_features, run.picture_features))
        with progress.stage("compute FID and KID"):
            distances = feature_distances(features, photos, pictures, seed=settings.bootstrap_seed)
    return Evaluation(
        keys=keys,
        schema=segmenter.schema,
        ignored=tuple(ignored),
        rendered_sizes=tuple(sorted(run.sizes)),
        segmented_size=size,
        settings=settings,
        counts=join_counts(run.counts) if run.counts else None,
        oracle=join_counts(run.oracle_counts),
        distances=distances,
        rows=tuple(run.rows),
    )


def schema_of(data: DataSet) -> LabelSchema:
    """Return the schema of a data set's label maps. Raises DataSetError for a paired one."""
    if data.schema is None:
        raise DataSetError(
            "a paired data set has no label maps; evaluate takes one with label maps"
        )
    return data.schema


@dataclasses.dataclass
class _Run:
    data: DataSet
    segmenter: Segmenter
    source: PictureSource | None
    settings: EvaluationSettings
    table: npt.NDArray[np.uint8]
    size: tuple[int, int]
    features: FeatureNetwork | None
    oracle: ClassCounts | None
    oracle_counts: list[ClassCounts] = dataclasses.field(default_factory=list)
    counts: list[ClassCounts] = dataclasses.field(default_factory=list)
    photo_features: list[_Features] = dataclasses.field(default_factory=list)
    picture_features: list[_Features] = dataclasses.field(default_factory=list)
    rows: list[SheetRow] = dataclasses.field(default_factory=list)
    sizes: set[tuple[int, int]] = dataclasses.field(default_factory=set)

    def add_batch(self, indices: range, rows: int) -> None:
        """Read, synthesize, segment and count the samples of a batch, [B, h, w] throughout."""
        keys = [self.data.keys[i] for i in indices]
        samples = [self.data.read(i) for i in indices]
        if self.settings.size:
            resize = Geometry(mode="resize", size=self.settings.size, flip=False)
            rng = np.random.default_rng(0)
            samples = [resize.apply(sample, rng, multiple=1) for sample in samples]
        self.sizes |= {_size(sample.photo) for sample in samples}
        label_maps = [sample.label_map for sample in samples if sample.label_map is not None]
        truth = np.stack([resize_nearest(self.table[x], *self.size) for x in label_maps])
        photos = np.stack([resize_picture(sample.photo, *self.size) for sample in samples])
        shown = max(0, rows - len(self.rows))
        known = None if self.oracle is None else self.oracle[indices.start : indices.stop]
        # True pixels depend on no picture: counts of other samples or sizes differ here.
        channels = self.segmenter.schema.channels
        true = count_classes(truth, truth, channels).true
        if known is not None and not np.array_equal(true, known.true):
            raise InputError("the oracle that was given is of other samples, sizes or segmenters")
        segmented_photos = self._segment(photos if known is None else photos[:shown])
        self.oracle_counts.append(
            count_classes(segmented_photos, truth, channels) if known is None else known
        )
        pictures = segmented = None
        if self.source is not None:
            given = self.source.pictures(keys, samples)
            for key, picture, sample in zip(keys, given, samples, strict=True):
                if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
                    kind = f"{picture.dtype} {list(picture.shape)}"
                    raise InputError(f"{key}: a picture is uint8 [H, W, 3], not {kind}")
                (height, width), (h, w) = _size(sample.photo), _size(picture)
                if (height, width) != (h, w):
                    raise SizeError(
                        f"{key}: its picture is {w}x{h} and its label map {width}x{height}"
                    )
            pictures = np.stack([resize_picture(picture, *self.size) for picture in given])
            segmented = self._segment(pictures)
            self.counts.append(count_classes(segmented, truth, channels))
            if self.features is not None:
                self.picture_features.append(self.features.extract(given))
                self.photo_features.append(self.features.extract([s.photo for s in samples]))
        self.rows += [
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

    def _segment(self, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if not len(pictures):
            return np.zeros((0, *self.size), np.uint8)
        name, (height, width) = self.segmenter.name, self.size
        try:
            segmented = self.segmenter.segment(pictures)
        except SceneLoomError:
            raise
        except Exception as error:  # the user's own code, and sizes that a network does not take
            raise InputError(
                f"{name}: cannot segment pictures of {width}x{height}, which --segment-size "
                f"changes ({type(error).__name__}: {reason(error)})"
            ) from error
        found = (getattr(segmented, "dtype", type(segmented)), np.shape(segmented))
        if found != (np.uint8, pictures.shape[:3]):
            raise InputError(
                f"{name}: gave {found[0]} {list(found[1])} for {len(pictures)} pictures; expected "
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


def _size(picture: Photo) -> tuple[int, int]:
    return picture.shape[0], picture.shape[1]
