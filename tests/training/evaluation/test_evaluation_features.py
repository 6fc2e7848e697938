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
from sceneloom_training.evaluation.efficientnet import load_efficientnet
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


@pytest.mark.slow
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


# EfficientNet-Lite0 ------------------------------------------------------------------------------

BLOCKS = (  # kernel, stride, expansion, channels
    (3, 1, 1, 16), (3, 2, 6, 24), (3, 1, 6, 24), (5, 2, 6, 40), (5, 1, 6, 40), (3, 2, 6, 80),
    (3, 1, 6, 80), (3, 1, 6, 80), (5, 1, 6, 112), (5, 1, 6, 112), (5, 1, 6, 112), (5, 2, 6, 192),
    (5, 1, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192), (3, 1, 6, 320),
)  # fmt: skip


def efficientnet_state() -> dict[str, torch.Tensor]:
    """Random weights with the names and shapes of the published file."""
    draw = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}

    def add(conv: str, norm: str, outputs: int, inputs: int, kernel: int) -> None:
        spread = (2 / (inputs * kernel**2)) ** 0.5
        state[f"{conv}.weight"] = spread * torch.randn(
            outputs, inputs, kernel, kernel, generator=draw
        )
        for name in ("weight", "bias", "running_mean", "running_var"):
            state[f"{norm}.{name}"] = 0.2 * torch.rand(outputs, generator=draw)
        state[f"{norm}.weight"] += 1
        state[f"{norm}.running_var"] += 0.5
        state[f"{norm}.num_batches_tracked"] = torch.tensor(1)

    add("_conv_stem", "_bn0", 32, 3, 3)
    inputs = 32
    for i, (kernel, _, expansion, outputs) in enumerate(BLOCKS):
        inner, place = inputs * expansion, f"_blocks.{i}"
        if expansion > 1:
            add(f"{place}._expand_conv", f"{place}._bn0", inner, inputs, 1)
        add(f"{place}._depthwise_conv", f"{place}._bn1", inner, 1, kernel)
        add(f"{place}._project_conv", f"{place}._bn2", outputs, inner, 1)
        inputs = outputs
    add("_conv_head", "_bn1", 1280, 320, 1)
    state |= {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}
    return state


def expected_features(state: dict[str, torch.Tensor], picture: torch.Tensor) -> torch.Tensor:
    """The network written out: TensorFlow's SAME padding, BatchNorm with eps 1e-3, ReLU6."""

    def layer(x: torch.Tensor, conv: str, norm: str, stride: int, activates: bool) -> torch.Tensor:
        weight = state[f"{conv}.weight"]
        kernel, groups = weight.shape[2], x.shape[1] // weight.shape[1]
        before = (kernel - stride) // 2  # of even sides
        margins = [before, kernel - stride - before] * 2 if kernel > 1 else [0] * 4
        x = nn.functional.conv2d(
            nn.functional.pad(x, margins), weight, stride=stride, groups=groups
        )
        mean, variance, scale, shift = (
            state[f"{norm}.{name}"].view(-1, 1, 1)
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / (variance + 1e-3).sqrt() * scale + shift
        return x.clamp(0, 6) if activates else x

    x = layer((picture - 127) / 128, "_conv_stem", "_bn0", 2, True)
    for i, (_, stride, expansion, outputs) in enumerate(BLOCKS):
        place, y = f"_blocks.{i}", x
        if expansion > 1:
            y = layer(y, f"{place}._expand_conv", f"{place}._bn0", 1, True)
        y = layer(y, f"{place}._depthwise_conv", f"{place}._bn1", stride, True)
        y = layer(y, f"{place}._project_conv", f"{place}._bn2", 1, False)
        x = x + y if stride == 1 and x.shape[1] == outputs else y
    return layer(x, "_conv_head", "_bn1", 1, True).mean((2, 3))


def test_efficientnets_features_are_the_published_networks(tmp_path: Path) -> None:
    path = tmp_path / "efficientnet-lite0.pth"
    state = efficientnet_state()
    torch.save(state, path)
    network = load_features(path, "efficientnet-lite0")
    picture = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    given = torch.tensor(picture).permute(2, 0, 1)[None].double()
    expected = expected_features({k: x.double() for k, x in state.items()}, given)
    assert expected.std() > 0.05
    exact = load_efficientnet(path).double()(given)
    assert torch.allclose(exact, expected, rtol=0, atol=1e-9)
    features = network.extract([picture, noise(1)[0]])
    assert features.shape == (2, 1280)
    assert np.allclose(features[0], expected[0].numpy(), atol=0.02)  # float32: values up to 6
    found = feature_distances(network, features, features, seed=0)
    assert found.network == "efficientnet-lite0, 1280 features at 224x224"
    assert found.weights_sha256 == file_hash(path)


def test_what_is_no_efficientnet(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    for content in ({"_fc.weight": torch.zeros(1)}, [1], "text"):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=r"other\.pth: not readable as the file of"):
            load_features(path, "efficientnet-lite0")
    with pytest.raises(CheckpointError, match=r"missing\.pth: not readable"):
        load_features(tmp_path / "missing.pth", "efficientnet-lite0")


def test_nothing_imports_torchvision(network: FeatureNetwork) -> None:
    assert isinstance(network, Dinov2Features)
    feature_distances(network, np.eye(3), np.eye(3), seed=0)
    assert "torchvision" not in sys.modules
