"""Files that are damaged anywhere give what they hold or an error of the family; nothing else.

Each format is read by the function that its command uses. Bytes are flipped, cut, repeated and
inserted; in JSON whole values are replaced too, since few flips leave a file that a parser takes.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from map_sets import as_png, small_maps, write_parquet, write_tar, write_zip
from PIL import Image
from support import CHECKOUT, blocky_maps

from sceneloom.contract import Contract
from sceneloom.errors import SceneLoomError
from sceneloom.maps import read_instance_map, read_label_map
from sceneloom.rendering.datasets import open_source
from sceneloom.rendering.manifest import Manifest, Origin, Row
from sceneloom.request import Padding, Request
from sceneloom.schema import load_schema
from sceneloom.style import read_styles

Read = Callable[[Path], object]

Edit = tuple[str, float, float, bytes]
edits: st.SearchStrategy[list[Edit]] = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "end", "repeat", "insert", "zero"]),
        st.floats(0, 1, exclude_max=True),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
)
values = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        3,
        2**31,
        2**63,
        10**400,
        1e308,
        float("nan"),
        "",
        "x",
        "1",
        [],
        [0],
        {},
        {"": 0},
        [[]],
    ]
) | st.text(max_size=4)
replacements = st.lists(st.tuples(st.integers(0, 10_000), values), min_size=1, max_size=3)


def damage(data: bytes, edits: list[Edit]) -> bytes:
    """Apply edits at relative places, half of them in the first 200 bytes."""
    for kind, where, length, new in edits:
        near = where < 0.5  # headers are short, and most is decided in them
        at = int(where * 2 * min(len(data), 200)) if near else int((where * 2 - 1) * len(data))
        end = at + 1 + int(length * 16 if near else length * length * (len(data) - at))
        if kind == "flip":
            data = (
                data[:at]
                + bytes(b ^ n for b, n in zip(data[at:], new, strict=False))
                + data[at + len(new) :]
            )
        elif kind == "cut":
            data = data[:at] + data[end:]
        elif kind == "end":
            data = data[:at]
        elif kind == "repeat":
            data = data[:end] + data[at:end] + data[end:]
        elif kind == "insert":
            data = data[:at] + new + data[at:]
        else:
            data = data[:at] + bytes(end - at) + data[end:]
    return data


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree of JSON."""
    found: list[tuple[Any, Any]] = []
    items = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in items:
        found += [(tree, key), *places(value)]
    return found


def replace(tree: Any, replacements: list[tuple[int, Any]]) -> Any:
    """A copy of a tree in which some values are others."""
    tree = copy.deepcopy(tree)
    for number, value in replacements:
        if not (all_places := places(tree)):
            break
        container, key = all_places[number % len(all_places)]
        container[key] = copy.deepcopy(value)
    return tree


# What is damaged ---------------------------------------------------------------------------------

CITYSCAPES = load_schema("cityscapes")
STYLED = Contract(schema=CITYSCAPES, size_multiple=8, boundaries=True, style_channels=2)
STYLES = {"format": 1, "instances": {"7": [0.5, -1], "24001": [0, 0.25]}, "labels": {"7": [1, 2]}}
LABELS, INSTANCES = blocky_maps(24, 32, seed=0, labels=34)
PHOTO = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)


def saved(values: np.ndarray, kind: str) -> Callable[[Path], Path]:
    """Writes a picture or array as a file of a kind."""

    def make(folder: Path) -> Path:
        path = folder / f"a.{kind}"
        if kind == "npy":
            np.save(path, values)
        else:
            Image.fromarray(values).save(path)
        return path

    return make


def palette(folder: Path) -> Path:
    (folder / "a.png").write_bytes(as_png(LABELS, palette=True))
    return folder / "a.png"


def archive(write: Callable[[Path, Any], str], pattern: str) -> Callable[[Path], Path]:
    """Writes a small data set, of which one archive is damaged."""

    def make(folder: Path) -> Path:
        write(folder, small_maps(3))
        return sorted(folder.glob(pattern))[0]

    return make


def manifest(folder: Path) -> Path:
    origin = Origin(model="m", model_version="1", bundle_hash="a", parameters="{}")
    done = {"status": "done", "attempts": 1, "milliseconds": 1.0, "finished": 1.0}
    with Manifest(folder / "m.sqlite") as rows:
        rows.record(Row(key=str(n), input_hash="", origin=origin, **done) for n in range(40))
    return folder / "m.sqlite"


def weights(folder: Path) -> Path:
    bundle(folder)
    return folder / "bundle/model.safetensors"


def bundle(folder: Path) -> Path:
    from sceneloom_training.checkpoint import save_checkpoint

    contract = Contract(schema=CITYSCAPES, size_multiple=2, boundaries=True)
    save_checkpoint(folder / "bundle", generator(), contract, {"from": "a test"})
    return folder / "bundle/model.json"


def generator() -> Any:
    from support import wide_generator

    from sceneloom_training.networks import GeneratorArchitecture

    shape = {"input_channels": 36, "ngf": 2, "global_downsamplings": 1, "global_blocks": 1}
    return wide_generator(GeneratorArchitecture(**shape), seed=0)


def published(folder: Path) -> Path:
    from support import save_published

    save_published(generator(), folder / "latest_net_G.pth")
    return folder / "latest_net_G.pth"


def run_state(folder: Path) -> Path:
    from sceneloom_training.run_folder import RunFolder

    run = RunFolder(folder)
    with run.claimed():
        run.save(3, {"step": 3})
        run.write_record({"settings": {"a": 1}, "step": 3})
    return run.folder(3) / "state.json"


