"""Styles of instances in photographs, and their clusters per class (pix2pixHD, section 3.4): the
mean features of each instance; per class, k-means (scikit-learn, Lloyd, 10 starts) over the
instances with a large enough share of their picture, as published. Their mean is the default.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from sceneloom import progress
from sceneloom.contract import Contract
from sceneloom.errors import CheckpointError, InputError, SizeError
from sceneloom.maps import instance_channels
from sceneloom.style import StyleFile, round_style
from sceneloom_training.checkpoint import Checkpoint
from sceneloom_training.data import DataSet, Geometry, Sample
from sceneloom_training.data.geometry import LARGEST_LOAD_SIZE
from sceneloom_training.networks import FeatureEncoder
from sceneloom_training.process import choose_device
from sceneloom_training.settings import ClusterSettings

_STARTS = 10


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EncodedInstances:
    """K instances of one picture, or of one class in many."""

    ids: list[int]
    """Instance ids."""
    channels: list[int]
    """Class of each; 255 where unlabelled has no channel."""
    shares: npt.NDArray[np.float64]
    """float64 [K], the share of its picture, 0..1."""
    features: npt.NDArray[np.float64]
    """float64 [K, F], mean features."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassStyles:
    """The styles of one class."""

    label_id: int
    name: str
    instances: int
    clusters: tuple[tuple[float, ...], ...]
    """Centres, the one of most instances first."""
    default: tuple[float, ...]
    """Mean of the clustered instances."""


def style_parts(checkpoint: Checkpoint, name: Path) -> tuple[FeatureEncoder, Contract]:
    """Return the encoder and the contract of a checkpoint. Raises CheckpointError without them."""
    if checkpoint.contract.kind == "picture":
        raise CheckpointError(f"{name}: takes pictures instead of label maps, and has no styles")
    if checkpoint.encoder is None:
        raise CheckpointError(
            f"{name}: has no feature encoder; train with style.features to have one"
        )
    return checkpoint.encoder, checkpoint.contract


def encode_sample(
    encoder: FeatureEncoder, contract: Contract, sample: Sample, *, width: int | None = None
) -> EncodedInstances:
    """Encode one photograph's instances, in ascending order of ids. Raises SizeError."""
    if width is not None and not 1 <= width <= LARGEST_LOAD_SIZE:
        raise InputError(f"width is {width}; it is from 1 to {LARGEST_LOAD_SIZE}")
    unit = 2 ** int(encoder.settings["downsamplings"])
    geometry = Geometry(mode="none", flip=False)
    if width is not None:
        geometry = Geometry(mode="scale_width", load_size=width, flip=False)
    multiple = math.lcm(unit, contract.size_multiple)
    sample = geometry.apply(sample, np.random.default_rng(0), multiple=multiple)
    h, w = sample.photo.shape[:2]
    smallest = max(2 * unit, contract.smallest_side)
    if min(h, w) < smallest:
        raise SizeError(
            f"a photograph of {w}x{h} (width x height) is too small for this model's encoder; each "
            f"side is at least {smallest}"
        )
    assert sample.label_map is not None
    assert sample.instance_map is not None
    device = next(encoder.parameters()).device
    photo = torch.from_numpy(sample.photo).to(device).permute(2, 0, 1).unsqueeze(0)
    with torch.inference_mode():
        instances = torch.from_numpy(sample.instance_map).to(device).unsqueeze(0)
        planes = encoder(photo.to(torch.float32) / 127.5 - 1.0, instances)[0].cpu().numpy()
    ids, channels = instance_channels(sample.label_map, sample.instance_map)
    _, first, pixels = np.unique(sample.instance_map, return_index=True, return_counts=True)
    # Every pixel of an instance has its mean.
    features = planes.reshape(len(planes), -1)[:, first].T.astype(np.float64)
    shares = pixels / sample.instance_map.size
    return EncodedInstances(ids=ids, channels=channels, shares=shares, features=features)


