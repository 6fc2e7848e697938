"""Tiny data sets in their publishers' layouts, for tests of what is built on the readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import scipy.io
from PIL import Image
from support import blocky_maps

COUNT = 4


def photo_of(label_map: np.ndarray, seed: int) -> np.ndarray:
    """A photograph in which every label has its colour, with some noise."""
    colours = np.random.default_rng(0).integers(0, 256, (256, 3))
    noise = np.random.default_rng(seed).integers(-8, 9, (*label_map.shape, 3))
    return np.clip(colours[label_map] + noise, 0, 255).astype(np.uint8)


def save(path: Path, values: np.ndarray) -> None:
    """Write an array as the kind of picture that the path ends with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def write_pix2pixhd(root: Path, height: int, width: int, count: int = COUNT) -> None:
    """train_label, train_inst, train_img."""
    for i in range(count):
        label_map, instance_map = blocky_maps(height, width, i, labels=34)
        save(root / "train_label" / f"{i}_labelIds.png", label_map)
        save(root / "train_inst" / f"{i}_instanceIds.png", instance_map.astype(np.uint16))
        save(root / "train_img" / f"{i}_leftImg8bit.png", photo_of(label_map, i))


def write_cityscapes(root: Path, height: int, width: int) -> None:
    """leftImg8bit and gtFine, one city."""
    for i in range(COUNT):
        label_map, instance_map = blocky_maps(height, width, i, labels=34)
        city, name = root / "gtFine" / "train" / "ulm", f"ulm_{i:06}_000019"
        save(city / f"{name}_gtFine_labelIds.png", label_map)
        save(city / f"{name}_gtFine_instanceIds.png", instance_map.astype(np.uint16))
        photo = root / "leftImg8bit" / "train" / "ulm" / f"{name}_leftImg8bit.png"
        save(photo, photo_of(label_map, i))


def write_ade20k(root: Path, height: int, width: int) -> None:
    """images and annotations."""
    for i in range(1, COUNT + 1):
        label_map, _ = blocky_maps(height, width, i, labels=151)
        name = f"ADE_train_{i:08}"
        save(root / "annotations" / "training" / f"{name}.png", label_map)
        save(root / "images" / "training" / f"{name}.jpg", photo_of(label_map, i))


def write_nyu(root: Path, height: int, width: int) -> None:
    """nyu_depth_v2_labeled.mat, splits.mat, classMapping40.mat; axes transposed as MATLAB does."""
    maps = [blocky_maps(height, width, i, labels=40)[0] for i in range(COUNT)]
    labels = np.stack(maps).astype(np.uint16)
    photos = np.stack([photo_of(m, i) for i, m in enumerate(maps)])
    root.mkdir(parents=True)
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = photos.transpose(0, 3, 2, 1)
        file["labels"] = labels.transpose(0, 2, 1)
        file["instances"] = (labels > 0).astype(np.uint8).transpose(0, 2, 1)
    numbers = np.arange(1, COUNT + 1)[:, None]
    scipy.io.savemat(root / "splits.mat", {"trainNdxs": numbers, "testNdxs": numbers})
    mapping = (np.arange(894) % 40 + 1).astype(np.uint8)[None]
    scipy.io.savemat(root / "classMapping40.mat", {"mapClass": mapping})


def write_celebamask(root: Path, height: int, width: int) -> None:
    """CelebA-HQ-img and masks of two parts."""
    masks = root / "CelebAMask-HQ-mask-anno" / "0"
    for i in range(COUNT):
        skin = np.zeros((height, width), np.uint8)
        skin[: height // 2] = 255
        save(masks / f"{i:05}_skin.png", skin)
        save(masks / f"{i:05}_hair.png", 255 - skin)
        save(root / "CelebA-HQ-img" / f"{i}.jpg", photo_of(skin, i))


def write_paired(root: Path, height: int, width: int) -> None:
    """train_A and train_B: a picture and its negative."""
    for i in range(COUNT):
        photo = photo_of(blocky_maps(height, width, i)[0], i)
        save(root / "train_A" / f"{i}.png", 255 - photo)
        save(root / "train_B" / f"{i}.png", photo)


WRITERS: dict[str, Callable[[Path, int, int], None]] = {
    "pix2pixhd": write_pix2pixhd,
    "cityscapes": write_cityscapes,
    "ade20k": write_ade20k,
    "nyu": write_nyu,
    "celebamask": write_celebamask,
    "paired": write_paired,
}
"""Layout -> what writes a tree of it: folder, height, width."""
