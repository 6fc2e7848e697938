"""Fewer operations: pictures are the same bits, and what cannot be shortened runs as it is."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino
import pytest
from support import wide_generator

from sceneloom.contract import Contract
from sceneloom.schema import load_schema
from sceneloom_export.bundle import Exported
from sceneloom_export.graph import export_onnx
from sceneloom_serving.bundle import CPU_FILE
from sceneloom_serving.openvino_runtime import OpenVinoSynthesizer
from sceneloom_serving.present_classes import IDS, ROWS, present_classes, shorten
from sceneloom_training.networks import GeneratorArchitecture, ServedGenerator

CHANNELS = 35
ROOM = 23
"""24 planes, one of them the boundary."""


@pytest.fixture(scope="module")
def graph(exported: Exported) -> Path:
    return exported.repository / "synthesis" / "1" / CPU_FILE


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


def test_the_whole_graph_is_the_one_that_was_opened(graph: Path, tmp_path: Path) -> None:
    for path in graph.parent.iterdir():
        if path.suffix in (".onnx", ".bin"):
            shutil.copy(path, tmp_path)
    pair = maps(CHANNELS, 0)
    with (
        OpenVinoSynthesizer(graph, absent_classes=True) as whole,
        OpenVinoSynthesizer(tmp_path / graph.name) as short,
    ):
        for path in tmp_path.iterdir():
            path.unlink()
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


def test_a_model_of_labels_alone(tmp_path: Path) -> None:
    architecture = GeneratorArchitecture(
        input_channels=150, ngf=4, global_downsamplings=1, global_blocks=0
    )
    contract = Contract(schema=load_schema("ade20k"), boundaries=False, size_multiple=2)
    served = ServedGenerator(wide_generator(architecture, seed=1), contract).eval()
    export_onnx(served, tmp_path / "model.onnx")
    model = openvino.Core().read_model(tmp_path / "model.onnx")
    assert shorten(model, 150) == 24
    label_map = np.arange(150, dtype=np.uint8).repeat(24).reshape(60, 60)
    with (
        OpenVinoSynthesizer(tmp_path / "model.onnx") as short,
        OpenVinoSynthesizer(tmp_path / "model.onnx", absent_classes=True) as whole,
    ):
        for part in (label_map, label_map % 20):
            assert np.array_equal(short.synthesize(part), whole.synthesize(part))
