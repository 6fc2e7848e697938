"""What every data set gives: samples, read one at a time at the size of their files."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sceneloom.errors import SizeError
from sceneloom.schema import LabelSchema

Photo = npt.NDArray[np.uint8]
LabelMap = npt.NDArray[np.uint8]
InstanceMap = npt.NDArray[np.int32]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """A photograph and what the network is to paint it from; all of one height and width."""

    photo: Photo
    """uint8 [H, W, 3], RGB."""
    label_map: LabelMap | None = None
    """Channel of each pixel, uint8 [H, W] (255: no channel); None in a paired set."""
    instance_map: InstanceMap | None = None
    """Instance ids, int32 [H, W]; None where the data set has none or they were not wanted."""
    source: Photo | None = None
    """The input picture of a paired set, uint8 [H, W, 3], RGB; None in all others."""

    def __post_init__(self) -> None:
        """Readers and geometry keep these; the user's files cannot break them."""
        size = self.photo.shape[:2]
        _check_array(self.photo, np.uint8, (*size, 3))
        _check_array(self.label_map, np.uint8, size)
        _check_array(self.instance_map, np.int32, size)
        _check_array(self.source, np.uint8, (*size, 3))


class DataSet(abc.ABC):
    """Samples with names, in a fixed order.

    Nothing is kept open or cached between reads, so that an instance can be pickled, forked and
    read from several threads: a loader's workers need nothing special.
    """

    schema: LabelSchema | None
    """What the label maps' channels are; None in a paired set."""
    has_instances: bool
    """Whether the samples have instance maps: all of them or none."""
    keys: Sequence[str]
    """Name of every sample, sorted, unique."""

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.keys)

    @abc.abstractmethod
    def read(self, index: int) -> Sample:
        """Read one sample at the size of its files.

        Args:
            index: position in `keys`.

        Returns:
            the sample; its arrays can be read-only (`Geometry.apply` gives arrays of its own).

        Raises:
            InputError: a file is damaged, is of a kind that is not read, has unknown ids, or its
                size differs from its photograph's; the text names the file.
            IndexError: there is no such position.
        """


def _check_array(
    array: npt.NDArray[np.generic] | None, dtype: type[np.generic], shape: tuple[int, ...]
) -> None:
    if array is not None:
        assert array.dtype == dtype, array.dtype
        assert array.shape == shape, (array.shape, shape)


def check_same_size(
    first: npt.NDArray[np.generic],
    first_name: str | Path,
    second: npt.NDArray[np.generic],
    second_name: str | Path,
) -> None:
    """Refuse two pictures or maps ([H, W, ...]) of one sample whose sizes differ.

    Raises:
        SizeError: they differ; names both files and their sizes as WIDTHxHEIGHT.
    """
    (h1, w1), (h2, w2) = first.shape[:2], second.shape[:2]
    if (h1, w1) != (h2, w2):
        raise SizeError(
            f"{first_name} is {w1}x{h1} and {second_name} is {w2}x{h2}; a sample's files have one "
            "size"
        )
