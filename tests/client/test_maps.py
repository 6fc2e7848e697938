"""Reading label and instance maps: exact values, or a refusal that names the file and the reason.

PNG and TIFF files that Pillow cannot write (16-bit, low bit depths, interlaced, huge, damaged) are
put together here from their bytes.
"""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from sceneloom.errors import (
    ImageReadError,
    ImageTooLargeError,
    InputError,
    NotALabelMapError,
    UnknownLabelError,
)
from sceneloom.maps import parse_size, read_instance_map, read_label_map
from sceneloom.schema import Label, LabelSchema, load_schema

CITYSCAPES = load_schema("cityscapes")
CITYSCAPES19 = load_schema("cityscapes19")
FULL = LabelSchema(
    name="full",
    labels=tuple(Label(id=i, name=str(i), colour=(0, 0, 0)) for i in range(256)),
    unlabelled=9,
)
WIDE = LabelSchema(
    name="wide",
    labels=(Label(id=3, name="a", colour=(0, 0, 0)), Label(id=40000, name="b", colour=(9, 9, 9))),
    unlabelled=3,
)
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
SMALL = np.arange(35, dtype=np.uint8).reshape(5, 7)

Array = npt.NDArray[Any]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def packed(values: Array, bits: int) -> bytes:
    """Rows of a PNG or TIFF: `bits` per value, each row ends on a byte."""
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        unpacked = (values[..., None] >> np.arange(bits)[::-1]) & 1
        rows = [np.packbits(row.ravel().astype(np.uint8)).tobytes() for row in unpacked]
    return b"".join(b"\0" + row for row in rows)


