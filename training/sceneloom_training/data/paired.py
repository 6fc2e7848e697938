"""Pairs of pictures, as the published pix2pixHD takes them with ``label_nc 0``.

``<root>/train_A`` holds the inputs and ``<root>/train_B`` the photographs, of equal names below the
two folders; file endings may differ.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sceneloom.maps import PICTURE_SUFFIXES
from sceneloom.photographs import read_picture
from sceneloom_training.data import folders
from sceneloom_training.data.sample import DataSet, Sample, check_same_size


@dataclasses.dataclass(kw_only=True, eq=False)
class PairedDataSet(DataSet):
    """Pictures in, photographs out, without labels and instances."""

    schema: None = None
    sources: dict[str, Path]
    photos: dict[str, Path]

    def files_of_one_size(self, index: int) -> tuple[Path, ...]:
        """See `DataSet.files_of_one_size`."""
        return self.photos[self.keys[index]], self.sources[self.keys[index]]

    def read(self, index: int) -> Sample:
        """Read one pair. See `DataSet.read`."""
        photo_file, source_file = self.files_of_one_size(index)
        source, photo = read_picture(source_file), read_picture(photo_file)
        check_same_size(source, source_file, photo, photo_file)
        return Sample(photo=photo, source=source)


def open_paired(root: Path, split: str) -> PairedDataSet:
    """Open a split. Raises DataSetError for a missing or empty folder."""
    source_folder = folders.split_folder(root, split, {"_A": "input pictures", "_B": "photographs"})
    photo_folder = folders.check_folder(
        root / f"{split}_B", "the photographs that belong to the input pictures"
    )
    expected = f"pictures: {', '.join(PICTURE_SUFFIXES)}"
    sources = folders.find_files(source_folder, PICTURE_SUFFIXES, ending="", expected=expected)
    photos = folders.find_files(photo_folder, PICTURE_SUFFIXES, ending="")
    keys, incomplete = folders.match_partners(photos, sources)
    return PairedDataSet(
        keys=keys,
        incomplete=incomplete,
        sources=sources.files,
        photos=photos.files,
        left_out=folders.unused(sources, photos),
    )
