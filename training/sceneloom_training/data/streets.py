"""Procedural streets (`sceneloom_streets`) as a data set, painted anew at every reading."""

from __future__ import annotations

import dataclasses

import numpy as np

from sceneloom.maps import OnUnknown
from sceneloom.schema import LabelSchema
from sceneloom_streets import draw_pair
from sceneloom_streets.ids import LANE_MARKING, WINDOW
from sceneloom_streets.painting import StreetLabels, check_size
from sceneloom_training.data.sample import DataSet, Sample, label_channels


@dataclasses.dataclass(kw_only=True, eq=False)
class StreetDataSet(DataSet):
    """The streets of consecutive seeds, with keys such as ``street_000012``."""

    schema: LabelSchema
    """Cityscapes' label ids. Streets have lane markings, and all parts, if it has ids for them."""
    seeds: range
    height: int
    width: int

    def read(self, index: int) -> Sample:
        """Paint one street and its photograph. See `DataSet.read`."""
        known = {label.id for label in self.schema.labels}
        labels: StreetLabels = "cityscapes"
        if LANE_MARKING in known:
            labels = "cityscapes-details" if WINDOW in known else "cityscapes-markings"
        pair = draw_pair(self.seeds[index], self.height, self.width, labels=labels)
        label_map = label_channels(
            pair.label_map, self.schema, unknown=self.unknown, name=self.keys[index]
        )
        return Sample(
            photo=np.ascontiguousarray(pair.photo),
            label_map=label_map,
            instance_map=pair.instance_map if self.has_instances else None,
        )


def open_streets(
    seeds: range, size: tuple[int, int], *, schema: LabelSchema, unknown: OnUnknown, instances: bool
) -> StreetDataSet:
    """Open the streets of some seeds, `size` (height, width). Raises InputError for the size."""
    height, width = size
    check_size(height, width)
    # As many digits as the last seed: keys are in the order of the seeds.
    digits = max(6, len(str(seeds[-1])))
    return StreetDataSet(
        keys=[f"street_{seed:0{digits}d}" for seed in seeds],
        seeds=seeds,
        height=height,
        width=width,
        schema=schema,
        unknown=unknown,
        has_instances=instances,
    )
