"""Maps by colour, by channel, of another schema, and with a table of names of their own."""

from __future__ import annotations

import io
import json
import pickle
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sceneloom.errors import InputError, NotALabelMapError, SchemaError, UnknownLabelError
from sceneloom.map_reading import MapReader, MapReading, translate
from sceneloom.maps import boundary_map, read_instance_map, read_label_map
from sceneloom.pairing import pair_names, table_name
from sceneloom.schema import Label, LabelSchema, load_schema

CITYSCAPES = load_schema("cityscapes")
TRAINING = load_schema("cityscapes19")
CARLA = load_schema("carla")
MAPPINGS: dict[str, dict[str, str | None]] = json.loads(
    (resources.files("sceneloom") / "label_mappings" / "to_cityscapes.json").read_text("utf-8")
)
ROAD, CAR, PERSON, SKY = 7, 26, 24, 23


def file_of(values: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """A picture's file; uint8 [H, W] is grey, [H, W, 3] RGB, [H, W, 4] RGBA."""
    out = io.BytesIO()
    Image.fromarray(values).save(out, kind, **options)
    return out.getvalue()


def carla_frame(tags: np.ndarray) -> np.ndarray:
    """A frame of CARLA's semantic camera: the tag in the red channel."""
    return np.dstack([tags, *[np.zeros_like(tags)] * 2, np.full_like(tags, 255)])


def read(data: bytes | Path, schema: LabelSchema = CITYSCAPES, **settings: Any) -> np.ndarray:
    unknown = settings.pop("unknown", "error")
    table = settings.pop("table", None)
    reader = MapReader(schema, MapReading(**settings), unknown=unknown)
    name = None if isinstance(data, Path) else "a.png"
    return reader.label_map(data, name=name, table=table)


# Colours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "palette", "TIFF"])
def test_colours_give_back_the_map(kind: str) -> None:
    rng = np.random.default_rng(0)
    label_map = rng.integers(0, 19, (37, 53)).astype(np.uint8)
    colours = TRAINING.colourise(label_map)
    image = Image.fromarray(colours)
    out = io.BytesIO()
    if kind == "RGBA":
        image.putalpha(255)
    if kind == "palette":
        image = Image.fromarray(label_map)
        image.putpalette(TRAINING.palette.tobytes())
    if kind == "TIFF":
        image.save(out, "TIFF", compression="tiff_lzw")
    else:
        image.save(out, "PNG")
    assert np.array_equal(read(out.getvalue(), TRAINING, colours=True), label_map)


def test_other_colours_are_counted_beside_the_nearest_of_the_schema() -> None:
    colours = CITYSCAPES.colourise(np.full((4, 8), ROAD, np.uint8))
    colours[0, :3] = 128, 64, 129
    colours[1, :2] = 0, 0, 140
    with pytest.raises(UnknownLabelError) as caught:
        read(file_of(colours), colours=True)
    assert str(caught.value) == (
        "a.png: 3 pixels of the colour (128, 64, 129), which cityscapes does not have (nearest: "
        "'road' (128, 64, 128)); 2 pixels of the colour (0, 0, 140), which cityscapes does not "
        "have (nearest: 'car' (0, 0, 142)). To read them as unlabelled (0): --unknown unlabelled, "
        "for a data set --data.unknown unlabelled, at a gateway the field unknown=unlabelled"
    )
    assert list(caught.value.counts.values()) == [3, 2] or sorted(caught.value.counts.values()) == [
        2,
        3,
    ]
    found = read(file_of(colours), colours=True, unknown="unlabelled")
    assert np.count_nonzero(found == 0) == 5


def test_a_colour_of_several_labels_is_refused_where_a_map_has_it() -> None:
    label_map = np.full((4, 8), ROAD, np.uint8)
    assert (read(file_of(CITYSCAPES.colourise(label_map)), colours=True) == ROAD).all()
    label_map[0] = 1  # black, as unlabeled and others are
    data = file_of(CITYSCAPES.colourise(label_map))
    with pytest.raises(
        UnknownLabelError,
        match=r"8 pixels of the colour \(0, 0, 0\), which 'unlabeled' and 'ego vehicle' and "
        r".* of cityscapes share \(--map-schema takes a schema with one .*To read them as",
    ):
        read(data, colours=True)
    assert (read(data, colours=True, unknown="unlabelled")[0] == 0).all()
    cars = file_of(CITYSCAPES.colourise(np.full((4, 8), CAR, np.uint8)))
    with pytest.raises(UnknownLabelError, match="'car' and 'license plate' of cityscapes share"):
        read(cars, colours=True)
    assert (read(cars, colours=True, map_schema="cityscapes19") == CAR).all()


def test_labels_of_one_colour_that_become_one_label_are_read() -> None:
    vistas = load_schema("mapillary-vistas-2.0")
    colour = vistas.labels[90].colour  # traffic lights of six kinds
    data = file_of(np.full((4, 8, 3), colour, np.uint8))
    with pytest.raises(UnknownLabelError, match="traffic-light--general-single"):
        read(data, vistas, colours=True)
    found = read(data, colours=True, map_schema="mapillary-vistas-2.0")
    assert {CITYSCAPES.labels[channel].name for channel in found.ravel()} == {"traffic light"}


@pytest.mark.parametrize(
    ("data", "settings", "reason"),
    [
        (np.zeros((4, 8), np.uint8), {"colours": True}, "no colours; leave --colours out"),
        (
            np.zeros((4, 8), np.uint8),
            {"label_channel": "red"},
            "no colours; leave --label-channel out",
        ),
        (np.zeros((4, 8, 3), np.uint8), {}, "read its colours with --colours, or the ids in one"),
        (np.zeros((4, 8, 3), np.uint8), {"map_schema": "carla"}, "with --label-channel"),
        (np.zeros((4, 8, 2), np.uint8), {"colours": True}, r"\(LA\).*8-bit RGB, RGBA or palette"),
    ],
)
def test_files_of_another_kind(data: np.ndarray, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(NotALabelMapError, match=rf"a\.png: .*{reason}"):
        read(file_of(data), **settings)


def test_colours_of_16_bits_are_refused() -> None:
    import cv2

    values = np.full((4, 8, 3), 0x8080, np.uint16)
    for suffix in (".png", ".tif"):
        with pytest.raises(NotALabelMapError, match="16 bits per channel"):
            read(cv2.imencode(suffix, values)[1].tobytes(), colours=True)


def test_a_photograph_is_none_of_unlabelled_pixels() -> None:
    photo = np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8)
    with pytest.raises(NotALabelMapError, match=r"a\.png: a picture of 6,\d+ colours"):
        read(file_of(photo), colours=True, unknown="unlabelled")


def test_transparent_pixels_have_no_label() -> None:
    colours = np.dstack([TRAINING.colourise(np.zeros((4, 8), np.uint8)), np.full((4, 8), 255)])
    colours = colours.astype(np.uint8)
    colours[0, 0, 3] = 254
    with pytest.raises(UnknownLabelError, match=r"1 pixel of the colour \(128, 64, 128, 254\)"):
        read(file_of(colours), TRAINING, colours=True)


# Another schema ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(MAPPINGS))
def test_labels_of_street_schemas_become_cityscapes_by_name(name: str) -> None:
    source = load_schema(name)
    for label in source.labels:
        to = MAPPINGS[name][label.name]
        data = file_of(np.full((2, 3), label.id, np.uint8))
        if to is None and label.id != source.unlabelled:
            with pytest.raises(UnknownLabelError) as caught:
                read(data, map_schema=name)
            assert f"{label.name!r}, a name that cityscapes does not have" in str(caught.value)
            assert (read(data, map_schema=name, unknown="unlabelled") == 0).all()
        else:
            [channel] = np.unique(read(data, map_schema=name))
            assert CITYSCAPES.labels[channel].name == (to or "unlabeled")


def test_unlabelled_pixels_stay_unlabelled() -> None:
    data = file_of(np.array([[0, 1]], np.uint8))
    assert read(data, TRAINING, map_schema="carla").tolist() == [[255, 0]]
    data = file_of(np.array([[255, 0]], np.uint8))
    assert read(data, map_schema="bdd100k").tolist() == [[0, ROAD]]


def test_an_id_that_the_other_schema_lacks() -> None:
    data = file_of(np.array([[1, 29, 29]], np.uint8))
    with pytest.raises(UnknownLabelError, match=r"2 pixels of the id 29, which carla does not"):
        read(data, map_schema="carla")
    assert read(data, map_schema="carla", unknown="unlabelled").tolist() == [[ROAD, 0, 0]]
    wide = file_of(np.array([[1, 26001]], np.uint16))
    with pytest.raises(UnknownLabelError, match="never read as unlabelled"):
        read(wide, map_schema="carla", unknown="unlabelled")


def test_a_schema_of_ones_own_by_name(tmp_path: Path) -> None:
    file = tmp_path / "sim.json"
    names = {"name": "sim", "labels": [{"id": 4, "name": "ROAD", "colour": [1, 2, 3]}]}
    file.write_text(json.dumps(names))
    assert (read(file_of(np.full((2, 2), 4, np.uint8)), map_schema=str(file)) == ROAD).all()
    colours = file_of(np.full((2, 2, 3), (1, 2, 3), np.uint8))
    assert (read(colours, map_schema=str(file), colours=True) == ROAD).all()
    words = MapReading(map_schema=str(file)).reading_words()["map_schema"]
    file.write_text(json.dumps({**names, "name": "sim2"}))
    assert MapReading(map_schema=str(file)).reading_words()["map_schema"] != words
    with pytest.raises(InputError, match="no label schema 'nowhere'"):
        read(colours, map_schema="nowhere")


def test_schemas_without_a_common_name() -> None:
    cells = LabelSchema(name="cells", labels=(Label(id=0, name="cell", colour=(1, 2, 3)),))
    with pytest.raises(InputError, match="no label of carla has the name of a label of cells"):
        translate(CARLA, cells)
    twice = tuple(Label(id=i, name=n, colour=(i, 0, 0)) for i, n in enumerate(("Car", "car")))
    with pytest.raises(SchemaError, match="two labels called 'car'"):
        translate(CARLA, LabelSchema(name="twice", labels=twice))


# CARLA's cameras ---------------------------------------------------------------------------------


def test_a_frame_of_carla() -> None:
    tags = np.array([[1, 14, 12, 11]], np.uint8)
    for frame in (carla_frame(tags), carla_frame(tags)[..., :3]):
        found = read(file_of(frame), label_channel="red", map_schema="carla")
        assert found.tolist() == [[ROAD, CAR, PERSON, SKY]]
    assert read(file_of(carla_frame(tags)), CARLA, label_channel="red").tolist() == tags.tolist()
    blue = file_of(carla_frame(tags)[..., 2::-1])
    assert read(blue, CARLA, label_channel="blue").tolist() == tags.tolist()


def test_tags_that_are_read_as_colours_and_the_wrong_channel() -> None:
    tags = np.array([[0, 14, 12, 11]], np.uint8)
    frame = carla_frame(tags)
    for schema, more in ((CARLA, {}), (CITYSCAPES, {"map_schema": "carla"}), (CITYSCAPES, {})):
        with pytest.raises(UnknownLabelError, match=r"ids: .*--label-channel red in place") as said:
            read(file_of(frame), schema, colours=True, **more)
        assert "--unknown" not in str(said.value)
    frame[..., 1:3] = 0, 200  # the numbers of CARLA's instance camera
    with pytest.raises(UnknownLabelError, match="--label-channel red in place"):
        read(file_of(frame), colours=True, map_schema="carla")
    with pytest.raises(UnknownLabelError, match=r"blue are unknown: .*--label-channel red"):
        read(file_of(frame), label_channel="blue", map_schema="carla")
    colours = CARLA.colourise(np.full((4, 8), 1, np.uint8))
    colours[0, 0] = 1, 159, 41  # one odd colour is one
    with pytest.raises(UnknownLabelError, match="--unknown unlabelled"):
        read(file_of(colours), colours=True, map_schema="carla")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_photograph_in_place_of_a_map(kind: str) -> None:
    photo = np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8)
    with pytest.raises(NotALabelMapError, match="a photograph in place of a") as said:
        read(file_of(photo, kind))
    assert "--colours" not in str(said.value)


