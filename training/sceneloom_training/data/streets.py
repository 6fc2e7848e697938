"""Procedural streets as a data set: painted when they are read, at the size that is wanted.

Nothing is kept: a street is the same each time it is painted, and a pass over the data set costs
the painting (`sceneloom_streets`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sceneloom.errors import InputError
from sceneloom.maps import OnUnknown
from sceneloom.schema import LabelSchema
from sceneloom_streets import draw_pair
from sceneloom_streets.ids import LANE_MARKING
from sceneloom_streets.painting import check_size
from sceneloom_training.data.sample import DataSet, Sample, label_channels


class StreetDataSet(DataSet):
    """The streets of consecutive seeds; keys are ``street_000012``."""

    schema: LabelSchema
    keys: Sequence[str]

    def __init__(
        self,
        *,
        first_seed: int,
        count: int,
        height: int,
        width: int,
        schema: LabelSchema,
        unknown: OnUnknown,
        instances: bool,
    ) -> None:
        """Take which streets, and how large.

        Args:
            first_seed: seed of the first street, from 0.
            count: number of streets, from 1.
            height: pixels, 16 to 16384.
            width: pixels, 16 to 16384 and at most four times the height.
            schema: a schema of Cityscapes' label ids, which the streets are painted in; with
                lane markings if it has an id for them.
            unknown: what to do with painted ids that the schema does not have.
            instances: give instance maps.

        Raises:
            InputError: one of them is out of range.
        """
        check_size(height, width)
        if first_seed < 0 or count < 1:
            raise InputError(
                f"{count} streets from seed {first_seed}: it is at least one, from seed 0 on"
            )
        # As many digits as the last one needs, so that the keys are in the order of the seeds.
        digits = max(6, len(str(first_seed + count - 1)))
        self.seeds = range(first_seed, first_seed + count)
        self.keys = [f"street_{seed:0{digits}d}" for seed in self.seeds]
        self.height = height
        self.width = width
        self.schema = schema
        self.unknown: OnUnknown = unknown
        self.has_instances = instances

    def read(self, index: int) -> Sample:
        """Paint one street and its photograph; see `DataSet.read`."""
        markings = any(label.id == LANE_MARKING for label in self.schema.labels)
        pair = draw_pair(self.seeds[index], self.height, self.width, markings=markings)
        label_map = label_channels(
            pair.label_map, self.schema, unknown=self.unknown, name=self.keys[index]
        )
        return Sample(
            photo=np.ascontiguousarray(pair.photo),
            label_map=label_map,
            instance_map=pair.instance_map if self.has_instances else None,
        )
