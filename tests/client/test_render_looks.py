"""Several looks of one map, clusters by instance, one map alone, and maps copied for training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from map_sets import WRITERS, as_png, small_maps, write_folder
from rendering_fakes import pictures_below

from sceneloom import rendering
from sceneloom.cli import main
from sceneloom.contract import Contract
from sceneloom.errors import InputError
from sceneloom.maps import read_instance_map, read_label_map
from sceneloom.rendering.manifest import Manifest, Row
from sceneloom.rendering.settings import RenderSettings
from sceneloom.schema import load_schema
from sceneloom.style import clusters_by_seed, styles_by_cluster, styles_by_seed
from sceneloom.testing import FakeTransport
from sceneloom.triton.client import TritonSynthesizer
from sceneloom_training.data import DataSettings, open_data_set

if TYPE_CHECKING:
    from conftest import Start
    from fake_triton import Running

CITYSCAPES = load_schema("cityscapes")
STYLED = Contract(
    schema=CITYSCAPES,
    boundaries=True,
    style_channels=2,
    style_defaults={26: (0.5, -0.5)},
    style_clusters={26: tuple((i / 8, -i / 8) for i in range(10))},
    size_multiple=8,
)
PLAIN = Contract(schema=CITYSCAPES, boundaries=True, size_multiple=8)


def cars() -> tuple[np.ndarray, np.ndarray]:
    """Twelve cars, 26000 to 26011, and nothing else."""
    instance_map = np.kron(26000 + np.arange(12).reshape(3, 4), np.ones((8, 8), int))
    return np.full(instance_map.shape, 26, np.uint8), instance_map.astype(np.uint16)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Equal maps under the names a and sub/b."""
    pair = tuple(as_png(values) for values in cars())
    return Path(write_folder(tmp_path / "data", {"a": pair, "sub/b": pair}))  # type: ignore[dict-item]


def render(server: Running, *arguments: object) -> int:
    """The exit code of `sceneloom render`, one request after the other."""
    line = ["--url", server.url, "--in-flight", "1", "--workers", "1", "--look-ahead", "1"]
    try:
        return main(["render", *map(str, arguments), *line])
    except SystemExit as error:
        return int(str(error.code))


def rows_of(folder: Path) -> dict[str, Row]:
    with Manifest(folder / "manifest.sqlite", to_read=True) as manifest:
        return {row.key: row for row in manifest.rows()}


def tables(server: Running) -> list[np.ndarray]:
    """The style tables that reached the server, of the twelve cars."""
    return [request["style"][0, :12] for request in server.transport.requests]


# Looks -------------------------------------------------------------------------------------------