def png(values: Array, bits: int, colour: int = GREY, *, interlaced: bool = False) -> bytes:
    height, width = values.shape
    scan = packed(values, bits)
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2)]
        passes += [(0, 1, 2, 2), (1, 0, 2, 1)]
        parts = [values[y::down, x::right] for y, x, down, right in passes]
        scan = b"".join(packed(part, bits) for part in parts if part.size)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    chunks = [chunk(b"IHDR", header)]
    if colour == PALETTE:
        colours = np.random.default_rng(1).integers(0, 256, (1 << min(bits, 8), 3), np.uint8)
        chunks.append(chunk(b"PLTE", colours.tobytes()))
    chunks += [chunk(b"IDAT", zlib.compress(scan)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(values: Array, *, order: str = "<", cut: int = 0, **tags: Any) -> bytes:
    """An uncompressed TIFF file with one strip; `tags` overrides tags by number (``t262=0``)."""
    height, width = values.shape
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    bits = values.dtype.itemsize * 8
    sample_format = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    entries |= {279: len(data), 339: sample_format}
    entries |= {int(key[1:]): value for key, value in tags.items()}
    entries = {tag: value for tag, value in sorted(entries.items()) if value is not None}
    mark = b"II*\0" if order == "<" else b"MM\0*"
    out = mark + struct.pack(order + "I", 8 + len(data)) + data
    out += struct.pack(order + "H", len(entries))
    for tag, value in entries.items():
        out += struct.pack(order + "HHII", tag, 4, 1, value)
    return out + struct.pack(order + "I", 0)


def npy(values: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def saved(values: Array, kind: str, mode: str | None = None, **options: Any) -> bytes:
    image = Image.fromarray(values)
    stream = io.BytesIO()
    (image.convert(mode) if mode else image).save(stream, kind, **options)
    return stream.getvalue()


# Exact values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("interlaced", [False, True], ids=["plain", "interlaced"])
@pytest.mark.parametrize("colour", [GREY, PALETTE], ids=["grey", "palette"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_png_values_are_exact(tmp_path: Path, bits: int, colour: int, interlaced: bool) -> None:
    values = np.random.default_rng(bits).integers(0, 1 << bits, (11, 13), np.uint8)
    path = tmp_path / "map.png"
    path.write_bytes(png(values, bits, colour, interlaced=interlaced))
    label_map = read_label_map(path, FULL)
    assert label_map.dtype == np.uint8
    assert np.array_equal(label_map, values)
    assert np.array_equal(read_instance_map(path), values)


@pytest.mark.parametrize("interlaced", [False, True], ids=["plain", "interlaced"])
def test_16_bit_png_values_are_exact(interlaced: bool) -> None:
    values = np.random.default_rng(1).integers(0, 65536, (11, 13)).astype(np.uint16)
    values[0, :2] = 0, 65535
    instance_map = read_instance_map(png(values, 16, interlaced=interlaced))
    assert instance_map.dtype == np.int32
    assert np.array_equal(instance_map, values)


def test_a_png_written_by_opencv_reads_the_same() -> None:
    values = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    assert np.array_equal(read_instance_map(cv2.imencode(".png", values)[1].tobytes()), values)


def test_16_bit_label_map_whose_values_fit_the_schema() -> None:
    label_map = read_label_map(png(np.array([[3, 40000], [40000, 3]], np.uint16), 16), WIDE)
    assert label_map.dtype == np.uint8
    assert label_map.tolist() == [[0, 1], [1, 0]]
    assert np.array_equal(read_label_map(png(SMALL.astype(np.uint16), 16), CITYSCAPES), SMALL)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.uint32])
def test_tiff_values_are_exact(dtype: type[np.integer], order: str) -> None:
    if dtype is np.uint32 and order == ">":
        with pytest.raises(ImageReadError, match="a kind of file that is not read"):
            read_instance_map(tiff(SMALL.astype(dtype), order=order))
        return
    values = np.arange(12).reshape(3, 4).astype(dtype)
    values[-1, -1] = min(np.iinfo(dtype).max, 2**31 - 1)
    instance_map = read_instance_map(tiff(values, order=order))
    assert instance_map.dtype == np.int32
    assert np.array_equal(instance_map, values)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_compressed_tiff_values_are_exact(dtype: type[np.integer], compression: str) -> None:
    values = np.random.default_rng(2).integers(0, 120, (40, 50)).astype(dtype)
    values[3, 3] = np.iinfo(dtype).max
    data = saved(values, "TIFF", compression=compression)
    assert np.array_equal(read_instance_map(data), values)


@pytest.mark.parametrize("bits", [2, 4])
def test_tiff_below_8_bits_is_exact(bits: int) -> None:
    values = np.arange(16, dtype=np.uint8).reshape(4, 4) % (1 << bits)
    rows = np.frombuffer(packed(values, bits), np.uint8).reshape(4, -1)[:, 1:]
    data = tiff(np.ascontiguousarray(rows), t256=4, t258=bits)
    assert np.array_equal(read_label_map(data, CITYSCAPES), values)


def test_palette_tiff_gives_class_ids() -> None:
    image = Image.fromarray(SMALL)
    image.putpalette(np.random.default_rng(3).integers(0, 256, 768).astype(np.uint8).tobytes())
    stream = io.BytesIO()
    image.save(stream, "TIFF")
    assert image.mode == "P"
    assert np.array_equal(read_label_map(stream.getvalue(), CITYSCAPES), SMALL)


def test_big_tiff() -> None:
    data = saved(SMALL, "TIFF", big_tiff=True)
    assert data.startswith(b"II+")
    assert np.array_equal(read_label_map(data, CITYSCAPES), SMALL)


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<i4", ">i4", "<i8", "u8", "i1"])
def test_npy_values_are_exact(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "map.npy"
    np.save(path, np.asfortranarray(SMALL.astype(dtype)))
    assert np.array_equal(read_label_map(path, CITYSCAPES), SMALL)
    assert np.array_equal(read_instance_map(path), SMALL)


@pytest.mark.parametrize("make", [tiff, npy])
@pytest.mark.parametrize("value", [65536, 70000, 2**24 + 1, 2**31 - 1])
def test_instance_ids_above_16_bits_are_exact(make: Any, value: int) -> None:
    assert read_instance_map(make(np.full((2, 3), value, np.int32))).tolist() == [[value] * 3] * 2


@pytest.mark.parametrize(
    ("data", "extreme"),
    [
        (tiff(np.array([[2**31]], np.uint32)), "2147483648"),
        (tiff(np.array([[2**32 - 1]], np.uint32)), "4294967295"),
        (npy(np.array([[2**31]], np.int64)), "2147483648"),
        (npy(np.array([[2**64 - 1]], np.uint64)), "18446744073709551615"),
        (tiff(np.array([[-1]], np.int32)), "-1"),
        (tiff(np.array([[-1]], np.int16)), "-1"),
        (tiff(np.array([[-1]], np.int8)), "-1"),
        (npy(np.array([[-5]], np.int8)), "-5"),
        (npy(np.array([[-(2**63)]], np.int64)), "-9223372036854775808"),
    ],
)
def test_ids_outside_31_bits_are_refused(data: bytes, extreme: str) -> None:
    with pytest.raises(NotALabelMapError, match=f"a.tif: instance ids from .*{extreme}; they must"):
        read_instance_map(data, name="a.tif")
    with pytest.raises(NotALabelMapError, match=f"a.tif: values from .*{extreme} are no label ids"):
        read_label_map(data, CITYSCAPES, name="a.tif")


# Unknown ids -------------------------------------------------------------------------------------


def test_unknown_ids_are_named_with_their_counts(tmp_path: Path) -> None:
    values = np.zeros((4, 5), np.uint8)
    values[0] = 255
    values[1, :2] = 77
    path = tmp_path / "street.png"
    path.write_bytes(png(values, 8))
    with pytest.raises(UnknownLabelError) as caught:
        read_label_map(path, CITYSCAPES)
    assert str(caught.value) == (
        f"{path}: unknown label ids 255 (5 pixels), 77 (2 pixels); cityscapes has 0 to 34. To "
        "read them as unlabelled (0): --unknown unlabelled, for a data set --data.unknown "
        "unlabelled, at a gateway the field unknown=unlabelled"
    )
    assert caught.value.counts == {255: 5, 77: 2}


def test_a_schema_without_unlabelled_says_so() -> None:
    schema = LabelSchema(name="one", labels=(Label(id=0, name="a", colour=(0, 0, 0)),))
    for unknown in ("error", "unlabelled"):
        with pytest.raises(
            UnknownLabelError, match=r"1 \(1 pixel\).*and no unlabelled id.*: 255 in"
        ):
            read_label_map(png(np.array([[0, 1]], np.uint8), 8), schema, unknown=unknown)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("schema", "values", "expected"),
    [
        (CITYSCAPES, [[7, 255, 35]], [[7, 0, 0]]),
        (CITYSCAPES19, [[7, 255, 35]], [[7, 255, 255]]),
        (load_schema("ade20k"), [[1, 0, 200]], [[0, 255, 255]]),
        (WIDE, [[3, 4, 255]], [[0, 0, 0]]),
    ],
)
def test_unknown_ids_as_unlabelled(
    schema: LabelSchema, values: list[list[int]], expected: list[list[int]]
) -> None:
    data = png(np.array(values, np.uint8), 8)
    assert read_label_map(data, schema, unknown="unlabelled").tolist() == expected


def test_channel_255_is_not_taken_for_unknown() -> None:
    labels = tuple(Label(id=i + 1, name=str(i), colour=(0, 0, 0)) for i in range(256))
    schema = LabelSchema(name="shifted", labels=labels, unlabelled=9)
    data = npy(np.array([[256, 0, 9]], np.uint16))
    with pytest.raises(UnknownLabelError, match=r"id 0 \(1 pixel\)"):
        read_label_map(data, schema)
    known = npy(np.array([[256, 1]], np.uint16))
    assert read_label_map(known, schema, unknown="unlabelled").tolist() == [[255, 0]]
    aliased = LabelSchema(name="low", labels=labels[:255], unlabelled=0)
    eight = npy(np.array([[255, 0]], np.uint8))
    assert read_label_map(eight, aliased, unknown="unlabelled").tolist() == [[254, 255]]
    top = LabelSchema(name="top", labels=(*labels[1:], labels[0]), unlabelled=9)
    last = npy(np.array([[1, 0]], np.uint8))  # id 1 is channel 255, id 0 is unknown
    assert read_label_map(last, top, unknown="unlabelled").tolist() == [[255, 7]]


MAKERS = pytest.mark.parametrize(
    "make", [lambda v: png(v, 16), tiff, npy], ids=["png", "tiff", "npy"]
)


@MAKERS
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
def test_unknown_ids_as_unlabelled_in_files_of_more_than_8_bits(make: Any, dtype: Any) -> None:
    if make is not npy and dtype != np.uint16:
        pytest.skip("the same file")
    data = make(np.array([[7, 255, 35]], dtype))
    assert read_label_map(data, CITYSCAPES, unknown="unlabelled").tolist() == [[7, 0, 0]]
    with pytest.raises(
        UnknownLabelError, match=r"To read them as unlabelled .*--unknown unlabelled"
    ):
        read_label_map(data, CITYSCAPES)


@pytest.mark.parametrize("unknown", ["error", "unlabelled"])
@MAKERS
def test_instance_like_values_are_refused_either_way(make: Any, unknown: Any) -> None:
    reason = r"a\.png: .* is usually an instance map; they are never read as unlabelled"
    with pytest.raises(UnknownLabelError, match=reason):
        read_label_map(
            make(np.array([[7, 26001]], np.uint16)), CITYSCAPES, unknown=unknown, name="a.png"
        )


def test_a_schema_of_large_ids_has_large_unknown_ids() -> None:
    labels = (Label(id=1, name="a", colour=(0, 0, 0)), Label(id=9000, name="b", colour=(0, 0, 0)))
    schema = LabelSchema(name="large", labels=labels, unlabelled=1)
    data = png(np.array([[9000, 300, 1]], np.uint16), 16)
    assert read_label_map(data, schema, unknown="unlabelled").tolist() == [[1, 0, 0]]


def test_negative_ids_are_refused_with_what_to_do() -> None:
    data = npy(np.array([[7, -1]], np.int64))
    with pytest.raises(
        NotALabelMapError, match=r"from -1 to 7 .*; save pixels without a label as 255"
    ):
        read_label_map(data, CITYSCAPES, unknown="unlabelled")


# What is no label map ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("PNG", mode) for mode in ("RGB", "RGBA", "LA")),
        *(("TIFF", mode) for mode in ("RGB", "RGBA", "LA", "F", "CMYK")),
    ],
)
def test_pictures_are_refused_by_name(tmp_path: Path, kind: str, mode: str) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(saved(SMALL, kind, mode))
    for read in (lambda: read_label_map(path, CITYSCAPES), lambda: read_instance_map(path)):
        with pytest.raises(NotALabelMapError, match=rf"picture\.png: .*{mode}"):
            read()


@pytest.mark.parametrize("kind", ["JPEG", "WebP", "GIF", "BMP"])
def test_other_formats_are_refused_by_their_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "map.png"
    path.write_bytes(saved(SMALL, kind))
    with pytest.raises(NotALabelMapError, match=rf"map\.png: a {kind} file"):
        read_label_map(path, CITYSCAPES)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (saved(SMALL, "TIFF", compression="jpeg"), "with jpeg compression, which changes ids"),
        (tiff(SMALL, t262=0), "does not say that 0 is black"),
        (tiff(SMALL, t262=None), "does not say that 0 is black"),
        (
            saved(SMALL, "TIFF", save_all=True, append_images=[Image.fromarray(SMALL)]),
            "holds several pictures",
        ),
        (
            saved(SMALL, "PNG", save_all=True, append_images=[Image.fromarray(SMALL + 1)]),
            "holds several pictures",
        ),
        (tiff(np.zeros((4, 4), np.uint16), t258=8, t277=2, t338=0), "several values per pixel"),
        (npy(np.zeros((4, 4), np.float32)), "an array of float32"),
        (npy(np.zeros((4, 4), bool)), "an array of bool"),
        (npy(np.zeros((4, 4, 3), np.uint8)), r"an array of uint8 \[4, 4, 3\]"),
        (npy(np.array(5)), r"an array of int64 \[\]"),
        (npy(np.zeros((2, 2), "U3")), "an array of <U3"),
        (npy(np.zeros((2, 2), [("a", "i4")])), "an array of "),
    ],
)
def test_files_whose_values_are_not_ids(data: bytes, reason: str) -> None:
    with pytest.raises(NotALabelMapError, match=f"^map: .*{reason}"):
        read_label_map(data, CITYSCAPES, name="map")


