"""`sceneloom train-segmenter`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes

from sceneloom.errors import require
from sceneloom.text import counted, printable
from sceneloom_training.data import DataSettings
from sceneloom_training.settings import SegmenterSettings


def main(
    *,
    out: Path,
    data: DataSettings,
    settings: Annotated[SegmenterSettings, OmitArgPrefixes] = SegmenterSettings(),  # noqa: B008 - frozen
) -> int:
    """Train a segmentation network on a data set's real photographs, to judge synthesized ones
    with; the same command continues a run that was stopped or killed.

    Args:
        out: folder of the run; the segmenter comes to OUT/segmenter.
        data: photographs and label maps; the schema decides which classes are told apart.
        settings: network and training.
    """
    require(["torch", "transformers"], extra="train", purpose="training a segmenter")
    from sceneloom_training.evaluation.segmenter_training import train_segmenter

    outcome = train_segmenter(data, settings, out)
    if outcome.stopped_by is not None:
        print(
            f"stopped by signal {outcome.stopped_by} at step {outcome.step} of {outcome.last}, "
            "saved; the same command goes on"
        )
        return 128 + outcome.stopped_by
    print(f"trained {counted(outcome.step, 'step')}: {printable(outcome.segmenter)}")
    return 0
