"""Resizing, cropping and flipping of samples: the modes of the published pix2pixHD.

Pictures are resized by Pillow's bicubic filter, maps by nearest neighbour to the same positions:
the map's pixel whose centre lies at the centre of the picture's. Instance boundaries are computed
from the resulting instance map: a resized boundary map loses lines or makes them thicker.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from annotated_types import Interval
from PIL import Image

from sceneloom.errors import InputError, SizeError
from sceneloom.maps import parse_size
from sceneloom.validation import checked
from sceneloom_training.data.sample import Photo, Sample

Mode = Literal["none", "resize", "resize_and_crop", "crop", "scale_width", "scale_width_and_crop"]

_SIZED: tuple[Mode, ...] = ("resize", "resize_and_crop", "crop", "scale_width_and_crop")
_CROPPED: tuple[Mode, ...] = ("resize_and_crop", "crop", "scale_width_and_crop")
LARGEST_LOAD_SIZE = 32768
_Size = tuple[int, int]
_Values = TypeVar("_Values", bound=np.generic)


@checked(InputError)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry:
    """Resizing, cropping and flipping of samples to the training size."""

    mode: Mode = "scale_width"
    """none: the files' own size. resize: to `size`. resize_and_crop: to a square of `load_size`,
    then a random window of `size`. crop: a random window of `size`. scale_width: to a width of
    `load_size`, the height in proportion. scale_width_and_crop: that, then a random window. none
    and scale_width go to the nearest multiple for the network.
    """
    load_size: Annotated[int, Interval(ge=1, le=LARGEST_LOAD_SIZE)] = 1024
    """Pixels: side of the square of resize_and_crop, width of scale_width; the others ignore it."""
    size: str = ""
    """WIDTHxHEIGHT: window of the modes that crop, exact size of resize; empty for the others."""
    flip: bool = True
    """Mirror left to right, with a chance of one half for each sample."""

    def __post_init__(self) -> None:
        if self.mode not in _SIZED:
            if self.size:
                raise InputError(f"size is {self.size!r}, which the mode {self.mode} does not use")
            return
        height, width = parse_size(self.size, of=f"size, which the mode {self.mode} needs,")
        if self.mode == "resize_and_crop" and max(height, width) > self.load_size:
            raise InputError(
                f"size {self.size} does not fit into load_size {self.load_size}, squared"
            )
        if self.mode == "scale_width_and_crop" and width > self.load_size:
            raise InputError(f"size {self.size} is wider than load_size {self.load_size}")

    def check_multiple(self, multiple: int) -> None:
        """Raise InputError with a valid size if the window or exact size is no multiple."""
        if self.mode not in _SIZED:
            return
        height, width = parse_size(self.size)
        nearest = _nearest(height, multiple), _nearest(width, multiple)
        if nearest != (height, width):
            raise InputError(
                f"size is {self.size}, and the network takes multiples of {multiple}; the nearest "
                f"is {nearest[1]}x{nearest[0]}"
            )

    def apply(self, sample: Sample, rng: np.random.Generator, *, multiple: int) -> Sample:
        """Bring a sample to the training size, multiples of `multiple`, as new arrays in C order.
        `rng` draws the window, then the flip. Raises InputError if the window or exact size is no
        multiple, SizeError if the window is larger than the sample.
        """
        self.check_multiple(multiple)
        scaled = self._scaled(sample.photo.shape[:2], multiple)
        rows, columns = self._window(scaled, rng)
        if self.flip and rng.random() < 0.5:
            columns = columns[::-1]
        labels, instances, source = sample.label_map, sample.instance_map, sample.source
        return Sample(
            photo=_resample(sample.photo, scaled, rows, columns),
            label_map=None if labels is None else _pick(labels, scaled, rows, columns),
            instance_map=None if instances is None else _pick(instances, scaled, rows, columns),
            source=None if source is None else _resample(source, scaled, rows, columns),
        )

    def size_after(self, size: tuple[int, int], *, multiple: int) -> tuple[int, int]:
        """(height, width) that a sample of the (height, width) `size` is brought to. Raises as
        `apply`.
        """
        self.check_multiple(multiple)
        scaled = self._scaled(size, multiple)
        if self.mode not in _CROPPED:
            return scaled
        self._check_window(scaled)
        return parse_size(self.size)

    def _scaled(self, size: tuple[int, ...], multiple: int) -> _Size:
        """(height, width) after resizing a sample of the (height, width) `size`."""
        height, width = size
        match self.mode:
            case "none":
                return _nearest(height, multiple), _nearest(width, multiple)
            case "resize":
                return parse_size(self.size)
            case "resize_and_crop":
                return self.load_size, self.load_size
            case "scale_width":
                in_proportion = self.load_size * height / width
                return _nearest(in_proportion, multiple), _nearest(self.load_size, multiple)
            case "scale_width_and_crop":
                return max(1, self.load_size * height // width), self.load_size
            case "crop":
                return height, width

    def _window(
        self, scaled: _Size, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        height, width = scaled
        if self.mode not in _CROPPED:
            return np.arange(height), np.arange(width)
        self._check_window(scaled)
        window = parse_size(self.size)
        left = int(rng.integers(0, width - window[1], endpoint=True))
        top = int(rng.integers(0, height - window[0], endpoint=True))
        return np.arange(top, top + window[0]), np.arange(left, left + window[1])

    def _check_window(self, scaled: _Size) -> None:
        (height, width), window = scaled, parse_size(self.size)
        if window[0] > height or window[1] > width:
            raise SizeError(
                f"a sample is {width}x{height} where the window of {self.size} is cut from it "
                f"(mode {self.mode}); choose a smaller window or a larger load_size"
            )


def resize_nearest(values: npt.NDArray[_Values], height: int, width: int) -> npt.NDArray[_Values]:
    """Resize a map ([H, W]) by nearest neighbour, to the positions that `Geometry` uses."""
    return _pick(values, (height, width), np.arange(height), np.arange(width))


def _nearest(side: float, multiple: int) -> int:
    """The multiple nearest to a side, at least one. Halves go to even multiples, as published."""
    return max(1, round(side / multiple)) * multiple


def _pick(
    values: npt.NDArray[_Values],
    scaled: _Size,
    rows: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
) -> npt.NDArray[_Values]:
    """Rows and columns of a map ([H, W]) as if it were resized to `scaled` by nearest neighbour."""
    height, width = values.shape
    # In whole numbers, where Pillow's floats can fall to either side of an exact half.
    y = (2 * rows + 1) * height // (2 * scaled[0])
    x = (2 * columns + 1) * width // (2 * scaled[1])
    return np.take(np.take(values, y, axis=0), x, axis=1)


def _resample(
    picture: Photo, scaled: _Size, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]
) -> Photo:
    """Rows and columns of a picture ([H, W, 3]) resized to `scaled` by the bicubic filter."""
    height, width = scaled
    if picture.shape[:2] != scaled:
        image = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
        picture = np.asarray(image)
    return np.take(np.take(picture, rows, axis=0), columns, axis=1)
