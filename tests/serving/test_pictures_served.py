"""Published models of pictures and of grey pictures, from the file to files, by a real Triton."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from support import free_ports, make_once, run_command, save_published, wide_generator

from sceneloom import TritonSynthesizer, read_picture
from sceneloom.cli import main
from sceneloom.errors import RequestRejectedError
from sceneloom_bench.harness import ServedSettings
from sceneloom_bench.render_command import RenderBenchSettings
from sceneloom_bench.render_command import main as bench_render
from sceneloom_bench.reports.report import read_report
from sceneloom_serving.embedded import EmbeddedServer
from sceneloom_serving.parity import compare
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.networks import Generator, GeneratorArchitecture
from sceneloom_training.torch_synthesizer import TorchSynthesizer

pytestmark = pytest.mark.triton

ARCHITECTURE = GeneratorArchitecture(
    input_channels=3, ngf=4, global_downsamplings=2, global_blocks=1, enhancers=1, enhancer_blocks=1
)
GREY = GeneratorArchitecture(
    input_channels=4, output_channels=1, ngf=4, global_downsamplings=2, global_blocks=1
)
ENGINES = ("onnxruntime-fp32", "openvino-fp32")
Array = np.ndarray[Any, np.dtype[np.uint8]]


def make_model(folder: Path, architecture: GeneratorArchitecture) -> Path:
    """`latest_net_G.pth`, imported and exported by the commands of the documents."""
    published, repository = folder / "latest_net_G.pth", folder / "repository"
    save_published(wide_generator(architecture, seed=5), published)
    assert main(["import", str(published), "--pictures", "--out", str(folder / "bundle")]) == 0
    export = ["export", str(folder / "bundle"), "--repository", str(repository)]
    assert main([*export, "--largest", "128x64", "--precision", "fp32"]) == 0
    return folder


@pytest.fixture(scope="module")
def model(run_folder: Path) -> Path:
    return make_once(run_folder / "pictures", lambda folder: make_model(folder, ARCHITECTURE))


@pytest.fixture(scope="module")
def grey_model(run_folder: Path) -> Path:
    return make_once(run_folder / "grey", lambda folder: make_model(folder, GREY))


@pytest.fixture(scope="module", params=ENGINES)
def server(request: pytest.FixtureRequest, model: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(model / "repository", free_ports(), engine=request.param) as running:
        yield running


@pytest.fixture(scope="module")
def grey_server(grey_model: Path) -> Iterator[EmbeddedServer]:
    engine = "openvino-fp32"
    with EmbeddedServer(grey_model / "repository", free_ports(), engine=engine) as running:
        yield running


def write_photos(folder: Path) -> dict[str, Path]:
    """Photographs of three sizes and formats, one of which the network does not divide."""
    (folder / "night").mkdir(parents=True)
    found = {}
    for seed, (name, size) in enumerate(
        {"a.png": (64, 96), "night/b.jpg": (45, 70), "c.bmp": (64, 96)}.items()
    ):
        noise = np.random.default_rng(seed).integers(
            0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3)
        )
        smooth = cv2.resize(noise.astype(np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
        assert cv2.imwrite(str(folder / name), smooth)
        found[name.rpartition(".")[0]] = folder / name
    return found


def published_picture(generator: Generator, photo: Array) -> Array:
    """The published arithmetic: ToTensor, Normalize(0.5, 0.5), the network, tensor2im."""
    x = (torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.5
    with torch.inference_mode():
        image = generator(x)[0].permute(1, 2, 0).numpy()
    picture: Array = np.clip((image + 1) / 2 * 255.0, 0, 255).astype(np.uint8)
    return picture


def test_photographs_become_the_published_pictures(
    server: EmbeddedServer, model: Path, tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos")
    command = ["render", str(tmp_path / "photos"), str(tmp_path / "out"), "--url", server.grpc]
    assert main([*command, "--dry-run"]) == 0
    assert main(command) == 0
    loaded = load_checkpoint(model / "bundle")
    with TorchSynthesizer(loaded.generator, loaded.contract) as reference:
        for key, path in photos.items():
            picture = np.asarray(Image.open(tmp_path / "out" / f"{key}.png"))
            expected = reference.synthesize(read_picture(path))
            assert np.ptp(expected.astype(int)) > 50
            assert compare([expected], [picture]).max <= 1
    original = wide_generator(ARCHITECTURE, seed=5)
    picture = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert compare([published_picture(original, read_picture(photos["a"]))], [picture]).max <= 1
    assert main([*command, "--verify"]) == 0
    with sqlite3.connect(tmp_path / "out" / "manifest.sqlite") as manifest:
        rows = dict(manifest.execute("select key, engine from pictures").fetchall())
    assert rows == dict.fromkeys(photos, server.engine)


def test_a_broken_photograph_is_named_and_the_run_resumes(
    server: EmbeddedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photos(tmp_path / "photos")
    deep = tmp_path / "photos" / "deep.png"
    cv2.imwrite(str(deep), np.full((64, 96, 3), 40_000, np.uint16))
    command = ["render", str(tmp_path / "photos"), str(tmp_path / "out"), "--url", server.grpc]
    assert main(command) == 1
    assert f"{deep}: a 16-bit RGB PNG; photographs are 8-bit RGB" in capsys.readouterr().err
    cv2.imwrite(str(deep), np.full((64, 96, 3), 90, np.uint8))
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "3 " in said
    assert (tmp_path / "out" / "deep.png").is_file()


def test_the_probe_and_the_hashes_of_a_model_of_pictures(
    server: EmbeddedServer, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = str(model / "repository")
    assert main(["probe", repository, "--url", server.grpc]) == 0
    assert f"by {server.engine}" in capsys.readouterr().out
    assert main(["verify", repository]) == 0


def test_requests_of_other_shapes_are_refused(server: EmbeddedServer) -> None:
    with (
        TritonSynthesizer(server.grpc) as client,
        pytest.raises(RequestRejectedError, match="45x64"),
    ):
        client.run_batch(np.zeros((1, 64, 45, 3), np.uint8), None, None)


@pytest.mark.slow
def test_grey_pictures_of_photographs_with_instance_maps(
    grey_server: EmbeddedServer, grey_model: Path, tmp_path: Path
) -> None:
    """Infrared from photographs and boundaries: one channel, as RGB and as grey files."""
    data = tmp_path / "data"
    photos = write_photos(data / "test_A")
    reference = load_checkpoint(grey_model / "bundle")
    assert (reference.contract.grey, reference.contract.boundaries) == (True, True)
    instances = {}
    for seed, (key, path) in enumerate(photos.items()):
        height, width = read_picture(path).shape[:2]
        blocks = np.random.default_rng(seed).integers(0, 9, (height // 9 + 1, width // 9 + 1))
        instances[key] = np.kron(blocks, np.ones((9, 9), int))[:height, :width].astype(np.int32)
        file = data / "test_inst" / f"{key}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), instances[key].astype(np.uint16))
    command = ["render", str(data), "--url", grey_server.grpc]
    for out, flags in (("rgb", []), ("grey", ["--grey"])):
        assert main([*command[:2], str(tmp_path / out), *command[2:], *flags]) == 0
    with TorchSynthesizer(reference.generator, reference.contract) as torch_:
        for key, path in photos.items():
            expected = torch_.synthesize(read_picture(path), instances[key])
            assert np.ptp(expected.astype(int)) > 20
            rgb = np.asarray(Image.open(tmp_path / "rgb" / f"{key}.png"))
            assert compare([expected], [rgb]).max <= 1
            assert (rgb == rgb[..., :1]).all()
            with Image.open(tmp_path / "grey" / f"{key}.png") as file:
                assert file.mode == "L"
                assert np.array_equal(np.asarray(file), rgb[..., 0])


def test_a_benchmark_draws_photographs_and_instance_maps(
    grey_server: EmbeddedServer, tmp_path: Path
) -> None:
    settings = RenderBenchSettings(
        server=ServedSettings(url=grey_server.grpc), size="64x32", count=4, rounds=1
    )
    assert bench_render(out=tmp_path, settings=settings) == 0
    report = read_report(tmp_path / "render.json")
    assert [run["attempts"] for m in report.measurements for run in m.extra["runs"]] == [1, 1]
    assert (report.subject["height"], report.subject["width"]) == (32, 64)


def test_grey_files_are_refused_for_pictures_in_colour(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    write_photos(tmp_path / "photos")
    done = run_command(
        "render", tmp_path / "photos", tmp_path / "out", "--url", server.grpc, "--grey"
    )
    assert done.returncode == 1
    assert "this model's pictures have colours; leave --grey out" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_exported_contract_says_what_it_takes(model: Path, grey_model: Path) -> None:
    for folder, boundaries, grey in ((model, False, False), (grey_model, True, True)):
        report = json.loads((folder / "repository" / "report.json").read_text())["contract"]
        assert report["kind"] == "picture"
        assert "schema" not in report
        assert (report["boundaries"], report.get("grey", False)) == (boundaries, grey)
        assert not list((folder / "repository").glob("synthesis_*"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--labels, or say --pictures"),
        (["--pictures", "--labels", "cityscapes"], "choose one of --labels and --pictures"),
    ],
)
def test_a_published_model_needs_to_be_told_what_it_takes(
    model: Path, tmp_path: Path, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["import", str(model / "latest_net_G.pth"), "--out", str(tmp_path / "bundle")]
    assert main([*command, *flags]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()
