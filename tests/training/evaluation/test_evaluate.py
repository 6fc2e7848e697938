"""The protocol: pictures beside photographs, and everything that must not change a score."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from colour_segmenter import ColourSegmenter
from support import wide_generator
from trees import write_paired

from sceneloom.contract import Contract
from sceneloom.errors import DataSetError, InputError, MissingInputError, SizeError
from sceneloom.schema import Label, LabelSchema, load_schema
from sceneloom.style import StyleChoice, StyleOf, style_chooser, styles_by_seed
from sceneloom.testing import FakeTransport
from sceneloom.triton.client import TritonSynthesizer
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.data import DataSet, DataSettings, Sample, open_data_set
from sceneloom_training.evaluation.evaluate import EvaluationSettings, evaluate, resize_picture
from sceneloom_training.evaluation.scores import ClassCounts, input_table, truth_table
from sceneloom_training.evaluation.sources import (
    GivenPictures,
    PictureSource,
    SynthesizedPictures,
)
from sceneloom_training.networks import GeneratorArchitecture
from sceneloom_training.torch_synthesizer import TorchSynthesizer

Picture = npt.NDArray[np.uint8]
CITYSCAPES, NINETEEN = load_schema("cityscapes"), load_schema("cityscapes19")
FEW = EvaluationSettings(bootstrap=20)


def painted(data: DataSet, shift: int = 0) -> list[Picture]:
    """The label maps in the 19 classes' colours; with a shift, in those of other classes."""
    table, _ = truth_table(CITYSCAPES, NINETEEN)
    pictures = []
    for index in range(len(data)):
        label_map = data.read(index).label_map
        assert label_map is not None
        channels = table[label_map]
        shifted = np.where(channels == 255, 255, (channels.astype(int) + shift) % 19)
        pictures.append(NINETEEN.colourise(shifted.astype(np.uint8)))
    return pictures


def photos(data: DataSet) -> list[Picture]:
    return [data.read(index).photo for index in range(len(data))]


def assert_equal_counts(first: ClassCounts | None, second: ClassCounts | None) -> None:
    assert first is not None
    assert second is not None
    for field in dataclasses.fields(ClassCounts):
        assert np.array_equal(getattr(first, field.name), getattr(second, field.name))


