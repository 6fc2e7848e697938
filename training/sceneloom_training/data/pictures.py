"""Reading photographs and grey masks from PNG, JPEG, BMP, TIFF and WebP files, exactly, or refusing
with the reason.

8-bit RGB and 8-bit grey are read; grey becomes RGB with three equal values (some photographs of
ADE20K are grey). Depths and kinds that would lose something on the way to 8-bit RGB are refused. An
orientation in a file's EXIF data is not applied: the label maps that belong to the photographs were
drawn on the pixels as they are stored, and are not rotated either
(`sceneloom_training.data.headers` reads it, so that it can be named).
"""

from __future__ import annotations

import io
import stat
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from sceneloom.errors import ImageReadError, ImageTooLargeError
from sceneloom.maps import DEFAULT_MAX_PIXELS
from sceneloom.png import SIGNATURE, check_png
from sceneloom.text import reason

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
"""File endings that `read_picture` takes, in lower case."""

_WANTED = "photographs are 8-bit RGB or 8-bit grey"
_JPEG = b"\xff\xd8\xff"
_OTHERS: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (b"BM", BmpImagePlugin.BmpImageFile),
    (b"RIFF", WebPImagePlugin.WebPImageFile),
    *((magic, TiffImagePlugin.TiffImageFile) for magic in (b"II*\x00", b"MM\x00*")),
)
_ORIENTATION = 0x0112
_APP1, _FILL, _START_OF_SCAN = 0xE1, 0xFF, b"\xda"
_BYTES_PER_PIXEL = 8  # no 8-bit picture takes more, headers aside
_HEADERS = 1 << 20
_PNG_BITS, _PNG_KIND = 24, 25  # offsets in the file
_PNG_KINDS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}


def read_picture(path: Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Read a photograph.

    Args:
        path: a PNG, JPEG, BMP, TIFF or WebP file of 8-bit RGB or 8-bit grey; its first bytes say
            which, not its name.
        max_pixels: most pixels (height * width) to decode.

    Returns:
        uint8 [H, W, 3], RGB, 0..255.

    Raises:
        ImageReadError: missing, empty, truncated, damaged, or of a kind that is not read: 16 bits,
            palette, alpha, CMYK.
        ImageTooLargeError: more pixels than `max_pixels`.
    """
    return _decode(_read_bytes(path, max_pixels), path, max_pixels)


def read_mask(path: Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Read a mask: a picture that is grey, though publishers may have saved it as RGB.

    Returns:
        uint8 [H, W], 0..255.

    Raises:
        ImageReadError: as `read_picture`, or the picture has colours.
        ImageTooLargeError: as `read_picture`.
    """
    picture = read_picture(path, max_pixels=max_pixels)
    mask = picture[..., 0]
    if not (np.array_equal(mask, picture[..., 1]) and np.array_equal(mask, picture[..., 2])):
        raise ImageReadError(f"{path}: has colours; a mask is grey")
    return np.ascontiguousarray(mask)


def _read_bytes(path: Path, max_pixels: int) -> bytes:
    most = _BYTES_PER_PIXEL * max_pixels + _HEADERS
    try:
        status = path.stat()
        regular = stat.S_ISREG(status.st_mode)  # reading a pipe could wait for ever
        data = path.read_bytes() if regular and status.st_size <= most else b""
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise ImageReadError(f"{path}: cannot be read ({reason(error)})") from None
    if not regular:
        raise ImageReadError(f"{path}: cannot be read (not a file)")
    if status.st_size > most:
        raise ImageTooLargeError(
            f"{path}: {status.st_size:,} bytes; a picture of {max_pixels:,} pixels, the limit, "
            "takes less"
        )
    if not data:
        raise ImageReadError(f"{path}: the file is empty")
    return data


def _decode(data: bytes, path: Path, max_pixels: int) -> npt.NDArray[np.uint8]:
    image = _open(data, path)
    width, height = image.size
    if height * width > max_pixels:
        raise ImageTooLargeError(
            f"{path}: {width}x{height} is {height * width:,} pixels; the limit is {max_pixels:,}"
        )
    if image.mode not in ("RGB", "L") or "transparency" in image.info:
        kind = image.mode if image.mode not in ("RGB", "L") else "with a transparent colour"
        raise ImageReadError(f"{path}: a picture of kind {kind}; {_WANTED}")
    if data.startswith(SIGNATURE):
        check_png(data, str(path))
    try:
        values = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except Exception as error:  # the decoders raise nearly anything on damaged files
        raise ImageReadError(f"{path}: truncated or damaged ({reason(error)})") from None
    if values.shape != (height, width, 3):
        raise ImageReadError(f"{path}: truncated or damaged (decoded to {list(values.shape)})")
    return values


def _open(data: bytes, path: Path) -> ImageFile.ImageFile:
    """The opened picture; no pixel is decoded yet."""
    plugin: type[ImageFile.ImageFile]
    if data.startswith(SIGNATURE):
        _check_png_kind(data, path)
        plugin = PngImagePlugin.PngImageFile
    elif data.startswith(_JPEG):
        data = _without_exif(data)
        plugin = JpegImagePlugin.JpegImageFile
    elif plugin_ := next((kind for magic, kind in _OTHERS if data.startswith(magic)), None):
        plugin = plugin_
    else:
        raise ImageReadError(f"{path}: not a PNG, JPEG, BMP, TIFF or WebP file")
    # Not Image.open: its pixel limit is a global of the whole process.
    try:
        image = plugin(io.BytesIO(data))
        several = getattr(image, "n_frames", 1) > 1
    except Exception as error:
        raise ImageReadError(
            f"{path}: damaged header, or a kind of file that is not read ({reason(error)})"
        ) from None
    if several:
        raise ImageReadError(f"{path}: holds several pictures; give a file that holds one")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image, path)
    return image


