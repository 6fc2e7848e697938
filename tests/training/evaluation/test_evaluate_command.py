"""`sceneloom evaluate` from end to end: the folder it leaves, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from support import CHECKOUT, wide_generator
from trees import write_paired

from sceneloom.cli import main
from sceneloom.contract import Contract
from sceneloom.files import file_hash
from sceneloom.schema import load_schema
from sceneloom_training.checkpoint import save_checkpoint
from sceneloom_training.evaluation.segmenter import build_network, save_segmenter
from sceneloom_training.networks import GeneratorArchitecture
from sceneloom_training.settings import SegmenterSettings

if TYPE_CHECKING:
    from sceneloom_serving.embedded import EmbeddedServer

SEGMENTER = CHECKOUT / "tests" / "colour_segmenter.py"
Run = tuple[int, str, str]


@pytest.fixture
def run(streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command on the streets: exit code, standard output and standard error."""

    def command(*flags: str | Path, out: Path = tmp_path / "out") -> Run:
        fixed = ["--out", str(out), "--segmenter", str(SEGMENTER), "--device", "cpu"]
        data = ["--data.layout", "pix2pixhd", "--data.root", str(streets), "--data.split", "test"]
        few = ["--bootstrap", "50"]
        code = main(["evaluate", *fixed, *data, *few, *map(str, flags)])
        return code, *capsys.readouterr()

    return command


