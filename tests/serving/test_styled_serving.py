"""Style through the whole path: training, clusters, graph, real tritonserver, client, render."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from map_sets import as_png
from support import COMMAND, blocky_maps, free_ports
from tritonclient.grpc import model_config_pb2

import sceneloom
from sceneloom import TritonSynthesizer
from sceneloom.cli import main
from sceneloom.contract import Contract
from sceneloom.errors import RequestRejectedError
from sceneloom.maps import boundary_map
from sceneloom.rendering.manifest import Manifest
from sceneloom.style import StyleFile, styles_by_cluster, styles_by_seed, write_styles
from sceneloom_export.bundle import Exported, export_bundle
from sceneloom_export.settings import ExportSettings
from sceneloom_serving.embedded import EmbeddedServer
from sceneloom_serving.parity import compare
from sceneloom_streets import draw_street
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.data import DataSettings, open_data_set
from sceneloom_training.torch_synthesizer import TorchSynthesizer

pytestmark = pytest.mark.triton

STREETS = {"layout": "streets", "streets-count": 16, "streets-size": "128x64"}
TRAINING = """
[geometry]
mode = "none"
[generator]
ngf = 8
global_downsamplings = 2
global_blocks = 2
[style]
features = 3
nef = 8
downsamplings = 2
[discriminator]
ndf = 8
scales = 1
[loss]
l1 = 50
[optimizer]
learning_rate = 2e-3
[schedule]
epochs = 4
decay_epochs = 4
[compute]
device = "cpu"
workers = 0
cache = 16
[record]
picture_every = 100000
[data]
"""
HEIGHT, WIDTH = 64, 128
ROAD, CAR = 7, 26


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on 16 streets for as many seconds, and its styles clustered."""
    folder = tmp_path_factory.mktemp("styled")
    said = [f"{key.replace('-', '_')} = {json.dumps(value)}" for key, value in STREETS.items()]
    (folder / "train.toml").write_text(TRAINING + "\n".join(said))
    assert main(["train", str(folder / "train.toml"), "--out", str(folder / "run")]) == 0
    flags = [x for key, value in STREETS.items() for x in (f"--{key}", str(value))]
    checkpoint = folder / "checkpoint"
    styles = ["styles", str(folder / "run" / "model"), "--out", str(checkpoint), "--clusters", "4"]
    assert main([*styles, *flags]) == 0
    return checkpoint


@pytest.fixture(scope="module")
def styled(bundle: Path) -> Exported:
    fp32 = ExportSettings(precision=("fp32",))
    return export_bundle(bundle, bundle.parent / "repository", largest=(96, 128), export=fp32)


@pytest.fixture(scope="module")
def url(styled: Exported) -> Iterator[str]:
    with EmbeddedServer(styled.repository, free_ports(), engine="openvino-fp32") as server:
        yield server.grpc


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[TritonSynthesizer]:
    with TritonSynthesizer(url) as client:
        yield client


@pytest.fixture(scope="module")
def reference(bundle: Path) -> TorchSynthesizer:
    loaded = load_checkpoint(bundle)
    assert loaded.contract is not None
    return TorchSynthesizer(loaded.generator, loaded.contract)


def test_clusters_are_in_the_graphs_and_in_the_configuration(
    styled: Exported, reference: TorchSynthesizer
) -> None:
    contract = reference.contract
    assert len(contract.style_clusters[CAR]) == 4
    folder = styled.repository / "synthesis"
    for name in ("model.onnx", "onnxruntime.onnx"):
        graph = onnx.load(folder / "1" / name, load_external_data=False)
        [text] = [entry.value for entry in graph.metadata_props if entry.key == "sceneloom"]
        assert Contract.loads(text) == contract
    config = model_config_pb2.ModelConfig()
    text_format.Parse((folder / "config.pbtxt").read_text(), config)
    served = Contract.loads(config.parameters["sceneloom"].string_value)
    assert dataclasses.replace(served, bundle_hash="") == contract
    assert served == styled.contract


