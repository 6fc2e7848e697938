"""Checkpoints in archives, and what is no checkpoint: read, or one sentence with the way out."""

from __future__ import annotations

import io
import pickle
import re
import shlex
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from support import save_published, wide_generator

from sceneloom.cli import main
from sceneloom.errors import CheckpointError
from sceneloom.schema import load_schema
from sceneloom_training.checkpoint import load_tensors
from sceneloom_training.networks import Generator, GeneratorArchitecture
from sceneloom_training.published import import_published

CITYSCAPES = load_schema("cityscapes")


def generator(**shape: int) -> Generator:
    small = {"input_channels": 36, "ngf": 2, "global_downsamplings": 1, "global_blocks": 1}
    return wide_generator(GeneratorArchitecture(**{**small, **shape}), seed=0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_published(generator(), tmp_path / "latest_net_G.pth")
    return tmp_path / "latest_net_G.pth"


def write_legacy(state: dict[str, torch.Tensor], path: Path) -> None:
    """PyTorch's format before 0.1.9, which nothing writes any more."""
    names = list(state)
    storages, tensors, named = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pickle.dump(len(names), storages, 2)
    pickle.dump(len(names), tensors, 2)
    for number, name in enumerate(names):
        values = state[name].contiguous()
        pickle.dump((number, "cpu", torch.FloatStorage), storages, 2)
        storages.write(struct.pack("<q", values.numel()) + values.numpy().tobytes())
        pickle.dump((number + 1000, number, torch.FloatTensor), tensors, 2)
        tensors.write(struct.pack("<i", values.dim()) + bytes(4))
        tensors.write(struct.pack(f"<{2 * values.dim()}q", *values.shape, *values.stride()))
        tensors.write(struct.pack("<q", 0))
    pickle.dump([], storages, 2)

    class Named(pickle.Pickler):
        def persistent_id(self, value: object) -> int | None:
            return next((n + 1000 for n, name in enumerate(names) if value is state[name]), None)

    Named(named, 2).dump(OrderedDict(state))
    with tarfile.open(path, "w") as tar:
        for name, part in (("storages", storages), ("tensors", tensors), ("pickle", named)):
            info = tarfile.TarInfo(name)
            info.size = len(part.getvalue())
            tar.addfile(info, io.BytesIO(part.getvalue()))


def test_the_oldest_format_is_read_after_the_line_that_the_error_names(
    file: Path, tmp_path: Path
) -> None:
    state = torch.load(file, weights_only=True)
    legacy = tmp_path / "old one.pth"
    write_legacy({name: tensor.detach() for name, tensor in state.items()}, legacy)
    with pytest.raises(CheckpointError, match="in PyTorch's format of before 2017") as caught:
        import_published(legacy, CITYSCAPES)
    found = re.search(r"python (-c .*)", str(caught.value))
    assert found
    subprocess.run([sys.executable, *shlex.split(found[1])], check=True, timeout=120)
    again = import_published(tmp_path / "old one-new.pth", CITYSCAPES).generator.state_dict()
    whole = import_published(file, CITYSCAPES).generator.state_dict()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in again.items())


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_an_archive_around_a_checkpoint_names_what_it_holds(file: Path, kind: str) -> None:
    path = file.with_suffix(f".pth.{kind}")
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(file, "nets/latest_net_G.pth")
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as tar:
            tar.add(file, "nets/latest_net_G.pth")
    with pytest.raises(CheckpointError) as caught:
        import_published(path, CITYSCAPES)
    assert "archive that holds 'nets/latest_net_G.pth', not a checkpoint; unpack it" in (
        str(caught.value)
    )


def test_a_tensor_that_repeats_what_the_file_holds_is_refused(file: Path) -> None:
    """Four bytes that would become 64 GiB in a copy."""
    state = torch.load(file, weights_only=True)
    state["model.1.weight"] = torch.zeros(1).expand(1 << 10, 1 << 10, 1 << 7, 1 << 7)
    torch.save(state, file)
    with pytest.raises(CheckpointError, match=r"'model\.1\.weight' is .* and only 1 of its values"):
        import_published(file, CITYSCAPES)
    torch.save({"optimizers": [{"state": {0: torch.zeros(1).expand(9, 9)}}]}, file)
    with pytest.raises(ValueError, match=r"'optimizers\.0\.state\.0' is \[9, 9\]"):
        load_tensors(file)
    torch.save({"view": torch.zeros(9, 9)[2:4, ::2]}, file)  # holds more than it shows
    assert load_tensors(file)["view"].shape == (2, 5)


def test_a_compressed_checkpoint_is_refused(file: Path) -> None:
    """A few bytes that unpack to gigabytes."""
    packed = file.with_name("packed.pth")
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(packed, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"compressed, which torch\.save never"):
        import_published(packed, CITYSCAPES)


def test_grey_pictures_are_given_as_rgb(tmp_path: Path) -> None:
    grey = generator(output_channels=1)
    save_published(grey, tmp_path / "g.pth")
    imported = import_published(tmp_path / "g.pth", CITYSCAPES)
    assert any("grey pictures" in note for note in imported.notes)
    planes = torch.rand(1, 36, 16, 16)
    with torch.inference_mode():
        found, expected = imported.generator(planes), grey(planes)
    assert found.shape == (1, 3, 16, 16)
    assert torch.equal(found, expected.expand(1, 3, 16, 16))


def test_other_channels_are_refused_at_once(tmp_path: Path) -> None:
    save_published(generator(output_channels=4), tmp_path / "g.pth")
    with pytest.raises(CheckpointError, match=r"gives 4 channels; .* 3 \(RGB\) or 1 \(grey\)"):
        import_published(tmp_path / "g.pth", CITYSCAPES)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("latest_net_G.pth", "imported first: sceneloom import {folder}/latest_net_G.pth --labels"),
        ("", "imported first: sceneloom import {folder}/latest_net_G.pth --labels"),
        ("bundle/model.safetensors", "a part of a checkpoint bundle; name its folder"),
        ("run", "did you mean {folder}/run/model?"),
        ("repository", "the repository of an export; name the checkpoint bundle"),
    ],
)
@pytest.mark.parametrize("command", ["export", "styles"])
def test_what_is_no_bundle_says_what_to_do(
    file: Path, capsys: pytest.CaptureFixture[str], command: str, given: str, words: str
) -> None:
    folder = file.parent
    bundle = ["--labels", "cityscapes", "--out"]
    for place in ("bundle", "run/model"):
        (folder / "run").mkdir(exist_ok=True)
        assert main(["import", str(file), *bundle, str(folder / place)]) == 0
    (folder / "repository").mkdir()
    (folder / "repository/report.json").write_text("{}")
    rest = {
        "export": ["--repository", str(folder / "out")],
        "styles": ["--layout", "streets", "--streets-count", "2"],
    }
    capsys.readouterr()
    assert main([command, str(folder / given), *rest[command]]) == 1
    *stages, said = capsys.readouterr().err.splitlines()
    assert words.format(folder=folder) in said
    assert all(stage.endswith(" ...") for stage in stages)
