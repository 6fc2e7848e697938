"""Published feature models: `latest_net_E.pth` and `features_clustered_010.npy`.

The published encoder numbers the layers of one flat `nn.Sequential`, as the generators do. The
clusters are a dictionary, label value -> float [clusters, features], which `np.save` pickled. It is
read by an unpickler that knows numeric arrays and nothing else, so that nothing in the file runs::

    sceneloom import latest_net_G.pth --labels cityscapes --out checkpoints/streets \\
        --encoder latest_net_E.pth --clusters features_clustered_010.npy
"""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sceneloom.contract import Contract
from sceneloom.errors import CheckpointError
from sceneloom.style import round_style
from sceneloom.text import counted, reason
from sceneloom_training.networks import FeatureEncoder
from sceneloom_training.published import load_published

_MAX_BYTES = 64 << 20
_MAX_CLUSTERS = 1000
_EXPECTED = "the published code writes them as features_clustered_010.npy"


def import_encoder(path: Path, features: int) -> FeatureEncoder:
    """Rebuild a published feature encoder (`latest_net_E.pth`), float32 on the CPU.

    Args:
        features: style features of the generator, which the encoder must give.

    Raises:
        CheckpointError: the file is unsafe or not a published encoder, or its features differ.
    """
    state = load_published(path)
    weights = {int(k.split(".")[1]): v for k, v in state.items() if k.endswith(".weight")}
    if sorted(weights)[:1] != [1] or set(state) != {
        f"model.{index}.{kind}" for index in weights for kind in ("weight", "bias")
    }:
        raise CheckpointError(f"{path}: not the layers of a published feature encoder")
    downsamplings = (len(weights) - 2) // 2
    body = range(4, 4 + 6 * downsamplings, 3)
    nef, found = weights[1].shape[0], weights[max(weights)].shape[0]
    if found != features:
        raise CheckpointError(
            f"{path}: the encoder gives {counted(found, 'feature')}, the generator takes {features}"
        )
    encoder = FeatureEncoder(features, nef=nef, downsamplings=downsamplings)
    ours = [
        "stem.1",
        *(f"downs.{i}.0" for i in range(downsamplings)),
        *(f"ups.{i}.0" for i in range(downsamplings)),
        "head.1",
    ]
    theirs = [1, *body, 5 + 6 * downsamplings]
    try:
        encoder.load_state_dict(
            {
                f"{name}.{kind}": state[f"model.{index}.{kind}"]
                for name, index in zip(ours, theirs, strict=True)
                for kind in ("weight", "bias")
            }
        )
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: not the layers of a published feature encoder ({reason(error)})"
        ) from None
    if not all(torch.isfinite(value).all() for value in encoder.state_dict().values()):
        raise CheckpointError(f"{path}: holds values that are not finite")
    return encoder


def with_published_clusters(contract: Contract, path: Path) -> tuple[Contract, tuple[str, ...]]:
    """Put published clusters into a contract; the default of a label is the centre nearest to the
    mean of its centres.

    Returns:
        the contract, and notes for the user.

    Raises:
        CheckpointError: the file is not what the published code wrote, or does not fit the model.
    """
    clusters = read_clusters(path)
    assert contract.schema is not None  # a model of pictures has no styles
    known = {label.id for label in contract.schema.labels}
    styles, defaults = {}, {}
    for label_id in sorted(known & clusters.keys()):
        centres = clusters[label_id]
        if centres.shape[1] != contract.style_channels:
            raise CheckpointError(
                f"{path}: the clusters of label {label_id} have "
                f"{counted(centres.shape[1], 'feature')}, the generator takes "
                f"{contract.style_channels}"
            )
        styles[label_id] = tuple(map(round_style, centres))
        nearest = np.square(centres - centres.mean(0)).sum(1).argmin()
        defaults[label_id] = styles[label_id][int(nearest)]
    if not styles:
        raise CheckpointError(f"{path}: has clusters of none of the schema's labels")
    notes = [f"styles of {counted(len(styles), 'label')} from {path.name}"]
    if unknown := sorted(clusters.keys() - known):
        notes.append(f"left out clusters of labels that the schema does not have: {unknown}")
    styled = dataclasses.replace(contract, style_clusters=styles, style_defaults=defaults)
    return styled, tuple(notes)


def read_clusters(path: Path) -> dict[int, npt.NDArray[np.float64]]:
    """Read the published clusters: label value -> float64 [clusters, features].

    Raises:
        CheckpointError: the file is missing, too large, or holds anything but such a dictionary;
            nothing in it runs.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise CheckpointError(f"{path}: larger than {_MAX_BYTES >> 20} MiB")
        with path.open("rb") as file:
            npy: Any = np.lib.format
            read_header = {
                (1, 0): npy.read_array_header_1_0,
                (2, 0): npy.read_array_header_2_0,
            }[npy.read_magic(file)]
            shape, _, dtype = read_header(file)
            if shape != () or dtype.kind != "O":
                raise ValueError(f"it is an array of {dtype} {list(shape)}")
            held = _ArrayUnpickler(file, encoding="latin1").load()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({reason(error)}); {_EXPECTED}") from None
    except (ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path}: not published clusters ({reason(error)}); {_EXPECTED}"
        ) from None
    except (TypeError, AttributeError, IndexError, OverflowError, MemoryError) as error:
        raise CheckpointError(
            f"{path}: not published clusters (a damaged pickle: {type(error).__name__})"
        ) from None
    while isinstance(held, np.ndarray) and held.shape == ():
        held = held.item()
    if not isinstance(held, dict):
        raise CheckpointError(f"{path}: holds a {type(held).__name__}, not a dictionary")
    clusters = {}
    for label, centres in held.items():
        if (
            not isinstance(label, int | np.integer)
            or isinstance(label, bool)
            or not isinstance(centres, np.ndarray)
            or centres.ndim != 2
            or centres.dtype.kind not in "fiu"
            or len(centres) > _MAX_CLUSTERS
            or not np.isfinite(centres).all()
        ):
            raise CheckpointError(
                f"{path}: the entry {label!r} is not a label with at most {_MAX_CLUSTERS} finite "
                "clusters, [clusters, features]"
            )
        if len(centres):
            clusters[int(label)] = centres.astype(np.float64)
    return clusters


class _Array:
    """Stands for numpy.ndarray, which pickles name and never call."""


def _reconstruct(kind: object, shape: object, _: object) -> npt.NDArray[Any]:
    if kind is not _Array or shape != (0,):
        raise pickle.UnpicklingError("an array of another kind")
    return np.empty(0, np.uint8)


def _dtype(name: object, *_: object) -> np.dtype[Any]:
    made = np.dtype(name)  # type: ignore[call-overload]
    if made.kind not in "fiuO":
        raise pickle.UnpicklingError(f"values of {made}")
    return made  # type: ignore[no-any-return]


def _scalar(dtype: np.dtype[Any], data: bytes) -> int | float:
    return np.frombuffer(data, dtype, 1)[0].item()  # type: ignore[no-any-return]


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text of {encoding!r}")
    return text.encode("latin1")


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")
        known = {
            ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy.core.multiarray", "scalar"): _scalar,
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _dtype,
            ("_codecs", "encode"): _encode,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(
                f"refused, it holds {module}.{name} where only arrays may be; nothing in it was run"
            )
        return known[module, name]
