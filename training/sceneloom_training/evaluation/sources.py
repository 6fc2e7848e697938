"""Where the pictures that are evaluated come from: a model, a folder, or memory."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sceneloom.errors import DataSetError, InputError, MissingInputError, SizeError
from sceneloom.schema import LabelSchema
from sceneloom.style_choice import ChooseStyle
from sceneloom.synthesizer import Synthesizer
from sceneloom_training.data.folders import check_folder, find_files, not_empty, sample_name
from sceneloom_training.data.pictures import PICTURE_SUFFIXES, read_picture
from sceneloom_training.data.sample import Photo, Sample
from sceneloom_training.evaluation.classes import input_table

_LISTED = 20
_SYNTHESIZED = "_synthesized_image"  # beside them lie *_input_label


class PictureSource(abc.ABC):
    """Gives the pictures that belong to samples."""

    @abc.abstractmethod
    def pictures(self, keys: Sequence[str], samples: Sequence[Sample]) -> Sequence[Photo]:
        """The pictures of the next few samples; called in the data set's order, each sample once.

        Args:
            keys: names of the samples.
            samples: as they are, at the size that pictures are rendered at; label maps in the data
                set's schema.

        Returns:
            uint8 [H, W, 3], RGB, each of its sample's size.

        Raises:
            SceneLoomError: a picture cannot be had; the text says which.
        """

    def check(  # noqa: B027 - most sources have nothing to look at
        self, keys: Sequence[str], sizes: Iterable[tuple[int, int]], *, known: Sequence[str]
    ) -> None:
        """Refuse, before anything is segmented, what would be refused later.

        Args:
            keys: names of the samples that are evaluated.
            sizes: (height, width) of each, read only by sources that need it.
            known: names of all samples of the data set.
        """


class SynthesizedPictures(PictureSource):
    """Pictures that a model makes of the samples' label maps."""

    def __init__(
        self, synthesizer: Synthesizer, data: LabelSchema, choose: ChooseStyle | None = None
    ) -> None:
        """Check that the model's classes are the data set's.

        Args:
            synthesizer: the model; closing it is the caller's.
            data: the schema of the samples' label maps.
            choose: style of each picture (`sceneloom.style_choice`); None takes the defaults.

        Raises:
            InputError: the classes of the two schemas do not go together.
        """
        self.synthesizer = synthesizer
        contract = synthesizer.contract
        self._table = input_table(data, contract.schema)
        self._wants_instances = contract.boundaries or contract.style_channels > 0
        self._choose = choose

    def pictures(self, keys: Sequence[str], samples: Sequence[Sample]) -> Sequence[Photo]:
        """Synthesize; see `PictureSource.pictures`."""
        labels = [self._table[_label_map(sample)] for sample in samples]
        instances = [
            self._instances(key, sample) for key, sample in zip(keys, samples, strict=True)
        ]
        styles: list[npt.NDArray[Any] | None] = [None] * len(samples)
        if self._choose is not None:
            styles = [self._choose(*inputs) for inputs in zip(keys, labels, instances, strict=True)]
        return self.synthesizer.synthesize_batch(labels, instances, styles)

    def _instances(self, key: str, sample: Sample) -> npt.NDArray[np.int32] | None:
        if not self._wants_instances:
            return None
        if sample.instance_map is None:
            raise MissingInputError(
                f"{key}: the data set has no instance map, and the model wants one"
            )
        return sample.instance_map


class FolderPictures(PictureSource):
    """Pictures of a folder, which belong to samples by name."""

    def __init__(self, folder: Path) -> None:
        """Find the files.

        Args:
            folder: pictures, named like the samples, with or without what publishers
                append (`sceneloom_training.data.folders`); searched to the bottom. In a folder
                that pix2pixHD's ``test.py`` wrote, those named ``*_synthesized_image`` alone.

        Raises:
            DataSetError: no such folder, no pictures in it, or two of one sample.
        """
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
            found = find_files(folder, PICTURE_SUFFIXES)
            not_empty(found, f"pictures: {', '.join(PICTURE_SUFFIXES)}")
            self._files = found.files
        self.left_out = found.left_out

    def check(
        self, keys: Sequence[str], sizes: Iterable[tuple[int, int]], *, known: Sequence[str]
    ) -> None:
        """Refuse missing pictures, pictures of no sample, and pictures of another size, in one
        sentence each.

        Raises:
            DataSetError: pictures are missing, or there are more than samples.
            SizeError: sizes differ from the label maps'.
            ImageReadError: a picture cannot be read.
        """
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
                f"{self.folder}: holds pictures of no sample of the data set: {listed(surplus)}"
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
        """Read; see `PictureSource.pictures`."""
        return [read_picture(self._files[key]) for key in keys]


class GivenPictures(PictureSource):
    """Pictures from memory or a generator, in the data set's order."""

    def __init__(self, pictures: Iterable[Photo]) -> None:
        """Take them; they are asked for one by one: uint8 [H, W, 3], RGB."""
        self._pictures: Iterator[Photo] = iter(pictures)

    def pictures(self, keys: Sequence[str], samples: Sequence[Sample]) -> Sequence[Photo]:
        """Take the next ones; see `PictureSource.pictures`."""
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


def _label_map(sample: Sample) -> npt.NDArray[np.uint8]:
    assert sample.label_map is not None  # paired data sets were refused
    return sample.label_map
