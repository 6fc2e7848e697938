"""Label maps and instance maps: read, check, renumber, write.

PNG (8-bit and 16-bit grey, palette as class ids), TIFF (8, 16 and 32 bit) and NumPy's .npy are
read exactly, or refused with the file's name and the reason: a colour picture, a lossy format, an
unknown id, a damaged file. The size is checked before the pixels are decoded.
"""

from __future__ import annotations

import io
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from sceneloom import errors
from sceneloom.contract import Contract
from sceneloom.png import SIGNATURE, check_png_rows, png_pixels
from sceneloom.schema import MAX_FILE_VALUE, NO_CHANNEL, LabelSchema
from sceneloom.text import counted, reason
from sceneloom.validation import check_kind

if TYPE_CHECKING:
    from PIL import ImageFile  # functions load OpenCV and Pillow: engines work without them

DEFAULT_MAX_PIXELS = 8192 * 8192
"""Default pixel limit: 32 times 2048x1024."""

MAP_SUFFIXES = (".png", ".tif", ".tiff", ".npy")
"""File endings of maps."""
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
"""File endings of pictures and photographs that are read."""

_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_NPY = b"\x93NUMPY"
_LOSSY = {
    b"\xff\xd8\xff": "JPEG",
    b"RIFF": "WebP",
    b"GIF8": "GIF",
    b"\xff\x0a": "JPEG XL",
    b"BM": "BMP",
}
RGB_MODES = ("RGB", "RGBA")
PALETTE_MODES = (*RGB_MODES, "P")
_COLOUR_MODES = (*RGB_MODES, "LA", "CMYK", "YCbCr", "LAB", "RGBX", "PA", "La", "RGBa", "HSV")
_ID_MODES = ("L", "P", "1", "I", "I;16", "I;16B", "I;16L", "I;16N")
MOST_COLOURS = 4096
"""Colours of a map that holds colours, at most; a photograph has more."""
# Grey files below 8 bits: Pillow spreads their values over 0..255, which is wrong for ids.
_SPREAD = {2: 85, 4: 17}
_BLACK_IS_ZERO, _RGB, _PALETTE = 1, 2, 3
_SEPARATE_PLANES = 2
_SIGNED = 2
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")

OnUnknown = Literal["error", "unlabelled"]

Array = npt.NDArray[Any]
"""Array of any dtype and shape."""
LabelMap = npt.NDArray[np.uint8]
"""uint8 [H, W] or [N, H, W]: channels."""
InstanceMap = npt.NDArray[np.int32]
"""int32 [H, W] or [N, H, W]: instance ids."""
Style = npt.NDArray[np.float32]
"""float32 [K, F] or [N, 256, F]: a row for each instance."""
Image = npt.NDArray[np.uint8]
"""uint8 [H, W, 3] or [N, H, W, 3], RGB."""


def read_label_map(
    source: str | Path | bytes,
    schema: LabelSchema,
    *,
    unknown: OnUnknown = "error",
    max_pixels: int = DEFAULT_MAX_PIXELS,
    name: str | None = None,
) -> LabelMap:
    """Read a label map and translate its values to the schema's channels: uint8 [H, W], 255 for
    unlabelled pixels without a channel.

    `source` is the path of a PNG, TIFF or .npy file, or its bytes; `name` is the file's name in
    errors, by default its path. `unknown` refuses ids that the schema does not have, or reads them
    as its unlabelled id. Values above 255, and above all ids of the schema, are refused either way:
    such a file is usually an instance map.

    Raises ImageReadError if the file is missing, empty, truncated, damaged or of an unknown format,
    ImageTooLargeError above `max_pixels` (height * width; nothing is decoded), NotALabelMapError
    for a colour picture, a lossy format, or values that are no label ids, UnknownLabelError for ids
    that the schema does not have.
    """
    check_kind(schema, LabelSchema, "the label schema")
    values, name = decode_map(source, name, max_pixels)
    if values.size and (int(values.min()) < 0 or int(values.max()) > np.iinfo(np.uint16).max):
        hint = "save pixels without a label as 255" if values.min() < 0 else "an instance map?"
        raise errors.NotALabelMapError(
            f"{name}: values from {values.min()} to {values.max()} are no label ids (0 to 65535); "
            f"{hint}"
        )
    channels, counts = schema.to_channels(values.astype(np.uint16, copy=False))
    if not counts:
        return channels
    wide = max(counts) > max(np.iinfo(np.uint8).max, *(label.id for label in schema.labels))
    if unknown == "unlabelled" and schema.unlabelled_channel is not None and not wide:
        # By value: `to_channels` marks unknown pixels by 255, which can also be a real channel.
        channels[np.isin(values, list(counts))] = schema.unlabelled_channel
        return channels
    raise errors.UnknownLabelError(f"{name}: {_describe_unknown(counts, schema, wide)}", counts)


