"""Maps of one's own, to be proven and calibrated on: read, limited, and refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from support import blocky_maps, run_command

from sceneloom.cli import main
from sceneloom.contract import Contract
from sceneloom.errors import InputError, SizeError, UnknownLabelError
from sceneloom.files import describe
from sceneloom.map_reading import MapReader, MapReading
from sceneloom.schema import load_schema
from sceneloom_export.proof import CALIBRATION_MAPS, calibration_maps, read_own_maps

CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pairs in pix2pixHD's layout."""
    for name in ("test_label", "test_inst"):
        (tmp_path / "maps" / name).mkdir(parents=True)
    for i in range(3):
        write(tmp_path / "maps", f"city_{i}", *blocky_maps(64, 96, seed=i))
    return tmp_path / "maps"


def write(folder: Path, name: str, labels: np.ndarray, instances: np.ndarray) -> None:
    cv2.imwrite(str(folder / "test_label" / f"{name}_labelIds.png"), labels)
    image = instances.astype(np.uint16)
    cv2.imwrite(str(folder / "test_inst" / f"{name}_instanceIds.png"), image)


def test_first_maps_are_read_in_order(folder: Path) -> None:
    requests = read_own_maps(CONTRACT, folder, 2).requests
    assert len(requests) == 2
    for i, request in enumerate(requests):
        labels, instances = blocky_maps(64, 96, seed=i)
        assert np.array_equal(request.label_map, labels)
        assert request.instance_map is not None
        assert np.array_equal(request.instance_map, instances)
    assert len(read_own_maps(CONTRACT, folder, 8).requests) == 3


def test_what_is_left_out_is_told(folder: Path) -> None:
    """Cityscapes as published: label ids are taken, and the rest is named."""
    for path in sorted(folder.rglob("*.png")):
        path.rename(folder / path.name)
    for name in ("test_label", "test_inst"):
        (folder / name).rmdir()
    for i in range(3):
        cv2.imwrite(str(folder / f"city_{i}_color.png"), np.zeros((64, 96, 3), np.uint8))
        (folder / f"city_{i}_polygons.json").write_text("{}")
    found = read_own_maps(CONTRACT, folder, 2)
    assert (len(found.requests), found.found) == (2, 3)
    assert describe(found.left_out) == [
        "left out: 3 of a kind that is not read (maps/city_0_polygons.json, "
        "maps/city_1_polygons.json, maps/city_2_polygons.json)",
        "left out: 3 of another kind than _labelIds (maps/city_0_color.png, maps/city_1_color.png, "
        "maps/city_2_color.png)",
    ]


def test_unknown_ids_as_unlabelled(folder: Path) -> None:
    labels, instances = blocky_maps(64, 96, seed=0)
    labels[0, :7] = 255
    write(folder, "a", labels, instances)
    with pytest.raises(UnknownLabelError, match="--unknown unlabelled"):
        read_own_maps(CONTRACT, folder, 1)
    reader = MapReader(CONTRACT.schema, unknown="unlabelled")
    [request] = read_own_maps(CONTRACT, folder, 1, reader).requests
    assert not request.label_map[0, :7].any()


def test_colours_and_edges_of_label_maps(tmp_path: Path) -> None:
    labels, _ = blocky_maps(64, 96, seed=0)
    labels = np.array([7, 8, 11, 26], np.uint8)[labels % 4]
    colours = CONTRACT.schema.colourise(labels)
    cv2.imwrite(str(tmp_path / "a.png"), colours[..., ::-1])
    coloured = MapReading(colours=True, map_schema="cityscapes19")
    reading = dataclasses.replace(coloured, boundaries="labels")
    schema = CONTRACT.schema
    [request] = read_own_maps(CONTRACT, tmp_path, 1, MapReader(schema, reading)).requests
    assert request.instance_map is not None
    assert np.array_equal(schema.colourise(request.label_map), colours)
    assert np.array_equal(request.instance_map, request.label_map)
    with pytest.raises(InputError, match=r"a\.png: .* --boundaries labels"):
        read_own_maps(CONTRACT, tmp_path, 1, MapReader(schema, coloured))