def _check_tiff(image: TiffImagePlugin.TiffImageFile, path: Path) -> None:
    """Refuse by the tags: Pillow reads 16-bit RGB as 8-bit, and turns a picture, without a word."""
    bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    if any(each != 8 for each in bits):
        raise ImageReadError(f"{path}: a TIFF of {max(bits)} bits per channel; {_WANTED}")
    orientation = image.tag_v2.get(_ORIENTATION, 1)
    if orientation != 1:
        raise ImageReadError(
            f"{path}: a TIFF with orientation {orientation}, which readers apply differently; turn "
            "it first (mogrify -auto-orient)"
        )


def _without_exif(data: bytes) -> bytes:
    """A JPEG without its APP1 segments (EXIF, XMP), which are not used.

    Pillow parses them while it opens the file and warns of damaged ones; warnings cannot be
    silenced for one thread alone.
    """
    at, kept = 2, [data[:2]]
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] not in (_START_OF_SCAN, b""):
        marker = data[at + 1]
        size = 1 if marker == _FILL else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker != _APP1:
            kept.append(data[at : at + size])
        at += size
    return b"".join(kept) + data[at:]


def _check_png_kind(data: bytes, path: Path) -> None:
    """Refuse by the header: Pillow reads 16-bit RGB as 8-bit without a word."""
    if len(data) <= 28:
        raise ImageReadError(f"{path}: truncated or damaged (no whole header)")
    bits, kind = data[_PNG_BITS], _PNG_KINDS.get(data[_PNG_KIND], "unknown")
    if bits != 8 or kind not in ("grey", "RGB"):
        raise ImageReadError(
            f"{path}: {'an' if bits == 8 else 'a'} {bits}-bit {kind} PNG; {_WANTED}"
        )
    if b"acTL" in data[: data.find(b"IDAT")]:
        raise ImageReadError(f"{path}: an animated PNG; give a file that holds one picture")
