"""The two Python steps of the encoded path, as functions: PNG files to what `synthesis` takes, and
its picture to a file. `encoded_models.py` is Triton's side of them.

What arrives here comes from a network: only PNG is read, sizes are checked before a pixel is
decoded, and whatever is wrong is an InputError of one sentence.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sceneloom.contract import INPUT_INSTANCES, INPUT_LABELS, Contract
from sceneloom.errors import ImageReadError, ImageTooLargeError, InputError
from sceneloom.maps import Image, read_instance_map, read_label_map
from sceneloom.pictures import encode_picture
from sceneloom.png import SIGNATURE
from sceneloom.request import Request, prepare
from sceneloom.triton.encoded import INPUT_UNKNOWN, read_format

_BYTES_PER_PIXEL = 8  # no map of ids takes more, packed or not
_BYTES_OF_HEADERS = 1 << 20


def decode_request(
    contract: Contract,
    max_pixels: int,
    *,
    label_file: bytes,
    instance_file: bytes | None,
    style_rows: npt.NDArray[np.float32] | None,
    unknown: str,
) -> Request:
    """Read one request's files and bring them to the form that the network takes.

    Args:
        contract: of the served model.
        max_pixels: most pixels that the server takes, padding included.
        label_file: PNG file with label ids.
        instance_file: PNG file with instance ids, or None where the model takes none.
        style_rows: float32 [K, F], row k for the k-th smallest instance id; no rows, or None, for
            the contract's defaults.
        unknown: ``error`` or ``unlabelled``: what becomes of label ids that the schema does not
            have.

    Raises:
        InputError: why it cannot be rendered.
    """
    if unknown not in ("error", "unlabelled"):
        raise InputError(f"{INPUT_UNKNOWN} is {unknown[:40]!r}; it is error or unlabelled")
    _check_file(label_file, INPUT_LABELS, max_pixels)
    labels = read_label_map(
        label_file,
        contract.schema,
        unknown="error" if unknown == "error" else "unlabelled",
        max_pixels=max_pixels,
        name=INPUT_LABELS,
    )
    height, width = contract.network_size(*labels.shape)
    if height * width > max_pixels:
        raise ImageTooLargeError(
            f"{INPUT_LABELS}: padded to {width}x{height} it is {height * width:,} pixels; this "
            f"server takes at most {max_pixels:,}"
        )
    instances = None
    if instance_file is not None:
        _check_file(instance_file, INPUT_INSTANCES, max_pixels)
        instances = read_instance_map(instance_file, max_pixels=max_pixels, name=INPUT_INSTANCES)
    style = None if style_rows is None or not len(style_rows) else style_rows
    return prepare(contract, labels, instances, style)


def encode_image(image: Image, height_width: tuple[int, int], format: str) -> bytes:
    """Crop a picture to the map's size and encode it, as clients of the raw path do.

    Args:
        image: uint8 [H, W, 3] at network size, RGB.
        height_width: of the map, before it was padded.
        format: of the file, as `sceneloom.triton.encoded.format_words` writes it down.

    Raises:
        InputError: there is no such format, or it cannot hold a picture of this size.
    """
    height, width = height_width
    name, quality = read_format(format)
    return encode_picture(image[:height, :width], name, quality=quality)


def _check_file(data: bytes, name: str, max_pixels: int) -> None:
    most = _BYTES_PER_PIXEL * max_pixels + _BYTES_OF_HEADERS
    if len(data) > most:
        raise ImageTooLargeError(f"{name}: {len(data):,} bytes; this server takes at most {most:,}")
    if not data:
        raise ImageReadError(f"{name}: the file is empty")
    if not data.startswith(SIGNATURE):
        raise ImageReadError(f"{name}: not a PNG file, which is all that the encoded path takes")