def test_styled_pictures_are_those_of_pytorch(
    client: TritonSynthesizer, reference: TorchSynthesizer, styled: Exported
) -> None:
    assert client.contract == styled.contract
    maps = street_maps(93)
    drawn = (styles_by_seed(client.contract, *maps, seed=seed, of="all") for seed in (1, 2))
    tables = [None, *drawn]
    centres = np.array(client.contract.style_clusters[CAR])
    far = np.linalg.norm(centres - client.contract.style_defaults[CAR], axis=1).argmax()
    tables.append(styles_by_cluster(client.contract, *maps, {largest_car(*maps): int(far)}))
    pictures = [client.synthesize(*maps, table) for table in tables]
    for table, picture in zip(tables, pictures, strict=True):
        assert compare([reference.synthesize(*maps, table)], [picture]).max <= 1
    for other in pictures[1:]:
        assert compare([pictures[0]], [other]).max > 10
    assert compare([pictures[1]], [pictures[2]]).mean > 1


def test_equal_seeds_give_equal_bytes(client: TritonSynthesizer) -> None:
    maps = street_maps()
    first, again, other = (
        client.synthesize(
            *maps, styles_by_seed(client.contract, *maps, seed=seed, of="all")
        ).tobytes()
        for seed in (7, 7, 8)
    )
    assert first == again != other


def test_three_seeds_differ_where_there_is_style(
    client: TritonSynthesizer, reference: TorchSynthesizer
) -> None:
    maps = street_maps()
    tables = [styles_by_seed(client.contract, *maps, seed=seed, of="all") for seed in (1, 2, 3)]
    pictures = [client.synthesize(*maps, table) for table in tables]
    for table, picture in zip(tables, pictures, strict=True):
        assert compare([reference.synthesize(*maps, table)], [picture]).max <= 1
    several = [label for label, found in client.contract.style_clusters.items() if len(found) > 1]
    inside = np.isin(maps[0], several)
    assert inside.mean() > 0.5
    for one, other in itertools.combinations(pictures, 2):
        assert difference(one, other)[inside].mean() >= 8


def test_a_cars_style_changes_that_car(client: TritonSynthesizer) -> None:
    maps = street_maps()
    largest = largest_car(*maps)
    car = maps[1] == largest
    pictures = [
        client.synthesize(*maps, styles_by_cluster(client.contract, *maps, {largest: cluster}))
        for cluster in range(4)
    ]
    for one, other in itertools.combinations(pictures, 2):
        changed = difference(one, other)
        assert changed[car].mean() >= 3 * changed[~car].mean() > 0


def largest_car(label_map: np.ndarray, instance_map: np.ndarray) -> int:
    """Its instance id."""
    ids, sizes = np.unique(instance_map[label_map == CAR], return_counts=True)
    return int(ids[sizes.argmax()])


