"""Data sets: `open_data_set` finds the files, `DataSet.read` reads a sample, and `Geometry.apply`
resizes, crops and flips it. All of it is numpy without torch.
"""

from sceneloom_training.data.geometry import Geometry
from sceneloom_training.data.opening import (
    examine,
    find_samples,
    open_data_set,
    open_examined,
)
from sceneloom_training.data.sample import DataSet, Sample
from sceneloom_training.data.settings import DataSettings

__all__ = [
    "DataSet",
    "DataSettings",
    "Geometry",
    "Sample",
    "examine",
    "find_samples",
    "open_data_set",
    "open_examined",
]