def test_an_object_array_is_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "trap.npy"
    np.save(path, np.array([[Trap()]], object), allow_pickle=True)
    with pytest.raises(NotALabelMapError, match=r"trap\.npy: an array of object"):
        read_instance_map(path)
    assert not (tmp_path / "sprung").exists()


# Damaged files -----------------------------------------------------------------------------------

ONE_PNG = png(SMALL, 8)


def check_every_prefix_is_refused() -> None:
    assert np.array_equal(read_instance_map(ONE_PNG), SMALL)
    for length in range(len(ONE_PNG)):
        with pytest.raises(ImageReadError, match=r"^cut\.png: "):
            read_instance_map(ONE_PNG[:length], name="cut.png")


def test_every_prefix_of_a_png_is_refused() -> None:
    check_every_prefix_is_refused()


def test_pillows_switch_for_truncated_files_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    check_every_prefix_is_refused()


def test_every_flipped_bit_of_a_png_is_refused() -> None:
    for bit in range(len(ONE_PNG) * 8):
        damaged = bytearray(ONE_PNG)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InputError, match=r"^flip\.png: "):
            read_instance_map(bytes(damaged), name="flip.png")


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_truncated_tiff(compression: str) -> None:
    # Noise, so that the pixels take most of the file; Pillow writes the directory first or last.
    values = np.random.default_rng(4).integers(0, 35, (64, 64), np.uint8)
    data = saved(values, "TIFF", compression=compression)
    for length in range(1, len(data) - 400, 101):
        with pytest.raises(ImageReadError, match=r"^cut\.tif: "):
            read_instance_map(data[:length], name="cut.tif")