def street_maps(width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """Label and instance map of a street with a large car, which was not trained on."""
    street = draw_street(102, HEIGHT, width)
    return street.label_map, street.instance_map


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Absolute difference of two pictures in grey levels, mean of the colours, [H, W]."""
    return np.abs(one.astype(int) - other).mean(2)


def test_the_server_refuses_a_table_of_another_shape(client: TritonSynthesizer) -> None:
    label_map, instance_map = (x[None] for x in blocky_maps(32, 32, seed=0))
    with pytest.raises(RequestRejectedError):
        client.run_batch(label_map, instance_map, np.zeros((1, 255, 3), np.float32))
    with pytest.raises(RequestRejectedError):
        client.run_batch(label_map, instance_map, None)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_server_refuses_a_style_that_is_no_number(
    client: TritonSynthesizer, value: float
) -> None:
    label_map, instance_map = (x[None] for x in blocky_maps(32, 32, seed=0))
    shape = (1, 256, client.contract.style_channels)
    with pytest.raises(RequestRejectedError, match="not finite numbers"):
        client.run_batch(label_map, instance_map, np.full(shape, value, np.float32))


def test_render(url: str, tmp_path: Path) -> None:
    label_map, instance_map = street_maps()
    for name in ("a", "b"):
        for folder, values in (("test_label", label_map), ("test_inst", instance_map)):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{name}.png"), values.astype(np.uint16))
    write_styles(tmp_path / "style.json", StyleFile(labels={ROAD: (1.0, 1.0, 1.0)}))
    choices = {
        "seed": ["--style-seed", "1"],
        "again": ["--style-seed", "1"],
        "other": ["--style-seed", "2"],
        "all": ["--style-seed", "1", "--style-of", "all"],
        "dataset": ["--style-seed", "1", "--style-per", "dataset"],
        "file": ["--style-file", str(tmp_path / "style.json")],
        "default": [],
    }
    pictures = {}
    for name, flags in choices.items():
        out = tmp_path / name
        assert main(["render", str(tmp_path), str(out), "--url", url, *flags]) == 0
        pictures[name] = [(out / f"{key}.png").read_bytes() for key in "ab"]
    assert pictures["seed"] == pictures["again"]
    assert pictures["seed"] != pictures["other"]
    assert pictures["seed"] != pictures["all"]
    assert pictures["seed"][0] != pictures["seed"][1]
    for name in ("dataset", "file", "default"):
        assert pictures[name][0] == pictures[name][1]
    assert len({picture for both in pictures.values() for picture in both}) == 9


def write_maps(root: Path, maps: dict[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    """Maps in pix2pixHD's layout."""
    for name, pair in maps.items():
        for folder, values in zip(("test_label", "test_inst"), pair, strict=True):
            (root / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / folder / f"{name}.png"), values.astype(np.uint16))
    return root


def test_looks_are_the_pictures_of_their_seeds_in_every_container(url: str, tmp_path: Path) -> None:
    maps = write_maps(tmp_path / "maps", {"a": street_maps(), "b": street_maps(96)})
    looks = ["render", str(maps), "--url", url, "--looks", "3", "--style-seed", "4"]
    for name, flags in {"folder": ["--copy-labels"], "tar": ["--container", "tar"]}.items():
        out = str(tmp_path / name)
        assert main([*looks[:2], out, *looks[2:], *flags]) == 0
        with Manifest(tmp_path / name / "manifest.sqlite", to_read=True) as manifest:
            rows = {row.key: row for row in manifest.rows()}
        assert [json.loads(row.style)["seed"] for row in rows.values()] == [4, 5, 6, 4, 5, 6]
        hashes = {key: row.output_hash for key, row in rows.items()}
        if name == "folder":
            expected = hashes
            assert len(set(hashes.values())) == 6
        assert hashes == expected
    for look in range(3):
        out, seed = tmp_path / f"seed{look}", str(4 + look)
        assert main(["render", str(maps), str(out), "--url", url, "--style-seed", seed]) == 0
        for key in "ab":
            alone = (out / f"{key}.png").read_bytes()
            assert hashlib.sha256(alone).hexdigest() == expected[f"{key}_look{look}"]


