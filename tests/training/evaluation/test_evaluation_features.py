"""FID and KID with feature networks from local files."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from colour_segmenter import ColourSegmenter
from torch import nn

from sceneloom.errors import CheckpointError, InputError, MissingDependencyError
from sceneloom.files import file_hash
from sceneloom_training.data import DataSet
from sceneloom_training.evaluation.evaluate import EvaluationSettings, evaluate
from sceneloom_training.evaluation.features import (
    Dinov2Features,
    FeatureNetwork,
    feature_distances,
    load_features,
)
from sceneloom_training.evaluation.sources import GivenPictures

Features = npt.NDArray[np.float64]
FEW = EvaluationSettings(bootstrap=20)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DINOv2 with random weights."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("features") / "tiny"
    settings = {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        configuration = transformers.Dinov2Config(hidden_size=16, patch_size=14, **settings)
        transformers.Dinov2Model(configuration).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def network(dinov2: Path) -> FeatureNetwork:
    return load_features(dinov2, "dinov2")


def noise(count: int) -> list[npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (64, 128, 3), np.uint8) for _ in range(count)]


def test_photographs_are_nearer_to_themselves_than_noise(
    street_data: DataSet, judge: ColourSegmenter, network: FeatureNetwork
) -> None:
    real = [street_data.read(i).photo for i in range(5)]
    same = evaluate(street_data, judge, GivenPictures(real), FEW, features=network)
    far = evaluate(street_data, judge, GivenPictures(noise(5)), FEW, features=network)
    assert same.distances is not None
    assert far.distances is not None
    assert abs(same.distances.fid) < 1e-4
    assert far.distances.fid > 0.1
    assert far.distances.kid > same.distances.kid + 0.01


def test_the_numbers_say_which_network_they_are_of(dinov2: Path, network: FeatureNetwork) -> None:
    features = network.extract(noise(3))
    assert features.shape == (3, 16)
    assert features.dtype == np.float64
    found = feature_distances(network, features, features[::-1].copy(), seed=0)
    assert found.kid_deviation is None  # there is one subset of all three
    assert found.network == "dinov2 tiny, class token at 28x28"
    assert found.weights_sha256 == file_hash(dinov2 / "model.safetensors")
    assert (found.pictures, found.kid_subset_size, found.features) == (3, 3, 16)


def test_features_are_the_networks_own(dinov2: Path, network: FeatureNetwork) -> None:
    from transformers import BitImageProcessor, Dinov2Model

    picture = noise(1)[0]
    processor = BitImageProcessor(
        do_center_crop=False,
        size={"height": 28, "width": 28},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    pixels = processor(picture, return_tensors="pt")
    with torch.inference_mode():
        expected = Dinov2Model.from_pretrained(dinov2)(**pixels).pooler_output
    assert np.allclose(network.extract([picture]), expected.numpy(), atol=1e-4)


def test_fid_is_the_distance_between_two_gaussians(network: FeatureNetwork) -> None:
    # Two features, uncorrelated: the squared distance of means and of deviations.
    photos = np.array([[-1.0, 0], [1, 0], [0, -1], [0, 1]])
    pictures = 2 * photos + [3, 0]
    found = feature_distances(network, photos, pictures, seed=0)
    deviation = np.sqrt(2 / 3)
    assert found.fid == pytest.approx(3**2 + 2 * deviation**2)


def test_kid_depends_on_its_seed_alone(network: FeatureNetwork) -> None:
    rng = np.random.default_rng(0)
    photos, pictures = rng.normal(size=(60, 4)), rng.normal(size=(60, 4))
    before = torch.get_rng_state()
    first = feature_distances(network, photos, pictures, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert feature_distances(network, photos, pictures, seed=1) == first
    other = feature_distances(network, photos, pictures, seed=2)
    assert other.kid != first.kid
    assert dataclasses.replace(other, kid=first.kid, kid_deviation=first.kid_deviation) == first
    assert first.kid_subset_size == 50


def test_one_picture_has_no_distribution(
    street_data: DataSet, judge: ColourSegmenter, network: FeatureNetwork
) -> None:
    one = EvaluationSettings(limit=1)
    with pytest.raises(InputError, match="at least two pictures"):
        evaluate(street_data, judge, GivenPictures(noise(1)), one, features=network)
    with pytest.raises(InputError, match="at least two pictures"):
        feature_distances(network, np.zeros((1, 2)), np.zeros((1, 2)), seed=0)


def test_what_is_no_dinov2(tmp_path: Path, dinov2: Path) -> None:
    with pytest.raises(CheckpointError, match="not a DINOv2 folder"):
        load_features(tmp_path / "nothing", "dinov2")
    for content in ('{"model_type": "vit"}', "[]", "{"):
        (tmp_path / "config.json").write_text(content)
        (tmp_path / "model.safetensors").write_bytes(b"")
        with pytest.raises(CheckpointError, match="not a DINOv2 folder"):
            load_features(tmp_path, "dinov2")
    (tmp_path / "config.json").write_bytes((dinov2 / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"cannot be loaded|of other shapes"):
        load_features(tmp_path, "dinov2")


def test_weights_of_another_size_or_with_gaps_are_refused(tmp_path: Path, dinov2: Path) -> None:
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_bytes((dinov2 / "config.json").read_bytes())
    weights = load_file(dinov2 / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layernorm\.weight"):
        load_features(tmp_path, "dinov2")
    configuration = json.loads((dinov2 / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**configuration, "hidden_size": 32}))
    with pytest.raises(CheckpointError, match=r"cannot be loaded|of other shapes"):
        load_features(tmp_path, "dinov2")


def test_an_image_size_of_two_numbers_is_refused(tmp_path: Path, dinov2: Path) -> None:
    shutil.copytree(dinov2, tmp_path / "two")
    path = tmp_path / "two" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_size": [28, 28]}))
    with pytest.raises(CheckpointError, match=r"config\.json: image_size is .*28, 28"):
        load_features(tmp_path / "two", "dinov2")


def test_features_that_are_not_finite_are_refused(network: FeatureNetwork) -> None:
    features = np.random.default_rng(0).normal(size=(4, 3))
    with pytest.raises(InputError, match="not finite"):
        feature_distances(network, features, np.where(features > 0, np.nan, features), seed=0)


# Inception ---------------------------------------------------------------------------------------


class FakeInception(nn.Module):
    """Stands for torch-fidelity's network: takes uint8, and gives a tuple with the features."""

    def __init__(self, name: str, features: list[str], weights: str) -> None:
        super().__init__()
        assert (name, features) == ("inception-v3-compat", ["2048"])
        self.weights = Path(weights).read_text()

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor]:
        assert pictures.dtype == torch.uint8
        return (pictures.float().mean((2, 3)),)


def test_inception_is_torch_fidelitys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = FakeInception  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", type(sys)("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    weights = tmp_path / "inception.pth"
    weights.write_text("weights")
    network = load_features(weights, "inception")
    picture = noise(1)[0]
    picture.setflags(write=False)
    assert np.allclose(network.extract([picture]), picture.mean((0, 1)))
    assert network.weights_sha256 == file_hash(weights)
    assert "inception v3" in network.name


def test_inception_that_does_not_import_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    (tmp_path / "weights").touch()
    with pytest.raises(MissingDependencyError, match="torch-fidelity, which does not import here"):
        load_features(tmp_path / "weights", "inception")
    with pytest.raises(CheckpointError, match="no such file of Inception weights"):
        load_features(tmp_path / "nothing", "inception")


def test_nothing_imports_torchvision(network: FeatureNetwork) -> None:
    assert isinstance(network, Dinov2Features)
    feature_distances(network, np.eye(3), np.eye(3), seed=0)
    assert "torchvision" not in sys.modules