def read_instance_map(
    source: str | Path | bytes,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    name: str | None = None,
    colours: bool = False,
) -> InstanceMap:
    """Read an instance map exactly, 8, 16 or 32 bits, to int32 [H, W]; see `read_label_map`.

    With `colours` also an 8-bit RGB or RGBA picture, of an instance for each colour; its id is
    ``red * 65536 + green * 256 + blue``.

    Raises NotALabelMapError for another colour picture, a lossy format, or ids outside
    0..2147483647.
    """
    values, name = decode_map(source, name, max_pixels, colours=RGB_MODES if colours else ())
    if values.ndim == 3:
        red, green, blue = (values[..., channel].astype(np.int32) for channel in range(3))
        return red * 65536 + green * 256 + blue
    if values.size and (int(values.min()) < 0 or int(values.max()) > np.iinfo(np.int32).max):
        raise errors.NotALabelMapError(
            f"{name}: instance ids from {values.min()} to {values.max()}; they must be 0 to "
            "2147483647"
        )
    return values.astype(np.int32, copy=False)


def parse_size(text: str, *, of: str = "size") -> tuple[int, int]:
    """Parse WIDTHxHEIGHT, each side 1 to 99999, to (height, width); an InputError names `of`."""
    match = re.fullmatch(r"([1-9][0-9]{0,4})[xX]([1-9][0-9]{0,4})", text, re.ASCII)
    if match is None:
        raise errors.InputError(f"{of} is {text!r}; write WIDTHxHEIGHT, such as 2048x1024")
    return int(match[2]), int(match[1])


def decode_map(
    source: str | Path | bytes,
    name: str | None,
    max_pixels: int,
    *,
    colours: tuple[str, ...] = (),
) -> tuple[Array, str]:
    """Integer array [H, W] with the file's own values, and the file's name in errors.

    Files of one of Pillow's modes `colours` (`RGB_MODES`, `PALETTE_MODES`) give uint8 [H, W, 4],
    RGBA, instead.
    """
    from PIL import PngImagePlugin, TiffImagePlugin

    check_kind(source, (str, os.PathLike, bytes), "the path or the bytes of a map")
    name = name or ("(bytes)" if isinstance(source, bytes) else str(source) or "''")
    data = source if isinstance(source, bytes) else read_bytes(Path(source), name, max_pixels)
    if not data:
        raise errors.ImageReadError(f"{name}: the file is empty")
    if data.startswith(SIGNATURE):
        if data[12:16] == b"IHDR" and len(data) >= 24:
            height, width = (int.from_bytes(data[at : at + 4], "big") for at in (20, 16))
            check_pixels(height, width, name, max_pixels)
        pixels = png_pixels(data, name)
        plugin = PngImagePlugin.PngImageFile
        return _decode_image(plugin, data, name, max_pixels, colours, pixels), name
    if data.startswith(_TIFF):
        return _decode_image(TiffImagePlugin.TiffImageFile, data, name, max_pixels, colours), name
    if data.startswith(_NPY):
        return _decode_npy(data, name, max_pixels), name
    for magic, kind in _LOSSY.items():
        if data.startswith(magic):
            raise errors.NotALabelMapError(
                f"{name}: a {kind} file, perhaps a photograph in place of a map; label and "
                "instance maps are read from PNG, TIFF or .npy"
            )
    raise errors.ImageReadError(f"{name}: not a PNG, TIFF or .npy file")