def test_a_model_of_pictures_names_the_flags_that_it_does_not_take() -> None:
    with pytest.raises(InputError, match=r"takes pictures.*; leave label_channel out$"):
        MapReader(None, MapReading(label_channel="red"))
    with pytest.raises(InputError, match=r"; leave map_schema and unknown out$"):
        MapReader(None, MapReading(map_schema="carla"), unknown="unlabelled")


def test_instances_of_carla() -> None:
    tags = np.full((2, 4), 14, np.uint8)
    frame = carla_frame(tags)[..., :3]
    frame[:, 2:, 1] = 7  # a second car
    reading = MapReading(label_channel="red", map_schema="carla", boundaries="colours")
    reader = MapReader(CITYSCAPES, reading)
    label_map = reader.label_map(file_of(frame))
    instances = reader.edges(label_map, file_of(frame))
    assert instances is not None
    assert instances.dtype == np.int32
    assert instances[0].tolist() == [14 << 16, 14 << 16, (14 << 16) + (7 << 8), (14 << 16) + 1792]
    assert np.array_equal(instances, reader.instance_map(file_of(frame)))
    assert boundary_map(instances)[0].tolist() == [False, True, True, False]
    grey = file_of(np.array([[5, 6]], np.uint8))
    assert reader.instance_map(grey).tolist() == [[5, 6]]