def test_one_car_in_three_lines_and_by_one_command(
    client: TritonSynthesizer, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label_map, instance_map = street_maps()
    maps = write_maps(tmp_path / "maps", {"street": (label_map, instance_map)})
    label, instance = (str(maps / f"test_{kind}" / "street.png") for kind in ("label", "inst"))
    car = largest_car(label_map, instance_map)
    files = ["--map", label, "--instances", instance, "--style-seed", "7"]
    assert main(["styles", "show", "--url", url, *files]) == 0
    [line] = [x for x in capsys.readouterr().out.splitlines() if x.startswith(f"{car} ")]
    drawn = int(line.split()[7])
    other = str((drawn + 2) % 4)

    clusters = sceneloom.clusters_by_seed(client.contract, label_map, instance_map, 7, key="street")
    chosen = {**clusters, car: int(other)}
    style = sceneloom.styles_by_cluster(client.contract, label_map, instance_map, chosen)
    picture = client.synthesize(label_map, instance_map, style)

    assert clusters[car] == drawn
    command = ["render", label, "--instances", instance, "--url", url, "--style-seed", "7"]
    for name, more in {"drawn": [], "changed": ["--style-clusters", str(car), other]}.items():
        assert main([*command[:2], str(tmp_path / name), *command[2:], *more]) == 0
    before, after = (
        cv2.imread(str(tmp_path / name / "street.png"))[..., ::-1] for name in ("drawn", "changed")
    )
    assert np.array_equal(after, picture)
    changed = difference(before, after)
    inside = instance_map == car
    assert changed[inside].mean() >= 3 * changed[~inside].mean() > 0


@pytest.mark.slow
def test_a_simulators_frames_become_a_training_set_though_the_command_is_killed(
    url: str, tmp_path: Path
) -> None:
    """200 frames as CARLA's instance camera writes them, 4 looks: the same command until it ends,
    killed three times on the way.
    """
    frames, out = tmp_path / "frames", tmp_path / "set"
    (frames / "camera").mkdir(parents=True)
    rng = np.random.default_rng(0)
    tags = np.zeros(256, np.uint8)
    tags[[7, 23, CAR]] = 1, 11, 14  # road, sky, car
    maps = {}
    for number in range(200):
        label_map = np.full((32, 64), 7, np.uint8)
        label_map[:12] = 23
        instance_map = label_map.astype(np.int32)
        for index, left in enumerate(rng.integers(0, 48, 3)):
            label_map[14:24, left : left + 12] = CAR
            instance_map[14:24, left : left + 12] = 1000 * CAR + index
        maps[f"{number:06}"] = label_map, instance_map
        opaque = np.full((32, 64), 255)
        frame = [tags[label_map], instance_map % 256, instance_map // 256, opaque]
        picture = as_png(np.dstack(frame).astype(np.uint8))
        (frames / "camera" / f"{number:06}.png").write_bytes(picture)
    line = [*COMMAND, "render", str(frames), str(out), "--url", url, "--looks", "4"]
    line += ["--labels", "camera", "--label-channel", "red", "--map-schema", "carla"]
    line += ["--boundaries", "colours", "--copy-labels", "--format", "jpg", "--log", "none"]
    line += ["--in-flight", "2"]
    kills = 0
    for done in (150, 350, 550):
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            while process.poll() is None and sum(1 for _ in out.glob("train_img/*.jpg")) < done:
                time.sleep(0.01)
            kills += process.poll() is None
            process.kill()
    assert kills == 3
    ended = subprocess.run(line, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "of 800 pictures" in ended.stdout
    keys = sorted(f"{name}_look{look}" for name in maps for look in range(4))
    kinds = {"train_img": "jpg", "train_inst": "tif", "train_label": "png"}
    files = [path for path in out.rglob("*") if path.is_file() and "manifest" not in path.name]
    assert sorted(path.relative_to(out).as_posix() for path in files) == [
        f"{folder}/{key}.{ending}" for folder, ending in kinds.items() for key in keys
    ]
    with Manifest(out / "manifest.sqlite", to_read=True) as manifest:
        rows = list(manifest.rows())
    assert [row.key for row in rows] == keys
    assert {row.status for row in rows} == {"done"}
    assert [json.loads(row.style)["seed"] for row in rows] == [0, 1, 2, 3] * 200
    assert len({row.output_hash for row in rows}) > 400
    assert subprocess.run([*line, "--verify"], capture_output=True, check=False).returncode == 0
    data = open_data_set(DataSettings(layout="pix2pixhd", root=out, labels="cityscapes"))
    assert sorted(data.keys) == keys
    for number in (0, 401, 799):
        sample = data.read(number)
        label_map, instance_map = maps[data.keys[number].partition("_")[0]]
        assert np.array_equal(sample.label_map, label_map)
        assert np.array_equal(boundary_map(sample.instance_map), boundary_map(instance_map))
