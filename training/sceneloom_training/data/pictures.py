"""Reading masks, and the headers of pictures and maps."""

from __future__ import annotations

import dataclasses
import errno
import stat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import BmpImagePlugin, TiffImagePlugin, WebPImagePlugin

from sceneloom.errors import ImageReadError
from sceneloom.maps import DEFAULT_MAX_PIXELS
from sceneloom.photographs import read_picture
from sceneloom.png import SIGNATURE
from sceneloom.text import reason

_JPEG = b"\xff\xd8\xff"
_ORIENTATION = 0x0112
_APP1, _FILL, _START_OF_SCAN = 0xE1, 0xFF, 0xDA


def read_mask(path: Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Read a grey picture, also if saved as RGB, uint8 [H, W]. Raises as `read_picture`."""
    picture = read_picture(path, max_pixels=max_pixels)
    mask = picture[..., 0]
    if not (np.array_equal(mask, picture[..., 1]) and np.array_equal(mask, picture[..., 2])):
        raise ImageReadError(f"{path}: has colours; a mask is grey")
    return np.ascontiguousarray(mask)


_BMP, _RIFF, _NPY = b"BM", b"RIFF", b"\x93NUMPY"
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_EXIF = b"Exif\x00\x00"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG's markers before the size."""
_STANDALONE = frozenset(range(0xD0, 0xD9)) | {0x01}
_MOST_CHUNKS, _MOST_EXIF = 1000, 1 << 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
    """Size and orientation of a picture or a map."""

    height: int
    width: int
    orientation: int = 1
    """EXIF's: 1 is upright, 6 and 8 are quarter turns. It is never applied."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


def read_header(path: Path) -> Header | None:
    """Read the header of a PNG, JPEG, BMP, TIFF, WebP or .npy file, else None. Raises
    ImageReadError.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe could wait for ever
            raise OSError(errno.EINVAL, "not a file")
        with path.open("rb") as file:
            start = file.read(30)
            if not start:
                raise ValueError("the file is empty")
            if start.startswith(SIGNATURE):
                return _read_png(file, start)
            if start.startswith(_JPEG):
                return _read_jpeg(file)
            file.seek(0)
            if start.startswith(_NPY):
                npy: Any = np.lib.format
                version_1 = npy.read_magic(file) == (1, 0)
                shape = (npy.read_array_header_1_0 if version_1 else npy.read_array_header_2_0)(
                    file
                )[0]
                # The reader of maps says what is wrong with arrays of other shapes.
                return Header(height=shape[0], width=shape[1]) if len(shape) == 2 else None
            if start.startswith(_TIFF):
                tags = TiffImagePlugin.TiffImageFile(file).tag_v2
                return Header(
                    height=int(tags[TiffImagePlugin.IMAGELENGTH]),
                    width=int(tags[TiffImagePlugin.IMAGEWIDTH]),
                    orientation=int(tags.get(_ORIENTATION, 1)),
                )
            if start.startswith(_BMP):
                width, height = BmpImagePlugin.BmpImageFile(file).size
                return Header(height=height, width=width)
            if start.startswith(_RIFF):
                image = WebPImagePlugin.WebPImageFile(file)
                orientation = _orientation(image.info.get("exif", b"").removeprefix(_EXIF))
                return Header(height=image.size[1], width=image.size[0], orientation=orientation)
            return None
    except OSError as error:
        raise ImageReadError(f"{path}: cannot be read ({reason(error)})") from None
    except Exception as error:  # Pillow raises nearly anything on damaged headers
        raise ImageReadError(f"{path}: damaged header ({reason(error)})") from None


def _read_png(file: BinaryIO, start: bytes) -> Header:
    if len(start) < 24 or start[12:16] != b"IHDR":
        raise ValueError("no size")
    at, orientation = 8, 1
    for _ in range(_MOST_CHUNKS):  # before the pixels
        file.seek(at)
        chunk = file.read(8)
        length = _number(chunk[:4])
        if chunk[4:] == b"eXIf":
            orientation = _orientation(file.read(min(length, _MOST_EXIF)))
        if chunk[4:] in (b"IDAT", b"eXIf", b""):
            break
        at += 12 + length
    return Header(
        width=_number(start[16:20]), height=_number(start[20:24]), orientation=orientation
    )


def _read_jpeg(file: BinaryIO) -> Header:
    at, orientation = 2, 1
    while True:
        file.seek(at)
        mark, marker = file.read(2)
        if mark != _FILL or marker in (0, _START_OF_SCAN):
            raise ValueError("no size before the pixels")
        if marker == _FILL or marker in _STANDALONE:
            at += 1 if marker == _FILL else 2
            continue
        length = _number(file.read(2))
        if marker in _FRAMES:
            frame = file.read(5)
            return Header(
                height=_number(frame[1:3]), width=_number(frame[3:5]), orientation=orientation
            )
        if marker == _APP1 and (segment := file.read(length - 2)).startswith(_EXIF):
            orientation = _orientation(segment.removeprefix(_EXIF))
        at += 2 + length


def _orientation(exif: bytes) -> int:
    """EXIF's orientation, 1 for absent or damaged data."""
    order = {b"II": "little", b"MM": "big"}.get(exif[:2])

    def number(at: int, length: int) -> int:
        return int.from_bytes(exif[at : at + length], order or "big")  # type: ignore[arg-type]

    table = number(4, 4)
    for entry in range(number(table, 2) if order else 0):
        at = table + 2 + 12 * entry
        if number(at, 2) == _ORIENTATION:
            found = number(at + 8, 2)
            return found if 1 <= found <= 8 else 1
    return 1


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")