# Isaac Replicator --------------------------------------------------------------------------------

IDS = {
    "0": {"class": "BACKGROUND"},
    "1": {"class": "UNLABELLED"},
    "2": {"class": "road"},
    "70000": {"class": "Car"},
}
COLOURS = {
    "(0, 0, 0, 0)": {"class": "BACKGROUND"},
    "(0, 0, 0, 255)": {"class": "UNLABELLED"},
    "(140, 255, 25, 255)": {"class": "road"},
    "(140, 25, 255, 255)": {"class": "Car"},
}
NAME = "semantic_segmentation_0012.png"
TABLE = "semantic_segmentation_labels_0012.json"


def write_frame(folder: Path, values: np.ndarray, table: Any) -> Path:
    path = folder / NAME
    path.write_bytes(file_of(values))
    (folder / TABLE).write_text(table if isinstance(table, str) else json.dumps(table))
    return path


def test_ids_and_colours_have_the_names_of_their_frame(tmp_path: Path) -> None:
    expected = [[0, 0, ROAD, CAR]]
    ids = np.array([[0, 1, 2, 70000]], np.int32)
    (tmp_path / TABLE).write_text(json.dumps(IDS))
    tiff = tmp_path / NAME
    tiff.write_bytes(file_of(ids, "TIFF"))  # of 32 bits, which PNG has not
    assert read(tiff, map_schema="replicator").tolist() == expected
    colours = [[json.loads(f"[{key[1:-1]}]") for key in COLOURS]]
    path = write_frame(tmp_path, np.array(colours, np.uint8), COLOURS)
    assert read(path, map_schema="replicator").tolist() == expected
    given = read(path.read_bytes(), map_schema="replicator", table=json.dumps(COLOURS).encode())
    assert given.tolist() == expected
    plain = {key: entry["class"] for key, entry in COLOURS.items()}
    assert (
        read(
            write_frame(tmp_path, np.array(colours, np.uint8), plain), map_schema="replicator"
        ).tolist()
        == expected
    )
    assert read(path, TRAINING, map_schema="replicator").tolist() == [[255, 255, 0, 13]]


