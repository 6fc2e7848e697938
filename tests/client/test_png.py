"""PNG files whose chunks are malformed are refused: literal bytes, one test for each way."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import pytest

from sceneloom.errors import ImageReadError
from sceneloom.maps import read_instance_map, read_label_map
from sceneloom.pictures import decode_picture
from sceneloom.png import check_png
from sceneloom.schema import load_schema

CITYSCAPES = load_schema("cityscapes")
SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIZE = b"\x00\x00\x00\x10\x00\x00\x00\x10"  # 16x16
ROWS = zlib.compress((b"\0" + b"\x07" * 16) * 16)


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


GREY = chunk(b"IHDR", SIZE + b"\x08\x00\x00\x00\x00")
OTHER_SIZE = chunk(b"IHDR", b"\x00\x00\x00\x08\x00\x00\x00\x08\x08\x00\x00\x00\x00")
INDEXED = chunk(b"IHDR", SIZE + b"\x08\x03\x00\x00\x00")
PALETTE = chunk(b"PLTE", bytes(range(24)))
PIXELS = chunk(b"IDAT", ROWS)
HALVES = chunk(b"IDAT", ROWS[:10]), chunk(b"IDAT", ROWS[10:])
TEXT = chunk(b"tEXt", b"a\0b")
END = chunk(b"IEND")

MALFORMED = {
    "second header": ([GREY, OTHER_SIZE, PIXELS, END], "a second chunk b'IHDR'"),
    "the same header twice": ([GREY, GREY, PIXELS, END], "a second chunk b'IHDR'"),
    "header after the pixels": ([GREY, PIXELS, OTHER_SIZE, END], "a second chunk b'IHDR'"),
    "header is not the first": ([TEXT, GREY, PIXELS, END], "no IHDR"),
    "unknown chunk that matters": ([GREY, chunk(b"EVIL"), PIXELS, END], "unknown chunk b'EVIL'"),
    "chunk that is no name": ([GREY, chunk(b"a\x1b[m"), PIXELS, END], "unknown chunk"),
    "chunks without pixels": ([GREY, *[TEXT] * 999, PIXELS, END], "over 1,000 chunks"),
    "empty pixels": ([GREY, *[chunk(b"IDAT")] * 1000, PIXELS, END], "over 1,000 chunks"),
    "pixels in two places": ([GREY, HALVES[0], TEXT, HALVES[1], END], "b'IDAT', or out of its"),
    "palette after the pixels": ([INDEXED, PIXELS, PALETTE, END], "no palette before its pixels"),
    "second palette": ([INDEXED, PALETTE, PALETTE, PIXELS, END], "a second chunk b'PLTE'"),
    "palette of RGB afterwards": ([GREY, PIXELS, PALETTE, END], "b'PLTE', or out of its place"),
    "transparency afterwards": ([GREY, PIXELS, chunk(b"tRNS", b"\0\0"), END], "b'tRNS', or out of"),
    "no palette": ([INDEXED, PIXELS, END], "no palette before its pixels"),
    "unknown packing": (
        [chunk(b"IHDR", SIZE + b"\x08\x00\x01\x00\x00"), PIXELS, END],
        "unknown packing or order of rows",
    ),
    "unknown order of rows": (
        [chunk(b"IHDR", SIZE + b"\x08\x00\x00\x00\x02"), PIXELS, END],
        "unknown packing or order of rows",
    ),
    "no end": ([GREY, PIXELS], "it ends before its last chunk"),
}
READERS: list[Callable[[bytes], object]] = [
    lambda data: check_png(data, "a.png"),
    lambda data: read_label_map(data, CITYSCAPES, name="a.png"),
    lambda data: read_instance_map(data, name="a.png"),
    lambda data: decode_picture(data, name="a.png"),
]


@pytest.mark.parametrize("name", sorted(MALFORMED))
def test_a_malformed_file_is_refused_by_every_reader(name: str) -> None:
    chunks, reason = MALFORMED[name]
    data = SIGNATURE + b"".join(chunks)
    for read in READERS:
        with pytest.raises(ImageReadError, match=r"^a\.png: ") as caught:
            read(data)
        if read is READERS[0]:
            assert reason in str(caught.value)


@pytest.mark.parametrize(
    "chunks",
    [
        [GREY, PIXELS, END],
        [GREY, *[TEXT] * 998, *HALVES, END],
        [GREY, TEXT, *HALVES, TEXT, END],
        [INDEXED, PALETTE, chunk(b"tRNS", b"\0"), PIXELS, END],
    ],
)
def test_what_is_well_formed_is_read(chunks: list[bytes]) -> None:
    values = read_label_map(SIGNATURE + b"".join(chunks), CITYSCAPES)
    assert np.array_equal(values, np.full((16, 16), 7, np.uint8))
