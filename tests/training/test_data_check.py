"""What a data set's faults cost: told before the training, and left out by a flag."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from training_runs import (
    SIZE,
    differences,
    newest_state,
    resolved,
    small,
    steps_logged,
    write_samples,
    write_toml,
)

from sceneloom.cli import main
from sceneloom.errors import InputError
from sceneloom.schema import load_schema
from sceneloom_training.checkpoint import load_checkpoint
from sceneloom_training.trainer import train

pytestmark = pytest.mark.usefixtures("one_thread")

ORIENTATION = 0x0112


def check(
    folder: Path, samples: Path, capsys: pytest.CaptureFixture[str], **sections: Any
) -> tuple[int, str]:
    toml = write_toml(folder / "run.toml", small(samples, **sections))
    code = main(["check-data", str(toml)])
    return code, capsys.readouterr().out


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def save(path: Path, values: np.ndarray, **options: Any) -> None:
    Image.fromarray(values).save(path, **options)


def test_good_data_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = write_samples(tmp_path / "samples", 3)
    for index in range(3):
        label_map = np.full(SIZE, 7, np.uint8)
        label_map[:8] = 26 if index else 7
        save(samples / "train_label" / f"{index}.png", label_map)
        instance_map = label_map.astype(np.uint16)
        instance_map[:8, :4] = 26_001
        save(samples / "train_inst" / f"{index}.png", instance_map)
    code, printed = check(tmp_path, samples, capsys)
    assert code == 0
    assert "3 samples: 32x32 (3), width x height (samples)" in printed
    assert "in training: 16x16 (3)" in printed
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line}
    assert rows["road"] == ["2,560", "83.3333", "3"]
    assert rows["car"] == ["512", "16.6667", "2"]
    assert "never: unlabeled, ego vehicle" in printed
    assert "8 instances, 2 to 3 in a sample" in printed
    assert printed.endswith("nothing is wrong\n")


def test_everything_wrong_is_listed_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = write_samples(tmp_path / "samples", 9)
    images, labels, instances = (samples / f"train_{kind}" for kind in ("img", "label", "inst"))
    cut_short(images / "0.png")
    ids = np.full(SIZE, 7, np.uint8)
    for index, value in ((0, 200), (1, 201)):  # the first sample has two faults
        ids[:2] = value
        save(labels / f"{index}.png", ids)
    save(instances / "2.png", np.zeros((16, 32), np.uint8))
    (labels / "3.png").unlink()
    save(images / "extra.png", np.zeros((*SIZE, 3), np.uint8))
    for kind in ("img", "label", "inst"):
        shape = (8, 8, 3) if kind == "img" else (8, 8)
        save(samples / f"train_{kind}" / "4.png", np.full(shape, 7, np.uint8))
    note = Image.Exif()
    note[ORIENTATION] = 6
    save(images / "5.png", np.zeros((*SIZE, 3), np.uint8), exif=note)
    toml = write_toml(tmp_path / "run.toml", small(samples, optimizer={"batch": 9}))
    assert main(["check-data", str(toml)]) == 1
    printed = capsys.readouterr().out
    wrong = [line for line in printed.splitlines() if line.startswith("wrong: ")]
    for words in (
        "train_img/0.png: truncated or damaged",
        "train_label/0.png: unknown label",
        "train_label/1.png: unknown label",
        "train_inst/2.png is 32x16;",
        "train_img/3.png: has no partner; expected a file of 3 in",
        "train_img/extra.png: has no partner; expected a file of extra in",
        "4: a sample is 8x8 where the window of 16x16 is cut from it",
        "8 samples, 0 of them held out, are too few for steps of 9",
    ):
        assert [line for line in wrong if words in line], words
    assert len(wrong) == 8
    assert "ids outside the schema, in all: 200 (64 pixels), 201 (64 pixels)" in printed
    assert "1 photograph has an EXIF orientation other than 1 (5.png)" in printed
    assert "10 samples, 5 of them whole: 32x32 (4), 8x8 (1), width x height" in printed
    out = tmp_path / "run"
    assert main(["train", str(toml), "--out", str(out), "--check"]) == 1
    assert capsys.readouterr().out == printed
    assert not out.exists()


def test_settings_that_the_data_do_not_fit_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = write_samples(tmp_path / "samples", 2)
    for kind, shape in (("img", (48, 32, 3)), ("label", (48, 32))):
        save(samples / f"train_{kind}" / "1.png", np.full(shape, 7, np.uint8))
    for path in (samples / "train_inst").iterdir():
        path.unlink()
    (samples / "train_inst").rmdir()
    whole = {"geometry": {"mode": "none", "size": ""}, "optimizer": {"batch": 2}}
    code, printed = check(tmp_path, samples, capsys, **whole)
    assert code == 1
    assert "wrong: generator.boundaries needs instance maps, and the data has none" in printed
    assert "wrong: one batch would hold pictures of 32x32 (1), 32x48 (1)" in printed
    assert "no instance maps" in printed


def run(samples: Path, out: Path, **sections: Any) -> None:
    train(resolved(small(samples, **sections)), out)


def broken_samples(root: Path) -> Path:
    """Eight samples: 5 and 6 have a whole header and a fault."""
    samples = write_samples(root, 8)
    cut_short(samples / "train_img" / "5.png")
    save(samples / "train_label" / "6.png", np.full(SIZE, 200, np.uint8))
    return samples


def test_a_broken_sample_is_named_once_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = broken_samples(tmp_path / "samples")
    (samples / "train_label" / "7.png").unlink()
    toml = write_toml(tmp_path / "run.toml", small(samples))
    command = ["train", str(toml), "--out", str(tmp_path / "a run"), "--data.skip-broken"]
    assert main(command) == 0
    out, said = capsys.readouterr()
    assert f"tensorboard --logdir '{tmp_path / 'a run'}'" in said
    for words in ("left out: 5, a broken sample (", "left out: 6, a broken sample ("):
        assert said.count(words) == 1
    assert said.count("train_img/7.png: has no partner") == 1
    assert "left out: 3 broken samples, named above" in out
    lines = [json.loads(line) for line in (tmp_path / "a run/log.jsonl").read_text().splitlines()]
    assert {line["left_out"] for line in lines if "left_out" in line} == {"5", "6", "7"}
    assert lines[-1]["samples_left_out"] == 3
    assert load_checkpoint(tmp_path / "a run/model").provenance["samples_left_out"] == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_without_the_sample_is_one_that_left_it_out_from_the_first_step(
    tmp_path: Path, workers: int
) -> None:
    samples = broken_samples(tmp_path / "samples")
    skip: Mapping[str, Any] = {"data": {"skip_broken": True}}
    run(samples, tmp_path / "whole", **skip)
    compute = {"compute": {"workers": workers}}
    with pytest.raises(
        InputError, match=r"(5|6)\.png.*--data\.skip-broken, leaves.*the run is saved at step"
    ):
        run(samples, tmp_path / "parts", **compute)
    assert len(steps_logged(tmp_path / "parts")) < len(steps_logged(tmp_path / "whole"))
    run(samples, tmp_path / "parts", **skip, **compute)
    assert steps_logged(tmp_path / "parts") == steps_logged(tmp_path / "whole")
    states = newest_state(tmp_path / "parts"), newest_state(tmp_path / "whole")
    assert differences(*states) == []


def test_a_resumed_run_keeps_the_names_and_the_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = broken_samples(tmp_path / "samples")
    skip: Mapping[str, Any] = {"data": {"skip_broken": True}}
    run(samples, tmp_path / "run", **skip, schedule={"max_steps": 12})
    capsys.readouterr()
    run(samples, tmp_path / "run", **skip, schedule={"max_steps": 13})
    assert "left out before: 2 broken samples (" in capsys.readouterr().err
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert log.count('"left_out": "5"') == log.count('"left_out": "6"') == 1
    assert json.loads(log.splitlines()[-1])["samples_left_out"] == 2


def test_samples_of_the_validation_are_left_out_too(tmp_path: Path) -> None:
    samples = broken_samples(tmp_path / "samples")
    sections: dict[str, Any] = {"record": {"held_out": 3}, "schedule": {"max_steps": 1}}
    with pytest.raises(InputError, match=r"5\.png"):
        run(samples, tmp_path / "refused", **sections)
    run(samples, tmp_path / "run", **sections, data={"skip_broken": True})
    names = {path.name for path in (tmp_path / "run" / "pictures").iterdir()}
    assert names == {"step-000000000-7.jpg", "step-000000001-7.jpg"}


def test_a_set_without_a_whole_sample_is_refused(tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "samples", 3)
    for path in (samples / "train_img").iterdir():
        cut_short(path)
    with pytest.raises(InputError, match=r"no sample of the validation can be used: .*0\.png"):
        run(samples, tmp_path / "run", data={"skip_broken": True})


def test_colours_outside_the_schema_are_counted_as_colours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = write_samples(tmp_path / "samples", 2)
    road = load_schema("cityscapes").palette[7]
    for index in range(2):
        colours = np.full((*SIZE, 3), road, np.uint8)
        colours[:2, : 8 * index] = 1, 159, 41
        save(samples / "train_label" / f"{index}.png", colours)
    code, printed = check(tmp_path, samples, capsys, data={"colours": True})
    assert code == 1
    assert "colours outside the schema, in all: (1, 159, 41) (16 pixels)\n" in printed
    assert "ids outside" not in printed


def test_faults_that_a_training_leaves_out_are_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = broken_samples(tmp_path / "samples")
    (samples / "train_label" / "7.png").unlink()
    skip: dict[str, Any] = {"data": {"skip_broken": True}}
    code, printed = check(tmp_path, samples, capsys, **skip)
    assert code == 0
    assert "wrong: " in printed
    assert printed.endswith("\na training leaves out 3 of 8 samples; 5 can be used\n")
    code, printed = check(tmp_path, samples, capsys, **skip, optimizer={"batch": 9})
    assert code == 1
    assert "wrong: 7 samples, 0 of them held out, are too few for steps of 9" in printed
    for path in (samples / "train_img").iterdir():
        cut_short(path)
    code, printed = check(tmp_path, samples, capsys, **skip)
    assert code == 1
    assert printed.endswith("\na training leaves out 8 of 8 samples; none can be used\n")


def test_files_of_one_reason_share_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = write_samples(tmp_path / "samples", 6)
    ids = np.full(SIZE, 7, np.uint8)
    for index in range(4):
        ids[: 2 + index] = 200
        save(samples / "train_label" / f"{index}.png", ids)
    code, printed = check(tmp_path, samples, capsys)
    assert code == 1
    (line,) = (line for line in printed.splitlines() if line.startswith("wrong: "))
    assert "train_label/0.png: unknown label id 200 (64 pixels)" in line
    assert "; the same reason for 3 more (" in line
    assert line.endswith("train_label/3.png)")  # all are named
    assert "\n4 faults; --data.skip-broken leaves broken samples out\n" in printed