def test_names_that_the_model_lacks_are_listed(tmp_path: Path) -> None:
    table = {**IDS, "3": {"class": "forklift"}}
    path = write_frame(tmp_path, np.array([[2, 3, 3]], np.uint8), table)
    with pytest.raises(
        UnknownLabelError,
        match=rf"{NAME}: 2 pixels of 'forklift', a name that cityscapes does not have\. To read",
    ):
        read(path, map_schema="replicator")
    found = read(path, map_schema="replicator", unknown="unlabelled")
    assert found.tolist() == [[ROAD, 0, 0]]


def test_a_table_of_another_frame_is_noticed(tmp_path: Path) -> None:
    path = write_frame(tmp_path, np.array([[2, 9]], np.uint8), IDS)
    with pytest.raises(UnknownLabelError, match="1 pixel of the id 9, which the map's table does"):
        read(path, map_schema="replicator", unknown="unlabelled")


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("{", "line 1"),
        ("[]", "not a table of Isaac Replicator"),
        ({}, "not a table of Isaac Replicator"),
        ({**IDS, **COLOURS}, "not a table of Isaac Replicator"),
        ({"2": {"a": "road", "b": "car"}}, "the entry '2' is no id or colour with the name"),
        ({"two": {"class": "road"}}, "the entry 'two'"),
        ({"(1, 2, 300)": {"class": "road"}}, r"the entry '\(1, 2, 300\)'"),
    ],
)
def test_a_table_that_is_none(tmp_path: Path, table: Any, reason: str) -> None:
    path = write_frame(tmp_path, np.array([[2]], np.uint8), table)
    with pytest.raises(InputError, match=rf"{TABLE}: .*{reason}"):
        read(path, map_schema="replicator")