def run_record(folder: Path) -> Path:
    run_state(folder)
    return folder / "run.json"


def references(folder: Path) -> Path:
    from sceneloom_serving.bundle import References, save_references

    request = Request(label_map=LABELS, instance_map=INSTANCES, style=None, padding=Padding())
    save_references(References(requests=[request], pictures=[PHOTO[None]]), folder)
    return folder / "references.npz"


# How it is read ----------------------------------------------------------------------------------


def read_source(path: Path) -> None:
    """Every map of an archive, as `sceneloom render` reads it."""
    for item in open_source(str(path), wants_instances=True):
        for file in (item.label, item.instance):
            with contextlib.suppress(SceneLoomError):
                if file is not None:
                    file.read(1 << 20)


def read_label(path: Path) -> None:
    read_label_map(path, CITYSCAPES)


def read_photo(path: Path) -> None:
    from sceneloom.photographs import read_picture

    read_picture(path)


def read_manifest(path: Path) -> None:
    with Manifest(path) as manifest:
        list(manifest.rows())


def read_weights(path: Path) -> None:
    """The bundle, whose description names the hash of the damaged weights as if they were whole."""
    description = path.with_name("model.json")
    tree = json.loads(description.read_text("utf-8"))
    tree["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    description.write_text(json.dumps(tree), "utf-8")
    read_bundle(path)


def read_bundle(path: Path) -> None:
    from sceneloom_training.checkpoint import load_checkpoint

    load_checkpoint(path.parent)


def read_published(path: Path) -> None:
    from sceneloom_training.published import import_published

    import_published(path, CITYSCAPES)


def read_state(path: Path) -> None:
    from sceneloom_training.run_folder import RunFolder

    RunFolder(path.parents[2]).load(3)


def read_record(path: Path) -> None:
    from sceneloom_training.run_folder import RunFolder

    RunFolder(path.parent).read_record()


def read_references(path: Path) -> None:
    from sceneloom_serving.bundle import load_references

    load_references(path.parent)


def read_contract(path: Path) -> None:
    Contract.loads(path.read_text("utf-8", "surrogateescape"), source=str(path))


def read_style_file(path: Path) -> None:
    read_styles(path, STYLED)


def read_configuration(path: Path) -> None:
    from sceneloom_training.train_command import read_flags

    read_flags(path)


def json_of(tree: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "a.json").write_text(json.dumps(tree), "utf-8")
        return folder / "a.json"

    return make


def configuration(folder: Path) -> Path:
    return Path(shutil.copy(CHECKOUT / "training/configs/demo.toml", folder / "a.toml"))


FORMATS: dict[str, tuple[Callable[[Path], Path], Read]] = {
    "label map, PNG": (saved(LABELS, "png"), read_label),
    "label map, palette": (palette, read_label),
    "label map, TIFF": (saved(LABELS, "tif"), read_label),
    "label map, NumPy": (saved(LABELS, "npy"), read_label),
    "instance map, PNG": (saved(INSTANCES.astype(np.uint16), "png"), read_instance_map),
    "photograph, PNG": (saved(PHOTO, "png"), read_photo),
    "photograph, JPEG": (saved(PHOTO, "jpg"), read_photo),
    "photograph, BMP": (saved(PHOTO, "bmp"), read_photo),
    "photograph, TIFF": (saved(PHOTO, "tif"), read_photo),
    "photograph, WebP": (saved(PHOTO, "webp"), read_photo),
    "zip": (archive(write_zip, "*.zip"), read_source),
    "tar": (archive(write_tar, "*.tar"), read_source),
    "Parquet": (archive(write_parquet, "*.parquet"), read_source),
    "manifest": (manifest, read_manifest),
    "safetensors": (weights, read_weights),
    "published weights": (published, read_published),
    "references": (references, read_references),
    "TOML": (configuration, read_configuration),
}
TREES: dict[str, tuple[Callable[[Path], Path], Read]] = {
    "label schema": (json_of(CITYSCAPES.to_json()), load_schema),
    "contract": (json_of(STYLED.to_json()), read_contract),
    "style file": (json_of(STYLES), read_style_file),
    "checkpoint bundle": (bundle, read_bundle),
    "state of a run": (run_state, read_state),
    "record of a run": (run_record, read_record),
}


@pytest.mark.parametrize("name", [*FORMATS, *TREES])
def test_damaged_bytes(tmp_path: Path, name: str) -> None:
    make, read = {**FORMATS, **TREES}[name]
    path = make(tmp_path)
    read(path)  # whole, it is read
    good = path.read_bytes()

    @settings(max_examples=60, derandomize=True)
    @given(edits)
    def check(edits: list[Edit]) -> None:
        path.write_bytes(damage(good, edits))
        with contextlib.suppress(SceneLoomError):
            read(path)

    check()


@pytest.mark.parametrize("name", TREES)
def test_other_values(tmp_path: Path, name: str) -> None:
    make, read = TREES[name]
    path = make(tmp_path)
    good = json.loads(path.read_text("utf-8"))

    @settings(max_examples=60, derandomize=True)
    @given(replacements)
    def check(replacements: list[tuple[int, Any]]) -> None:
        path.write_text(json.dumps(replace(good, replacements)), "utf-8")
        with contextlib.suppress(SceneLoomError):
            read(path)

    check()


@pytest.mark.parametrize("name", TREES)
def test_deep_nesting(tmp_path: Path, name: str) -> None:
    make, read = TREES[name]
    path = make(tmp_path)
    path.write_text("[" * 200_000 + "]" * 200_000, "utf-8")
    with pytest.raises(SceneLoomError):
        read(path)
