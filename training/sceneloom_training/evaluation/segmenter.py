"""Segmentation networks: photographs in, channels of a label schema out.

`load_segmenter` takes the folder of `sceneloom train-segmenter`, a folder of transformers
(``config.json``, ``model.safetensors``) with the caller's schema, or a Python file, which is run,
with a function ``load_segmenter(device)`` that returns a `Segmenter`. Nothing is ever downloaded.
"""

from __future__ import annotations

import abc
import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from annotated_types import Gt
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional

from sceneloom.errors import CheckpointError, InputError, SceneLoomError, SchemaError, require
from sceneloom.files import file_hash, replace_folder
from sceneloom.maps import parse_size
from sceneloom.schema import NO_CHANNEL, LabelSchema, load_schema
from sceneloom.text import one_line, parse_json, reason
from sceneloom.validation import checked, read_json
from sceneloom.version import __version__
from sceneloom_training.checkpoint import save_weights
from sceneloom_training.process import choose_device
from sceneloom_training.settings import DeviceChoice, SegmenterSettings


def load_quietly(kind: Any, folder: Path) -> Any:
    """Load a float32 model of transformers. Raises CheckpointError for random weights."""
    from transformers.utils import logging

    logger: Any = logging  # its functions are not annotated
    logger.disable_progress_bar()
    before = logger.get_verbosity()
    logger.set_verbosity_error()  # it reports such weights as a table
    try:
        model, loading = kind.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # transformers raises nearly anything on damaged folders
        raise CheckpointError(f"{folder}: cannot be loaded ({reason(error)})") from None
    finally:
        logger.set_verbosity(before)
    if other := sorted(name for name, *_ in loading["mismatched_keys"]):
        raise CheckpointError(
            f"{folder}: its weights are of other shapes than config.json says: {other[0]} "
            f"({len(other)} in all)"
        )
    if missing := sorted(loading["missing_keys"]):
        raise CheckpointError(f"{folder}: its weights lack {missing[0]} ({len(missing)} in all)")
    return model


_B0 = (32, 64, 160, 256)
"""Channels of the stages of SegFormer's B0 (Xie et al., 2021, Table 6)."""


