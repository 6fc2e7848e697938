"""Label maps in a folder, and the instance map that belongs to each."""

from __future__ import annotations

import dataclasses
from pathlib import Path

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
    """Find label maps and the instance map that belongs to each.

    Files pair up by their path below the two folders, without ending and without what publishers
    append (``_gtFine_labelIds`` goes with ``_gtFine_instanceIds``).

    Args:
        labels: folder of label maps, searched to the bottom. Instance maps that lie beside them are
            left out.
        instances: folder of instance maps, or None to pair none.

    Returns:
        the pairs, ordered by key.

    Raises:
        InputError: a folder does not exist, there are no maps, two maps would share one picture's
            name, or two instance maps fit one name.
    """
    return [
        MapPair(
            key=key,
            label=labels / label,
            instance=None if instance is None or instances is None else instances / instance,
        )
        for key, label, instance in pair_folders(
            str(labels), None if instances is None else str(instances)
        )
    ]
