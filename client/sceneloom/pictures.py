"""Pictures as files: encode, decode and write PNG, JPEG, WebP and JPEG XL."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL import ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from sceneloom.errors import ImageReadError, InputError, require
from sceneloom.files import write_whole
from sceneloom.maps import DEFAULT_MAX_PIXELS, Image, check_pixels
from sceneloom.png import SIGNATURE, check_png
from sceneloom.text import reason

EncodedFormat = Literal["png", "jpg", "webp"]
"""Formats that a gateway gives."""
Format = Literal[EncodedFormat, "jxl"]
"""Formats of pictures, by the ending of their files."""
FORMATS: tuple[Format, ...] = get_args(Format)
QUALITY_FORMATS: tuple[Format, ...] = ("jpg", "webp")
"""Formats with a quality; the others are lossless unless the caller says otherwise."""

_LARGEST_SIDE: dict[Format, int] = {"png": 1 << 20, "jpg": 65500, "webp": 16383, "jxl": 1 << 18}
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_JXL_STARTS = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")
# Fast settings: at 2048x1024 on one core some 0.2 s (WebP) and 0.1 s (JPEG XL); more effort takes
# many times as long for a few per cent.
_WEBP_LOSSY_METHOD, _WEBP_LOSSLESS_METHOD = 2, 0
_JXL_LOSSY_EFFORT, _JXL_LOSSLESS_EFFORT = 3, 1


def encode_picture(
    image: Image, format: Format, *, quality: int = 95, lossless: bool | None = None
) -> bytes:
    """Encode a picture, uint8 [H, W, 3] RGB, or, as png, [H, W, 1] grey; the same picture gives
    the same bytes.

    Lossy pictures have a `quality`, 1 to 100. By default png and jxl are lossless, and webp at
    quality 100; jpg never is.

    Raises InputError if the format cannot hold a picture of this size or is never (or always)
    lossless, MissingDependencyError for jxl without the extra ``datasets``.
    """
    channels = (1, 3) if format == "png" else (3,)
    fits = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] in channels
    if not fits or not image.size:
        raise InputError(f"a picture is uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
    if format not in FORMATS:
        raise InputError(f"format is {format!r}; it is one of {', '.join(FORMATS)}")
    if not 1 <= quality <= 100:
        raise InputError(f"quality is {quality}; it is from 1 to 100")
    height, width = image.shape[:2]
    if max(height, width) > (most := _LARGEST_SIDE[format]):
        raise InputError(
            f"a picture of {width}x{height} cannot be written as .{format} ({format} ends at "
            f"{most} pixels a side)"
        )
    if lossless is None:
        lossless = format not in QUALITY_FORMATS or (format == "webp" and quality == 100)
    if lossless == (format == "jpg") and format in ("png", "jpg"):
        raise InputError(f"{format} is {'never' if format == 'jpg' else 'always'} lossless")
    image = np.ascontiguousarray(image)
    if format == "webp":
        out = io.BytesIO()
        Pillow.fromarray(image).save(  # OpenCV's lossless WebP takes ten times as long
            out,
            "WEBP",
            lossless=lossless,
            quality=0 if lossless else quality,  # of lossless files it is the effort
            method=_WEBP_LOSSLESS_METHOD if lossless else _WEBP_LOSSY_METHOD,
        )
        return out.getvalue()
    if format == "jxl":
        if lossless:
            return bytes(load_jxl().encode(image, effort=_JXL_LOSSLESS_EFFORT, lossless=True))
        # As libjxl's JxlEncoderDistanceFromQuality; not below 0.01, which would be lossless.
        distance = 53 / 3000 * quality**2 - 23 / 20 * quality + 25
        if quality >= 30:
            distance = max(0.01, 0.1 + (100 - quality) * 0.09)
        return bytes(load_jxl().encode(image, effort=_JXL_LOSSY_EFFORT, distance=distance))
    # OpenCV's own PNG settings are faster than those of its level 1.
    parameters = [cv2.IMWRITE_JPEG_QUALITY, quality] if format == "jpg" else []
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.shape[2] == 3 else image
    done, encoded = cv2.imencode(f".{format}", bgr, parameters)
    if not done:
        raise InputError(f"a picture of {width}x{height} cannot be written as .{format}")
    return encoded.tobytes()


def decode_picture(
    data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str = "(bytes)"
) -> Image:
    """Decode a picture of a format of `encode_picture` to uint8 [H, W, 3] RGB; a rotation in the
    file's metadata is ignored. `name` is the file's name in errors.

    Raises ImageReadError if it is truncated, damaged or of another format, ImageTooLargeError above
    `max_pixels`, MissingDependencyError for JPEG XL without the extra ``datasets``.
    """
    if data.startswith(_JXL_STARTS):
        return _decode_jxl(data, max_pixels, name)
    plugin: type[ImageFile.ImageFile]
    if data.startswith(SIGNATURE):
        plugin, is_whole = PngImagePlugin.PngImageFile, True  # check_png looks closer
    elif data.startswith(_JPEG_START):
        plugin, is_whole = JpegImagePlugin.JpegImageFile, data.endswith(_JPEG_END)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        plugin = WebPImagePlugin.WebPImageFile
        is_whole = int.from_bytes(data[4:8], "little") + 8 <= len(data)
    else:
        raise ImageReadError(f"{name}: not a PNG, JPEG, WebP or JPEG XL file")
    try:
        width, height = plugin(io.BytesIO(data)).size
    except Exception as error:  # the decoders raise nearly anything on damaged headers
        raise ImageReadError(f"{name}: damaged header ({reason(error)})") from None
    check_pixels(height, width, name, max_pixels)
    if plugin is PngImagePlugin.PngImageFile:
        check_png(data, name)
    decoded = None
    if is_whole:
        decoded = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        )
    if decoded is None or decoded.shape[:2] != (height, width):
        raise ImageReadError(f"{name}: truncated or damaged")
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def load_jxl() -> Any:
    """The module that reads and writes JPEG XL; raises MissingDependencyError without it."""
    require(("pylibjxl",), extra="datasets", purpose="JPEG XL (from Python 3.11 on)")
    import pylibjxl

    return pylibjxl


def _decode_jxl(data: bytes, max_pixels: int, name: str) -> Image:
    jxl = load_jxl()
    try:
        header = jxl.probe(data)
        height, width = int(header["height"]), int(header["width"])
        check_pixels(height, width, name, max_pixels)
        decoded: Image = np.asarray(jxl.decode(data))
    except RuntimeError as error:
        raise ImageReadError(f"{name}: truncated or damaged ({error})") from None
    if decoded.dtype != np.uint8 or decoded.shape != (height, width, 3):
        raise ImageReadError(f"{name}: pixels of kind {decoded.dtype} {list(decoded.shape)}")
    return decoded


def write_image(path: Path, image: Image, *, quality: int = 95) -> None:
    """Encode a picture, uint8 [H, W, 3] RGB, by the ending of its path, and write it whole.

    Raises InputError for another ending or a size that the format cannot hold, OSError if the place
    cannot be written; nothing is left there.
    """
    format = path.suffix.removeprefix(".")
    if format not in FORMATS:
        raise InputError(f"{path}: pictures end in {', '.join(f'.{name}' for name in FORMATS)}")
    try:
        data = encode_picture(image, format, quality=quality)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    write_whole(path, data)