def test_tiff_with_missing_strips() -> None:
    with pytest.raises(ImageReadError, match="strips of pixels are missing"):
        read_instance_map(tiff(SMALL, t278=2), name="map")


def test_every_prefix_of_an_npy_is_refused() -> None:
    data = npy(SMALL)
    for length in range(len(data)):
        with pytest.raises(ImageReadError, match=r"^cut\.npy: "):
            read_instance_map(data[:length], name="cut.npy")


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"IEND"])
def test_a_wrong_checksum_is_refused(kind: bytes) -> None:
    at = ONE_PNG.index(kind)
    end = at + 4 + int.from_bytes(ONE_PNG[at - 4 : at], "big")
    damaged = ONE_PNG[:end] + b"\0\0\0\0" + ONE_PNG[end + 4 :]
    with pytest.raises(ImageReadError, match=r"sum\.png: damaged"):
        read_instance_map(damaged, name="sum.png")


def test_a_png_with_too_little_pixel_data_is_refused() -> None:
    tall = struct.pack(">IIBBBBB", 7, 50, 8, GREY, 0, 0, 0)
    short = ONE_PNG[:8] + chunk(b"IHDR", tall) + ONE_PNG[33:]
    with pytest.raises(ImageReadError, match="truncated or damaged"):
        read_instance_map(short)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello", "not a PNG, TIFF or .npy file"),
        (b"\x89PNG\r\n\x1a\n", "damaged header|truncated"),
        (b"II*\0", "damaged header"),
        (b"\x93NUMPY", "damaged header"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "damaged header"),
        (b"\x93NUMPY\x09\x00\x10\x00" + b"{}              ", "damaged header"),
        (png(np.zeros((0, 0), np.uint8), 8), "damaged header|0x0 pixels"),
        (npy(np.zeros((0, 5), np.uint8)), "5x0 pixels"),
        (npy(np.zeros((5, 0), np.uint8)), "0x5 pixels"),
    ],
)
def test_files_that_hold_no_image(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "none.png"
    path.write_bytes(content)
    with pytest.raises(ImageReadError, match=rf"none\.png: .*({reason})"):
        read_label_map(path, CITYSCAPES)


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    for name in ("missing.png", "folder.png", "pipe.png", "link.png", "x" * 5000, "a\0b.png"):
        with pytest.raises(ImageReadError, match="cannot be read"):
            read_label_map(tmp_path / name, CITYSCAPES)


# Limits ------------------------------------------------------------------------------------------


def huge_headers() -> dict[str, bytes]:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, GREY, 0, 0, 0)
    array_header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (100000, 100000), }"
    array_header = array_header.ljust(117) + b"\n"
    return {
        "png": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x"),
        "tiff": tiff(SMALL, t256=100_000, t257=100_000),
        "npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", len(array_header)) + array_header,
    }


