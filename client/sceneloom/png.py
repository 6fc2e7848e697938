"""Check that a PNG file is whole, before Pillow decodes it.

Pillow does not check the pixels' own checksums, takes a file that stops short of its end, and
leaves missing rows zero: with one flipped bit in a small file, one in six that it took came out as
other ids.
"""

from __future__ import annotations

import zlib

from sceneloom.errors import ImageReadError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Colour type -> values per pixel: grey, RGB, palette, grey and alpha, RGB and alpha.
_VALUES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_COLOUR_TYPE, _PALETTE = 25, 3
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_ANCILLARY = 0x20  # bit of a kind's first letter: a decoder may pass it over
_MOST_CHUNKS = 1000
# Interlaced PNGs: first column, first row, step across and step down of the seven passes.
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def check_png(data: bytes, name: str) -> None:
    """Check that the chunks, checksums and rows of pixels of a PNG, of a size within the caller's
    limit, are complete and in order; raises ImageReadError with the file's name if not.
    """
    check_png_rows(data, png_pixels(data, name), name)


def png_pixels(data: bytes, name: str) -> bytes:
    """Packed pixels of a PNG; decoders take malformed files each in its own way. Raises
    ImageReadError if the file is truncated, or a chunk is damaged, unknown and critical, repeated,
    or out of its place.
    """
    at, kind, pixels, others = len(SIGNATURE), b"", [], 0
    ended: set[bytes] = set()  # kinds without further chunks
    while kind != b"IEND":
        before, size, kind = kind, int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body_end = at + 8 + size
        if body_end + 4 > len(data):
            raise ImageReadError(f"{name}: truncated or damaged (it ends before its last chunk)")
        if zlib.crc32(data[at + 4 : body_end]).to_bytes(4, "big") != data[body_end : body_end + 4]:
            raise ImageReadError(f"{name}: damaged (checksum of the chunk {kind!r})")
        if not before:
            if data[8:16] != b"\0\0\0\x0dIHDR":
                raise ImageReadError(f"{name}: damaged header (no IHDR)")
            if data[26:28] != b"\0\0" or data[28] > 1:
                raise ImageReadError(f"{name}: damaged header (unknown packing or order of rows)")
        elif kind in ended:
            raise ImageReadError(
                f"{name}: malformed (a second chunk {kind!r}, or out of its place)"
            )
        elif not kind.isalpha() or (kind not in _CRITICAL and kind[0] & _ANCILLARY == 0):
            raise ImageReadError(f"{name}: malformed (the unknown chunk {kind!r}, which matters)")
        if before == b"IDAT" and kind != b"IDAT":
            ended.add(b"IDAT")
        if kind in (b"IHDR", b"PLTE", b"tRNS"):
            ended.add(kind)
        if kind == b"IDAT":
            if data[_COLOUR_TYPE] == _PALETTE and b"PLTE" not in ended:
                raise ImageReadError(f"{name}: malformed (no palette before its pixels)")
            ended |= {b"PLTE", b"tRNS"}
            pixels.append(data[at + 8 : body_end])
        others += kind != b"IDAT" or not size
        if others > _MOST_CHUNKS:
            raise ImageReadError(f"{name}: malformed (over {_MOST_CHUNKS:,} chunks without pixels)")
        at = body_end + 4
    return b"".join(pixels)


def check_png_rows(data: bytes, pixels: bytes, name: str) -> None:
    """Check the packed pixels of `png_pixels`, of a number within the caller's limit; raises
    ImageReadError if a row is missing or damaged.
    """
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    bits, interlaced = data[24] * _VALUES.get(data[25], 1), data[28]
    wanted = 0  # bytes of the unpacked pixels, a filter byte in each row
    for x, y, right, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // right), -(-(height - y) // down)
        if columns > 0 and rows > 0:
            wanted += rows * (1 + (columns * bits + 7) // 8)
    try:
        there = len(zlib.decompressobj().decompress(pixels, wanted))
    except zlib.error as error:
        raise ImageReadError(f"{name}: damaged ({error})") from None
    if there < wanted:
        raise ImageReadError(f"{name}: truncated or damaged (rows of pixels are missing)")
