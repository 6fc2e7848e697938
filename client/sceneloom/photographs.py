"""Reading 8-bit RGB and grey pictures exactly, or refusing them with the reason. Grey becomes RGB.
No EXIF orientation is applied: label maps lie on the pixels as they are stored.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sceneloom.errors import ImageReadError, ImageTooLargeError
from sceneloom.maps import DEFAULT_MAX_PIXELS, Image, read_bytes
from sceneloom.png import SIGNATURE, check_png
from sceneloom.text import reason
from sceneloom.validation import check_kind

if TYPE_CHECKING:
    from PIL import ImageFile  # functions load Pillow: names of pictures are paired without it

_WANTED = "photographs are 8-bit RGB or 8-bit grey"
_JPEG = b"\xff\xd8\xff"
_APP1, _FILL = 0xE1, 0xFF
_ORIENTATION = 0x0112
_PNG_BITS, _PNG_KIND = 24, 25  # offsets in the file
_PNG_KINDS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}


def read_picture(
    source: str | Path | bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, name: str | None = None
) -> Image:
    """Read 8-bit RGB or grey from a path or a file's bytes, by the first of them: uint8 [H, W, 3],
    RGB. `name` is the file's name in errors. Raises ImageReadError for any other depth or kind and
    damaged files, ImageTooLargeError above `max_pixels`.
    """
    check_kind(source, (str, os.PathLike, bytes), "the path or the bytes of a picture")
    name = name or ("(bytes)" if isinstance(source, bytes) else str(source) or "''")
    data = source if isinstance(source, bytes) else read_bytes(Path(source), name, max_pixels)
    if not data:
        raise ImageReadError(f"{name}: the file is empty")
    image = _open(data, name)
    width, height = image.size
    if height * width > max_pixels:
        raise ImageTooLargeError(
            f"{name}: {width}x{height} is {height * width:,} pixels; the limit is {max_pixels:,}"
        )
    if image.mode not in ("RGB", "L") or "transparency" in image.info:
        kind = image.mode if image.mode not in ("RGB", "L") else "with a transparent colour"
        raise ImageReadError(f"{name}: a picture of kind {kind}; {_WANTED}")
    if data.startswith(SIGNATURE):
        check_png(data, name)
    try:
        values = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except Exception as error:  # the decoders raise nearly anything on damaged files
        raise ImageReadError(f"{name}: truncated or damaged ({reason(error)})") from None
    if values.shape != (height, width, 3):
        raise ImageReadError(f"{name}: truncated or damaged (decoded to {list(values.shape)})")
    return values


def _open(data: bytes, name: str) -> ImageFile.ImageFile:
    from PIL import (
        BmpImagePlugin,
        JpegImagePlugin,
        PngImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    plugin: type[ImageFile.ImageFile]
    if data.startswith(SIGNATURE):
        if len(data) <= 28:
            raise ImageReadError(f"{name}: truncated or damaged (no whole header)")
        # By the header: Pillow reads 16-bit RGB as 8-bit without a warning.
        bits, kind = data[_PNG_BITS], _PNG_KINDS.get(data[_PNG_KIND], "unknown")
        if bits != 8 or kind not in ("grey", "RGB"):
            raise ImageReadError(f"{name}: a {bits}-bit {kind} PNG; {_WANTED}")
        if b"acTL" in data[: data.find(b"IDAT")]:
            raise ImageReadError(f"{name}: an animated PNG; give a file that holds one picture")
        plugin = PngImagePlugin.PngImageFile
    elif data.startswith(_JPEG):
        # APP1 segments (EXIF, XMP) go: Pillow parses them while it opens the file and warns of
        # damaged ones, and warnings cannot be silenced for one thread alone.
        at, kept = 2, [data[:2]]
        while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] not in (b"\xda", b""):
            marker = data[at + 1]
            size = 1 if marker == _FILL else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            if marker != _APP1:
                kept.append(data[at : at + size])
            at += size
        data = b"".join(kept) + data[at:]
        plugin = JpegImagePlugin.JpegImageFile
    elif data.startswith(b"BM"):
        plugin = BmpImagePlugin.BmpImageFile
    elif data.startswith(b"RIFF"):
        plugin = WebPImagePlugin.WebPImageFile
    elif data.startswith((b"II*\x00", b"MM\x00*")):
        plugin = TiffImagePlugin.TiffImageFile
    else:
        raise ImageReadError(f"{name}: not a PNG, JPEG, BMP, TIFF or WebP file")
    # Not Image.open: its pixel limit is a global of the whole process.
    try:
        image = plugin(io.BytesIO(data))
        several = getattr(image, "n_frames", 1) > 1
    except Exception as error:
        raise ImageReadError(
            f"{name}: damaged header, or an unknown kind ({reason(error)})"
        ) from None
    if several:
        raise ImageReadError(f"{name}: holds several pictures; give a file that holds one")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # By the tags: Pillow reads 16-bit RGB as 8-bit, and turns a picture, without a warning.
        bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        if any(each != 8 for each in bits):
            raise ImageReadError(f"{name}: a TIFF of {max(bits)} bits per channel; {_WANTED}")
        orientation = image.tag_v2.get(_ORIENTATION, 1)
        if orientation != 1:
            raise ImageReadError(f"{name}: a TIFF with orientation {orientation}; turn it first")
    return image