def build_network(kind: str, schema: LabelSchema, *, width: int) -> nn.Module:
    """Build a segformer or unet with random weights, from the process's random state. A SegFormer's
    `width` is a multiple of 8 (32 is B0); that of MONAI's BasicUNet doubles four times.
    """
    if kind == "unet":
        require(["monai"], extra="train", purpose="a U-Net as segmenter")
        from monai.networks.nets.basic_unet import BasicUNet

        unet: nn.Module = BasicUNet(
            spatial_dims=2,
            in_channels=3,
            out_channels=schema.channels,
            features=(width, 2 * width, 4 * width, 8 * width, 16 * width, width),
            act="relu",
            norm="batch",
        )
        return unet
    require(["transformers"], extra="train", purpose="training a segmenter")
    from transformers import SegformerConfig, SegformerForSemanticSegmentation
    from transformers.utils import logging

    logger: Any = logging  # its functions are not annotated
    logger.disable_progress_bar()
    config = SegformerConfig(
        hidden_sizes=[channels * width // 32 for channels in _B0],
        id2label={channel: label.name for channel, label in enumerate(schema.labels)},
        label2id={label.name: channel for channel, label in enumerate(schema.labels)},
        semantic_loss_ignore_index=NO_CHANNEL,
    )
    network: nn.Module = SegformerForSemanticSegmentation(config)
    return network


def logits_of(network: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Scores float32 [N, channels, H, W] for normalised pixels, float32 [N, 3, H, W]."""
    given = network(pixels)
    # transformers wraps its scores, and gives them at a quarter of the size.
    scores: torch.Tensor = given if isinstance(given, torch.Tensor) else given.logits
    size = (pixels.shape[2], pixels.shape[3])
    if scores.shape[2:] == size:
        return scores.float()
    return functional.interpolate(scores.float(), size=size, mode="bilinear", align_corners=False)


MARKER, CONFIG, WEIGHTS = "segmenter.json", "config.json", "model.safetensors"
PROCESSOR = "preprocessor_config.json"
FORMAT = 1
PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, for values from 0 to 1, as in the training of the published SegFormers."""


class Segmenter(abc.ABC):
    """The class of every pixel of a photograph."""

    schema: LabelSchema
    height: int
    width: int
    name: str
    weights_sha256: str

    @abc.abstractmethod
    def segment(self, photos: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Channels, uint8 [N, H, W] (255: no opinion), of photographs, uint8 [N, H, W, 3] RGB."""


class NetworkSegmenter(Segmenter):
    """A segmentation network in PyTorch."""

    def __init__(
        self,
        network: nn.Module,
        schema: LabelSchema,
        *,
        height: int,
        width: int,
        name: str,
        weights_sha256: str,
        mean: tuple[float, ...] = PIXEL_MEAN,
        std: tuple[float, ...] = PIXEL_STD,
        device: str = "cpu",
    ) -> None:
        """Wrap a network for `logits_of`, in eval mode."""
        self.schema, self.height, self.width = schema, height, width
        self.name, self.weights_sha256 = name, weights_sha256
        self._network = network.eval().to(device)
        self._device = torch.device(device)
        self._mean, self._std = mean, std

    def segment(self, photos: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Segment photographs. See `Segmenter.segment`."""
        with torch.inference_mode():
            pixels = to_pixels(torch.tensor(photos, device=self._device), self._mean, self._std)
            found = logits_of(self._network, pixels).argmax(1)
        channels: npt.NDArray[np.uint8] = found.to(torch.uint8).cpu().numpy()
        return channels


def to_pixels(
    photos: torch.Tensor, mean: tuple[float, ...] = PIXEL_MEAN, std: tuple[float, ...] = PIXEL_STD
) -> torch.Tensor:
    """uint8 [N, H, W, 3] to normalised float32 [N, 3, H, W]."""
    return normalise(photos.permute(0, 3, 1, 2).float() / 255, mean, std)


def normalise(
    pictures: torch.Tensor, mean: tuple[float, ...] = PIXEL_MEAN, std: tuple[float, ...] = PIXEL_STD
) -> torch.Tensor:
    """Normalise values from 0 to 1, float32 [N, 3, H, W]."""
    centre = torch.tensor(mean, device=pictures.device).view(1, -1, 1, 1)
    spread = torch.tensor(std, device=pictures.device).view(1, -1, 1, 1)
    return (pictures - centre) / spread


def save_segmenter(
    folder: Path,
    network: nn.Module,
    schema: LabelSchema,
    settings: SegmenterSettings,
    provenance: dict[str, Any],
) -> None:
    """Write a segmenter, trained on `to_pixels`, or replace one. Raises CheckpointError."""
    height, width = parse_size(settings.size)
    files = frozenset({MARKER, WEIGHTS})
    with replace_folder(
        folder, marker=MARKER, files=files, kind="a segmenter", error=CheckpointError
    ) as fresh:
        save_weights(network, fresh / WEIGHTS, half=settings.half)
        description = {
            "format": FORMAT,
            "sceneloom": __version__,
            "network": {"kind": settings.network, "width": settings.width},
            "labels": schema.to_json(),
            "height": height,
            "width": width,
            "pixel_mean": PIXEL_MEAN,
            "pixel_std": PIXEL_STD,
            "provenance": provenance,
            "weights_sha256": file_hash(fresh / WEIGHTS),
        }
        (fresh / MARKER).write_text(json.dumps(description, indent=1) + "\n", "utf-8")


def load_segmenter(path: Path, *, labels: str = "", device: DeviceChoice = "auto") -> Segmenter:
    """Load a segmenter from a folder or a Python file (see the module). `labels` is the schema of a
    transformers folder. Raises CheckpointError without a segmenter or for other classes than the
    schema's, InputError if a schema is missing or superfluous, and MissingDependencyError.
    """
    where, is_code = choose_device(device, "device"), path.suffix == ".py" and path.is_file()
    known = MARKER if (path / MARKER).is_file() else CONFIG
    if not is_code and not ((path / known).is_file() and (path / WEIGHTS).is_file()):
        raise CheckpointError(
            f"{path}: is no segmenter; expected a folder with {WEIGHTS} and {MARKER} or {CONFIG}, "
            "or a .py file"
        )
    if is_code or known == MARKER:
        if labels:
            raise InputError(f"{path}: has its own label schema; do not name {labels!r}")
        return _run_file(path, where) if is_code else _load_own(path, where)
    if not labels:
        raise InputError(f"{path}: has no label schema; name one with --segmenter-labels")
    return _load_plain(path, load_schema(labels), where)


_Mean: TypeAlias = tuple[float, float, float]
_Positive: TypeAlias = Annotated[float, Gt(0)]
_Std: TypeAlias = tuple[_Positive, _Positive, _Positive]


@checked(InputError)
@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pixels:
    mean: _Mean
    std: _Std


@checked(CheckpointError)
@dataclasses.dataclass(frozen=True, kw_only=True)
class _Network:
    kind: Literal["segformer", "unet"]
    width: int


@checked(CheckpointError)
@dataclasses.dataclass(frozen=True, kw_only=True)
class _Description:  # segmenter.json
    format: Literal[1]
    sceneloom: str
    network: _Network
    labels: Any
    height: int
    width: int
    pixel_mean: _Mean
    pixel_std: _Std
    provenance: Any
    weights_sha256: str


def _load_own(path: Path, device: str) -> Segmenter:
    source = str(path / MARKER)
    try:
        text = (path / MARKER).read_bytes()
        said = read_json(_Description, text, source=source, error=CheckpointError)
        schema = LabelSchema.from_json(said.labels, source=source)
        settings = SegmenterSettings(  # checks their ranges
            network=said.network.kind, width=said.network.width, size=f"{said.width}x{said.height}"
        )
    except SchemaError as error:  # names the file itself
        raise CheckpointError(str(error)) from None
    except (OSError, InputError) as error:
        raise CheckpointError(f"{source}: is damaged ({error})") from None
    found = file_hash(path / WEIGHTS)
    if found != said.weights_sha256:
        raise CheckpointError(f"{path / WEIGHTS}: is not the file that {MARKER} names (SHA-256)")
    network = build_network(settings.network, schema, width=settings.width)
    try:
        network.load_state_dict(safetensors.torch.load_file(path / WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{path / WEIGHTS}: cannot be loaded ({one_line(str(error))})"
        ) from None
    return NetworkSegmenter(
        network,
        schema,
        height=said.height,
        width=said.width,
        name=f"{type(network).__name__} (sceneloom train-segmenter)",
        weights_sha256=found,
        mean=said.pixel_mean,
        std=said.pixel_std,
        device=device,
    )


def _load_plain(path: Path, schema: LabelSchema, device: str) -> Segmenter:
    """A published folder: its processor's file has size and normalisation."""
    try:
        said: Any = {}
        if (path / PROCESSOR).is_file():
            said = parse_json((path / PROCESSOR).read_text("utf-8"))
        size = said.get("size", 512)
        sides: Any = (size, size)
        if isinstance(size, dict):
            edge = size.get("shortest_edge", 512)
            sides = (size.get("width", edge), size.get("height", edge))
        if not all(isinstance(side, int) for side in sides):
            raise ValueError(f"size is {size!r}; expected whole numbers")
        height, width = parse_size(f"{sides[0]}x{sides[1]}", of="size")
        mean: Any = tuple(said.get("image_mean", PIXEL_MEAN))
        std: Any = tuple(said.get("image_std", PIXEL_STD))
        pixels = _Pixels(mean=mean, std=std)
    except (OSError, AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path / PROCESSOR}: is damaged ({error})") from None
    require(["transformers"], extra="train", purpose="loading a segmenter")
    from transformers import AutoModelForSemanticSegmentation

    network = load_quietly(AutoModelForSemanticSegmentation, path)
    config: Any = network.config
    if config.num_labels != schema.channels:
        raise CheckpointError(
            f"{path}: tells {config.num_labels} classes apart, {schema.name} has {schema.channels}"
        )
    return NetworkSegmenter(
        network,
        schema,
        height=height,
        width=width,
        name=f"{type(network).__name__} ({path.name})",
        weights_sha256=file_hash(path / WEIGHTS),
        mean=pixels.mean,
        std=pixels.std,
        device=device,
    )


def _run_file(path: Path, device: str) -> Segmenter:
    spec = importlib.util.spec_from_file_location(f"sceneloom_segmenter_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        segmenter = module.load_segmenter(device)
    except SceneLoomError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code
        raise CheckpointError(f"{path}: {type(error).__name__}: {reason(error)}") from error
    if not isinstance(segmenter, Segmenter):
        raise CheckpointError(
            f"{path}: load_segmenter gave a {type(segmenter).__name__}, not a "
            "sceneloom_training.evaluation.segmenter.Segmenter"
        )
    for name, kind in _ATTRIBUTES.items():
        value = getattr(segmenter, name, None)
        if not isinstance(value, kind) or (kind is int and value < 1):
            raise CheckpointError(
                f"{path}: the segmenter's {name} is {value!r}; expected {kind.__name__}"
                + (" from 1" if kind is int else "")
            )
    return segmenter


_ATTRIBUTES: dict[str, Any] = {"schema": LabelSchema, "height": int, "width": int}
_ATTRIBUTES |= {"name": str, "weights_sha256": str}