def read_bytes(path: Path, name: str, max_pixels: int) -> bytes:
    """Read the file of a map or a picture. Raises ImageReadError if it cannot be read,
    ImageTooLargeError if it has more bytes than `max_pixels` take.
    """
    most = 8 * max_pixels + (1 << 20)  # no map or picture takes more than 8 bytes a pixel
    try:
        status = path.stat()
        regular = stat.S_ISREG(status.st_mode)  # reading a pipe could wait for ever
        data = path.read_bytes() if regular and status.st_size <= most else b""
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise errors.ImageReadError(f"{name}: cannot be read ({reason})") from None
    if not regular:
        raise errors.ImageReadError(f"{name}: cannot be read (not a file)")
    if status.st_size > most:
        raise errors.ImageTooLargeError(
            f"{name}: {status.st_size:,} bytes; a map of {max_pixels:,} pixels, the limit, takes "
            "less"
        )
    return data


def _decode_image(
    plugin: type[ImageFile.ImageFile],
    data: bytes,
    name: str,
    max_pixels: int,
    colours: tuple[str, ...],
    png_pixels: bytes | None = None,
) -> Array:
    """Decode a PNG file, whose packed pixels are given, or a TIFF file."""
    # Not Image.open: its pixel limit is a global of the whole process.
    try:
        image = plugin(io.BytesIO(data))
    except Exception as error:  # the decoders raise nearly anything on damaged headers
        raise errors.ImageReadError(
            f"{name}: damaged header, or a kind of file that is not read ({reason(error)})"
        ) from None
    width, height = image.size
    check_pixels(height, width, name, max_pixels)
    if image.mode in _COLOUR_MODES and image.mode not in colours:
        if colours:
            way_out = "colours are read from 8-bit RGB, RGBA or palette files"
        elif _has_many_colours(image):
            way_out = (
                f"it has more than {MOST_COLOURS:,} colours: a photograph in place of a label map, "
                "or a map that was scaled or stored with losses"
            )
        else:
            way_out = (
                "give the grey or palette file that holds them, or read its colours with "
                "--colours, or the ids in one channel with --label-channel (CARLA's: "
                "--label-channel red --map-schema carla; --data.colours and so on where a data set "
                "is read)"
            )
        raise errors.NotALabelMapError(
            f"{name}: a colour picture ({image.mode}), not a map of ids; {way_out}"
        )
    if image.mode not in (*_ID_MODES, *colours):
        raise errors.NotALabelMapError(
            f"{name}: pixels of kind {image.mode}; ids are 8, 16 or 32-bit whole numbers"
        )
    if getattr(image, "is_animated", False):
        raise errors.NotALabelMapError(
            f"{name}: holds several pictures; give a file that holds one map"
        )
    if png_pixels is not None:
        check_png_rows(data, png_pixels, name)
        bits, signed = data[24], None
    else:
        bits, signed = _check_tiff(image, name, colours)
    in_colours = image.mode in colours
    if in_colours and image.mode in RGB_MODES and bits != 8:
        raise errors.NotALabelMapError(
            f"{name}: a colour picture of {bits} bits per channel; colours are read from 8 bits"
        )
    try:
        image.load()
        values = np.asarray(image.convert("RGBA") if in_colours else image)
    except Exception as error:
        raise errors.ImageReadError(f"{name}: truncated or damaged ({reason(error)})") from None
    if values.shape[:2] != (height, width) or values.ndim != 2 + in_colours:
        raise errors.ImageReadError(
            f"{name}: truncated or damaged (decoded to {list(values.shape)})"
        )
    if in_colours:
        return values
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    if image.mode == "L" and bits in _SPREAD:
        return values // np.uint8(_SPREAD[bits])
    if image.mode == "L" and signed:
        return values.view(np.int8)
    if image.mode == "I" and signed is False:
        return values.view(np.uint32)
    return values