def strict(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    report: dict[str, Any] = json.loads(path.read_text("utf-8"), parse_constant=refuse)
    return report


def test_broken_samples_are_left_out_by_the_flag(run: Any, streets: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    shutil.copytree(streets / "test_img", pictures)
    first, second, *_ = sorted((streets / "test_img").iterdir())
    kept = {path: path.read_bytes() for path in (first, streets / "test_label" / second.name)}
    try:
        first.write_bytes(kept[first][:-200])
        (streets / "test_label" / second.name).unlink()
        code, _, said = run("--pictures", pictures)
        assert code == 1
        code, _, said = run("--pictures", pictures, "--data.skip-broken")
        assert code == 0, said
        for path in (first, second):
            assert said.count(f"left out: {path.stem}, a broken sample (") == 1
        report = strict(tmp_path / "out" / "evaluation.json")
        assert report["data"]["samples_left_out"] == 2
    finally:
        for path, data in kept.items():
            path.write_bytes(data)


def test_photographs_as_pictures(run: Any, streets: Path, tmp_path: Path) -> None:
    code, output, _ = run("--pictures", streets / "test_img", "--rows", "2")
    assert code == 0
    out = tmp_path / "out"
    assert output.splitlines()[-1] == f"wrote {out}: open {out / 'index.html'}"
    names = {path.name for path in out.iterdir()}
    assert names == {"evaluation.json", "counts.npz", "sheet.png", "index.html"}
    report = strict(out / "evaluation.json")
    assert report["scores"]["pictures"] == report["scores"]["oracle"]
    assert report["scores"]["gap"]["mean_iou"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert report["segmenter"] == {
        "name": "nearest colour",
        "weights_sha256": "0" * 64,
        "schema": "cityscapes19",
    }
    assert report["data"] == {
        "layout": "pix2pixhd",
        "root": streets.name,
        "split": "test",
        "labels": "cityscapes",
        "pictures": 5,
    }
    assert report["source"] == {"kind": "folder", "name": "test_img"}
    assert report["rendered_sizes"] == ["128x64"]
    assert report["segmented_size"] == "128x64"
    assert report["bootstrap"] == {"draws": 50, "seed": 0, "level": 0.95}
    assert "ego vehicle" in report["classes_ignored"]
    assert sum(row["share"] for row in report["classes"]) == pytest.approx(1)
    absent = [row["name"] for row in report["classes"] if row["oracle"]["value"] is None]
    assert absent == report["classes_absent"]


def test_counts_are_kept(run: Any, streets: Path, tmp_path: Path) -> None:
    run("--pictures", streets / "test_img", "--limit", "5", "--rows", "0")
    assert not (tmp_path / "out" / "sheet.png").exists()
    with np.load(tmp_path / "out" / "counts.npz", allow_pickle=False) as counts:
        kinds = [f"{a}_{b}" for a in ("pictures", "oracle") for b in ("intersection", "predicted")]
        assert {*kinds, "pictures_true", "oracle_true", "keys", "classes"} == set(counts)
        assert counts["keys"].tolist() == [f"street_{seed:06d}" for seed in range(70, 75)]
        assert counts["classes"][0] == "road"
        assert counts["oracle_intersection"].shape == (5, 19)
        assert counts["oracle_intersection"].dtype == np.int64
        accuracy = counts["oracle_intersection"].sum() / counts["oracle_true"].sum()
    report = strict(tmp_path / "out" / "evaluation.json")
    assert report["scores"]["oracle"]["pixel_accuracy"]["value"] == pytest.approx(accuracy)


def test_the_page_is_whole_and_tells_nothing_of_this_machine(
    run: Any, streets: Path, tmp_path: Path
) -> None:
    run("--pictures", streets / "test_img", "--rows", "2")
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    report = (tmp_path / "out" / "evaluation.json").read_text("utf-8")
    for text in (page, report):
        for path in (tmp_path, streets, CHECKOUT):
            assert str(path) not in text
            assert str(path.parent) not in text
    assert 'src="data:image/jpeg;base64,' in page
    assert "http:" not in page
    assert "nearest colour" in page
    assert page.count('class="bar oracle"') == page.count('class="bar"') > 3
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.size == (8 + 5 * (128 + 8), 32 + 2 * (64 + 8))


def test_a_checkpoint(run: Any, checkpoint: Path, tmp_path: Path) -> None:
    code, output, _ = run("--checkpoint", checkpoint, "--limit", "2", "--size", "64x32")
    assert code == 0
    report = strict(tmp_path / "out" / "evaluation.json")
    assert report["source"] == {
        "kind": "checkpoint",
        "name": "bundle",
        "weights_sha256": file_hash(checkpoint / "model.safetensors"),
        "engine": "torch-fp32",
        "precision": "fp32",
        "style_seed": None,
        "style_of": None,
    }
    assert report["rendered_sizes"] == ["64x32"]
    assert report["scores"]["gap"]["pixel_accuracy"]["value"] < 0
    assert output.startswith("2 pictures: bundle\n")


@pytest.mark.parametrize("of", ["things", "all"])
def test_the_record_says_what_was_drawn_for(of: str, run: Any, tmp_path: Path) -> None:
    styled = CHECKOUT / "examples" / "street_demo" / "generator"
    flags = ("--limit", "1", "--size", "256x128", "--style-seed", "3", "--style-of", of)
    code, _, errors = run("--checkpoint", styled, *flags)
    assert code == 0, errors
    source = strict(tmp_path / "out" / "evaluation.json")["source"]
    assert (source["style_seed"], source["style_of"]) == (3, of)


def test_without_pictures_the_oracle_alone(run: Any, tmp_path: Path) -> None:
    code, output, _ = run("--limit", "2")
    assert code == 0
    assert "this is the oracle alone" in output
    report = strict(tmp_path / "out" / "evaluation.json")
    assert report["scores"]["pictures"] is report["scores"]["gap"] is None
    assert report["classes"][0]["pictures"] is None
    assert "oracle" in (tmp_path / "out" / "index.html").read_text()
    with np.load(tmp_path / "out" / "counts.npz") as counts:
        assert "pictures_true" not in counts


def test_fid_and_kid_are_reported_with_their_network(
    run: Any, streets: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    settings = {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    configuration = transformers.Dinov2Config(hidden_size=16, patch_size=14, **settings)
    transformers.Dinov2Model(configuration).save_pretrained(tmp_path / "dino")
    flags = ("--pictures", streets / "test_img", "--features", tmp_path / "dino")
    code, output, _ = run(*flags)
    assert code == 0
    report = strict(tmp_path / "out" / "evaluation.json")
    known = {
        "network": "dinov2 dino, class token at 28x28",
        "weights_sha256": file_hash(tmp_path / "dino" / "model.safetensors"),
        "features": 16,
        "pictures": 5,
    }
    assert report["fid"] == {"value": pytest.approx(0, abs=1e-4), **known}
    assert known.items() <= report["kid"].items()
    assert report["kid"]["subset_size"] == 5
    assert "by dinov2 dino" in output
    assert "biased upwards" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.triton
def test_a_server(run: Any, server: EmbeddedServer, checkpoint: Path, tmp_path: Path) -> None:
    code, _, errors = run("--url", server.grpc, "--limit", "3")
    assert code == 0, errors
    served = strict(tmp_path / "out" / "evaluation.json")
    assert served["source"]["kind"] == "url"
    assert len(served["source"]["bundle_hash"]) == 64
    assert served["source"]["engine"] == "openvino-fp32"
    assert served["source"]["precision"] == "fp32"
    run("--checkpoint", checkpoint, "--limit", "3", out=tmp_path / "here")
    here = strict(tmp_path / "here" / "evaluation.json")
    for field, score in served["scores"]["pictures"].items():
        # One grey level may lie between the engines, and a pixel's class change with it.
        assert score["value"] == pytest.approx(here["scores"]["pictures"][field]["value"], abs=0.01)


def test_an_evaluation_is_replaced_and_nothing_else(
    run: Any, streets: Path, tmp_path: Path
) -> None:
    assert run("--limit", "1")[0] == 0
    assert run("--limit", "2")[0] == 0
    assert strict(tmp_path / "out" / "evaluation.json")["data"]["pictures"] == 2
    (tmp_path / "out" / "notes.txt").touch()
    code, _, errors = run()
    assert code == 1
    assert "exists and is not an evaluation" in errors


def test_a_run_that_fails_leaves_nothing(run: Any, streets: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    shutil.copy(streets / "test_img" / "street_000070.png", tmp_path / "pictures")
    code, _, errors = run("--pictures", tmp_path / "pictures")
    assert code == 1
    assert errors.endswith(
        "holds no picture of street_000071, street_000072, street_000073, street_000074\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--pictures", "a", "--url", "b:1"), "--pictures and --url exclude each other"),
        (("--style-seed", "3"), "--style-seed needs a model to render with"),
        (("--pictures", "a", "--style-of", "all"), "style_of is all without a style_seed"),
        (("--rows", "-1"), "rows is -1"),
        (("--pictures", "nowhere"), "nowhere: no such folder"),
        (("--checkpoint", "nowhere"), "nowhere: not a checkpoint bundle"),
        (("--url", "127.0.0.1:1"), "127.0.0.1:1"),
        (("--features", "nowhere", "--pictures", "a"), "nowhere: not a DINOv2 folder"),
        (("--features", "nowhere"), "name the pictures with --pictures"),
    ],
)
def test_what_does_not_fit_is_refused(flags: tuple[str, ...], reason: str, run: Any) -> None:
    code, _, errors = run(*flags)
    assert code == 1
    assert reason in errors


def test_a_size_that_is_none(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("--size", "big")
    assert caught.value.code == 2
    assert "size is 'big'" in capsys.readouterr().err


def test_a_model_without_style_takes_no_seed(run: Any, checkpoint: Path) -> None:
    code, _, errors = run("--checkpoint", checkpoint, "--style-seed", "3")
    assert code == 1
    assert "takes no style" in errors


def test_a_model_without_instance_maps_takes_no_boundaries(run: Any, tmp_path: Path) -> None:
    schema = load_schema("cityscapes")
    architecture = GeneratorArchitecture(
        input_channels=schema.channels, ngf=2, global_downsamplings=1, global_blocks=0
    )
    contract = Contract(schema=schema, boundaries=False, size_multiple=2)
    save_checkpoint(tmp_path / "c", wide_generator(architecture, seed=0), contract, {})
    code, _, errors = run("--checkpoint", tmp_path / "c", "--data.boundaries", "labels")
    assert code == 1
    assert "boundaries is labels, and this model takes no instance maps" in errors


def test_a_paired_data_set(run: Any, tmp_path: Path) -> None:
    write_paired(tmp_path / "pairs", 16, 16)
    flags = ("--data.layout", "paired", "--data.root", tmp_path / "pairs", "--data.split", "train")
    code, _, errors = run(*flags)
    assert code == 1
    assert "a paired data set has no label maps" in errors


def test_names_need_not_be_utf8(run: Any, streets: Path, tmp_path: Path) -> None:
    pictures = tmp_path / os.fsdecode(b"p\xff")
    shutil.copytree(streets / "test_img", pictures)
    code, output, _ = run("--pictures", pictures, out=tmp_path / os.fsdecode(b"o\xff"))
    assert code == 0
    output.encode("utf-8")
    report = strict(tmp_path / os.fsdecode(b"o\xff") / "evaluation.json")
    assert report["source"]["name"] == r"p\xff"


def test_the_sheet_of_tall_pictures_fits_the_page(run: Any, tmp_path: Path) -> None:
    flags = ("--segment-size", "8x16384", "--rows", "5", "--batch", "1")
    assert run(*flags)[0] == 0
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.size == (8 + 3 * (1 + 8), 32 + 5 * (2048 + 8))


def test_a_network_that_does_not_take_the_size(run: Any, tmp_path: Path) -> None:
    schema = load_schema("cityscapes19")
    settings = SegmenterSettings(network="unet", width=8, size="128x64")
    network = build_network("unet", schema, width=8)
    save_segmenter(tmp_path / "judge", network, schema, settings, provenance={})
    code, _, error = run("--segmenter", tmp_path / "judge", "--segment-size", "8x8")
    assert code == 1
    assert "cannot segment pictures of 8x8, which --segment-size changes" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("1 / 0", "mine: cannot segment pictures of .*ZeroDivisionError: division by zero"),
        ("None", "mine: gave .*NoneType.* for 4 pictures; expected uint8 .4, 64, 128."),
        ("photos[..., 0] > 9", "mine: gave bool .4, 64, 128. for 4 pictures"),
        ("photos[:1, ..., 0]", "mine: gave uint8 .1, 64, 128. for 4 pictures"),
    ],
)
def test_a_segmenter_that_does_not_do_as_it_should(
    body: str, reason: str, run: Any, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from sceneloom.schema import load_schema\n"
        "from sceneloom_training.evaluation.segmenter import Segmenter\n"
        "class Mine(Segmenter):\n"
        "    schema, height, width = load_schema('cityscapes19'), 64, 128\n"
        "    name, weights_sha256 = 'mine', '0' * 64\n"
        f"    def segment(self, photos): return {body}\n"
        "def load_segmenter(device): return Mine()\n"
    )
    code, _, error = run("--segmenter", path)
    assert code == 1
    assert re.search(reason, error)
