"""`sceneloom train`: the configuration file as flags, what a run writes, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support import run_command
from training_runs import resolved, small, write_samples, write_toml

from sceneloom.cli import main
from sceneloom.errors import InputError
from sceneloom.photographs import read_picture
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.train_command import expand_arguments
from sceneloom_training.trainer import train

pytestmark = pytest.mark.usefixtures("one_thread")

DATA = '[data]\nlayout = "pix2pixhd"\nroot = "/no/such/folder"\n'


def config(folder: Path, text: str) -> str:
    path = folder / "run.toml"
    path.write_text(text)
    return str(path)


def call(*arguments: str | Path) -> int:
    """The command's exit code, here in this process."""
    try:
        return main(["train", *map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)


def test_a_file_is_flags_before_the_users_own(tmp_path: Path) -> None:
    text = """
    [data]
    layout = "streets"
    labels = ""
    [geometry]
    flip = false
    [compute]
    recompute = true
    [optimizer]
    learning_rate = 1e-5
    ema = 0
    """
    path = config(tmp_path, text)
    assert expand_arguments([path, "--optimizer.ema", "0.5"]) == [
        path,
        "--data.layout=streets",
        "--data.labels=",
        "--geometry.no-flip",
        "--compute.recompute",
        "--optimizer.learning-rate=1e-05",
        "--optimizer.ema=0",
        "--optimizer.ema",
        "0.5",
    ]


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("\ufeff[data]\r\nlayout = 'streets'\r\n", "utf-8")
    assert expand_arguments([str(path)]) == [str(path), "--data.layout=streets"]


def test_a_run_leaves_its_settings_its_log_and_pictures_for_tensorboard(
    samples: Path, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = small(
        samples,
        record={"held_out": 2, "log_every": 2, "picture_every": 3, "checkpoint_every": 4},
        schedule={"epochs": 1, "decay_epochs": 1},
    )
    toml = write_toml(tmp_path / "run.toml", settings)
    done = run_command(
        "train", toml, "--out", tmp_path / "run", "--generator.ngf", "3", "--geometry.no-flip"
    )
    assert (done.returncode, done.stdout) == (0, f"trained 8 steps: {tmp_path / 'run' / 'model'}\n")
    assert "perceptual loss off: loss.vgg names no weights file" in done.stderr
    assert "build the networks ..." in done.stderr
    assert "8/8" in done.stderr
    assert "images/s" in done.stderr

    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["settings"]["generator"]["ngf"] == 3  # the flag, not the file
    assert record["settings"]["geometry"]["flip"] is False
    assert record["settings"]["discriminator"]["ndf"] == 2  # the file, not the default
    assert record["settings"]["loss"]["feature_matching"] == 10.0  # the default
    assert (record["samples"], record["trained_on"], record["processes"]) == (6, 4, 1)
    assert record["perceptual_loss"] == "off: loss.vgg names no weights file"
    assert record["versions"]["torch"].startswith("2.")
    assert record["versions"].keys() >= {"python", "numpy", "pillow", "safetensors"}
    assert record["parameters"]["generator"] > 0

    bundle = load_checkpoint(tmp_path / "run" / "model")
    assert bundle.provenance == {**record, "steps": 8, "epochs": 2.0}
    assert bundle.contract is not None
    assert bundle.contract.schema.name == "cityscapes"

    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [entry for entry in log if "discriminator" in entry]
    assert [entry["step"] for entry in losses] == [2, 4, 6, 8]
    assert [entry["epoch"] for entry in losses] == [0.5, 1.0, 1.5, 2.0]
    assert [entry["learning_rate"] for entry in losses] == pytest.approx(
        [2e-4, 2e-4, 2e-4 * 0.75, 2e-4 * 0.25]
    )
    for entry in losses:
        assert entry.keys() >= {"generator_gan", "feature_matching", "images_per_second"}
        assert entry["images_per_second"] > 0
    judged = [entry for entry in log if "colour_error" in entry]
    assert [entry["step"] for entry in judged] == [0, 3, 6, 8]
    assert all(0 < entry["colour_error"] < 256 for entry in judged)

    board = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    for name in ("discriminator", "learning_rate", "images_per_second"):
        shown = [(event.step, event.value) for event in board.Scalars(name)]
        assert shown == [(e["step"], pytest.approx(e[name], rel=1e-6)) for e in losses]
    assert board.Tags()["images"] == ["4", "5"]  # the samples that are held out
    pictures = board.Images("5")
    assert [picture.step for picture in pictures] == [0, 3, 6, 8]
    assert (pictures[0].width, pictures[0].height) == (3 * 16, 16)  # input, picture, photograph
    strip = cv2.imread(str(tmp_path / "run" / "pictures" / "step-000000008-5.jpg"))
    assert strip.shape == (16, 3 * 16, 3)


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (DATA + "[generator]\nnfg = 4\n", 2, ["--generator.nfg", "--generator.ngf"]),
        (DATA + "[genrator]\nngf = 4\n", 2, ["--genrator.ngf", "--generator.ngf"]),
        (DATA + '[generator]\nngf = "many"\n', 2, ["--generator.ngf", "many"]),
        (DATA + "[generator]\nngf = 4.5\n", 2, ["--generator.ngf", "4.5"]),
        (DATA + "[generator]\nngf = true\n", 2, ["--generator.ngf"]),
        (DATA + "[geometry]\nflip = 1\n", 1, ["geometry.flip is 1", "true or false"]),
        (DATA + '[geometry]\nflip = "no"\n', 1, ["geometry.flip is 'no'", "run.toml"]),
        (DATA + '[generator]\nnetwork = "vgg"\n', 2, ["vgg", "pix2pixhd", "unet"]),
        (DATA + "[optimizer]\nbatch = 0\n", 1, ["optimizer.batch is 0", "at least 1"]),
        (DATA + "[optimizer]\nlearning_rate = nan\n", 1, ["optimizer.learning_rate is nan"]),
        ("[data]\nlayout = ['a']\n", 1, ["run.toml", "data.layout is ['a']"]),
        ("[data]\nroot = 1979-05-27\n", 1, ["run.toml", "data.root"]),
        ("[data.layout]\nname = 1\n", 1, ["run.toml", "data.layout"]),
        ('layout = "streets"\n', 1, ["run.toml", "layout is not in a table"]),
        ("[data\n", 1, ["run.toml", "not a TOML file"]),
        ("", 2, ["--data.layout"]),
        (DATA, 1, ["/no/such/folder"]),
    ],
)
def test_what_a_file_says_wrong_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    code: int,
    said: list[str],
) -> None:
    assert call(config(tmp_path, text), "--out", tmp_path / "run") == code
    captured = capsys.readouterr()
    shown = " ".join(words(captured.err))
    for part in said:
        assert part in shown, shown


