"""Styles of photographs: what the encoder sees, clusters per class, and the two commands."""

from __future__ import annotations

import dataclasses
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from support import wide_generator

from sceneloom.cli import main
from sceneloom.contract import Contract
from sceneloom.errors import CheckpointError, InputError, SizeError
from sceneloom.files import file_hash
from sceneloom.schema import load_schema
from sceneloom.style import read_styles, styles_by_seed
from sceneloom_training.checkpoint import load_checkpoint, save_checkpoint
from sceneloom_training.data import DataSettings, Sample, open_data_set
from sceneloom_training.networks import FeatureEncoder, GeneratorArchitecture
from sceneloom_training.settings import ClusterSettings
from sceneloom_training.styles import (
    EncodedInstances,
    cluster_styles,
    encode_photographs,
    encode_sample,
    reference_styles,
    with_styles,
)

STYLED = Contract(
    schema=load_schema("cityscapes"), boundaries=True, style_channels=3, size_multiple=4
)
STREETS = DataSettings(layout="streets", streets_count=2, streets_size="128x64")
CPU = ClusterSettings(device="cpu")


@pytest.fixture(scope="module")
def encoder() -> FeatureEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return FeatureEncoder(3, nef=4, downsamplings=3).eval().requires_grad_(False)


@pytest.fixture
def bundle(tmp_path: Path, encoder: FeatureEncoder) -> Path:
    """A checkpoint bundle with style, without clusters."""
    architecture = GeneratorArchitecture(
        input_channels=39, ngf=2, global_downsamplings=2, global_blocks=1
    )
    generator = wide_generator(architecture, seed=1)
    save_checkpoint(tmp_path / "bundle", generator, STYLED, {"steps": 7}, encoder=encoder)
    return tmp_path / "bundle"


@cache
def sample(index: int = 0) -> Sample:
    return open_data_set(STREETS).read(index)


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two streets at 128x64 in pix2pixHD's layout: ``train_label/0.png`` and so on."""
    root = tmp_path_factory.mktemp("streets")
    for index in range(2):
        street = sample(index)
        assert street.label_map is not None  # Cityscapes' channels are its ids
        assert street.instance_map is not None
        for kind, values in (
            ("img", street.photo[..., ::-1]),
            ("label", street.label_map),
            ("inst", street.instance_map.astype(np.uint16)),
        ):
            (root / f"train_{kind}").mkdir(exist_ok=True)
            assert cv2.imwrite(str(root / f"train_{kind}" / f"{index}.png"), values)
    return root


@pytest.fixture(scope="module")
def flags(streets: Path) -> list[str]:
    return ["--layout", "pix2pixhd", "--root", str(streets), "--device", "cpu"]


# Encoding ----------------------------------------------------------------------------------------


def test_features_are_the_encoders_means_over_each_instance(encoder: FeatureEncoder) -> None:
    street = sample()
    assert street.label_map is not None
    assert street.instance_map is not None
    found = encode_sample(encoder, STYLED, street)
    image = torch.from_numpy(street.photo).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        planes = encoder(image, torch.from_numpy(street.instance_map)[None])[0].numpy()
    assert found.ids == np.unique(street.instance_map).tolist()
    assert found.features.shape == (len(found.ids), 3)
    for instance, channel, share, features in zip(
        found.ids, found.channels, found.shares, found.features, strict=True
    ):
        inside = street.instance_map == instance
        assert channel in street.label_map[inside]
        assert share == inside.mean()
        assert np.allclose(planes[:, inside].mean(1, np.float64), features, atol=1e-6)
    assert len(np.unique(found.features, axis=0)) == len(found.ids)


def test_photographs_are_scaled_to_the_width_and_a_multiple(encoder: FeatureEncoder) -> None:
    wide = dataclasses.replace(
        sample(),
        photo=cv2.resize(sample().photo, (256, 128), interpolation=cv2.INTER_NEAREST),
        label_map=np.kron(sample().label_map, np.ones((2, 2), np.uint8)),  # type: ignore[arg-type]
        instance_map=np.kron(sample().instance_map, np.ones((2, 2), np.int32)),  # type: ignore[arg-type]
    )
    small = encode_sample(encoder, STYLED, sample(), width=128)
    scaled = encode_sample(encoder, STYLED, wide, width=128)
    assert scaled.ids == small.ids
    assert np.array_equal(scaled.shares, small.shares)
    assert np.abs(scaled.features - small.features).mean() < 0.02
    odd = Sample(
        photo=sample().photo[:-3, :-5].copy(),
        label_map=sample().label_map[:-3, :-5],  # type: ignore[index]
        instance_map=sample().instance_map[:-3, :-5],  # type: ignore[index]
    )
    assert encode_sample(encoder, STYLED, odd).shares.sum() == pytest.approx(1)