def encode_photographs(
    encoder: FeatureEncoder,
    contract: Contract,
    data: DataSet,
    settings: ClusterSettings,
    *,
    track: Callable[[range], Iterable[int]] = lambda indices: indices,
) -> dict[int, EncodedInstances]:
    """Encode all instances: channel -> instances, in order. Raises InputError."""
    if data.schema is None or not data.has_instances:
        raise InputError(
            "this data set has no instance maps, which styles belong to; a style for each class: "
            "--boundaries labels"
        )
    ours, theirs = contract.schema, data.schema
    assert ours is not None  # a model of pictures has no encoder
    if [label.id for label in ours.labels] != [label.id for label in theirs.labels]:
        raise InputError(
            f"the data set's labels are {theirs.name}, the checkpoint's are {ours.name}; name the "
            "checkpoint's label schema with --labels"
        )
    encoder = encoder.to(choose_device(settings.device, "device")).eval()
    encoded = []
    for index in track(range(len(data))):
        sample = data.read(index)
        try:
            encoded.append(encode_sample(encoder, contract, sample, width=settings.width))
        except SizeError as error:
            raise SizeError(f"{data.keys[index]}: {error}") from None
    ids = [i for found in encoded for i in found.ids]
    of = np.array([c for found in encoded for c in found.channels])
    shares = np.concatenate([found.shares for found in encoded])
    features = np.concatenate([found.features for found in encoded])
    return {
        channel: EncodedInstances(
            ids=[ids[i] for i in np.flatnonzero(of == channel)],
            channels=[channel] * int((of == channel).sum()),
            shares=shares[of == channel],
            features=features[of == channel],
        )
        for channel in sorted(set(of.tolist()))
        if channel < ours.channels
    }


def cluster_styles(
    contract: Contract, encoded: dict[int, EncodedInstances], settings: ClusterSettings
) -> list[ClassStyles]:
    """Cluster the instances of each class, in channel order, rounded to six digits."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    assert contract.schema is not None  # a model of pictures has no styles
    styles, labels = [], contract.schema.labels
    for channel in progress.steps(sorted(encoded), "cluster", lambda c: labels[c].name):
        instances = encoded[channel]
        large = instances.shares >= settings.smallest_share
        vectors = instances.features[large] if large.any() else instances.features
        count = min(settings.clusters, len(np.unique(vectors, axis=0)))
        with threadpool_limits(1):  # the order of sums of several threads is random
            means = KMeans(count, n_init=_STARTS, random_state=settings.seed).fit(vectors)
        sizes: Counter[tuple[float, ...]] = Counter()
        for centre, size in zip(means.cluster_centers_, np.bincount(means.labels_), strict=True):
            sizes[round_style(centre)] += int(size)
        centres = tuple(sorted(sizes, key=lambda centre: (-sizes[centre], centre)))
        label, count, default = labels[channel], len(vectors), round_style(vectors.mean(0))
        found = ClassStyles(
            label_id=label.id, name=label.name, instances=count, clusters=centres, default=default
        )
        styles.append(found)
    return styles


def with_styles(contract: Contract, styles: list[ClassStyles]) -> Contract:
    """The contract with these clusters and defaults in place of its own."""
    return dataclasses.replace(
        contract,
        style_clusters={found.label_id: found.clusters for found in styles},
        style_defaults={found.label_id: found.default for found in styles},
    )


def reference_styles(contract: Contract, encoded: EncodedInstances) -> StyleFile:
    """Styles of one photograph: of its instances, and per class the mean over its pixels."""
    schema, channels, labels = contract.schema, np.array(encoded.channels), {}
    assert schema is not None  # a model of pictures has no styles
    for channel in sorted({c for c in encoded.channels if c < schema.channels}):
        of = channels == channel
        mean = np.average(encoded.features[of], axis=0, weights=encoded.shares[of])
        labels[schema.labels[channel].id] = round_style(mean)
    instances = {
        instance: round_style(features)
        for instance, features in zip(encoded.ids, encoded.features, strict=True)
    }
    return StyleFile(instances=instances, labels=labels)
