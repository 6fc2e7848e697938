"""Segmenters: what is loaded by path, and training of one on streets."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from sceneloom.cli import main
from sceneloom.errors import CheckpointError, InputError, SceneLoomError, TrainingError
from sceneloom.schema import load_schema
from sceneloom_streets.dataset import write_streets
from sceneloom_training.data import DataSettings, open_data_set
from sceneloom_training.evaluation import segmenter_training
from sceneloom_training.evaluation.segmenter import build_network, load_segmenter, save_segmenter
from sceneloom_training.evaluation.segmenter_training import train_segmenter
from sceneloom_training.run_folder import RunFolder
from sceneloom_training.settings import SegmenterSettings

TINY = SegmenterSettings(
    network="unet",
    size="96x64",
    width=8,
    epochs=2,
    batch=2,
    learning_rate=3e-3,
    workers=0,
    cache=8,
    checkpoint_every=2,
    device="cpu",
)
SCHEMA = load_schema("cityscapes-eval")


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> DataSettings:
    root = tmp_path_factory.mktemp("streets")
    write_streets(root, "train", range(8), height=64, width=96)
    return DataSettings(layout="pix2pixhd", root=root, labels="cityscapes-eval")


def network(kind: str = "unet") -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network(kind, SCHEMA, width=8)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_segmenter(tmp_path / "s", network(), SCHEMA, TINY, provenance={})
    return tmp_path / "s"


@pytest.mark.slow
def test_it_learns_and_comes_back_as_it_was_trained(streets: DataSettings, tmp_path: Path) -> None:
    settings = dataclasses.replace(TINY, epochs=40, balance=0.2, checkpoint_every=80)
    outcome = train_segmenter(streets, settings, tmp_path / "run")
    assert outcome.stopped_by is None
    assert outcome.step == outcome.last == 160
    entries = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert entries[-1]["loss"] < 0.7 * entries[0]["loss"]
    segmenter = load_segmenter(outcome.model, device="cpu")
    assert (segmenter.height, segmenter.width) == (64, 96)
    assert segmenter.schema == SCHEMA
    data = open_data_set(streets)
    right = []
    for i in range(len(data)):
        sample = data.read(i)
        assert sample.label_map is not None
        found = segmenter.segment(sample.photo[None])[0]
        assert found.dtype == np.uint8
        right.append((found == sample.label_map)[sample.label_map != 255].mean())
    assert np.mean(right) > 0.6
    with pytest.raises(TrainingError, match="is finished"):
        train_segmenter(streets, settings, tmp_path / "run")


@pytest.mark.parametrize("written_by", ["this version", "an older version"])
def test_a_stopped_run_resumes_to_the_same_weights(
    written_by: str, streets: DataSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_segmenter(streets, TINY, tmp_path / "whole")
    assert whole.stopped_by is None
    before = segmenter_training.logits_of

    def stop_in_step_five(network: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 5:
            signal.raise_signal(signal.SIGTERM)
        return before(network, pixels)

    calls: list[int] = []
    monkeypatch.setattr(segmenter_training, "logits_of", stop_in_step_five)
    stopped = train_segmenter(streets, TINY, tmp_path / "run")
    assert (stopped.step, stopped.stopped_by) == (5, signal.SIGTERM)
    if written_by == "an older version":
        old = tmp_path / "run"
        shutil.move(old / "checkpoints" / "step-000000005" / "training.pt", old)
        shutil.rmtree(old / "checkpoints")
        (old / "run.json").unlink()
        state = torch.load(old / "training.pt", weights_only=True)
        record = json.loads(state["record"])
        del record["data"]["skip_broken"]  # a setting that it did not have
        torch.save({**state, "record": json.dumps(record)}, old / "training.pt")
    resumed = train_segmenter(streets, TINY, tmp_path / "run")
    assert resumed.stopped_by is None
    assert not (tmp_path / "run" / "training.pt").exists()
    one, other = ((x / "model.safetensors").read_bytes() for x in (whole.model, resumed.model))
    assert one == other
    assert RunFolder(tmp_path / "run").steps() == []


def test_a_run_that_a_broken_sample_ended_resumes_without_it(
    streets: DataSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert streets.root is not None
    root = tmp_path / "streets"
    shutil.copytree(streets.root, root)
    photo = sorted((root / "train_img").iterdir())[5]
    photo.write_bytes(photo.read_bytes()[:-200])
    data = dataclasses.replace(streets, root=root)
    skip = dataclasses.replace(data, skip_broken=True)
    settings = dataclasses.replace(TINY, batch=1)
    with pytest.raises(InputError, match=rf"{photo.name}.*the run is saved at step"):
        train_segmenter(data, settings, tmp_path / "parts")
    capsys.readouterr()
    whole = train_segmenter(skip, settings, tmp_path / "whole")
    assert capsys.readouterr().err.count(f"left out: {photo.stem}, a broken sample") == 1
    parts = train_segmenter(skip, settings, tmp_path / "parts")
    assert (whole.left_out, parts.left_out) == (1, 1)
    one, other = ((x / "model.safetensors").read_bytes() for x in (whole.model, parts.model))
    assert one == other


def test_a_run_of_other_settings_or_of_something_else_is_refused(
    streets: DataSettings, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "training.pt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"training\.pt: cannot be read"):
        train_segmenter(streets, TINY, tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(TrainingError, match="is not a training run"):
        train_segmenter(streets, TINY, tmp_path / "other")
    with pytest.raises(InputError, match="fewer than a batch"):
        train_segmenter(streets, dataclasses.replace(TINY, batch=9), tmp_path / "new")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "log.jsonl").write_text("mine")
    with pytest.raises(TrainingError, match="is not a training run"):
        train_segmenter(streets, TINY, tmp_path / "mine")
    assert [x.read_text() for x in (tmp_path / "mine").iterdir()] == ["mine"]


def test_two_processes_do_not_train_in_one_folder(streets: DataSettings, tmp_path: Path) -> None:
    processes = multiprocessing.get_context("spawn")
    claimed, done = processes.Event(), processes.Event()
    other = processes.Process(target=_claim, args=(tmp_path / "run", claimed, done))
    other.start()
    try:
        assert claimed.wait(60)
        with pytest.raises(TrainingError, match="another process is training in it"):
            train_segmenter(streets, TINY, tmp_path / "run")
    finally:
        done.set()
        other.join(60)
    assert train_segmenter(streets, TINY, tmp_path / "run").stopped_by is None


def _claim(folder: Path, claimed: Any, done: Any) -> None:
    with RunFolder(folder, makes="segmenter").claimed():
        claimed.set()
        done.wait(60)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(
    streets: DataSettings, tmp_path: Path
) -> None:
    (tmp_path / "run" / ".segmenter.99999999.new").mkdir(parents=True)
    for name in (".lock", "log.jsonl", ".training.pt.new"):
        (tmp_path / "run" / name).touch()
    assert train_segmenter(streets, TINY, tmp_path / "run").stopped_by is None


def test_label_maps_to_learn_nothing_from(
    streets: DataSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmenter_training, "_LOG_EVERY", 1)
    assert streets.root is not None
    root = shutil.copytree(streets.root, tmp_path / "streets")
    first, *others = sorted((root / "train_label").iterdir())
    ignored = Image.fromarray(np.zeros((64, 96), np.uint8))
    ignored.save(first)
    data = dataclasses.replace(streets, root=root)
    one = train_segmenter(data, dataclasses.replace(TINY, batch=1), tmp_path / "one")
    assert one.stopped_by is None
    lines = (tmp_path / "one" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] == 0 for line in lines].count(True) == 2  # once an epoch
    for path in others:
        ignored.save(path)
    for balance in (0.0, 0.5):
        settings = dataclasses.replace(TINY, balance=balance)
        with pytest.raises(InputError, match="ignored pixels only"):
            train_segmenter(data, settings, tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_command(streets: DataSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data.layout", "pix2pixhd", "--data.root", str(streets.root)]
    flags = [*("--size", "64x32"), *("--batch", "4"), *("--epochs", "1"), *("--workers", "0")]
    small = ["--network", "segformer", "--width", "8", "--half"]
    out = tmp_path / "run"
    assert main(["train-segmenter", "--out", str(out), *data, *flags, *small]) == 0
    assert f"trained 2 steps: {out / 'segmenter'}" in capsys.readouterr().out
    segmenter = load_segmenter(out / "segmenter", device="cpu")
    assert segmenter.schema == load_schema("cityscapes")
    assert segmenter.segment(np.zeros((2, 32, 64, 3), np.uint8)).shape == (2, 32, 64)


@pytest.mark.parametrize("kind", ["unet", "segformer"])
def test_half_is_half_as_large_and_nearly_the_same(kind: str, tmp_path: Path) -> None:
    one = network(kind)
    settings = dataclasses.replace(TINY, network=kind)
    save_segmenter(tmp_path / "whole", one, SCHEMA, settings, provenance={})
    settings = dataclasses.replace(settings, half=True)
    save_segmenter(tmp_path / "half", one, SCHEMA, settings, provenance={})
    assert next(one.parameters()).dtype == torch.float32
    folders = (tmp_path / "half", tmp_path / "whole")
    sizes = [(folder / "model.safetensors").stat().st_size for folder in folders]
    assert sizes[0] < 0.6 * sizes[1]
    photos = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    half, whole = (load_segmenter(folder, device="cpu").segment(photos) for folder in folders)
    assert (half == whole).mean() > 0.95


def test_a_plain_folder_of_transformers_needs_a_schema(tmp_path: Path) -> None:
    network("segformer").save_pretrained(tmp_path / "plain")  # type: ignore[operator]
    with pytest.raises(InputError, match="has no label schema"):
        load_segmenter(tmp_path / "plain")
    with pytest.raises(CheckpointError, match="tells 19 classes apart, nyu40 has 40"):
        load_segmenter(tmp_path / "plain", labels="nyu40")
    (tmp_path / "plain" / "preprocessor_config.json").write_text(
        '{"size": {"height": 64, "width": 96}, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}'
    )
    segmenter = load_segmenter(tmp_path / "plain", labels="cityscapes-eval", device="cpu")
    assert (segmenter.height, segmenter.width) == (64, 96)
    assert segmenter.segment(np.zeros((1, 64, 96, 3), np.uint8)).shape == (1, 64, 96)


def test_a_python_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import numpy as np\n"
        "from sceneloom.schema import load_schema\n"
        "from sceneloom_training.evaluation.segmenter import Segmenter\n"
        "class Mine(Segmenter):\n"
        "    schema, height, width = load_schema('helen'), 32, 32\n"
        "    name, weights_sha256 = 'mine', '0' * 64\n"
        "    def segment(self, photos):\n"
        "        return (photos[..., 0] > 127).astype(np.uint8)\n"
        "def load_segmenter(device):\n"
        "    return Mine()\n"
    )
    segmenter = load_segmenter(path)
    assert segmenter.segment(np.full((1, 4, 4, 3), 200, np.uint8)).tolist() == [[[1] * 4] * 4]
    with pytest.raises(InputError, match="has its own label schema"):
        load_segmenter(path, labels="helen")
    path.write_text("def load_segmenter(device): return 1 / 0")
    with pytest.raises(CheckpointError, match="ZeroDivisionError"):
        load_segmenter(path)
    path.write_text("def load_segmenter(device): return 5")
    with pytest.raises(CheckpointError, match="gave a int"):
        load_segmenter(path)
    path.write_text("raise SystemExit(7)")
    with pytest.raises(CheckpointError, match="SystemExit: 7"):
        load_segmenter(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [("schema = 'helen'", "schema is 'helen'"), ("del name", "name is None")]
    + [(f"height = {x}", f"height is {x}") for x in ("0", "'64'")],
)
def test_a_python_file_whose_segmenter_is_incomplete(
    change: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from sceneloom.schema import load_schema\n"
        "from sceneloom_training.evaluation.segmenter import Segmenter\n"
        "class Mine(Segmenter):\n"
        "    schema, height, width = load_schema('helen'), 32, 32\n"
        "    name, weights_sha256 = 'mine', '0' * 64\n"
        f"    {change}\n"
        "    def segment(self, photos): ...\n"
        "def load_segmenter(device):\n"
        "    return Mine()\n"
    )
    with pytest.raises(CheckpointError, match=said):
        load_segmenter(path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"height": 0}, "size is '96x0'"),
        ({"height": None}, "height is None; it is a whole number"),
        (
            {"network": {"kind": "vgg", "width": 8}},
            "network.kind is 'vgg'; it is 'segformer' or 'unet'",
        ),
        ({"network": {"kind": "unet", "width": -8}}, "width is -8"),
        ({"network": {"kind": "unet", "width": 16}}, "size mismatch"),
        ({"pixel_mean": [0.5]}, r"pixel_mean\[1\] is missing"),
        ({"pixel_std": [0, 0, 0]}, r"pixel_std\[0\] is 0; it is more than 0"),
        ({"pixel_std": "abc"}, "pixel_std is 'abc'; it is a list"),
    ],
)
def test_a_description_that_cannot_be(changed: dict[str, object], said: str, saved: Path) -> None:
    path = saved / "segmenter.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(CheckpointError, match=said):
        load_segmenter(saved)


@pytest.mark.parametrize(
    "processor",
    [
        [],
        *({"size": size} for size in (0, None, "64", [64, 64], {"height": 64.5})),
        *({"image_mean": mean} for mean in (0.5, [0.5], ["a", "b", "c"])),
    ],
)
def test_a_plain_folder_with_a_damaged_processor(processor: object, tmp_path: Path) -> None:
    network("segformer").save_pretrained(tmp_path)  # type: ignore[operator]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json: is damaged"):
        load_segmenter(tmp_path, labels="cityscapes-eval")


def test_a_plain_folder_is_segmented_at_its_shortest_edge(tmp_path: Path) -> None:
    network("segformer").save_pretrained(tmp_path)  # type: ignore[operator]
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 64}}')
    segmenter = load_segmenter(tmp_path, labels="cityscapes-eval", device="cpu")
    assert (segmenter.height, segmenter.width) == (64, 64)


def test_weights_that_are_missing_are_not_random(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    network("segformer").save_pretrained(tmp_path)  # type: ignore[operator]
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: x for name, x in weights.items() if not name.startswith("decode_head.classifier")}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lack decode_head\.classifier\.bias \(2 in all\)"):
        load_segmenter(tmp_path, labels="cityscapes-eval")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "decoder_hidden_size": 16}))
    with pytest.raises(CheckpointError, match=r"of other shapes than config\.json says: decode_"):
        load_segmenter(tmp_path, labels="cityscapes-eval")


def test_damage(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has its own label schema"):
        load_segmenter(saved, labels="helen")
    weights = saved / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4] + b"\0\0\0\1")
    with pytest.raises(CheckpointError, match="is not the file that"):
        load_segmenter(saved)
    weights.unlink()
    with pytest.raises(CheckpointError, match="is no segmenter"):
        load_segmenter(saved)
    weights.write_bytes(content)
    (saved / "segmenter.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"segmenter\.json: format is missing"):
        load_segmenter(saved)
    for nothing in (tmp_path / "missing", tmp_path):
        with pytest.raises(SceneLoomError, match="is no segmenter"):
            load_segmenter(nothing)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"size": "100x64"}, "multiples of 32"),
        ({"size": "big"}, "WIDTHxHEIGHT"),
        ({"size": "96000x96000"}, "at most 67,108,864 pixels"),
        ({"network": "vgg"}, "'segformer' or 'unet'"),
        ({"width": 12}, "multiples of 8"),
        ({"precision": "float16"}, "'float32' or 'bfloat16'"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"balance": 2}, "balance is 2"),
    ],
)
def test_settings_out_of_range(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        SegmenterSettings(**wrong)  # type: ignore[arg-type]


def meanwhile(act: Callable[[list[psutil.Process]], None]) -> threading.Thread:
    """Do something with the loading processes once they are there."""
    here = psutil.Process()
    before = {child.pid for child in here.children()}

    def wait() -> None:
        loaders: list[psutil.Process] = []
        while len(loaders) < 2:
            time.sleep(0.02)
            loaders = [child for child in here.children() if child.pid not in before]
        time.sleep(0.3)
        act(loaders)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_loading_process_that_is_lost_ends_it(streets: DataSettings, tmp_path: Path) -> None:
    settings = dataclasses.replace(TINY, epochs=10_000, workers=2)
    thread = meanwhile(lambda loaders: loaders[0].kill())
    with pytest.raises(TrainingError, match=r"a loading process was lost \(killed by signal 9\)"):
        train_segmenter(streets, settings, tmp_path / "run")
    thread.join()


def test_a_signal_ends_the_wait_for_a_batch(streets: DataSettings, tmp_path: Path) -> None:
    settings = dataclasses.replace(TINY, epochs=10_000, workers=2)

    def stall(loaders: list[psutil.Process]) -> None:
        for loader in loaders:
            loader.suspend()
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = meanwhile(stall)
    outcome = train_segmenter(streets, settings, tmp_path / "run")
    thread.join()
    assert outcome.stopped_by == signal.SIGTERM
    assert RunFolder(tmp_path / "run").steps() == [outcome.step]


def test_too_little_memory_is_a_sentence(
    streets: DataSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(network: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
        return torch.empty(1 << 40)

    monkeypatch.setattr(segmenter_training, "logits_of", no_memory)
    with pytest.raises(TrainingError, match="memory was not enough at 96x64 with batch 2"):
        train_segmenter(streets, TINY, tmp_path / "run")