def test_too_small_a_photograph_is_refused(encoder: FeatureEncoder, streets: Path) -> None:
    data = open_data_set(DataSettings(layout="pix2pixhd", root=streets))
    with pytest.raises(SizeError, match=r"^0: a photograph of 16x8 "):
        encode_photographs(encoder, STYLED, data, dataclasses.replace(CPU, width=16))
    with pytest.raises(SizeError, match=r"16x8 .*too small.* at least 16"):
        encode_sample(encoder, STYLED, sample(), width=16)
    with pytest.raises(InputError, match="width is 0; it is from 1 to 32768"):
        encode_sample(encoder, STYLED, sample(), width=0)


def test_instances_of_all_photographs_by_class(encoder: FeatureEncoder, streets: Path) -> None:
    data = open_data_set(DataSettings(layout="pix2pixhd", root=streets))
    encoded = encode_photographs(encoder, STYLED, data, CPU)
    single = [encode_sample(encoder, STYLED, sample(i)) for i in range(2)]
    assert sum(len(found.ids) for found in encoded.values()) == sum(len(f.ids) for f in single)
    for channel, found in encoded.items():
        expected = np.concatenate([f.features[np.array(f.channels) == channel] for f in single])
        assert np.array_equal(found.features, expected)
        assert len(found.ids) == len(found.shares) == len(found.features)
        assert set(found.channels) == {channel}


# Clustering --------------------------------------------------------------------------------------


def instances(features: Any, shares: Any = 0.5, channel: int = 26) -> EncodedInstances:
    vectors = np.asarray(features, np.float64)
    return EncodedInstances(
        ids=list(range(len(vectors))),
        channels=[channel] * len(vectors),
        shares=np.broadcast_to(np.asarray(shares, np.float64), len(vectors)),
        features=vectors,
    )


