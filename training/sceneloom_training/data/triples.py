"""Data sets of one photograph, one label map and at most one instance map per sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from typing_extensions import Self

from sceneloom.maps import OnUnknown, read_instance_map, read_label_map
from sceneloom.schema import LabelSchema
from sceneloom_training.data.folders import Found, unused
from sceneloom_training.data.pictures import read_picture
from sceneloom_training.data.sample import (
    DataSet,
    InstanceMap,
    LabelMap,
    Sample,
    check_same_size,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Triple:
    """The files of one sample."""

    photo: Path
    """As `sceneloom_training.data.pictures` reads it."""
    label: Path
    """Label map, as `sceneloom.maps` reads it."""
    instance: Path | None
    """Instance map, or None where the data set has none."""


class TripleDataSet(DataSet):
    """Photographs and maps in files of their own, found beforehand."""

    schema: LabelSchema

    def __init__(
        self,
        keys: Sequence[str],
        files: Sequence[Triple],
        *,
        schema: LabelSchema,
        unknown: OnUnknown,
    ) -> None:
        """Take what a layout found.

        Args:
            keys: name of every sample, sorted.
            files: the files of each; all have an instance map or none has.
            schema: the label schema the label maps follow.
            unknown: what to do with label ids that the schema does not have.
        """
        assert len(keys) == len(files) > 0
        assert len({file.instance is None for file in files}) == 1
        self.keys = tuple(keys)
        self.files = tuple(files)
        self.schema = schema
        self.unknown: OnUnknown = unknown
        self.has_instances = files[0].instance is not None

    @classmethod
    def of(
        cls,
        photos: Found,
        labels: Found,
        instances: Found | None,
        *,
        schema: LabelSchema,
        unknown: OnUnknown,
    ) -> Self:
        """The data set of files that were found; all belong to the same samples.

        Args:
            photos: photographs.
            labels: label maps.
            instances: instance maps, or None where there are none.
            schema: the label schema the label maps follow.
            unknown: what to do with label ids that the schema does not have.
        """
        files = [
            Triple(
                photo=photo,
                label=labels.files[key],
                instance=None if instances is None else instances.files[key],
            )
            for key, photo in photos.files.items()
        ]
        data = cls(list(photos.files), files, schema=schema, unknown=unknown)
        data.left_out = unused(photos, labels, *([] if instances is None else [instances]))
        return data

    def files_of_one_size(self, index: int) -> tuple[Path, ...]:
        """See `DataSet.files_of_one_size`."""
        files = self.files[index]
        return tuple(f for f in (files.photo, files.label, files.instance) if f is not None)

    def read(self, index: int) -> Sample:
        """Read one sample; see `DataSet.read`."""
        files = self.files[index]
        photo = read_picture(files.photo)
        label_map = read_label_map(files.label, self.schema, unknown=self.unknown)
        check_same_size(photo, files.photo, label_map, files.label)
        instance_map = None
        if files.instance is not None:
            instance_map = self.read_instances(files.instance, label_map, files.label)
            check_same_size(photo, files.photo, instance_map, files.instance)
        return Sample(photo=photo, label_map=label_map, instance_map=instance_map)

    def read_instances(self, path: Path, label_map: LabelMap, label_file: Path) -> InstanceMap:
        """Read the instance map of a sample, int32 [H, W].

        Args:
            path: the instance map.
            label_map: the sample's own, uint8 [H, W].
            label_file: where that is from.
        """
        return read_instance_map(path)