def test_maps_side_by_side_and_models_without_instances(folder: Path) -> None:
    plain = Contract(schema=CONTRACT.schema, boundaries=False, size_multiple=8)
    found = read_own_maps(plain, folder / "test_label", 8).requests
    assert [request.instance_map for request in found] == [None] * 3


def test_int8_is_calibrated_on_ones_own_maps_or_on_drawn_ones(folder: Path) -> None:
    own = read_own_maps(CONTRACT, folder, 8).requests
    assert calibration_maps(CONTRACT, own) == own
    assert len(calibration_maps(CONTRACT, own * 4)) == CALIBRATION_MAPS
    drawn = calibration_maps(CONTRACT, [])
    assert len(drawn) == CALIBRATION_MAPS
    assert {request.label_map.shape for request in drawn} == {(256, 512)}
    assert len({request.label_map.tobytes() for request in drawn}) == CALIBRATION_MAPS
    fixed = dataclasses.replace(CONTRACT, sizes=((64, 96), (128, 64)))
    assert {request.label_map.shape for request in calibration_maps(fixed, [])} == {(128, 64)}


def test_real_maps(shared: Path) -> None:
    requests = read_own_maps(CONTRACT, shared / "data" / "cityscapes_sample", 2).requests
    assert [request.label_map.shape for request in requests] == [(1024, 2048)] * 2
    for request in requests:
        assert request.instance_map is not None
        assert request.instance_map.max() > 20_000
        assert len(np.unique(request.label_map)) > 5


def test_broken_maps_are_named(folder: Path) -> None:
    labels, instances = blocky_maps(64, 96, seed=0)
    write(folder, "a_odd", labels[:60], instances[:60])
    with pytest.raises(SizeError, match=r"a_odd_labelIds\.png: is no multiple of 8"):
        read_own_maps(CONTRACT, folder, 8)
    write(folder, "a_odd", labels, instances[:32])
    with pytest.raises(InputError, match=r"a_odd_labelIds\.png: the label map is 96x64 and the"):
        read_own_maps(CONTRACT, folder, 8)
    (folder / "test_inst" / "a_odd_instanceIds.png").unlink()
    with pytest.raises(InputError, match=r"a_odd_labelIds\.png: .* --boundaries labels"):
        read_own_maps(CONTRACT, folder, 8)
    labels[0, :7] = 99
    write(folder, "a_odd", labels, instances)
    with pytest.raises(UnknownLabelError, match=r"a_odd_labelIds\.png.*99 \(7 pixels\)"):
        read_own_maps(CONTRACT, folder, 8)
    (folder / "test_label" / "a_odd_labelIds.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"a_odd_labelIds\.png.*empty"):
        read_own_maps(CONTRACT, folder, 8)


def test_folder_that_is_not_there_or_empty_is_named(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="nothing: no such folder"):
        read_own_maps(CONTRACT, tmp_path / "nothing", 8)
    with pytest.raises(InputError, match="no label maps"):
        read_own_maps(CONTRACT, tmp_path, 8)
    target = tmp_path / "repository"
    export = ["export", str(checkpoint), "--repository", str(target)]
    assert main([*export, "--maps", str(tmp_path / "nothing")]) == 1
    errors = capsys.readouterr().err
    assert "nothing: no such folder" in errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_precision_that_there_is_not_is_refused_by_the_command(
    checkpoint: Path, tmp_path: Path
) -> None:
    export = ["export", checkpoint, "--repository", tmp_path / "repository", "--precision", "fp4"]
    done = run_command(*export)
    assert done.returncode == 2
    assert "fp4" in done.stderr + done.stdout
    assert list(tmp_path.iterdir()) == []