def test_a_missing_table(tmp_path: Path) -> None:
    path = write_frame(tmp_path, np.array([[2]], np.uint8), IDS)
    (tmp_path / TABLE).unlink()
    with pytest.raises(InputError, match=rf"{TABLE}: cannot be read \(No such file"):
        read(path, map_schema="replicator")
    other = tmp_path / "a.png"
    other.write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"a\.png: no table of names beside it"):
        read(other, map_schema="replicator")


@pytest.mark.parametrize("below", ["", "Camera/semantic_segmentation/"])
def test_files_of_replicator_pair_up(below: str) -> None:
    instance_folder = below.replace("semantic", "instance")
    names = [
        f"{below}{NAME}",
        f"{below}{TABLE}",
        f"{instance_folder}instance_segmentation_0012.png",
        f"{instance_folder}instance_segmentation_mapping_0012.json",
        "rgb_0012.png",
        "normals_0012.png",
        "distance_to_camera_0012.npy",
        "instance_id_segmentation_0012.png",
    ]
    pairing = pair_names(
        names,
        [],
        together=True,
        training_ids=False,
        kind="labels",
        locate_label=str,
        locate_instance=str,
    )
    [pair] = pairing.pairs
    assert (pair.label, pair.instance) == (names[0], names[2])
    assert table_name(pair.label) == names[1]
    left_out = {one.name for one in (*pairing.labels_left_out, *pairing.instances_left_out)}
    assert left_out == set(names[3:])


# Settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"colours": True, "label_channel": "red"},
        {"map_schema": "replicator", "colours": True},
        {"map_schema": "replicator", "label_channel": "red"},
        {"label_channel": "grey"},
        {"boundaries": "none"},
    ],
)
def test_settings_that_exclude_each_other(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        MapReading(**settings)


def test_by_default_files_are_read_as_ever() -> None:
    label_map = np.arange(32, dtype=np.uint8).reshape(4, 8)
    data = file_of(label_map)
    reader = pickle.loads(pickle.dumps(MapReader(CITYSCAPES)))
    assert np.array_equal(reader.label_map(data), read_label_map(data, CITYSCAPES))
    assert np.array_equal(reader.instance_map(data), read_instance_map(data))
    assert reader.edges(label_map, data) is None
    assert MapReading().reading_words() == {}
    assert reader.describe() == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"label_channel": "red"}, "maps: ids of cityscapes in the channel red"),
        ({"colours": True}, "maps: colours of cityscapes"),
        (
            {"label_channel": "red", "map_schema": "carla"},
            "maps: ids in the channel red, labels of carla by name",
        ),
    ],
)
def test_the_summary_names_the_schema_of_the_maps(settings: dict[str, Any], words: str) -> None:
    assert MapReader(CITYSCAPES, MapReading(**settings)).describe() == [words]


def test_edges_of_labels_are_their_ids() -> None:
    reader = MapReader(TRAINING, MapReading(boundaries="labels"))
    edges = reader.edges(np.array([[3, 255, 0]], np.uint8), b"")
    assert edges is not None
    assert (edges.tolist(), edges.dtype) == ([[3, 255, 0]], np.int32)


def test_components_of_labels_are_instances() -> None:
    reader = MapReader(CITYSCAPES, MapReading(boundaries="components"))
    label_map = np.array([[26, 7, 26], [26, 7, 7], [7, 26, 7]], np.uint8)
    found = reader.edges(label_map, b"")
    assert found is not None
    # Pixels that touch at a corner are of one component, numbered by its first row.
    assert found.tolist() == [[26000, 7000, 26001], [26000, 7000, 7000], [7000, 26000, 7000]]
    assert CITYSCAPES.instance_classes(found).tolist() == label_map.tolist()
    words = "boundaries: connected components of its labels where a map has no instance map"
    assert reader.describe() == [words]


def test_more_components_than_a_class_has_numbers_share_the_last() -> None:
    reader = MapReader(CITYSCAPES, MapReading(boundaries="components"))
    label_map = np.full((3, 2050), 7, np.uint8)
    label_map[1, ::2] = 26  # 1,025 cars of one pixel
    found = reader.edges(label_map, b"")
    assert found is not None
    assert found[1, ::2].tolist() == [*range(26000, 27000), *[26999] * 25]
