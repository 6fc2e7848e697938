"""Label maps in a folder, and the instance map that belongs to each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from sceneloom.file_tree import LeftOut
from sceneloom.rendering.reading.folder_source import pair_folders


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapPair:
    """The files of one picture."""

    key: str
    """Path of the label map below its folder, without its ending; names the picture."""
    label: Path
    """The label map."""
    instance: Path | None
    """The instance map, or None where none was found."""


def find_pairs(labels: Path, instances: Path | None) -> list[MapPair]:
    """The pairs of `pair_maps` alone."""
    return pair_maps(labels, instances)[0]


def pair_maps(
    labels: Path, instances: Path | None, *, training_ids: bool = False
) -> tuple[list[MapPair], Sequence[LeftOut]]:
    """Find label maps and the instance map that belongs to each.

    Files pair up by their path below the two folders, without ending and without what publishers
    append (``_gtFine_labelIds`` goes with ``_gtFine_instanceIds``).

    Args:
        labels: folder of label maps, searched to the bottom.
        instances: folder of instance maps, which may be the same, or None to pair none.
        training_ids: label maps hold training ids: of label ids and training ids side by side, the
            latter are taken.

    Returns:
        the pairs, ordered by key; and what is in none of them, and why.

    Raises:
        InputError: a folder does not exist, there are no maps, two maps would share one picture's
            name, or two instance maps fit one name.
    """
    found, left_out = pair_folders(
        str(labels), None if instances is None else str(instances), training_ids=training_ids
    )
    pairs = [
        MapPair(
            key=key,
            label=labels / label,
            instance=None if instance is None or instances is None else instances / instance,
        )
        for key, label, instance in found
    ]
    return pairs, left_out
