"""Samples of a data set, read one at a time at the size of their files."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sceneloom.errors import ImageReadError, InputError, SizeError, UnknownLabelError
from sceneloom.files import LeftOut
from sceneloom.maps import Image, InstanceMap, LabelMap, OnUnknown, unlabelled_hint
from sceneloom.schema import LabelSchema
from sceneloom.text import counted
from sceneloom_training.data.pictures import read_header

Photo = Image


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """A photograph and the network's inputs, all of one height and width."""

    photo: Photo
    """uint8 [H, W, 3], RGB."""
    label_map: LabelMap | None = None
    """Channel of each pixel, uint8 [H, W] (255: no channel); None in a paired set."""
    instance_map: InstanceMap | None = None
    """Instance ids, int32 [H, W]; None without instance maps."""
    source: Photo | None = None
    """Input picture of a paired set, uint8 [H, W, 3], RGB."""

    def __post_init__(self) -> None:
        size = self.photo.shape[:2]
        for array, dtype, shape in (
            (self.photo, np.uint8, (*size, 3)),
            (self.label_map, np.uint8, size),
            (self.instance_map, np.int32, size),
            (self.source, np.uint8, (*size, 3)),
        ):
            assert array is None or (array.dtype == dtype and array.shape == shape), array


@dataclasses.dataclass(kw_only=True, eq=False)
class DataSet(abc.ABC):
    """Samples with names, in a fixed order, to pickle, fork and read in several threads."""

    keys: Sequence[str]
    schema: LabelSchema | None
    """Schema of the label maps' channels; None in a paired set."""
    has_instances: bool = False
    """All samples have instance maps, or none."""
    unknown: OnUnknown = "error"
    """Refuse label ids that the schema lacks, or read them as unlabelled."""
    left_out: Sequence[LeftOut] = ()
    """Files of no sample in the data set's folders. Names are paths."""
    incomplete: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Name of a sample that is not in `keys`: it lacks a file, or was left out -> why."""

    def __len__(self) -> int:
        return len(self.keys)

    def files_of_one_size(self, index: int) -> tuple[Path, ...]:
        """The photograph of a sample, if it is a file, and the files of its size."""
        return ()

    def inspect(self, index: int) -> tuple[Sample | None, list[InputError]]:
        """Read one sample, or None, and everything that is wrong with it."""
        try:
            return self.read(index), []
        except InputError as error:
            return None, [error]

    @abc.abstractmethod
    def read(self, index: int) -> Sample:
        """Read one sample at its own size. Its arrays can be read-only. Raises InputError naming a
        file that is damaged, has unknown ids or another size than the photograph.
        """


class Whole(DataSet):
    """The samples of a data set that can be used."""

    def __init__(self, data: DataSet, indices: Sequence[int], left_out: Mapping[str, str]) -> None:
        """Take the samples of some indices; name -> why of the others."""
        super().__init__(
            keys=[data.keys[index] for index in indices],
            schema=data.schema,
            has_instances=data.has_instances,
            unknown=data.unknown,
            left_out=data.left_out,
            incomplete=left_out,
        )
        self._data, self._indices = data, indices

    def files_of_one_size(self, index: int) -> tuple[Path, ...]:
        """See `DataSet.files_of_one_size`."""
        return self._data.files_of_one_size(self._indices[index])

    def read(self, index: int) -> Sample:
        """Read one sample. See `DataSet.read`."""
        return self._data.read(self._indices[index])


def check_same_size(
    first: npt.NDArray[np.generic],
    first_name: str | Path,
    second: npt.NDArray[np.generic],
    second_name: str | Path,
) -> None:
    """Raise SizeError if the sizes of two pictures or maps ([H, W, ...]) of one sample differ."""
    (h1, w1), (h2, w2) = first.shape[:2], second.shape[:2]
    if (h1, w1) != (h2, w2):
        raise SizeError(size_difference(first_name, (h1, w1), second_name, (h2, w2)))


def size_difference(
    first: str | Path, first_hw: tuple[int, int], second: str | Path, second_hw: tuple[int, int]
) -> str:
    """The sentence for two files of one sample whose sizes, (height, width), differ."""
    (h1, w1), (h2, w2) = first_hw, second_hw
    said = f"{first} is {w1}x{h1} and {second} is {w2}x{h2}; a sample's files have one size"
    if (h1, w1) == (w2, h2):
        for path in filter(lambda name: isinstance(name, Path), (first, second)):
            with contextlib.suppress(ImageReadError):
                header = read_header(Path(path))
                if header is not None and header.orientation > 4:  # the quarter turns
                    said += (
                        f". {path} has the EXIF orientation {header.orientation}, which is not "
                        "applied and would swap its sides: turn it (mogrify -auto-orient, or "
                        "exiftran -ai)"
                    )
    return said


def label_channels(
    values: npt.NDArray[Any], schema: LabelSchema, *, unknown: OnUnknown, name: str
) -> LabelMap:
    """Translate label ids, [H, W], to channels, uint8 [H, W] (255: unlabelled, no channel), as
    `read_label_map` does for a file. Raises UnknownLabelError about `name`.
    """
    channels, counts = schema.to_channels(values)
    if not counts:
        return channels
    if unknown == "unlabelled" and schema.unlabelled_channel is not None:
        # By value: `to_channels` marks unknown pixels by 255, which can also be a real channel.
        channels[np.isin(values, list(counts))] = schema.unlabelled_channel
        return channels
    listed = ", ".join(
        f"{value} ({counted(n, 'pixel')})" for value, n in sorted(counts.items())[:6]
    )
    way_out = (
        f"to read them as unlabelled ({schema.unlabelled}): unknown = unlabelled"
        if schema.unlabelled is not None
        else unlabelled_hint(schema)
    )
    raise UnknownLabelError(
        f"{name}: label ids {listed} are not in the schema {schema.name}; {way_out}", counts
    )
