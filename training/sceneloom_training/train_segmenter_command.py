"""`sceneloom train-segmenter`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, arg

from sceneloom import progress
from sceneloom.errors import require
from sceneloom_training.data import DataSettings
from sceneloom_training.settings import SegmenterSettings
from sceneloom_training.train_command import report


@progress.shown()
def main(
    *,
    out: Path,
    data: DataSettings,
    settings: Annotated[
        SegmenterSettings, OmitArgPrefixes, arg(name="segmenter")
    ] = SegmenterSettings(),  # noqa: B008 - frozen
) -> int:
    """Train a segmentation network on a data set's photographs, for sceneloom evaluate; the same
    command continues a stopped or killed run.

    Args:
        out: folder of the run; the segmenter is OUT/segmenter.
        data: photographs and label maps; the schema decides the classes.
        settings: network and training.
    """
    require(["torch", "transformers"], extra="train", purpose="training a segmenter")
    from sceneloom_training.evaluation.segmenter_training import train_segmenter

    return report(train_segmenter(data, settings, out))
