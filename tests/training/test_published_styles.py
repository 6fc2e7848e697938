"""Published feature encoders and clusters, read without running their code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sceneloom import Contract, cli, load_schema
from sceneloom.errors import CheckpointError
from sceneloom.schema import LabelSchema
from sceneloom_training.published import import_published
from sceneloom_training.published_styles import (
    import_encoder,
    read_clusters,
    with_published_clusters,
)

CONTRACT = Contract(
    schema=load_schema("cityscapes"), boundaries=True, style_channels=3, size_multiple=16
)


def save(path: Path, value: Any) -> Path:
    """As the published encode_features.py saves a dictionary."""
    np.save(path, value, allow_pickle=True)
    return path


def save_pickle(path: Path, pickled: bytes) -> Path:
    with path.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(pickled)
    return path


def test_the_published_encoder_gives_the_published_features(shared: Path) -> None:
    encoder = import_encoder(shared / "reference" / "feature_encoder.pth", 3).eval()
    with np.load(shared / "reference" / "feature_encoder.npz") as data:
        instance_map = torch.from_numpy(data["instance_map"])[:, 0]
        with torch.inference_mode():
            output = encoder(torch.from_numpy(data["image"]), instance_map).numpy()
        assert np.abs(output - data["output"]).max() <= 1e-5


def test_an_encoder_of_other_features_is_refused(shared: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gives 3 features, the generator takes 4"):
        import_encoder(shared / "reference" / "feature_encoder.pth", 4)


def test_a_generator_is_no_encoder(shared: Path) -> None:
    with pytest.raises(CheckpointError, match=r"global_generator.*feature"):
        import_encoder(shared / "reference" / "global_generator.pth", 3)


def test_clusters_become_the_styles_of_a_contract(tmp_path: Path) -> None:
    cars = np.array([[0.1, 0.2, 0.3], [0.5, 0.5, 0.5], [0.2, 0.3, 0.4]])
    path = save(tmp_path / "c.npy", {26: cars, 7: np.zeros((1, 3), np.float32), 99: cars})
    styled, notes = with_published_clusters(CONTRACT, path)
    assert styled.style_clusters == {7: ((0.0, 0.0, 0.0),), 26: tuple(map(tuple, cars))}
    assert styled.style_defaults == {7: (0.0, 0.0, 0.0), 26: (0.2, 0.3, 0.4)}
    assert notes == (
        "styles of 2 labels from c.npy",
        "left out clusters of labels that the schema does not have: [99]",
    )


@pytest.mark.parametrize("protocol", range(5))
def test_every_protocol_that_numpy_writes_is_read(tmp_path: Path, protocol: int) -> None:
    value = np.empty((), object)
    value[()] = {np.int64(26): np.array([[0.5, 1.0, -1.0]], np.float32)}
    path = save_pickle(tmp_path / "c.npy", pickle.dumps(value, protocol))
    clusters = read_clusters(path)
    assert list(clusters) == [26]
    assert clusters[26].tolist() == [[0.5, 1.0, -1.0]]


class Smuggled:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def test_code_in_the_file_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = save(tmp_path / "c.npy", {26: Smuggled(marker)})
    with pytest.raises(CheckpointError, match=r"refused, it holds posix\.mkdir"):
        read_clusters(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        {26: [[0.1, 0.2, 0.3]]},
        {26: np.zeros(3)},
        {26: np.full((1, 3), np.nan)},
        {"car": np.zeros((1, 3))},
        {True: np.zeros((1, 3))},
        {26: np.array([["a", "b", "c"]])},
        {26: np.zeros((1, 3), complex)},
    ],
)
def test_other_contents_are_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"c\.npy: "):
        read_clusters(save(tmp_path / "c.npy", value))


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.npy"
    for content in (b"", b"\x93NUMPY", b"PK\x03\x04", os.urandom(100)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"c\.npy: not published clusters"):
            read_clusters(path)
    save(path, {26: np.zeros((2, 3))})
    whole = path.read_bytes()
    for end in range(len(whole) - 40, len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match=r"c\.npy: not published clusters"):
            read_clusters(path)
    np.save(path, np.zeros(3))
    with pytest.raises(CheckpointError, match="an array of float64"):
        read_clusters(path)
    with pytest.raises(CheckpointError, match="No such file"):
        read_clusters(tmp_path / "none.npy")


@pytest.mark.parametrize(
    ("features", "reason"), [(2, "have 2 features, the generator takes 3"), (None, "of none of")]
)
def test_clusters_that_do_not_fit(tmp_path: Path, features: int | None, reason: str) -> None:
    label = 99 if features is None else 26
    path = save(tmp_path / "c.npy", {label: np.zeros((1, features or 3))})
    with pytest.raises(CheckpointError, match=reason):
        with_published_clusters(CONTRACT, path)


@pytest.mark.parametrize("flag", ["--encoder", "--clusters"])
def test_a_model_without_features_takes_no_styles(
    shared: Path, tmp_path: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = shared / "reference" / "global_generator.pth"
    command = ["import", str(generator), "--labels", "cityscapes", "--out", str(tmp_path / "b")]
    assert cli.main([*command, flag, "features"]) == 1
    said = capsys.readouterr().err
    assert said == "sceneloom import: features: the generator takes no style features\n"
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("schema", [None, CONTRACT.schema])
def test_an_encoder_in_the_generators_place_is_named(
    shared: Path, schema: LabelSchema | None
) -> None:
    encoder = shared / "reference" / "feature_encoder.pth"
    with pytest.raises(CheckpointError, match=r"a feature encoder.*latest_net_G\.pth.*--encoder"):
        import_published(encoder, schema)


def test_missing_clusters_are_said_to_be_missing(tmp_path: Path) -> None:
    expected = r"c\.npy: cannot be read \(No such file.*features_clustered_010\.npy"
    with pytest.raises(CheckpointError, match=expected):
        read_clusters(tmp_path / "c.npy")
