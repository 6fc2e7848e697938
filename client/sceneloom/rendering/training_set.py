"""`--copy-labels`: pictures and copies of their maps, as a data set in pix2pixHD's layout.

    OUTPUT/train_img/KEY.jpg    OUTPUT/train_label/KEY.png    OUTPUT/train_inst/KEY.png

`sceneloom train` reads it with `--data.layout pix2pixhd --data.root OUTPUT`. A picture's maps are
written first: a picture in its place has its maps.
"""

from __future__ import annotations

import io
from collections.abc import Hashable, Mapping

import numpy as np
from PIL import Image

from sceneloom import locations
from sceneloom.contract import Contract
from sceneloom.maps import InstanceMap, LabelMap, instance_map_png, label_map_png
from sceneloom.rendering.folder import FolderSink
from sceneloom.rendering.items import Written
from sceneloom.schema import MAX_FILE_VALUE

PICTURES, LABELS, INSTANCES = "train_img", "train_label", "train_inst"
FOLDERS = (PICTURES, LABELS, INSTANCES)


def copy_maps(
    contract: Contract, key: str, label_map: LabelMap, instance_map: InstanceMap | None
) -> dict[str, bytes]:
    """The maps of a picture as files: path below the output folder -> content.

    Label maps are PNG files of the model's label ids, whatever file they were read from. Instance
    maps are 16-bit PNG files; with ids above 65535, 32-bit TIFF files.
    """
    files = {f"{LABELS}/{key}.png": label_map_png(contract, label_map)}
    if instance_map is not None and instance_map.max() <= MAX_FILE_VALUE:
        files[f"{INSTANCES}/{key}.png"] = instance_map_png(contract, label_map, instance_map)
    elif instance_map is not None:
        stream = io.BytesIO()
        Image.fromarray(instance_map.astype(np.int32)).save(stream, "TIFF", compression="tiff_lzw")
        files[f"{INSTANCES}/{key}.tif"] = stream.getvalue()
    return files


class TrainingSetSink(FolderSink):
    """A folder of pictures with copies of their maps."""

    def put(self, key: str, data: bytes, tag: Hashable) -> list[Written]:
        """Write a picture, whose copies are written; see `Sink`."""
        return super().put(f"{PICTURES}/{key}", data, tag)

    def put_copies(self, files: Mapping[str, bytes]) -> None:
        """Write the files of `copy_maps`; raises as `put`."""
        for path, data in files.items():
            self.write(path, data)

    def read(self, output: str) -> bytes | None:
        """The picture's file, or None if it or a copy of its maps is missing; see `Sink`."""
        key = output.removeprefix(f"{PICTURES}/").removesuffix(f".{self.format}")
        try:
            copied = self._is_file(f"{LABELS}/{key}.png") and (
                # A model without instance maps has no such folder.
                not locations.is_folder(locations.join(self.location, INSTANCES))
                or self._is_file(f"{INSTANCES}/{key}.png")
                or self._is_file(f"{INSTANCES}/{key}.tif")
            )
        except OSError:
            return None
        return super().read(output) if copied else None

    def _is_file(self, path: str) -> bool:
        return locations.is_file(locations.join(self.location, path))