def _has_many_colours(image: ImageFile.ImageFile) -> bool:
    """Whether a picture has more colours than a map; False if it is damaged."""
    try:
        return image.getcolors(MOST_COLOURS) is None
    except Exception:
        return False


def _check_tiff(
    image: ImageFile.ImageFile, name: str, colours: tuple[str, ...]
) -> tuple[int, bool]:
    """Bits of a value, the most of all channels, and whether it is signed."""
    from PIL import TiffImagePlugin

    def tag(number: int) -> Any:
        value = image.tag_v2.get(number)  # type: ignore[attr-defined]
        return value[0] if isinstance(value, tuple) and value else value

    if image.info["compression"] in _LOSSY_TIFF:
        raise errors.NotALabelMapError(
            f"{name}: a TIFF file with {image.info['compression']} compression, which changes ids; "
            "save it with LZW, deflate or none"
        )
    # Pillow inverts "white is zero" at 8 bits and not at 16; other readers never do.
    photometric = tag(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION)
    rgb = photometric == _RGB and image.mode in colours
    if photometric not in (_BLACK_IS_ZERO, _PALETTE) and not rgb:
        raise errors.NotALabelMapError(
            f"{name}: a TIFF file that does not say that 0 is black (photometric interpretation "
            f"{photometric}); save it as BlackIsZero or palette"
        )
    if rgb and tag(TiffImagePlugin.PLANAR_CONFIGURATION) == _SEPARATE_PLANES:
        raise errors.NotALabelMapError(
            f"{name}: a TIFF file with a plane for each colour; save the colours of a pixel side "
            "by side, or a PNG file"
        )
    if tag(TiffImagePlugin.SAMPLESPERPIXEL) not in (None, 1) and not rgb:
        raise errors.NotALabelMapError(f"{name}: several values per pixel, not a map of ids")
    width, height = image.size
    extents = [tile[1] or (0, 0, 0, 0) for tile in image.tile]
    if sum((right - x) * (bottom - y) for x, y, right, bottom in extents) != height * width:
        raise errors.ImageReadError(f"{name}: damaged (strips of pixels are missing)")
    bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE)  # type: ignore[attr-defined]
    most = max(bits) if isinstance(bits, tuple) else bits
    return most, tag(TiffImagePlugin.SAMPLEFORMAT) == _SIGNED


def _decode_npy(data: bytes, name: str, max_pixels: int) -> Array:
    try:
        stream = io.BytesIO(data)
        npy: Any = np.lib.format
        version_1 = npy.read_magic(stream) == (1, 0)
        read_header = npy.read_array_header_1_0 if version_1 else npy.read_array_header_2_0
        shape, _, dtype = read_header(stream)
    except Exception as error:
        raise errors.ImageReadError(f"{name}: damaged header ({reason(error)})") from None
    if len(shape) != 2 or dtype.kind not in "iu":
        raise errors.NotALabelMapError(
            f"{name}: an array of {dtype} {list(shape)}; ids are a whole-number array [height, "
            "width]"
        )
    check_pixels(shape[0], shape[1], name, max_pixels)
    try:
        values: Array = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:
        raise errors.ImageReadError(f"{name}: truncated or damaged ({reason(error)})") from None
    return values


def check_pixels(height: int, width: int, name: str, max_pixels: int) -> None:
    """Raise ImageReadError for an image without pixels, ImageTooLargeError above the limit."""
    if height < 1 or width < 1:
        raise errors.ImageReadError(f"{name}: the image is {width}x{height} pixels")
    if height * width > max_pixels:
        raise errors.ImageTooLargeError(
            f"{name}: {width}x{height} is {height * width:,} pixels; the limit is {max_pixels:,}"
        )


