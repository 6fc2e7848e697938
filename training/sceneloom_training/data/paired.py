"""Pairs of pictures, as the published pix2pixHD takes them with ``label_nc 0``.

``<root>/train_A`` holds what goes in and ``<root>/train_B`` the photographs to come out, of equal
names below the two folders; endings may differ.
"""

from __future__ import annotations

from pathlib import Path

from sceneloom.errors import DataSetError
from sceneloom_training.data.folders import (
    Found,
    check_folder,
    check_partners,
    find_files,
    not_empty,
    unused,
)
from sceneloom_training.data.pictures import PICTURE_SUFFIXES, read_picture
from sceneloom_training.data.sample import DataSet, Sample, check_same_size


class PairedDataSet(DataSet):
    """Pictures in, photographs out; no labels and no instances."""

    schema = None
    has_instances = False

    def __init__(self, sources: Found, photos: Found) -> None:
        """Take the files of each sample by its name; both have the same names."""
        self.keys = tuple(sources.files)
        self.files = tuple((sources.files[key], photos.files[key]) for key in self.keys)
        self.left_out = unused(sources, photos)

    def files_of_one_size(self, index: int) -> tuple[Path, ...]:
        """See `DataSet.files_of_one_size`."""
        source, photo = self.files[index]
        return photo, source

    def read(self, index: int) -> Sample:
        """Read one pair; see `DataSet.read`."""
        source_file, photo_file = self.files[index]
        source, photo = read_picture(source_file), read_picture(photo_file)
        check_same_size(source, source_file, photo, photo_file)
        return Sample(photo=photo, source=source)


def open_paired(root: Path, split: str) -> PairedDataSet:
    """Open a split; raises DataSetError if a folder is missing or empty, or a partner is."""
    check_folder(root, "a folder that holds <split>_A and <split>_B")
    source_folder, photo_folder = root / f"{split}_A", root / f"{split}_B"
    if not source_folder.is_dir():
        there = sorted(p.name.removesuffix("_A") for p in root.glob("*_A") if p.is_dir())
        has = f"the splits there are {', '.join(there)}" if there else "no <split>_A is there"
        raise DataSetError(f"{source_folder}: no such folder of input pictures; {has}")
    check_folder(photo_folder, "the photographs that belong to the input pictures")
    sources = find_files(source_folder, PICTURE_SUFFIXES, ending="")
    not_empty(sources, f"pictures: {', '.join(PICTURE_SUFFIXES)}")
    photos = find_files(photo_folder, PICTURE_SUFFIXES, ending="")
    check_partners(sources, photos)
    return PairedDataSet(sources, photos)
