"""Writing pictures to files."""

from __future__ import annotations

from pathlib import Path

from sceneloom.errors import InputError
from sceneloom.maps import Image
from sceneloom.rendering.writing.formats import FORMATS, encode_picture
from sceneloom.rendering.writing.parts import write_whole


def write_image(path: Path, image: Image, *, quality: int = 95) -> None:
    """Encode a picture and put it in its place in one step.

    Args:
        path: ends in .png, .jpg, .webp or .jxl; missing folders are made.
        image: uint8 [H, W, 3], RGB.
        quality: of jpg and webp, 1 to 100.

    Raises:
        InputError: the ending is another, or the format cannot hold a picture of this size.
        OSError: the place cannot be written; nothing is left there.
    """
    format = path.suffix.removeprefix(".")
    if format not in FORMATS:
        raise InputError(f"{path}: pictures end in {', '.join(f'.{name}' for name in FORMATS)}")
    try:
        data = encode_picture(image, format, quality=quality)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    write_whole(path, data)