def words(text: str) -> list[str]:
    """Words of a message that was broken into lines and framed."""
    return text.replace("│", " ").split()


def test_files_that_cannot_be_read_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for name, reason in (
        ("missing.toml", "No such file or directory"),
        ("binary.toml", "not a TOML file"),
        ("", "Is a directory"),
    ):
        assert call(tmp_path / name, "--out", tmp_path / "run") == 1
        said = capsys.readouterr().err
        assert str(tmp_path / name) in said
        assert reason in said


def test_flags_before_the_file_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--out", tmp_path / "run", config(tmp_path, DATA)) == 1
    assert "the configuration file comes before the flags" in capsys.readouterr().err


def test_help_names_the_sections(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    shown = capsys.readouterr().out
    for flag in ("--data.layout", "--generator.no-boundaries", "--record.held-out", "--out"):
        assert flag in shown


def fit(samples: Path, tmp_path: Path, **sections: Any) -> None:
    train(resolved(small(samples, **sections)), tmp_path / "run")


def test_pictures_of_different_sizes_in_one_batch_are_refused(tmp_path: Path) -> None:
    data = write_samples(tmp_path / "data", 4)
    for folder in ("label", "inst", "img"):
        path = data / f"train_{folder}" / "1.png"
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:16])
    own_size = {"mode": "none", "size": ""}
    for workers in (0, 1):
        with pytest.raises(InputError, match="one batch would hold pictures of 32x16 and 32x32"):
            fit(
                data,
                tmp_path,
                geometry=own_size,
                optimizer={"batch": 4},
                compute={"workers": workers},
            )
    fit(data, tmp_path, geometry=own_size, record={"checkpoint_every": 100})


