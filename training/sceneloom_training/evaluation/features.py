"""FID (Heusel et al., 2017) and KID (Bińkowski et al., 2018) between pictures and photographs, by
torchmetrics. The user brings the feature network; its name and the SHA-256 of its weights go with
the numbers. Nothing is downloaded here.
"""

from __future__ import annotations

import abc
import dataclasses
import importlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from sceneloom.errors import CheckpointError, InputError, MissingDependencyError, require
from sceneloom.files import file_hash
from sceneloom.text import parse_json, reason

if TYPE_CHECKING:
    from torch import Tensor, nn

FeaturesKind = Literal["dinov2", "inception", "efficientnet-lite0"]
_DINO_WEIGHTS = "model.safetensors"
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SUBSETS, _SUBSET_SIZE = 100, 50


class FeatureNetwork(abc.ABC):
    """Pictures to feature vectors."""

    name: str
    """Network, its features and their size, for a person."""
    weights_sha256: str

    def extract(self, pictures: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float64]:
        """Features, float64 [N, F], of N pictures of any sizes, uint8 [H, W, 3] RGB."""
        import torch

        with torch.inference_mode():
            features = [self.features(picture).double().cpu() for picture in pictures]
        return torch.stack(features).numpy()

    @abc.abstractmethod
    def features(self, picture: npt.NDArray[np.uint8]) -> Tensor:
        """Features of one picture, [F]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distances:
    """FID and KID, and their network."""

    fid: float
    kid: float
    """Mean squared maximum mean discrepancy over the subsets, cubic kernel."""
    kid_deviation: float | None
    """Standard deviation over the subsets. None if every subset is all of the pictures."""
    kid_subsets: int
    kid_subset_size: int
    pictures: int
    """Number of pictures, and of photographs."""
    network: str
    weights_sha256: str
    features: int
    """Length of a feature vector. FID of fewer pictures is biased upwards."""


def feature_distances(
    network: FeatureNetwork,
    photos: npt.NDArray[np.float64],
    pictures: npt.NDArray[np.float64],
    *,
    seed: int,
) -> Distances:
    """Compute FID and KID of float64 [N, F], N from 2. Raises InputError if not finite, too."""
    if len(pictures) < 2 or len(photos) < 2:
        raise InputError(f"FID and KID need at least two pictures, not {len(pictures)}")
    if not (np.isfinite(photos).all() and np.isfinite(pictures).all()):
        raise InputError(
            f"{network.name}: gives features that are not finite; its weights are damaged"
        )
    require(["torch", "torchmetrics"], extra="train", purpose="FID and KID")
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(_SUBSET_SIZE, len(pictures), len(photos))
    given = torch.nn.Identity()  # the features exist already; both metrics take any network
    given.num_features = pictures.shape[1]  # type: ignore[assignment]
    fid = FrechetInceptionDistance(feature=given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it keeps all features
        kid = KernelInceptionDistance(feature=given, subsets=_SUBSETS, subset_size=size)
    for metric in (fid, kid):
        metric.update(torch.tensor(photos), real=True)
        metric.update(torch.tensor(pictures), real=False)
    with torch.random.fork_rng(devices=[]):  # KID draws from torch's global generator
        torch.manual_seed(seed)
        mean, deviation = kid.compute()
    return Distances(
        fid=float(fid.compute()),
        kid=float(mean),
        kid_deviation=None if size == len(pictures) == len(photos) else float(deviation),
        kid_subsets=_SUBSETS,
        kid_subset_size=size,
        pictures=len(pictures),
        network=network.name,
        weights_sha256=network.weights_sha256,
        features=pictures.shape[1],
    )


def load_features(path: Path, kind: FeaturesKind, *, device: str = "cpu") -> FeatureNetwork:
    """Load a folder of transformers (dinov2), a weights file of torch-fidelity's Inception v3
    (inception), or that of `sceneloom weights efficientnet-lite0`. Raises CheckpointError or
    MissingDependencyError.
    """
    if kind == "efficientnet-lite0":
        return EfficientNetFeatures(path, device)
    return Dinov2Features(path, device) if kind == "dinov2" else InceptionFeatures(path, device)


class Dinov2Features(FeatureNetwork):
    """Class token of DINOv2 (Oquab et al., 2023), as in FD-DINOv2 (Stein et al., 2023)."""

    def __init__(self, folder: Path, device: str) -> None:
        require(["torch", "transformers"], extra="train", purpose="DINOv2 features")
        from transformers import Dinov2Model

        from sceneloom_training.evaluation.segmenter import load_quietly

        config = folder / "config.json"
        try:
            said = parse_json(config.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{folder}: not a DINOv2 folder of transformers ({config.name}: {reason(error)})"
            ) from None
        kind = said.get("model_type") if isinstance(said, dict) else None
        if kind != "dinov2" or not (folder / _DINO_WEIGHTS).is_file():
            raise CheckpointError(
                f"{folder}: not a DINOv2 folder of transformers with {_DINO_WEIGHTS}"
            )
        model = load_quietly(Dinov2Model, folder)
        if not isinstance(model.config.image_size, int):
            raise CheckpointError(
                f"{config}: image_size is {model.config.image_size}, not one number"
            )
        self._model = model.to(device).eval().requires_grad_(False)
        self._device = device
        self._side = model.config.image_size
        self.name = f"dinov2 {folder.name}, class token at {self._side}x{self._side}"
        self.weights_sha256 = file_hash(folder / _DINO_WEIGHTS)

    def features(self, picture: npt.NDArray[np.uint8]) -> Tensor:
        """See `FeatureNetwork.features`."""
        import torch

        mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (_MEAN, _DEVIATION))
        image = Image.fromarray(picture).resize((self._side,) * 2, Image.Resampling.BICUBIC)
        values = torch.from_numpy(np.array(image)).permute(2, 0, 1).to(torch.float32) / 255
        normalised = ((values - mean) / deviation).unsqueeze(0).to(self._device)
        features: Tensor = self._model(pixel_values=normalised).pooler_output[0]
        return features


class InceptionFeatures(FeatureNetwork):
    """2048 features of Inception v3 as TensorFlow has it, by torch-fidelity."""

    def __init__(self, path: Path, device: str) -> None:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file of Inception weights for torch-fidelity")
        try:
            module = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
        except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another torch
            raise MissingDependencyError(
                "Inception features need torch-fidelity, which does not import here "
                f"({reason(error)}): pip install torch-fidelity, with the torchvision of "
                "this torch, or choose --features-kind dinov2"
            ) from None
        network = module.FeatureExtractorInceptionV3
        try:
            model = network("inception-v3-compat", ["2048"], str(path))
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{path}: cannot be loaded as Inception v3 ({reason(error)})"
            ) from None
        self._model: nn.Module = model.to(device).eval().requires_grad_(False)
        self._device = device
        self.name = "inception v3 (TensorFlow's, torch-fidelity), 2048 features at 299x299"
        self.weights_sha256 = file_hash(path)

    def features(self, picture: npt.NDArray[np.uint8]) -> Tensor:
        """See `FeatureNetwork.features`. The network itself resizes, as TensorFlow does."""
        import torch

        values = torch.tensor(picture).permute(2, 0, 1).unsqueeze(0)
        features: Tensor = self._model(values.to(self._device))[0].reshape(-1)
        return features


class EfficientNetFeatures(FeatureNetwork):
    """1280 features of EfficientNet-Lite0 (Tan and Le, 2019)."""

    def __init__(self, path: Path, device: str) -> None:
        require(["torch"], extra="train", purpose="EfficientNet features")
        from sceneloom_training.evaluation import efficientnet

        self._model = efficientnet.load_efficientnet(path).to(device)
        self._device, self._side = device, efficientnet.SIDE
        self.name = f"efficientnet-lite0, 1280 features at {self._side}x{self._side}"
        self.weights_sha256 = file_hash(path)

    def features(self, picture: npt.NDArray[np.uint8]) -> Tensor:
        """See `FeatureNetwork.features`. Pictures are resized by Pillow's bicubic filter."""
        import torch

        image = Image.fromarray(picture).resize((self._side,) * 2, Image.Resampling.BICUBIC)
        values = torch.from_numpy(np.array(image)).permute(2, 0, 1).to(torch.float32)
        features: Tensor = self._model(values.unsqueeze(0).to(self._device))[0]
        return features
