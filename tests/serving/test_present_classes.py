"""Fewer operations: pictures are the same bits, and what cannot be shortened runs as it is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino
import pytest

from sceneloom_export.bundle import Exported
from sceneloom_serving.onnx_runtime import MODEL_FILE
from sceneloom_serving.openvino_runtime import OpenVinoSynthesizer
from sceneloom_serving.present_classes import IDS, ROWS, present_classes, shorten

CHANNELS = 35
ROOM = 23
"""24 planes, one of them the boundary."""


@pytest.fixture(scope="module")
def graph(exported: Exported) -> Path:
    return exported.repository / "synthesis" / "1" / MODEL_FILE


def maps(classes: int, seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Blocks of 8x8 pixels of that many classes."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(CHANNELS)[:classes]
    blocks = ids[np.arange(64) % classes].reshape(8, 8).astype(np.uint8)
    label_map = blocks.repeat(8, 0).repeat(8, 1)
    return label_map, label_map.astype(np.int32)


@pytest.mark.parametrize("classes", [1, 7, ROOM, ROOM + 1, CHANNELS])
def test_pictures_are_the_same(graph: Path, classes: int) -> None:
    with (
        OpenVinoSynthesizer(graph) as short,
        OpenVinoSynthesizer(graph, absent_classes=True) as whole,
    ):
        for seed in range(2):
            pair = maps(classes, seed)
            assert np.array_equal(short.synthesize(*pair), whole.synthesize(*pair))


def test_a_batch_has_the_classes_of_all_its_maps(graph: Path) -> None:
    first, second = maps(12, 1), maps(20, 2)
    with OpenVinoSynthesizer(graph, max_batch_size=2) as short:
        alone = [short.synthesize(*first), short.synthesize(*second)]
        both = short.synthesize_batch([first[0], second[0]], [first[1], second[1]])
    for one, other in zip(alone, both, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


def test_threads_take_turns(graph: Path) -> None:
    pairs = [maps(classes, classes) for classes in (3, 9, 20, CHANNELS)]
    with OpenVinoSynthesizer(graph) as short, ThreadPoolExecutor(4) as pool:
        alone = [short.synthesize(*pair) for pair in pairs]
        together = list(pool.map(lambda pair: short.synthesize(*pair), pairs * 3))
    for one, other in zip(alone * 3, together, strict=True):
        assert np.array_equal(one, other)


def test_unlabelled_pixels_are_no_class() -> None:
    label_map = np.full((1, 4, 4), 255, np.uint8)
    label_map[0, 0, 0] = 7
    found = present_classes(label_map, CHANNELS, ROOM)
    assert found is not None
    assert found[IDS].ravel().tolist() == [7.0] + [-1.0] * (ROOM - 1)
    assert found[ROWS].tolist() == [7] + [0] * (ROOM - 1)


def test_more_classes_than_there_is_room_for() -> None:
    label_map = np.arange(ROOM + 1, dtype=np.uint8).reshape(1, 1, -1)
    assert present_classes(label_map, CHANNELS, ROOM) is None
    assert present_classes(label_map[:, :, 1:], CHANNELS, ROOM) is not None


def test_the_graph_is_really_shorter(graph: Path) -> None:
    model = openvino.Core().read_model(graph)
    assert shorten(model, CHANNELS) == ROOM
    planes = [
        node.get_input_partial_shape(0)[1].get_length()
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Convolution" and node.get_input_shape(1)[-1] == 7
    ]
    assert planes.count(24) == 2  # the stems of the global generator and of the enhancer
    assert CHANNELS + 1 not in planes


def test_graphs_that_begin_otherwise_are_left_alone(graph: Path) -> None:
    model = openvino.Core().read_model(graph)
    inputs = len(model.inputs)
    assert shorten(model, CHANNELS + 1) is None
    assert len(model.inputs) == inputs
    few = openvino.Core().read_model(graph)
    assert shorten(few, CHANNELS) == ROOM
    assert shorten(few, CHANNELS) is None  # its comparison has no 35 channels any more