class Recording(PictureSource):
    """Gives the photographs, and keeps how many were asked for at once."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def pictures(self, keys: Sequence[str], samples: Sequence[Sample]) -> list[Picture]:
        self.batches.append(len(samples))
        return [sample.photo for sample in samples]


# Scores ------------------------------------------------------------------------------------------


def test_photographs_as_pictures_score_as_the_oracle(
    street_data: DataSet, judge: ColourSegmenter
) -> None:
    found = evaluate(street_data, judge, GivenPictures(photos(street_data)), FEW)
    assert found.scores == found.oracle_scores
    assert_equal_counts(found.counts, found.oracle)
    assert found.gap is not None
    assert found.gap.mean_iou.low == found.gap.mean_iou.high == 0
    assert 0 < (found.oracle_scores.mean_iou.value or 0) < 1


def test_a_right_model_scores_one_and_a_wrong_one_nothing(
    street_data: DataSet, judge: ColourSegmenter
) -> None:
    right = evaluate(street_data, judge, GivenPictures(painted(street_data)), FEW).scores
    wrong = evaluate(street_data, judge, GivenPictures(painted(street_data, shift=1)), FEW).scores
    assert right is not None
    assert wrong is not None
    assert right.pixel_accuracy.value == right.mean_iou.value == 1
    assert right.frequency_weighted_iou.value == 1
    assert (wrong.pixel_accuracy.value or 0) < 0.05
    assert (wrong.mean_iou.value or 0) < 0.05


def test_without_pictures_there_is_the_oracle_alone(
    street_data: DataSet, judge: ColourSegmenter
) -> None:
    found = evaluate(street_data, judge, settings=FEW, rows=1)
    assert found.scores is found.gap is found.counts is None
    assert len(found.oracle) == 5
    assert found.rows[0].picture is found.rows[0].picture_segmented is None


def test_classes_the_segmenter_does_not_have_are_ignored(
    street_data: DataSet, judge: ColourSegmenter
) -> None:
    found = evaluate(street_data, judge, settings=FEW)
    assert "ego vehicle" in found.ignored
    assert "road" not in found.ignored
    ids = [label.id for label in CITYSCAPES.labels if label.name in found.ignored]
    for index, true in enumerate(found.oracle.true):
        label_map = street_data.read(index).label_map
        assert true.sum() == (~np.isin(label_map, ids)).sum()


def test_neither_batches_nor_rows_change_anything(
    street_data: DataSet, judge: ColourSegmenter
) -> None:
    whole = evaluate(street_data, judge, GivenPictures(painted(street_data)), FEW)
    one = dataclasses.replace(FEW, batch=1)
    again = evaluate(street_data, judge, GivenPictures(painted(street_data)), one, rows=3)
    assert_equal_counts(whole.counts, again.counts)
    assert_equal_counts(whole.oracle, again.oracle)
    assert [row.key for row in again.rows] == list(street_data.keys[:3])


def test_no_more_than_a_batch_is_held(street_data: DataSet, judge: ColourSegmenter) -> None:
    source = Recording()
    evaluate(street_data, judge, source, dataclasses.replace(FEW, batch=2, limit=3))
    assert source.batches == [2, 1]
    assert max(shape[0] for shape in judge.calls) == 2


# Sizes -------------------------------------------------------------------------------------------


def test_the_sizes_are_those_that_were_asked_for(street_data: DataSet) -> None:
    judge = ColourSegmenter(NINETEEN, height=24, width=40)
    source = Recording()
    own = evaluate(street_data, judge, source, FEW)
    assert (own.rendered_sizes, own.segmented_size) == (((64, 128),), (24, 40))
    assert {shape[1:] for shape in judge.calls} == {(24, 40, 3)}
    settings = dataclasses.replace(FEW, size="96x48", segment_size="64x32")
    found = evaluate(street_data, judge, source, settings, rows=1)
    assert (found.rendered_sizes, found.segmented_size) == (((48, 96),), (32, 64))
    assert found.rows[0].label_map.shape == (32, 64)


def test_making_smaller_averages_and_label_maps_keep_their_values(
    street_data: DataSet, judge: ColourSegmenter
) -> None:
    board = np.indices((64, 64)).sum(0) % 2 * 255
    small = resize_picture(np.stack([board] * 3, -1).astype(np.uint8), 16, 16)
    assert np.abs(small.astype(int) - 127).max() <= 3
    found = evaluate(street_data, judge, settings=dataclasses.replace(FEW, size="32x16"), rows=1)
    assert set(np.unique(found.rows[0].label_map)) <= {*range(19), 255}


def test_a_picture_of_another_size_is_refused(street_data: DataSet, judge: ColourSegmenter) -> None:
    wide = [np.zeros((64, 130, 3), np.uint8)] * 5
    with pytest.raises(SizeError, match="street_000070: its picture is 130x64"):
        evaluate(street_data, judge, GivenPictures(wide), FEW)
    grey = [np.zeros((64, 128), np.uint8)] * 5
    with pytest.raises(InputError, match=r"a picture is uint8 \[H, W, 3\]"):
        evaluate(street_data, judge, GivenPictures(grey), FEW)
    with pytest.raises(InputError, match="none is left for street_000072"):
        evaluate(street_data, judge, GivenPictures(photos(street_data)[:2]), FEW)


# The oracle of an earlier evaluation -------------------------------------------------------------


def test_the_oracle_is_computed_once_for_many_models(
    street_data: DataSet, judge: ColourSegmenter
) -> None:
    first = evaluate(street_data, judge, GivenPictures(painted(street_data)), FEW)
    judge.calls.clear()
    again = evaluate(
        street_data, judge, GivenPictures(painted(street_data)), FEW, oracle=first.oracle, rows=1
    )
    assert_equal_counts(again.oracle, first.oracle)
    assert again.gap == first.gap
    assert sum(shape[0] for shape in judge.calls) == 5 + 1  # the pictures, and one row to be shown


@pytest.mark.parametrize("change", [{"limit": 2}, {"segment_size": "64x32"}])
def test_an_oracle_of_something_else_is_refused(
    change: dict[str, int | str], street_data: DataSet, judge: ColourSegmenter
) -> None:
    changed = evaluate(street_data, judge, settings=EvaluationSettings(**change))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the oracle that was given is of other samples"):
        evaluate(street_data, judge, settings=FEW, oracle=changed.oracle)


# Models ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [CITYSCAPES, NINETEEN], ids=lambda s: s.name)
def test_a_server_is_given_maps_in_its_own_classes(
    schema: LabelSchema, street_data: DataSet, judge: ColourSegmenter
) -> None:
    transport = FakeTransport(
        Contract(schema=schema, boundaries=False, size_multiple=8), max_batch_size=3
    )
    with TritonSynthesizer("fake", transport=transport) as synthesizer:
        source = SynthesizedPictures(synthesizer, CITYSCAPES)
        found = evaluate(street_data, judge, source, FEW).scores
    assert found is not None
    assert found.pixel_accuracy.value == found.mean_iou.value == 1
    sizes = [len(request["label_map"]) for request in transport.requests]
    assert sizes == [3, 1, 1]  # batches of 4 samples, of which the server takes 3


def test_a_model_that_wants_instances_has_to_get_them(
    streets: Path, judge: ColourSegmenter
) -> None:
    settings = DataSettings(layout="pix2pixhd", root=streets, split="test", instances=False)
    transport = FakeTransport(Contract(schema=CITYSCAPES, boundaries=True, size_multiple=8))
    with TritonSynthesizer("fake", transport=transport) as synthesizer:
        source = SynthesizedPictures(synthesizer, CITYSCAPES)
        with pytest.raises(MissingInputError, match=r"street_000070: .*--data\.boundaries labels"):
            evaluate(open_data_set(settings), judge, source, FEW)
        edges = dataclasses.replace(settings, boundaries="labels")
        evaluate(open_data_set(edges), judge, source, FEW)
    for request in transport.requests:
        assert np.array_equal(request["instance_map"], request["label_map"])  # ids are channels


@pytest.mark.parametrize(("of", "road"), [("things", 9.0), ("all", 5.0)])
def test_a_styled_model_is_given_the_styles_of_the_seed(
    of: StyleOf, road: float, street_data: DataSet, judge: ColourSegmenter
) -> None:
    contract = Contract(
        schema=CITYSCAPES,
        boundaries=True,
        style_channels=2,
        style_defaults={7: (9.0, 9.0)},
        style_clusters={26: tuple((i / 8, -i / 8) for i in range(8)), 7: ((5.0, 5.0),)},
        size_multiple=8,
    )
    transport = FakeTransport(contract)
    with TritonSynthesizer("fake", transport=transport) as synthesizer:
        choose = style_chooser(contract, StyleChoice(style_seed=4, style_of=of))
        source = SynthesizedPictures(synthesizer, CITYSCAPES, choose)
        evaluate(street_data, judge, source, dataclasses.replace(FEW, limit=2))
    for index, request in enumerate(transport.requests):
        sample = street_data.read(index)
        assert sample.label_map is not None
        assert sample.instance_map is not None
        # As `sceneloom render --style-seed 4` draws it for the map of this name.
        expected = styles_by_seed(
            contract, sample.label_map, sample.instance_map, 4, key=street_data.keys[index], of=of
        )
        assert np.array_equal(request["style"][0, : len(expected)], expected)
        ids = np.unique(sample.instance_map)
        assert expected[ids == 7].tolist() == [[road, road]]
        assert np.abs(expected[ids >= 26000]).max() > 0


def test_a_checkpoint_renders_what_it_renders_elsewhere(
    checkpoint: Path, street_data: DataSet, judge: ColourSegmenter
) -> None:
    loaded = load_checkpoint(checkpoint)
    batches = TorchSynthesizer(loaded.generator, loaded.contract, max_batch_size=2)
    source = SynthesizedPictures(batches, CITYSCAPES)
    found = evaluate(street_data, judge, source, dataclasses.replace(FEW, limit=2), rows=2)
    other = TorchSynthesizer(loaded.generator, loaded.contract)
    for index, row in enumerate(found.rows):
        sample = street_data.read(index)
        assert sample.label_map is not None
        assert row.picture is not None
        expected = other.synthesize(sample.label_map, sample.instance_map).astype(int)
        assert np.abs(row.picture - expected).max() <= 1
    assert found.scores is not None


def test_a_checkpoint_of_pictures_cannot_be_given_label_maps() -> None:
    architecture = GeneratorArchitecture(
        input_channels=3, ngf=2, global_downsamplings=1, global_blocks=1
    )
    contract = Contract(kind="picture", boundaries=False, size_multiple=2)
    paired = TorchSynthesizer(wide_generator(architecture, seed=1), contract)
    with pytest.raises(InputError, match=r"takes pictures instead of label maps.*--pictures"):
        SynthesizedPictures(paired, CITYSCAPES)


# Classes -----------------------------------------------------------------------------------------


def schema_of(*names: str, unlabelled: int | None = None) -> LabelSchema:
    labels = tuple(Label(id=i + 1, name=name, colour=(i, i, i)) for i, name in enumerate(names))
    return LabelSchema(name="-".join(names), labels=labels, unlabelled=unlabelled)


def test_truth_goes_by_name_and_the_rest_is_ignored() -> None:
    table, missing = truth_table(schema_of("a", "b", "c"), schema_of("c", "x", "a"))
    assert table[[0, 1, 2, 255]].tolist() == [2, 255, 0, 255]
    assert missing == ["b"]


def test_inputs_go_by_name_and_the_rest_is_unlabelled() -> None:
    model = schema_of("c", "a", "void", unlabelled=3)
    assert input_table(schema_of("a", "b", "c"), model)[[0, 1, 2, 255]].tolist() == [1, 2, 0, 2]
    without = schema_of("c", "a", unlabelled=0)
    assert input_table(schema_of("a", "b", "c"), without)[[0, 1, 2]].tolist() == [1, 255, 0]


def test_classes_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(InputError, match="no class name in common"):
        truth_table(schema_of("a"), schema_of("b"))
    with pytest.raises(InputError, match="no class name in common"):
        input_table(schema_of("a"), schema_of("b", unlabelled=0))
    with pytest.raises(InputError, match="has no class b of the label maps'"):
        input_table(schema_of("a", "b"), schema_of("a"))
    with pytest.raises(InputError, match="has a more than once"):
        truth_table(schema_of("a", "a"), schema_of("b", "a"))


def test_equal_classes_need_no_names() -> None:
    twice = schema_of("a", "a")
    assert truth_table(twice, twice)[0][[0, 1, 255]].tolist() == [0, 1, 255]


def test_a_paired_data_set_is_refused(tmp_path: Path, judge: ColourSegmenter) -> None:
    write_paired(tmp_path, 16, 16)
    data = open_data_set(DataSettings(layout="paired", root=tmp_path))
    with pytest.raises(DataSetError, match="a paired data set has no label maps"):
        evaluate(data, judge, settings=FEW)


@pytest.mark.parametrize(
    "change",
    [
        {"size": "12"},
        {"segment_size": "0x3"},
        {"limit": 0},
        {"batch": 0},
        {"bootstrap": 0},
        {"bootstrap_seed": -1},
    ],
)
def test_settings_out_of_range(change: dict[str, int | str]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        EvaluationSettings(**change)  # type: ignore[arg-type]