def _describe_unknown(counts: dict[int, int], schema: LabelSchema, wide: bool) -> str:
    worst = sorted(counts.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{value} ({counted(n, 'pixel')})" for value, n in worst[:6])
    if len(worst) > 6:
        listed += f" and {len(worst) - 6} more"
    ids = "id" if len(worst) == 1 else "ids"
    known = sorted(label.id for label in schema.labels)
    there = ", ".join(map(str, known[:12])) + (" ..." if len(known) > 12 else "")
    if known == list(range(known[0], known[-1] + 1)):
        there = f"{known[0]} to {known[-1]}"
    text = f"unknown label {ids} {listed}; {schema.name} has {there}"
    if wide:
        return (
            f"{text}. A file with values above 255 is usually an instance map; they are never read "
            "as unlabelled"
        )
    if schema.unlabelled is None:
        return f"{text} and {_NO_UNLABELLED}"
    return f"{text}. {unlabelled_hint(schema)}"


_NO_UNLABELLED = (
    'no unlabelled id to read them as; "unlabelled": 255 in the schema\'s file, before the '
    "training, gives it one"
)


def unlabelled_hint(schema: LabelSchema) -> str:
    """How to read unknown labels as unlabelled, if the schema has an id for that."""
    if schema.unlabelled is None:
        return f"{schema.name} has {_NO_UNLABELLED}"
    return (
        f"To read them as unlabelled ({schema.unlabelled}): --unknown unlabelled, for a data set "
        "--data.unknown unlabelled, at a gateway the field unknown=unlabelled"
    )


def check_label_map(contract: Contract, label_map: Array) -> None:
    """Check that a label map is uint8 [H, W], channels of the contract's schema; for a model of
    pictures, that the picture in its place is uint8 [H, W, 3].

    Raises InputError for another dtype or rank, SizeError for no pixels, UnknownLabelError for
    values that are no channel.
    """
    _check_kinds(contract, label_map, "label map")
    schema = contract.schema
    if schema is None:
        if label_map.dtype != np.uint8 or label_map.ndim != 3 or label_map.shape[2] != 3:
            raise errors.InputError(
                "this model takes a picture, uint8 [height, width, 3] RGB, not "
                f"{label_map.dtype} {list(label_map.shape)}"
            )
        if label_map.size == 0:
            raise errors.SizeError("the picture has no pixels")
        return
    if label_map.ndim != 2 or label_map.dtype != np.uint8:
        raise errors.InputError(
            f"a label map is uint8 [height, width], not {label_map.dtype} {list(label_map.shape)}"
        )
    if label_map.size == 0:
        raise errors.SizeError("the label map has no pixels")
    counts = np.bincount(label_map.ravel(), minlength=256)
    counts[: len(schema.labels)] = 0
    if schema.unlabelled_channel == NO_CHANNEL:
        counts[NO_CHANNEL] = 0
    unknown = {int(v): int(counts[v]) for v in np.flatnonzero(counts)}
    if unknown:
        listed = ", ".join(f"{v} ({counted(n, 'pixel')})" for v, n in unknown.items())
        raise errors.UnknownLabelError(
            f"unknown label {listed}; {schema.name} has channels 0 to {len(schema.labels) - 1}",
            unknown,
        )


def check_instance_map(
    contract: Contract, label_map: Array, instance_map: Array | None
) -> InstanceMap | None:
    """Check that an instance map is whole numbers [H, W] of the size of its label map (or of the
    picture in its place), 0..2147483647.

    Returns int32 [H, W], or None where the model takes no instance map. Raises MissingInputError if
    the model needs one, SizeError for another size, InputError for another dtype, rank or range.
    """
    if not contract.wants_instances:
        return None
    main = "label map" if contract.kind == "labels" else "picture"
    if instance_map is None:
        raise errors.MissingInputError(
            f"this model was trained with instance maps and needs one beside the {main}"
        )
    _check_kinds(contract, instance_map, "instance map")
    if instance_map.ndim != 2 or instance_map.dtype.kind not in "iu":
        raise errors.InputError(
            f"an instance map is whole numbers [height, width], not {instance_map.dtype} "
            f"{list(instance_map.shape)}"
        )
    if instance_map.shape != label_map.shape[:2]:
        (h, w), (ih, iw) = label_map.shape[:2], instance_map.shape
        raise errors.SizeError(
            f"the {main} is {w}x{h} and the instance map {iw}x{ih} (width x height); they must be "
            "equal"
        )
    low, high = int(instance_map.min()), int(instance_map.max())
    if low < 0 or high > np.iinfo(np.int32).max:
        raise errors.InputError(
            f"instance ids run from {low} to {high}; they must be 0 to 2147483647"
        )
    return instance_map.astype(np.int32, copy=False)


def _check_kinds(contract: object, values: object, name: str) -> None:
    check_kind(contract, Contract, "the model's contract")
    check_kind(values, np.ndarray, f"the array of the {name}")
    # The values of masked pixels mean nothing; rows of a matrix are matrices again.
    if isinstance(values, (np.ma.MaskedArray, np.matrix)):
        raise errors.InputError(
            f"a value of {type(values).__name__} where the plain array of the {name} belongs"
        )


def boundary_map(instance_map: Array) -> npt.NDArray[np.bool_]:
    """Instance boundaries, bool [H, W]: pixels whose id differs from the pixel above, below, left
    or right (pix2pixHD, section 3.3). Ids are compared as they are, never as floats.
    """
    boundary = np.zeros(instance_map.shape, np.bool_)
    across = instance_map[:, 1:] != instance_map[:, :-1]
    down = instance_map[1:] != instance_map[:-1]
    boundary[:, 1:] |= across
    boundary[:, :-1] |= across
    boundary[1:] |= down
    boundary[:-1] |= down
    return boundary


def renumber_instances(
    instance_map: InstanceMap, limit: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Number the instances densely in the order of their ids; boundaries do not change.

    Returns int32 [H, W] with values 0..K-1, and int32 [K], their former ids. Raises
    TooManyInstancesError if K is above `limit`.
    """
    ids, dense = np.unique(instance_map, return_inverse=True)
    if len(ids) > limit:
        raise errors.TooManyInstancesError(
            f"the map has {len(ids)} instances; a styled model takes at most {limit}"
        )
    return dense.reshape(instance_map.shape).astype(np.int32), ids.astype(np.int32)


def instance_channels(label_map: LabelMap, instance_map: Array) -> tuple[list[int], list[int]]:
    """Class of each instance: that of its first pixel, since an instance lies within one label.

    Returns the K instance ids in ascending order, and the channel of each (255 for unlabelled
    without a channel).
    """
    ids, first = np.unique(instance_map, return_index=True)
    return ids.tolist(), label_map.ravel()[first].tolist()


def label_map_png(contract: Contract, label_map: Array) -> bytes:
    """Write a label map, uint8 [H, W] channels, as a PNG file of label ids: 8-bit grey, 16-bit if
    an id of the map is above 255. Raises as `check_label_map`.
    """
    check_label_map(contract, label_map)
    assert contract.schema is not None  # pictures are encoded as pictures
    values = contract.schema.to_ids(label_map)
    return _png(values.astype(np.uint8) if values.max() <= np.iinfo(np.uint8).max else values)


def instance_map_png(contract: Contract, label_map: Array, instance_map: Array) -> bytes:
    """Write an instance map, whole numbers [H, W], as a 16-bit grey PNG file.

    Ids above 65535, for which PNG has no room, are renumbered in their order; boundaries and the
    rows of a style do not change. Raises as `check_instance_map`, and TooManyInstancesError for
    more than 65536 of such ids.
    """
    instances = check_instance_map(contract, label_map, instance_map)
    if instances is None:
        raise errors.InputError("this model takes no instance map: it was trained without")
    if instances.max() > MAX_FILE_VALUE:
        try:
            instances, _ = renumber_instances(instances, MAX_FILE_VALUE + 1)
        except errors.TooManyInstancesError:
            raise errors.TooManyInstancesError(
                "the map has more instances than a PNG file has room for, 65536"
            ) from None
    return _png(instances.astype(np.uint16))


def _png(values: Array) -> bytes:
    import cv2

    # Maps are flat: the first level takes them to a few per cent, several times faster.
    parameters = (cv2.IMWRITE_PNG_COMPRESSION, 1)
    done, encoded = cv2.imencode(".png", values, parameters)
    assert done, "OpenCV refused to write a map"
    return encoded.tobytes()
