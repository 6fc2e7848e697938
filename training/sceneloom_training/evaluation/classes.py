"""From the classes of one label schema to those of another, by name.

A data set's label maps are read in their own schema, whose ids their files hold; a segmenter or a
generator can know other classes. Cityscapes' 35 classes and its 19 training classes are the usual
case: read as the other's ids, label maps would pass and mean something else.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from sceneloom.errors import InputError
from sceneloom.schema import NO_CHANNEL, LabelSchema

Table = npt.NDArray[np.uint8]
"""Channel of one schema -> channel of the other, uint8 [256]."""


def truth_table(data: LabelSchema, segmenter: LabelSchema) -> tuple[Table, list[str]]:
    """Table from the data set's channels to the segmenter's, for label maps to compare with.

    Args:
        data: what the data set's label maps are read with.
        segmenter: what the segmenter predicts.

    Returns:
        the table, with 255 (ignored) for classes that the segmenter does not have, and the names of
        those classes.

    Raises:
        InputError: the two have no class in common, or a name that stands for several.
    """
    table, missing = _by_name(data, segmenter)
    if len(missing) == data.channels:
        raise InputError(
            f"the label maps' schema {data.name} and the segmenter's {segmenter.name} have no "
            "class name in common; name the right one with --data.labels or --segmenter-labels"
        )
    return table, missing


def input_table(data: LabelSchema, model: LabelSchema) -> Table:
    """Table from the data set's channels to those of a model that is given the label maps.

    Classes that the model does not have are its unlabelled ones.

    Raises:
        InputError: it has none, they have no class in common, or a name stands for several.
    """
    table, missing = _by_name(data, model)
    if len(missing) == data.channels:
        raise InputError(
            f"the label maps' schema {data.name} and the model's {model.name} have no class name "
            "in common"
        )
    unlabelled = model.unlabelled_channel
    if missing and unlabelled is None:
        raise InputError(
            f"the model's schema {model.name} has no class {', '.join(missing)} of the label maps' "
            f"{data.name}, and no unlabelled id to read it as"
        )
    if unlabelled is not None:
        table[table == NO_CHANNEL] = unlabelled
    return table


def _by_name(source: LabelSchema, target: LabelSchema) -> tuple[Table, list[str]]:
    table = np.full(256, NO_CHANNEL, np.uint8)
    if source.labels == target.labels:
        table[: source.channels] = np.arange(source.channels)
        return table, []
    channels = {label.name: channel for channel, label in enumerate(target.labels)}
    for schema in (source, target):
        counts = Counter(label.name for label in schema.labels)
        if twice := sorted(name for name, count in counts.items() if count > 1):
            raise InputError(
                f"the schemas {source.name} and {target.name} differ, and classes are matched by "
                f"name, but {schema.name} has {', '.join(twice)} more than once"
            )
    missing = []
    for channel, label in enumerate(source.labels):
        if label.name in channels:
            table[channel] = channels[label.name]
        else:
            missing.append(label.name)
    return table, missing