def groups(*sizes: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Points in tight groups around (0, 0, 0), (1, 1, 1), ..."""
    rng = np.random.default_rng(0)
    return np.concatenate([i + rng.normal(0, 0.01, (n, 3)) for i, n in enumerate(sizes)])


def test_groups_are_found_and_the_largest_is_first() -> None:
    settings = ClusterSettings(clusters=3)
    [found] = cluster_styles(STYLED, {26: instances(groups(10, 40, 20))}, settings)
    assert (found.label_id, found.name, found.instances) == (26, "car", 70)
    assert [round(centre[0]) for centre in found.clusters] == [1, 2, 0]
    assert np.allclose(found.clusters, [[1] * 3, [2] * 3, [0] * 3], atol=0.02)
    assert all(x == float(f"{x:.6g}") for centre in found.clusters for x in centre)


def test_the_default_is_the_mean_of_the_instances() -> None:
    vectors = groups(10, 40, 20)
    [found] = cluster_styles(STYLED, {26: instances(vectors)}, ClusterSettings(clusters=3))
    assert found.default == tuple(float(f"{x:.6g}") for x in vectors.mean(0))
    assert round(found.default[0], 2) == 1.14
    assert found.default not in found.clusters


def test_fewer_different_instances_than_clusters() -> None:
    equal = instances([[0.1, 0.2, 0.3]] * 5 + [[0.5, 0.5, 0.5]])
    [found] = cluster_styles(STYLED, {26: equal}, ClusterSettings())
    assert found.clusters == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    assert found.instances == 6
    [one] = cluster_styles(STYLED, {26: instances([[0.1, 0.2, 0.3]])}, ClusterSettings())
    assert one.clusters == (one.default,) == ((0.1, 0.2, 0.3),)


def test_small_instances_are_left_out_where_there_are_larger_ones() -> None:
    vectors = [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.5, 0.5]]
    mixed = instances(vectors, [0.01, 1 / 64, 0.5])
    small = instances(vectors, 0.001)
    large, all_small = cluster_styles(STYLED, {11: mixed, 26: small}, ClusterSettings())
    assert (large.instances, all_small.instances) == (2, 3)
    assert large.clusters == ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
    assert (large.default, all_small.default) == ((0.75,) * 3, (0.5,) * 3)
    everything = ClusterSettings(smallest_share=0)
    assert cluster_styles(STYLED, {26: mixed}, everything)[0].instances == 3


def test_equal_seeds_give_equal_clusters() -> None:
    encoded = {26: instances(np.random.default_rng(0).normal(size=(200, 3)))}
    first, again, other = (
        cluster_styles(STYLED, encoded, ClusterSettings(seed=seed)) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_clusters_in_the_contract_replace_older_ones() -> None:
    old = dataclasses.replace(STYLED, style_defaults={7: (1.0, 1.0, 1.0)})
    contract = with_styles(old, cluster_styles(old, {26: instances(groups(5))}, ClusterSettings()))
    assert set(contract.style_clusters) == set(contract.style_defaults) == {26}
    assert len(contract.style_clusters[26]) == 5
    assert Contract.loads(contract.dumps()) == contract


@pytest.mark.parametrize(
    "change",
    [
        {"clusters": 0},
        {"clusters": 1001},
        {"smallest_share": -0.1},
        {"smallest_share": 1.1},
        {"smallest_share": float("nan")},
        {"seed": -1},
        {"seed": 2**32},
    ],
)
def test_settings_out_of_range(change: dict[str, Any]) -> None:
    [name] = change
    with pytest.raises(InputError, match=f"^{name} is "):
        ClusterSettings(**change)


def test_class_styles_of_a_reference_are_means_over_pixels() -> None:
    encoded = EncodedInstances(
        ids=[7, 26000, 26001, 300],
        channels=[7, 26, 26, 255],
        shares=np.array([0.5, 0.1, 0.3, 0.1]),
        features=np.array([[1.0, 0, 0], [0.4, 0, 0], [0, 0.4, 0], [0, 0, 1 / 3]]),
    )
    styles = reference_styles(STYLED, encoded)
    assert styles.labels == {7: (1.0, 0.0, 0.0), 26: (0.1, 0.3, 0.0)}
    assert styles.instances[300] == (0.0, 0.0, 0.333333)
    assert list(styles.instances) == encoded.ids


# The commands ------------------------------------------------------------------------------------


def test_styles_are_put_into_the_checkpoint_itself(
    bundle: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = load_checkpoint(bundle)
    assert main(["styles", str(bundle), *flags, "--clusters", "2"]) == 0
    after = load_checkpoint(bundle)
    assert after.contract is not None
    assert after.encoder is not None
    clusters, defaults = after.contract.style_clusters, after.contract.style_defaults
    assert {7, 11, 23} <= set(clusters) == set(defaults)
    assert all(len(centres) <= 2 for centres in clusters.values())
    for label, centres in clusters.items():  # a mean lies between the centres
        assert (np.min(centres, 0) - 1e-5 <= defaults[label]).all()
        assert (defaults[label] <= np.max(centres, 0) + 1e-5).all()
    assert any(defaults[label] not in centres for label, centres in clusters.items())
    assert dataclasses.replace(after.contract, style_clusters={}, style_defaults={}) == STYLED
    assert after.weights_hash == before.weights_hash
    assert after.provenance["steps"] == 7
    assert after.provenance["styles"]["photographs"] == 2
    assert after.provenance["styles"]["settings"]["clusters"] == 2
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]
    said = capsys.readouterr()
    for stage in ("load the checkpoint", "read the headers", "cluster road (", "write the check"):
        assert stage in said.err
    lines = said.out.splitlines()
    assert lines[0].split() == ["class", "instances", "clusters"]
    assert any(line.split()[0] == "road" for line in lines)
    assert f"wrote {bundle}" in lines
    maps = sample().label_map, sample().instance_map
    assert styles_by_seed(after.contract, *maps, seed=1, of="all").any()  # type: ignore[arg-type]


def test_styles_go_to_another_place_and_are_the_same_each_time(
    bundle: Path, flags: list[str], tmp_path: Path
) -> None:
    before = file_hash(bundle / "model.json")
    for name in ("a", "b"):
        assert main(["styles", str(bundle), *flags, "--out", str(tmp_path / name)]) == 0
    assert file_hash(bundle / "model.json") == before
    for file in ("model.json", "model.safetensors", "encoder.safetensors"):
        assert file_hash(tmp_path / "a" / file) == file_hash(tmp_path / "b" / file)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 1
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_data_that_says_nothing_about_styles(
    bundle: Path, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = file_hash(bundle / "model.json")
    no_instances = [*flags, "--no-instances"]
    assert "no instance maps" in refused(capsys, "styles", bundle, *no_instances)
    schema = load_schema("cityscapes").to_json()
    schema["labels"] = schema["labels"][::-1]
    (tmp_path / "other.json").write_text(json.dumps({**schema, "name": "other"}))
    other = [*flags, "--labels", tmp_path / "other.json"]
    reason = refused(capsys, "styles", bundle, *other)
    assert "labels are other, the checkpoint's are cityscapes" in reason
    assert file_hash(bundle / "model.json") == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(
    bundle: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "PyTorch finds no GPU" in refused(capsys, "styles", bundle, *flags[:-1], "cuda")


def test_a_checkpoint_without_an_encoder(
    checkpoint: Path, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no feature encoder" in refused(capsys, "styles", checkpoint, *flags)
    files = ["--labels", "l.png", "--instances", "i.png", "--out", tmp_path / "s.json"]
    reason = refused(capsys, "encode-style", checkpoint, "photo.png", *files)
    assert reason.startswith(f"sceneloom encode-style: {checkpoint}: has no feature encoder")


@pytest.fixture
def reference(streets: Path, tmp_path: Path) -> list[str]:
    """A copy of the second street: photograph, and the flags of its maps."""
    for kind, name in (("img", "photo"), ("label", "label"), ("inst", "inst")):
        shutil.copy(streets / f"train_{kind}" / "1.png", tmp_path / f"{name}.png")
    flags = ["--labels", str(tmp_path / "label.png"), "--instances", str(tmp_path / "inst.png")]
    return [str(tmp_path / "photo.png"), *flags]


def test_the_style_of_a_reference_photograph(
    bundle: Path, reference: list[str], tmp_path: Path, encoder: FeatureEncoder
) -> None:
    for name in ("a", "b"):
        out = ["--out", str(tmp_path / f"{name}.json")]
        assert main(["encode-style", str(bundle), *reference, *out]) == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    styles = read_styles(tmp_path / "a.json", STYLED)
    assert styles == reference_styles(STYLED, encode_sample(encoder, STYLED, sample(1)))
    assert {7, 23} <= set(styles.labels)


def test_a_reference_photograph_without_an_instance_map(
    bundle: Path, reference: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "edges.json"
    labels = reference[:3]
    reason = refused(capsys, "encode-style", bundle, *labels, "--out", out)
    assert "--boundaries labels" in reason
    edges = ["--boundaries", "labels", "--out", str(out)]
    assert main(["encode-style", str(bundle), *labels, *edges]) == 0
    label_map = cv2.imread(str(tmp_path / "label.png"), cv2.IMREAD_UNCHANGED)
    assert set(read_styles(out, STYLED).instances) == set(np.unique(label_map).tolist())


def test_a_reference_whose_files_do_not_fit(
    bundle: Path, reference: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "style.json"
    cv2.imwrite(str(tmp_path / "inst.png"), np.zeros((64, 127), np.uint16))
    reason = refused(capsys, "encode-style", bundle, *reference, "--out", out)
    assert "photo.png is 128x64" in reason
    assert "inst.png is 127x64" in reason
    cv2.imwrite(str(tmp_path / "label.png"), np.full((64, 128), 99, np.uint8))
    assert "label id 99" in refused(capsys, "encode-style", bundle, *reference, "--out", out)
    reason = refused(capsys, "encode-style", bundle, "none.png", *reference[1:], "--out", out)
    assert "none.png: cannot be read" in reason
    assert not out.exists()


def test_a_model_that_takes_pictures_has_no_styles(tmp_path: Path) -> None:
    from sceneloom_training.styles import style_parts

    architecture = GeneratorArchitecture(
        input_channels=3, ngf=2, global_downsamplings=1, global_blocks=1
    )
    contract = Contract(kind="picture", boundaries=False, size_multiple=2)
    save_checkpoint(tmp_path / "c", wide_generator(architecture, seed=0), contract, {})
    with pytest.raises(CheckpointError, match="takes pictures instead of label maps"):
        style_parts(load_checkpoint(tmp_path / "c"), tmp_path / "c")