@pytest.mark.parametrize("kind", ["png", "tiff", "npy"])
def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"huge.{kind}"
    path.write_bytes(huge_headers()[kind])
    with pytest.raises(ImageTooLargeError, match=r"huge.*100000x100000 is 10,000,000,000 pixels"):
        read_label_map(path, CITYSCAPES)


@pytest.mark.parametrize("make", [lambda v: png(v, 8), tiff, npy], ids=["png", "tiff", "npy"])
def test_the_limit_is_the_number_of_pixels(make: Any) -> None:
    assert read_label_map(make(SMALL), CITYSCAPES, max_pixels=35).shape == (5, 7)
    with pytest.raises(ImageTooLargeError, match="7x5 is 35 pixels; the limit is 34"):
        read_label_map(make(SMALL), CITYSCAPES, max_pixels=34)


def test_a_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.npy"
    with path.open("wb") as stream:
        stream.write(npy(SMALL))
        stream.truncate(1 << 40)
    with pytest.raises(ImageTooLargeError, match=r"sparse\.npy: 1,099,511,627,776 bytes"):
        read_instance_map(path)


def test_reading_from_several_threads() -> None:
    failures: list[str] = []

    def read(seed: int) -> None:
        values = np.random.default_rng(seed).integers(0, 65536, (60, 70)).astype(np.uint16)
        data = png(values, 16)
        for _ in range(5):
            if not np.array_equal(read_instance_map(data), values):
                failures.append(f"map {seed}")

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# Anything at all ---------------------------------------------------------------------------------