def test_a_sample_that_cannot_be_read_is_named_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_samples(tmp_path / "data", 4)
    damaged = data / "train_label" / "2.png"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    toml = write_toml(tmp_path / "run.toml", small(data, record={"held_out": 1}))
    for workers in ("0", "1"):
        assert call(toml, "--out", tmp_path / workers, "--compute.workers", workers) == 1
        said = capsys.readouterr().err
        assert f"sceneloom train: {damaged}: truncated or damaged" in said
        assert "Traceback" not in said


def test_pictures_that_are_too_small_for_the_network_are_named(
    samples: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"comes out as 16x16.*need 32 pixels on each side"):
        fit(samples, tmp_path, generator={"global_downsamplings": 4})


def test_too_few_samples_are_counted(samples: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"6 samples, 3 of them held out, are too few for steps of 4"
    ):
        fit(samples, tmp_path, record={"held_out": 3}, optimizer={"batch": 2, "accumulate": 2})


@pytest.mark.slow
def test_pairs_of_pictures_train_a_model_that_is_exported(tmp_path: Path) -> None:
    data = write_samples(tmp_path / "data", 3, layout="paired")
    fit(
        data,
        tmp_path,
        data={"layout": "paired"},
        generator={"boundaries": False},
        schedule={"epochs": 1, "decay_epochs": 0},
        record={"held_out": 1, "picture_every": 1},
    )
    bundle = load_checkpoint(tmp_path / "run" / "model")
    assert (bundle.contract.kind, bundle.contract.boundaries) == ("picture", False)
    assert bundle.generator.architecture.input_channels == 3
    strip = cv2.imread(str(tmp_path / "run" / "pictures" / "step-000000002-2.jpg"))
    assert np.ptp(strip[:, :16].astype(int)) > 0

    from sceneloom_export.bundle import export_bundle
    from sceneloom_export.settings import ExportSettings

    own = ExportSettings(precision=("fp32",), maps=data / "train_A")
    model, repository = tmp_path / "run" / "model", tmp_path / "served"
    exported = export_bundle(model, repository, largest=(64, 128), export=own)
    assert exported.contract.kind == "picture"
    assert exported.own_maps is not None
    first = read_picture(data / "train_A" / "0.png")
    assert np.array_equal(exported.own_maps.requests[0].label_map, first)


def test_pairs_have_no_boundaries(tmp_path: Path) -> None:
    data = write_samples(tmp_path / "data", 2, layout="paired")
    with pytest.raises(InputError, match=r"--generator\.no-boundaries"):
        fit(data, tmp_path, data={"layout": "paired"})


def test_a_run_of_some_seconds_ends_with_a_checkpoint_and_trains_on(
    samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = small(samples, schedule={"epochs": 5000, "max_seconds": 1})
    toml, out = write_toml(tmp_path / "run.toml", settings), tmp_path / "run"
    ends = []
    for _ in range(2):
        assert call(toml, "--out", out) == 0
        said = capsys.readouterr().out
        assert "in the seconds given, saved; the same command trains on" in said
        ends.append(load_checkpoint(out / "model").provenance["steps"])
        assert f"trained {ends[-1]} of " in said
    assert 0 < ends[0] < ends[1]
