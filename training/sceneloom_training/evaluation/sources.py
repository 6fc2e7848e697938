"""Sources of the pictures to evaluate: a model, a folder, or memory."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from sceneloom.errors import DataSetError, InputError, MissingInputError, SizeError
from sceneloom.maps import PICTURE_SUFFIXES
from sceneloom.photographs import read_picture
from sceneloom.schema import LabelSchema
from sceneloom.style import ChooseStyle
from sceneloom.synthesizer import Synthesizer
from sceneloom_training.data.folders import check_folder, find_files, sample_name
from sceneloom_training.data.sample import Photo, Sample
from sceneloom_training.evaluation.scores import input_table

_LISTED = 20
_SYNTHESIZED = "_synthesized_image"  # beside them lie *_input_label


class PictureSource(abc.ABC):
    """Pictures of samples."""

    @abc.abstractmethod
    def pictures(self, keys: Sequence[str], samples: Sequence[Sample]) -> Sequence[Photo]:
        """The pictures of the next few samples, uint8 [H, W, 3] RGB, each of its sample's size.
        Called in the data set's order, each sample once. Raises SceneLoomError naming a missing
        picture.
        """

    def check(  # noqa: B027 - most sources have nothing to check
        self, keys: Sequence[str], sizes: Iterable[tuple[int, int]], *, known: Sequence[str]
    ) -> None:
        """Refuse pictures before any is read. `sizes` are (height, width), read lazily."""


class SynthesizedPictures(PictureSource):
    """A model's pictures of the samples' label maps."""

    def __init__(
        self, synthesizer: Synthesizer, data: LabelSchema, choose: ChooseStyle | None = None
    ) -> None:
        """Take a model, which the caller closes. Raises InputError without a common class, and for
        a model of pictures.
        """
        self.synthesizer = synthesizer
        contract = synthesizer.contract
        if contract.schema is None:
            raise InputError(
                "this model takes pictures instead of label maps: render them, and evaluate the "
                "pictures with --pictures"
            )
        self._table = input_table(data, contract.schema)
        self._wants_instances = contract.wants_instances
        self._choose = choose

    def pictures(self, keys: Sequence[str], samples: Sequence[Sample]) -> Sequence[Photo]:
        """Synthesize. See `PictureSource.pictures`."""
        labels, instances = [], []
        for key, sample in zip(keys, samples, strict=True):
            assert sample.label_map is not None  # paired data sets were refused
            labels.append(self._table[sample.label_map])
            if self._wants_instances and sample.instance_map is None:
                raise MissingInputError(
                    f"{key}: the data set has no instance map, and the model wants one; to take "
                    "the edges of the label map: --data.boundaries labels"
                )
            instances.append(sample.instance_map if self._wants_instances else None)
        styles: list[npt.NDArray[Any] | None] = [None] * len(samples)
        if self._choose is not None:
            styles = [self._choose(*inputs) for inputs in zip(keys, labels, instances, strict=True)]
        return self.synthesizer.synthesize_batch(labels, instances, styles)


class FolderPictures(PictureSource):
    """Pictures of a folder, which belong to samples by name."""

    def __init__(self, folder: Path) -> None:
        """Find the pictures, named like the samples, or ``*_synthesized_image`` as by pix2pixHD."""
        check_folder(folder, "the pictures to evaluate")
        self.folder = folder
        found = find_files(folder, PICTURE_SUFFIXES, ending=_SYNTHESIZED)
        if found.files:
            self._files: dict[str, Path] = {}
            for name, path in found.files.items():
                other = self._files.setdefault(sample_name(name), path)
                if other != path:
                    raise DataSetError(
                        f"{path} and {other} would both be of the sample {sample_name(name)}"
                    )
        else:
            expected = f"pictures: {', '.join(PICTURE_SUFFIXES)}"
            found = find_files(folder, PICTURE_SUFFIXES, expected=expected)
            self._files = found.files
        self.left_out = found.left_out

    def check(
        self, keys: Sequence[str], sizes: Iterable[tuple[int, int]], *, known: Sequence[str]
    ) -> None:
        """Refuse missing pictures, those of no sample or of another size, and unreadable ones."""
        samples = set(known)
        missing = [key for key in keys if key not in self._files]
        surplus = [self._name(key) for key in self._files if key not in samples]
        if missing:
            raise DataSetError(
                f"{self.folder}: holds no picture of {listed(missing)}"
                + (f"; pictures of no sample: {listed(surplus)}" if surplus else "")
            )
        if surplus:
            raise DataSetError(
                f"{self.folder}: pictures of no sample of the data set: {listed(surplus)}"
            )
        other = []
        for key, (height, width) in zip(keys, sizes, strict=True):
            found = read_picture(self._files[key]).shape
            if found[:2] != (height, width):
                other.append(
                    f"{self._name(key)} is {found[1]}x{found[0]} instead of {width}x{height}"
                )
        if other:
            raise SizeError(
                f"{self.folder}: pictures of another size than their label maps (set by --size): "
                f"{listed(other)}"
            )

    def _name(self, key: str) -> str:
        return self._files[key].relative_to(self.folder).as_posix()

    def pictures(self, keys: Sequence[str], samples: Sequence[Sample]) -> Sequence[Photo]:
        """Read. See `PictureSource.pictures`."""
        return [read_picture(self._files[key]) for key in keys]


class GivenPictures(PictureSource):
    """Pictures from memory or a generator, in the data set's order."""

    def __init__(self, pictures: Iterable[Photo]) -> None:
        """Take pictures, uint8 [H, W, 3] RGB, which are drawn one by one."""
        self._pictures: Iterator[Photo] = iter(pictures)

    def pictures(self, keys: Sequence[str], samples: Sequence[Sample]) -> Sequence[Photo]:
        """Take the next ones. See `PictureSource.pictures`."""
        found = []
        for key in keys:
            picture = next(self._pictures, None)
            if picture is None:
                raise InputError(f"there are fewer pictures than samples: none is left for {key}")
            found.append(picture)
        return found


def listed(items: Sequence[str]) -> str:
    """The first twenty, and how many more there are."""
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return ", ".join(items[:_LISTED]) + more
