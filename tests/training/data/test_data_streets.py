"""Procedural streets as a data set, and the settings of all layouts."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro

from sceneloom.errors import DataSetError, InputError, UnknownLabelError
from sceneloom.schema import load_schema
from sceneloom_streets import draw_pair
from sceneloom_training.data import DataSettings, open_data_set
from sceneloom_training.data.layouts import LAYOUTS
from sceneloom_training.data.sample import label_channels

STREETS = DataSettings(
    layout="streets", streets_seed=9, streets_count=3, streets_size="64x32", unknown="error"
)


def test_streets_are_those_of_the_seeds() -> None:
    data = open_data_set(STREETS)
    assert list(data.keys) == ["street_000009", "street_000010", "street_000011"]
    assert data.schema.name == "cityscapes"
    sample, drawn = data.read(2), draw_pair(11, 32, 64)
    assert (sample.photo == drawn.photo).all()
    assert (sample.label_map == drawn.label_map).all()
    assert (sample.instance_map == drawn.instance_map).all()
    again = pickle.loads(pickle.dumps(data)).read(2)
    assert (again.photo == sample.photo).all()
    with pytest.raises(IndexError):
        data.read(3)


def test_without_instances() -> None:
    data = open_data_set(dataclasses.replace(STREETS, instances=False))
    assert not data.has_instances
    assert data.read(0).instance_map is None


def test_keys_are_in_the_order_of_the_seeds_however_large() -> None:
    data = open_data_set(dataclasses.replace(STREETS, streets_seed=999_999))
    assert list(data.keys) == sorted(data.keys)
    assert data.keys[0] == "street_0999999"


@pytest.mark.parametrize("size", ["8x8", "512x32"])
def test_sizes_that_no_street_has(size: str) -> None:
    with pytest.raises(InputError):
        open_data_set(dataclasses.replace(STREETS, streets_size=size))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layout": "coco"}, "layout is 'coco'; it is 'pix2pixhd', 'cityscapes'"),
        ({"layout": "helen"}, "root is not given; helen is read from a folder"),
        ({"root": Path("x")}, "streets are painted and have no folder"),
        ({"unknown": "ignore"}, "unknown is 'ignore'; it is 'error' or 'unlabelled'"),
        ({"layout": "paired", "root": Path("x"), "labels": "helen"}, "has no label maps"),
        ({"streets_size": "512"}, "streets_size is '512'; write WIDTHxHEIGHT"),
        ({"streets_size": "0x8"}, "write WIDTHxHEIGHT"),
        ({"streets_count": 0}, "streets_count is 0; it is at least 1"),
        ({"streets_seed": -1}, "streets_seed is -1; it is at least 0"),
    ],
)
def test_settings_that_do_not_fit_together(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        dataclasses.replace(STREETS, **changes)


@pytest.mark.parametrize("labels", ["cityscapes19", "ade20k"])
def test_streets_are_painted_in_cityscapes_ids_only(labels: str) -> None:
    with pytest.raises(
        InputError,
        match="not those of streets; it takes cityscapes or cityscapes-eval or cityscapes-markings "
        "or cityscapes-details",
    ):
        open_data_set(dataclasses.replace(STREETS, labels=labels))
    with pytest.raises(InputError, match="no label schema 'nowhere'"):
        open_data_set(dataclasses.replace(STREETS, labels="nowhere"))


def test_help_and_refusals_follow_the_table_of_layouts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(DataSettings, args=["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name, layout in LAYOUTS.items():
        splits = layout.splits if isinstance(layout.splits, str) else ", ".join(layout.splits)
        assert f"{name}: {splits}." in shown
        if splits is not layout.splits:
            with pytest.raises(DataSetError, match=f"{name} has no split 'mine'; it has {splits}"):
                open_data_set(DataSettings(layout=name, root=tmp_path, split="mine"))


def test_settings_are_flags() -> None:
    flags = ["--layout", "nyu", "--root", "nyu", "--split", "all", "--no-instances"]
    parsed = tyro.cli(DataSettings, args=flags)
    assert parsed == DataSettings(layout="nyu", root=Path("nyu"), split="all", instances=False)


def test_unknown_ids_of_a_schema_without_unlabelled() -> None:
    values = np.array([[1, 7, 7]], np.uint8)
    schema = dataclasses.replace(load_schema("helen"), labels=load_schema("helen").labels[:2])
    schema = dataclasses.replace(schema, unlabelled=None)
    with pytest.raises(
        UnknownLabelError, match=r"here: label ids 7 \(2 pixels\).*no unlabelled id"
    ):
        label_channels(values, schema, unknown="unlabelled", name="here")


def test_the_package_loads_nothing_heavy() -> None:
    code = "import sys, sceneloom_training.data; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "sceneloom_training" in loaded
    assert loaded & {"torch", "h5py", "scipy", "onnx"} == set()
