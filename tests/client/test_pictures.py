"""Pictures as bytes: exact or near, the same bytes each time, refused where they do not fit."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sceneloom.errors import ImageReadError, ImageTooLargeError, InputError
from sceneloom.pictures import FORMATS, Format, decode_picture, encode_picture


def smooth(height: int, width: int, seed: int = 0) -> Any:
    """A picture that lossy formats keep well, with other values in each channel."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def magic(data: bytes) -> str:
    starts = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp", b"\xff\x0a": "jxl"}
    return next(name for start, name in starts.items() if data.startswith(start))


@pytest.mark.parametrize("format", FORMATS)
def test_round_trip(format: Format) -> None:
    image = smooth(60, 91)
    data = encode_picture(image, format)
    assert magic(data) == format
    difference = np.abs(decode_picture(data).astype(int) - image)
    assert difference.max() == 0 if format in ("png", "jxl") else difference.mean() < 3


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("webp", {"lossless": True, "quality": 30}),
        ("webp", {"quality": 100}),
        ("jxl", {"quality": 10}),
    ],
)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 99),
)
@settings(max_examples=20)
def test_lossless_is_exact(
    format: Format, options: dict[str, Any], size: tuple[int, int], seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    assert np.array_equal(decode_picture(encode_picture(image, format, **options)), image)


@pytest.mark.parametrize("format", ["jpg", "webp", "jxl"])
def test_quality(format: Format) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    size, error = {}, {}
    for quality in (5, 50, 95):
        data = encode_picture(image, format, quality=quality, lossless=False)
        size[quality] = len(data)
        error[quality] = np.abs(decode_picture(data).astype(int) - image).mean()
    assert size[5] < size[50] < size[95]
    assert error[5] > error[50] > error[95] > 0


@pytest.mark.parametrize("format", FORMATS)
def test_equal_pictures_give_equal_bytes_in_any_thread(format: Format) -> None:
    image = smooth(50, 70)
    mirrored = np.ascontiguousarray(image[:, ::-1])
    with ThreadPoolExecutor(4) as pool:
        encoded = set(pool.map(lambda _: encode_picture(image, format), range(12)))
    encoded.add(encode_picture(mirrored[:, ::-1], format))  # not contiguous
    assert len(encoded) == 1


def test_other_readers_agree() -> None:
    image = smooth(30, 41)
    for format in ("png", "jpg", "webp"):
        data = encode_picture(image, format)  # type: ignore[arg-type]
        theirs = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
        assert np.abs(theirs - decode_picture(data)).max() <= 2


@pytest.mark.parametrize(
    ("format", "width", "most"), [("jpg", 65501, 65500), ("webp", 16384, 16383)]
)
def test_pictures_that_a_format_cannot_hold(format: Format, width: int, most: int) -> None:
    image = np.zeros((2, width, 3), np.uint8)
    reason = rf"picture of {width}x2 cannot be written as \.{format} \({format} ends at {most}"
    with pytest.raises(InputError, match=reason):
        encode_picture(image, format)
    assert decode_picture(encode_picture(image[:, 1:], format)).shape == (2, most, 3)


@pytest.mark.parametrize(
    ("image", "format", "options", "reason"),
    [
        (np.zeros((2, 2), np.uint8), "png", {}, r"uint8 \[H, W, 3\], not uint8 \[2, 2\]"),
        (np.zeros((2, 2, 3)), "png", {}, "not float64"),
        (np.zeros((0, 2, 3), np.uint8), "png", {}, r"\[0, 2, 3\]"),
        (np.zeros((2, 2, 3), np.uint8), "gif", {}, "one of png, jpg, webp, jxl"),
        (np.zeros((2, 2, 3), np.uint8), "jpg", {"quality": 0}, "quality is 0"),
        (np.zeros((2, 2, 3), np.uint8), "jpg", {"lossless": True}, "jpg is never lossless"),
        (np.zeros((2, 2, 3), np.uint8), "png", {"lossless": False}, "png is always lossless"),
    ],
)
def test_what_is_refused(image: Any, format: Any, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        encode_picture(image, format, **options)


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_pictures_are_named(format: Format) -> None:
    data = encode_picture(smooth(60, 90), format)
    for cut in (len(data) // 2, len(data) - 3, 14, 5):
        with pytest.raises(ImageReadError, match=r"^answer: (truncated|damaged)|^answer: not a"):
            decode_picture(data[:cut], name="answer")


def test_what_is_no_picture() -> None:
    for data in (b"", b"II*\x00" + bytes(40), b"RIFF" + bytes(40)):
        with pytest.raises(ImageReadError, match="not a PNG, JPEG, WebP or JPEG XL file"):
            decode_picture(data)


@pytest.mark.parametrize("format", FORMATS)
def test_pixels_are_counted_before_they_are_decoded(format: Format) -> None:
    data = encode_picture(smooth(60, 90), format)
    with pytest.raises(ImageTooLargeError, match="90x60 is 5,400 pixels; the limit is 5,399"):
        decode_picture(data, max_pixels=5399)
    assert decode_picture(data, max_pixels=5400).shape == (60, 90, 3)


def test_a_rotation_in_the_file_is_not_carried_out() -> None:
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # turn right
    Image.fromarray(smooth(20, 40)).save(out, "JPEG", exif=exif)
    assert decode_picture(out.getvalue()).shape == (20, 40, 3)
