"""Fewer operations, exactly: the first convolutions over the classes that occur in a map.

The one-hot of a street has 35 planes, all but some twenty of them zeros, and the convolutions over
it are 24 % of the published network's arithmetic. Only the planes and weights of classes that occur
are gathered here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sceneloom.contract import INPUT_LABELS
from sceneloom.maps import LabelMap

PLANES = 24
"""Planes of the shortened input, boundary and style included: room for nearly every street."""
IDS, ROWS = "present_ids", "present_rows"  # further inputs, of `present_classes`


def shorten(model: Any, channels: int) -> int | None:
    """Rewrite an OpenVINO model of the served graph in place. Returns the count of classes that it
    takes, or None for an unchanged one: it is another graph, or gains nothing.
    """
    one_hot = _one_hot(model, channels)
    if one_hot is None:
        return None
    equal, planes = one_hot
    others = planes.get_output_partial_shape(0)[1].get_length() - channels
    room: int = PLANES - others
    convolutions = _convolutions(planes)
    if not 0 < room < channels or not convolutions:
        return None
    from openvino import Type, opset13

    ids = opset13.parameter([1, room, 1, 1], Type.f32, name=IDS)
    rows = opset13.parameter([room], Type.i64, name=ROWS)
    for node, name in ((ids, IDS), (rows, ROWS)):
        node.output(0).set_names({name})
    axis = opset13.constant(1)
    for convolution in convolutions:
        weights = convolution.input_value(1).get_node().get_data()
        parts = [opset13.gather(opset13.constant(weights[:, :channels].copy()), rows, axis)]
        if others:
            parts.append(opset13.constant(weights[:, channels:].copy()))
        gathered = opset13.concat(parts, 1)
        convolution.input(1).replace_source_output(gathered.output(0))
    equal.input(1).replace_source_output(ids.output(0))
    model.add_parameters([ids, rows])
    model.validate_nodes_and_infer_types()
    return room


def present_classes(
    label_maps: LabelMap, channels: int, room: int
) -> dict[str, npt.NDArray[Any]] | None:
    """The ids of the classes in maps, uint8 [N, H, W]: float32 [1, room, 1, 1], filled up with -1,
    which is in no map; and their rows of weights, int64 [room]. None for more than `room`.
    """
    found = np.flatnonzero(np.bincount(label_maps.ravel(), minlength=256)[:channels])
    if len(found) > room:
        return None
    ids, rows = np.full(room, -1, np.float32), np.zeros(room, np.int64)
    ids[: len(found)], rows[: len(found)] = found, found
    return {IDS: ids.reshape(1, room, 1, 1), ROWS: rows}


def _one_hot(model: Any, channels: int) -> tuple[Any, Any] | None:
    """The one-hot's comparison and the network's input, or None if the graph begins otherwise."""
    node = next(
        (p for p in model.get_parameters() if INPUT_LABELS in p.output(0).get_names()), None
    )
    path = []
    for kind in ("Convert", "Unsqueeze", "Equal", "Convert"):
        node = None if node is None else _only_user(node, kind)
        path.append(node)
    equal, planes = path[2], path[-1]
    if equal is None or planes is None:
        return None
    fits = list(equal.input_value(1).get_shape()) == [1, channels, 1, 1]
    return (equal, _only_user(planes, "Concat") or planes) if fits else None


def _only_user(node: Any, kind: str) -> Any:
    users = [i.get_node() for i in node.output(0).get_target_inputs()]
    return users[0] if len(users) == 1 and users[0].get_type_name() == kind else None


def _convolutions(planes: Any) -> list[Any]:
    """The convolutions over the network's input, padded or pooled, empty if it has other users."""
    found, look = [], [planes]
    while look:
        for target in look.pop().output(0).get_target_inputs():
            node = target.get_node()
            kind = node.get_type_name()
            if kind in ("Pad", "AvgPool"):
                look.append(node)
                continue
            weights = node.input_value(1).get_node() if kind == "Convolution" else None
            if weights is None or weights.get_type_name() != "Constant":
                return []
            found.append(node)
    return found