def check_both(data: bytes) -> None:
    """Only an InputError may come out; warnings are errors here."""
    for read in (
        lambda: read_label_map(data, CITYSCAPES, unknown="unlabelled", max_pixels=1 << 20),
        lambda: read_instance_map(data, max_pixels=1 << 20),
    ):
        try:
            values = read()
        except InputError as refused:
            text = str(refused)
        else:
            text = f"(bytes): {values.shape[0]}x{values.shape[1]} values"
            assert values.size > 0
        assert text.startswith("(bytes): ")


MAGICS = [b"", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"\x93NUMPY\x01\0", b"RIFF"]


@settings(max_examples=300)
@given(st.sampled_from(MAGICS), st.binary(max_size=200))
def test_arbitrary_bytes(magic: bytes, rest: bytes) -> None:
    check_both(magic + rest)


SEEDS = [
    ONE_PNG,
    png(SMALL, 8, PALETTE),
    png(SMALL % 4, 2, interlaced=True),
    png(SMALL.astype(np.uint16), 16),
    tiff(SMALL),
    tiff(SMALL.astype(np.int32), order=">"),
    saved(SMALL, "TIFF", compression="tiff_lzw"),
    saved(SMALL.astype(np.uint16), "TIFF", compression="tiff_adobe_deflate"),
    npy(SMALL),
    npy(SMALL.astype(">i8")),
]


@settings(max_examples=600)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=4), st.integers(0, 4)), max_size=4),
    st.integers(0, 500),
)
def test_mutated_files(seed: bytes, edits: list[tuple[int, bytes, int]], length: int) -> None:
    data = seed
    for at, new, dropped in edits:
        data = data[:at] + new + data[at + dropped :]
    check_both(data[: length + 1] if length % 3 == 0 else data)


@settings(max_examples=300)
@given(st.data())
def test_mutated_png_chunks_with_right_checksums(data: st.DataObject) -> None:
    """Damage that no checksum shows."""
    header = struct.pack(
        ">IIBBBBB",
        data.draw(st.integers(0, 40)),
        data.draw(st.integers(0, 40)),
        data.draw(st.sampled_from([0, 1, 2, 3, 4, 8, 16, 255])),
        data.draw(st.integers(0, 7)),
        *(data.draw(st.integers(0, 2)) for _ in range(3)),
    )
    rows = data.draw(st.binary(max_size=400))
    body = data.draw(st.sampled_from([zlib.compress(rows), rows]))
    kind = data.draw(st.sampled_from([b"PLTE", b"tRNS", b"acTL", b"eXIf", b"zTXt", b"fcTL"]))
    check_both(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(kind, data.draw(st.binary(max_size=40)))
        + chunk(b"IDAT", body)
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("source", [None, 5, ["a.png"], CITYSCAPES])
def test_a_source_of_another_type(source: Any) -> None:
    for read in (lambda: read_label_map(source, CITYSCAPES), lambda: read_instance_map(source)):
        with pytest.raises(InputError, match="where the path or the bytes of a map belongs"):
            read()


@pytest.mark.parametrize("schema", [None, "cityscapes"])
def test_a_schema_of_another_type(schema: Any) -> None:
    with pytest.raises(InputError, match="where the label schema belongs"):
        read_label_map(b"", schema)


def test_an_empty_path_is_named() -> None:
    with pytest.raises(ImageReadError, match=r"^'': cannot be read"):
        read_instance_map("")


def test_parse_size() -> None:
    assert parse_size("2048x1024") == (1024, 2048)
    assert parse_size("64X32") == (32, 64)
    for text in (
        "",
        "x",
        "64",
        "64x",
        "64x-32",
        "0x32",
        "64x32x3",
        "6.4x32",
        "²x32",
        "9" * 5000 + "x8",
    ):
        with pytest.raises(InputError, match="WIDTHxHEIGHT"):
            parse_size(text)
