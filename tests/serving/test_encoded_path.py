"""The encoded path's two steps as functions: what is refused, before a pixel is decoded."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from support import blocky_maps

from sceneloom.contract import Contract
from sceneloom.errors import (
    ImageReadError,
    ImageTooLargeError,
    InputError,
    MissingInputError,
    NotALabelMapError,
    SizeError,
    UnknownLabelError,
)
from sceneloom.maps import instance_map_png, label_map_png
from sceneloom.pictures import encode_picture
from sceneloom.request import Request, prepare
from sceneloom.schema import load_schema
from sceneloom_serving.encoded_models import decode_request, encode_image

CONTRACT = Contract(schema=load_schema("cityscapes"), boundaries=True, size_multiple=8)
STYLED = dataclasses.replace(CONTRACT, style_channels=3, style_defaults={7: (1.0, 2.0, 3.0)})
MAX_PIXELS = 64 * 96
LABELS, INSTANCES = blocky_maps(61, 90, seed=0, labels=34)
LABEL_FILE = label_map_png(CONTRACT, LABELS)
INSTANCE_FILE = instance_map_png(CONTRACT, LABELS, INSTANCES)


def decode(contract: Contract = CONTRACT, **changes: Any) -> Request:
    values: dict[str, Any] = {
        "label_file": LABEL_FILE,
        "instance_file": INSTANCE_FILE,
        "style_rows": None,
        "unknown": "error",
    }
    return decode_request(contract, MAX_PIXELS, **{**values, **changes})


def bomb(side: int) -> bytes:
    """A PNG whose header claims a square of this side, in a few bytes."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def png(array: Any, suffix: str = ".png") -> bytes:
    return bytes(cv2.imencode(suffix, np.asarray(array))[1])


def assert_equal(one: Request, other: Request) -> None:
    for field in dataclasses.fields(Request):
        a, b = getattr(one, field.name), getattr(other, field.name)
        np.testing.assert_array_equal(a, b) if isinstance(a, np.ndarray) else None
        assert type(a) is type(b)
    assert one.padding == other.padding


def test_files_give_what_the_client_would_have_sent() -> None:
    assert_equal(decode(), prepare(CONTRACT, LABELS, INSTANCES))
    assert decode().padding.crop(decode().label_map).shape == (61, 90)
    assert_equal(decode(STYLED), prepare(STYLED, LABELS, INSTANCES))
    none, some = np.zeros((0, 3), np.float32), np.ones((256, 3), np.float32)
    assert_equal(decode(STYLED, style_rows=none), prepare(STYLED, LABELS, INSTANCES))
    assert_equal(decode(STYLED, style_rows=some), prepare(STYLED, LABELS, INSTANCES, some))


def test_unknown_ids_are_an_error_unless_they_are_asked_for_as_unlabelled() -> None:
    values = LABELS.copy()
    values[:5] = 99
    with pytest.raises(UnknownLabelError, match=r"label_map: unknown label id 99 \(450 pixels\)"):
        decode(label_file=png(values))
    read = decode(label_file=png(values), unknown="unlabelled")
    assert (read.label_map[:5] == 0).all()
    with pytest.raises(InputError, match=r"unknown is 'ignore'; it is error or unlabelled"):
        decode(unknown="ignore")


@pytest.mark.parametrize(
    ("file", "error", "message"),
    [
        (b"", ImageReadError, "the file is empty"),
        (b"\xff\xd8\xff\xe0", ImageReadError, "not a PNG file, which is all"),
        (png(LABELS, ".tiff"), ImageReadError, "not a PNG file, which is all"),
        (LABEL_FILE[:-30], ImageReadError, "truncated or damaged"),
        (LABEL_FILE[:60] + b"\0" + LABEL_FILE[61:], ImageReadError, "damaged"),
        (png(np.zeros((8, 8, 3), np.uint8)), NotALabelMapError, r"a colour picture \(RGB\)"),
        (bomb(100_000), ImageTooLargeError, r"10,000,000,000 pixels; the limit is 6,144"),
        (bomb(0), ImageReadError, "damaged header|0x0"),
        (LABEL_FILE + bytes(2_000_000), ImageTooLargeError, "bytes; this server takes at most"),
    ],
)
@pytest.mark.parametrize("which", ["label", "instance"])
def test_files_that_are_refused(
    which: str, file: bytes, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{which}_map: .*({message})"):
        decode(**{f"{which}_file": file})


def test_sizes_that_are_refused() -> None:
    with pytest.raises(SizeError, match="must be equal"):
        decode(instance_file=png(INSTANCES[:32].astype(np.uint16)))
    with pytest.raises(SizeError, match="too small"):
        decode(label_file=png(LABELS[:8]))
    wide = label_map_png(CONTRACT, LABELS[:1].repeat(8, 0).repeat(9, 1)[:, :765])
    with pytest.raises(ImageTooLargeError, match=r"padded to 768x8 .* takes at most 6,000"):
        decode_request(
            dataclasses.replace(CONTRACT, smallest_side=8),
            6000,
            label_file=label_map_png(CONTRACT, np.zeros((7, 765), np.uint8)),
            instance_file=INSTANCE_FILE,
            style_rows=None,
            unknown="error",
        )
    fixed = dataclasses.replace(CONTRACT, sizes=((64, 64),))
    with pytest.raises(SizeError, match="nearest is 64x64"):
        decode(fixed)
    assert wide


def test_palette_and_16_bit_files_are_read_as_ids() -> None:
    assert_equal(decode(label_file=png(LABELS.astype(np.uint16))), decode())
    with pytest.raises(UnknownLabelError, match="usually an instance map"):
        decode(label_file=INSTANCE_FILE, unknown="unlabelled")


def test_inputs_that_the_contract_refuses() -> None:
    with pytest.raises(MissingInputError):
        decode(instance_file=None)
    with pytest.raises(InputError, match="takes no style"):
        decode(style_rows=np.zeros((200, 3), np.float32))
    with pytest.raises(InputError, match="style is float"):
        decode(STYLED, style_rows=np.zeros((1, 3), np.float32))
    with pytest.raises(InputError, match="not finite"):
        decode(STYLED, style_rows=np.full((256, 3), np.nan, np.float32))


@pytest.mark.parametrize(("words", "quality"), [("png", 100), ("jpg:95", 95), ("webp:80", 80)])
def test_pictures_are_cropped_and_encoded_as_on_the_client(words: str, quality: int) -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3)).astype(np.uint8)
    name = words.partition(":")[0]
    expected = encode_picture(image[:61, :90], name, quality=quality)  # type: ignore[arg-type]
    assert encode_image(image, (61, 90), words) == expected


def test_a_format_that_is_not_there() -> None:
    with pytest.raises(InputError, match="no format 'bmp'"):
        encode_image(np.zeros((8, 8, 3), np.uint8), (8, 8), "bmp")
