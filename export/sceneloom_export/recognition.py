"""Whether a lower precision costs recognition: a segmenter looks at its pictures and at float32's,
and what it sees is compared with the label maps (docs/evaluation.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sceneloom.errors import ParityError
from sceneloom.maps import Image
from sceneloom.request import Request
from sceneloom.schema import LabelSchema
from sceneloom_training.data.geometry import resize_nearest
from sceneloom_training.evaluation.evaluate import resize_picture
from sceneloom_training.evaluation.scores import count_classes, score, truth_table
from sceneloom_training.evaluation.segmenter import load_segmenter

MOST_LOST = 1.0
"""Points of mean IoU that bf16 and int8 may lose."""


class Recognition:
    """A segmenter, and maps whose pictures it is shown."""

    def __init__(self, segmenter: Path, schema: LabelSchema, requests: Sequence[Request]) -> None:
        """Load the segmenter.

        Args:
            segmenter: as `sceneloom evaluate` takes it.
            schema: of the label maps.
            requests: scenes that look like what the segmenter was trained on.

        Raises:
            CheckpointError: the segmenter cannot be loaded.
            InputError: it has no class in common with the schema.
        """
        self._segmenter = load_segmenter(segmenter)
        table, _ = truth_table(schema, self._segmenter.schema)
        size = (self._segmenter.height, self._segmenter.width)
        truths = [resize_nearest(table[request.label_map], *size) for request in requests]
        self._truth, self._size = np.stack(truths), size
        self.pictures = len(truths)
        """How many maps there are."""

    def mean_iou(self, pictures: Sequence[Image]) -> float:
        """Mean IoU of the pictures of all maps, 0 to 100.

        Args:
            pictures: uint8 [1, H, W, 3], one for each map.
        """
        shown = np.stack([resize_picture(picture[0], *self._size) for picture in pictures])
        channels = self._segmenter.schema.channels
        counts = count_classes(self._segmenter.segment(shown), self._truth, channels)
        value = score(counts, draws=1, seed=0).mean_iou.value
        return 100 * (value or 0.0)

    def check(
        self, references: Sequence[Image], candidates: Sequence[Image], precision: str
    ) -> float:
        """Hold a precision's pictures beside float32's.

        Returns:
            the points of mean IoU that it loses; less than 0 where it gains.

        Raises:
            ParityError: more than `MOST_LOST`.
        """
        before, after = self.mean_iou(references), self.mean_iou(candidates)
        if before - after > MOST_LOST:
            raise ParityError(
                f"{precision} loses {before - after:.1f} points of mean IoU in the eyes of "
                f"{self._segmenter.name} ({before:.1f} to {after:.1f}), {MOST_LOST:g} is the limit"
            )
        return before - after
