"""`sceneloom encode-style`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from sceneloom.errors import MissingInputError, require
from sceneloom.map_reading import MapReader, MapReading
from sceneloom.maps import OnUnknown
from sceneloom.style import write_styles
from sceneloom.text import counted, printable


def main(
    checkpoint: Annotated[Path, Positional, arg(metavar="CHECKPOINT")],
    photo: Annotated[Path, Positional, arg(metavar="PHOTO")],
    *,
    labels: Annotated[Path, arg(metavar="FILE")],
    instances: Annotated[Path | None, arg(metavar="FILE")] = None,
    out: Annotated[Path, arg(metavar="FILE")],
    width: int | None = None,
    unknown: OnUnknown = "error",
    reading: Annotated[MapReading, OmitArgPrefixes] = MapReading(),  # noqa: B008 - frozen
) -> int:
    """Write the styles of a reference photograph's instances and classes to a style file for
    sceneloom render.

    Args:
        checkpoint: folder of a checkpoint bundle trained with style features.
        photo: the photograph, PNG or JPEG.
        labels: its label map.
        instances: its instance map; without one --boundaries takes the label map's.
        out: the style file to write (.json); an older one is replaced.
        width: scale the photograph to the width of the training first; without it, encode it as is.
        unknown: refuse label ids that the checkpoint's schema lacks, or read them as unlabelled.
        reading: how the maps are read.
    """
    require(["torch", "safetensors"], extra="train", purpose="encoding a photograph's style")
    from sceneloom.photographs import read_picture
    from sceneloom_training.checkpoint import load_checkpoint
    from sceneloom_training.data.sample import Sample, check_same_size
    from sceneloom_training.styles import encode_sample, reference_styles, style_parts

    encoder, contract = style_parts(load_checkpoint(checkpoint), checkpoint)
    picture = read_picture(photo)
    reader = MapReader(contract.schema, reading, unknown=unknown)
    label_map = reader.label_map(labels)
    check_same_size(picture, photo, label_map, labels)
    if instances is None:
        instance_map = reader.edges(label_map, labels)
    else:
        instance_map = reader.instance_map(instances)
        check_same_size(picture, photo, instance_map, instances)
    if instance_map is None:
        raise MissingInputError(
            "name the instance map with --instances, or take the label map's edges with "
            "--boundaries labels"
        )
    sample = Sample(photo=picture, label_map=label_map, instance_map=instance_map)
    styles = reference_styles(contract, encode_sample(encoder, contract, sample, width=width))
    write_styles(out, styles)
    print(
        f"{counted(len(styles.instances), 'instance')} of {len(styles.labels)} "
        + ("class" if len(styles.labels) == 1 else "classes")
    )
    print(f"wrote {printable(out)}")
    return 0