def test_look_k_is_the_picture_of_the_seed_plus_k(
    data: Path, start_server: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    server, out = start_server(STYLED), data / "out"
    assert render(server, data, out, "--looks", 3, "--style-seed", 5) == 0
    assert capsys.readouterr().out.startswith("rendered 6 of 6 pictures in ")
    keys = [f"{key}_look{look}" for key in ("a", "sub/b") for look in range(3)]
    assert pictures_below(out) == [f"{key}.png" for key in keys]
    expected = [
        styles_by_seed(STYLED, *cars(), 5 + look, key=key)
        for key in ("a", "sub/b")
        for look in range(3)
    ]
    assert np.array_equal(tables(server), expected)
    rows = rows_of(out)
    assert list(rows) == keys
    style = {"seed": 7, "of": "things", "per": "map", "look": 2}
    assert json.loads(rows["sub/b_look2"].style) == style


def test_more_looks_keep_those_that_exist(data: Path, start_server: Start) -> None:
    server, out = start_server(STYLED), data / "out"
    for looks, made in ((2, 4), (2, 0), (4, 4), (1, 2)):
        server.transport.requests.clear()
        assert render(server, data, out, "--looks", looks, "--style-seed", 0) == 0
        assert len(server.transport.requests) == made
    assert len(rows_of(out)) == 10
    assert render(server, data, out, "--looks", 4, "--verify") == 0


def test_looks_begin_with_seed_0_and_may_be_alike_in_every_map(
    data: Path, start_server: Start
) -> None:
    server = start_server(STYLED)
    assert render(server, data, data / "out", "--looks", 2, "--style-per", "dataset") == 0
    expected = [styles_by_seed(STYLED, *cars(), look) for look in (0, 1)]
    assert np.array_equal(tables(server), expected * 2)


@pytest.mark.parametrize("container", ["tar", "parquet"])
def test_looks_in_shards(data: Path, start_server: Start, container: str) -> None:
    server, out = start_server(STYLED), data / "out"
    flags = ["--looks", 3, "--container", container]
    assert render(server, data, out, *flags, "--shards.pictures", 4) == 0
    assert render(server, data, out, *flags) == 0
    assert len(server.transport.requests) == 6
    assert render(server, data, out, *flags, "--verify") == 0
    outputs = {row.output for row in rows_of(out).values()}
    assert len(outputs) == 6
    assert all(".tar#" in output or ".parquet#" in output for output in outputs)


@pytest.mark.parametrize("form", WRITERS)
def test_a_shard_has_all_looks_of_its_maps(tmp_path: Path, start_server: Start, form: str) -> None:
    maps = WRITERS[form](tmp_path / "maps", small_maps(6))
    for part in (0, 1):
        assert render(
            start_server(STYLED), maps, tmp_path / "out", "--looks", 2, "--shard", f"{part}/2"
        ) == 0  # fmt: skip
    pictures = [name for name in pictures_below(tmp_path / "out") if name.endswith(".png")]
    assert pictures == sorted(f"{key}_look{n}.png" for key in small_maps(6) for n in (0, 1))


def test_a_dry_run_looks_at_each_map_once(
    data: Path, start_server: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "test_label" / "a.png").write_bytes(b"")
    assert render(start_server(STYLED), data, data / "out", "--looks", 4, "--dry-run") == 1
    out, err = capsys.readouterr()
    assert out.startswith("2 maps, of which 1 can be rendered, each in 4 looks\n")
    assert err.count("failed: ") == 1
    assert not (data / "out").exists()


def test_a_video_for_each_look(data: Path, start_server: Start) -> None:
    flags = ["--looks", 2, "--style-per", "dataset", "--video", data / "cars.mp4"]
    assert render(start_server(STYLED), data, data / "out", *flags) == 0
    import av

    for look in (0, 1):
        with av.open(str(data / f"cars_look{look}.mp4")) as container:
            assert sum(1 for _ in container.decode(video=0)) == 2
    assert not (data / "cars.mp4").exists()


@pytest.mark.parametrize(
    ("contract", "flags", "reason"),
    [
        (PLAIN, ["--looks", "2"], "all 2 looks would be equal: this model takes no style"),
        (
            dataclasses.replace(STYLED, style_clusters={}),
            ["--looks", "2"],
            "all 2 looks would be equal: this model has no style clusters",
        ),
        (STYLED, ["--looks", "2", "--style-file", "a.json"], "every look the same style"),
        (STYLED, ["--looks", "0"], "looks is 0; it is at least 1"),
        (STYLED, ["--style-clusters", "1", "0", "--style-file", "a.json"], "style_file excludes"),
        (PLAIN, ["--style-clusters", "26001", "0"], "takes no style"),
        (STYLED, ["--style-clusters", "26001"], "26001 is no list of pairs"),
        (STYLED, ["--style-clusters", "car", "3"], "car 3 is no list of pairs"),
        (STYLED, ["--style-clusters", "7", "3", "7", "2"], "an instance has two clusters"),
        (STYLED, ["--copy-labels", "--container", "tar"], "container is tar"),
    ],
)
def test_choices_that_make_no_sense(
    data: Path,
    start_server: Start,
    contract: Contract,
    flags: list[str],
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = start_server(contract)
    assert render(server, data, data / "out", *flags) in (1, 2)
    assert reason in " ".join(capsys.readouterr().err.split())
    assert server.transport.requests == []
    assert not (data / "out").exists()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--looks", 4], "all 4 looks would be equal: no map has an instance to draw a style for"),
        (["--style-seed", 4], "the seed changes nothing: no map has an instance to draw a style"),
    ],
)
def test_looks_of_maps_without_things(
    data: Path,
    start_server: Start,
    flags: list[object],
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The labels' edges are instances of label ids, which are no things."""
    for path in (data / "test_inst").rglob("*.png"):
        path.unlink()
    server, out = start_server(STYLED), data / "out"
    for more in ([], ["--dry-run"]):
        assert render(server, data, out, "--boundaries", "labels", *flags, *more) == 1
        error = capsys.readouterr().err
        assert reason in error
        assert "--style-of all" in error
    assert not out.exists()
    command = [data, out, "--boundaries", "labels", *flags, "--style-of", "all"]
    assert render(server, *command) == 0
    server.transport.requests.clear()
    assert cv2.imwrite(str(data / "test_inst" / "a.png"), cars()[1])  # one map has things
    assert render(server, data, out, "--boundaries", "labels", *flags) == 0
    assert server.transport.requests


def test_a_seed_may_meet_a_map_without_things(data: Path, start_server: Start) -> None:
    for name in ("a", "sub/b"):
        assert cv2.imwrite(str(data / "test_inst" / f"{name}.png"), cars()[0])
    assert render(start_server(STYLED), data, data / "out", "--style-seed", 7) == 0


# One instance, one map ---------------------------------------------------------------------------


def test_one_car_of_one_map_by_one_command(data: Path, start_server: Start) -> None:
    server, out = start_server(STYLED), data / "out"
    label, instance = data / "test_label" / "a.png", data / "test_inst" / "a.png"
    flags = ["--instances", instance, "--style-seed", 7]
    assert render(server, label, out, *flags, "--style-clusters", 26003, 9) == 0
    assert pictures_below(out) == ["a.png"]
    drawn = clusters_by_seed(STYLED, *cars(), 7, key="a")
    changed = styles_by_cluster(STYLED, *cars(), {**drawn, 26003: 9})
    assert np.array_equal(tables(server), [changed])
    assert json.loads(rows_of(out)["a"].style)["clusters"] == {"26003": 9}
    # Another cluster is another picture, the same one is not made again.
    assert render(server, label, out, *flags, "--style-clusters", 26003, 9) == 0
    assert render(server, label, out, *flags, "--style-clusters", 26003, 8, 26004, 0) == 0
    assert render(server, label, out, *flags) == 0
    assert np.array_equal(
        tables(server)[1:],
        [
            styles_by_cluster(STYLED, *cars(), {**drawn, 26003: 8, 26004: 0}),
            styles_by_seed(STYLED, *cars(), 7, key="a"),
        ],
    )


def test_one_map_of_a_model_without_instances(data: Path, start_server: Start) -> None:
    server = start_server(dataclasses.replace(PLAIN, boundaries=False))
    assert render(server, data / "test_label" / "sub" / "b.png", data / "out") == 0
    assert pictures_below(data / "out") == ["b.png"]


def test_without_a_seed_the_other_instances_have_their_default(
    data: Path, start_server: Start
) -> None:
    server = start_server(STYLED)
    assert render(server, data, data / "out", "--style-clusters", 26003, 9) == 0
    expected = styles_by_cluster(STYLED, *cars(), {26003: 9})
    assert np.array_equal(tables(server), [expected, expected])


@pytest.mark.parametrize(
    ("clusters", "reason"),
    [
        ([26003, 10], "instance 26003: no cluster 10; its class, car, has clusters 0 to 9"),
        ([26099, 1], "no map has the instances 26099; the nearest to 26099 are 26011, 26010"),
    ],
)
def test_clusters_that_do_not_fit(
    data: Path,
    start_server: Start,
    clusters: list[int],
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for more in ([], ["--dry-run"], []):  # and again, when pictures may exist
        command = [data, data / "out", "--style-clusters", *clusters, *more]
        assert render(start_server(STYLED), *command) == 1
        assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["test_label/a.png", "out"], "test_label/a.png: name its instance map's file with --inst"),
        (["test_label/c.png", "out", "--instances", "test_inst/a.png"], "c.png: no such file"),
        (["test_label/a.png", "out", "--instances", "nowhere.png"], "nowhere.png: no such file"),
        (["test_label/a.png", "out", "--instances", "notes.txt"], "notes.txt: not a map's file"),
        (["test_label/a.png", "out", "--labels", "a"], "is a label map itself"),
        (["test_label/a.png", "test_label", "--instances", "test_inst/a.png"], "holds maps"),
    ],
)
def test_one_map_that_cannot_be_rendered(
    data: Path,
    start_server: Start,
    arguments: list[str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(data)
    before = sorted(data.rglob("*"))
    assert render(start_server(STYLED), *arguments) == 1
    assert reason in capsys.readouterr().err
    assert sorted(data.rglob("*")) == before


# Copies for training -----------------------------------------------------------------------------


def training_set(root: Path) -> Any:
    return open_data_set(DataSettings(layout="pix2pixhd", root=root, labels="cityscapes"))


@pytest.mark.parametrize("form", WRITERS)
def test_the_output_is_a_data_set_for_training(
    tmp_path: Path, start_server: Start, form: str
) -> None:
    maps, out = small_maps(6), tmp_path / "out"
    place = WRITERS[form](tmp_path / "maps", maps)
    flags = ["--looks", 2, "--copy-labels", "--format", "jpg"]
    assert render(start_server(STYLED), place, out, *flags) == 0
    found = training_set(out)
    assert sorted(found.keys) == sorted(f"{key}_look{n}" for key in maps for n in (0, 1))
    assert found.left_out == ()
    for number, key in enumerate(found.keys):
        label, instance = maps[key.rpartition("_look")[0]]
        sample = found.read(number)
        assert np.array_equal(sample.label_map, read_label_map(label, CITYSCAPES))
        assert np.array_equal(sample.instance_map, read_instance_map(instance))
        assert sample.photo.shape == (*sample.label_map.shape, 3)


def test_large_ids_and_models_without_instances(tmp_path: Path, start_server: Start) -> None:
    label_map, _ = cars()
    instance_map = np.arange(label_map.size, dtype=np.int32).reshape(label_map.shape) * 1000
    maps = tmp_path / "maps"
    for folder in ("test_label", "test_inst"):
        (maps / folder).mkdir(parents=True)
    cv2.imwrite(str(maps / "test_label" / "a.png"), label_map)
    np.save(maps / "test_inst" / "a.npy", instance_map)
    assert render(start_server(PLAIN), maps, tmp_path / "out", "--copy-labels") == 0
    assert np.array_equal(training_set(tmp_path / "out").read(0).instance_map, instance_map)
    without = dataclasses.replace(PLAIN, boundaries=False)
    for _ in range(2):
        server = start_server(without)
        assert render(server, maps, tmp_path / "labels", "--copy-labels") == 0
    assert server.transport.requests == []
    assert pictures_below(tmp_path / "labels") == ["train_img/a.png", "train_label/a.png"]


def test_a_lost_copy_is_found_and_made_again(
    data: Path, start_server: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    server, out = start_server(STYLED), data / "out"
    command = [data, out, "--copy-labels"]
    assert render(server, *command) == 0
    (out / "train_label" / "a.png").unlink()
    (out / "train_inst" / "sub" / "b.png").unlink()
    assert render(server, *command, "--verify") == 1
    assert "train_img/a.png: is not there with its maps" in capsys.readouterr().err
    assert render(server, *command) == 0
    assert len(server.transport.requests) == 4
    assert render(server, *command, "--verify") == 0
    assert len(training_set(out)) == 2


def test_pictures_without_copies_are_made_again_with_them(data: Path, start_server: Start) -> None:
    server, out = start_server(STYLED), data / "out"
    assert render(server, data, out) == 0
    assert render(server, data, out, "--copy-labels") == 0
    assert len(server.transport.requests) == 4
    assert len(training_set(out)) == 2


def test_copies_need_a_folder(data: Path) -> None:
    with (
        TritonSynthesizer("fake", transport=FakeTransport(STYLED)) as synthesizer,
        pytest.raises(InputError, match="copy_labels writes maps beside the pictures"),
    ):
        rendering.render(synthesizer, data, settings=RenderSettings(copy_labels=True))


def test_copies_never_replace_the_maps_they_are_of(
    data: Path, start_server: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, folder in (("test_label", "train_label"), ("test_inst", "train_inst")):
        (data / name).rename(data / folder)
    before = sorted(data.rglob("*"))
    flags = ["--labels", "train_label", "--instances", "train_inst", "--copy-labels"]
    assert render(start_server(STYLED), data, data, *flags) == 1
    assert "train_label: holds maps" in capsys.readouterr().err
    assert sorted(data.rglob("*")) == before


def test_copies_of_an_object_store(data: Path, start_server: Start, tmp_path: Path) -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.store.clear()
    server = start_server(STYLED)
    for _ in range(2):
        flags = ["--copy-labels", "--manifest", tmp_path / "m.sqlite"]
        assert render(server, data, "memory://bucket/out", *flags) == 0
    assert len(server.transport.requests) == 2
    assert sorted(name.removeprefix("/bucket/out/") for name in fs.store) == sorted(
        f"{folder}/{key}.png"
        for folder in ("train_img", "train_inst", "train_label")
        for key in ("a", "sub/b")
    )
    fs.store.clear()
