"""pix2pixHD's own layout: ``<root>/train_label``, ``train_inst`` and ``train_img``.

Files belong together by name, without their endings and without what publishers append
(``aachen_000000_000019_gtFine_labelIds.png`` goes with ``aachen_000000_000019_leftImg8bit.png``).
The published reader pairs by sorted order instead, which one missing file shifts for all that
follow. A split is whatever the folders' names begin with. Without a folder of instance maps the
data set has none.
"""

from __future__ import annotations

from pathlib import Path

from sceneloom.errors import DataSetError
from sceneloom.maps import MAP_SUFFIXES, OnUnknown
from sceneloom.schema import LabelSchema
from sceneloom_training.data.folders import (
    check_folder,
    check_partners,
    find_files,
    has_folder,
    not_empty,
)
from sceneloom_training.data.pictures import PICTURE_SUFFIXES
from sceneloom_training.data.triples import TripleDataSet


def open_pix2pixhd(
    root: Path, split: str, *, schema: LabelSchema, unknown: OnUnknown, instances: bool
) -> TripleDataSet:
    """Open a split of the layout.

    Args:
        root: the folder that holds ``<split>_label`` and ``<split>_img``.
        split: such as ``train``.
        schema: the label schema the label maps follow.
        unknown: what to do with label ids that the schema does not have.
        instances: read ``<split>_inst`` where it is there.

    Raises:
        DataSetError: a folder is missing, nothing is in it, or a file has no partner.
    """
    check_folder(root, "the folder of a data set in pix2pixHD's layout")
    _check_split(root, split)
    label_folder, photo_folder = root / f"{split}_label", root / f"{split}_img"
    check_folder(photo_folder, "the photographs that belong to the label maps")
    labels = find_files(label_folder, MAP_SUFFIXES)
    not_empty(labels, f"label maps: {', '.join(MAP_SUFFIXES)}")
    photos = find_files(photo_folder, PICTURE_SUFFIXES)
    check_partners(labels, photos)
    found = None
    if instances and has_folder(root / f"{split}_inst"):
        found = find_files(root / f"{split}_inst", MAP_SUFFIXES)
        check_partners(labels, found)
    return TripleDataSet.of(photos, labels, found, schema=schema, unknown=unknown)


def _check_split(root: Path, split: str) -> None:
    if (root / f"{split}_label").is_dir():
        return
    ending = "_label"
    there = sorted(p.name.removesuffix(ending) for p in root.glob(f"*{ending}") if p.is_dir())
    has = f"the splits there are {', '.join(there)}" if there else "no <split>_label is there"
    raise DataSetError(f"{root / f'{split}{ending}'}: no such folder of label maps; {has}")
